"""Process memory: snapshots of working processes (``dwcp.fleet.memory``)."""

from __future__ import annotations

from collections.abc import Iterator

from dwcp.fleet import memory
from dwcp.fleet.payloads.objects import Maker, Spec


def _process(spec: Spec) -> Iterator[bytes]:
    yield from memory.snapshots(spec.kind, spec.seed, spec.size, spec.dirty, spec.versions)


KINDS: dict[str, Maker] = dict.fromkeys(memory.KINDS, _process)
