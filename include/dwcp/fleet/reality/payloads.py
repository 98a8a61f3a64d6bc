"""The payloads to send, and what the engines make of them on one thread."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence

from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS, Base
from dwcp.fleet.mix import Mix
from dwcp.fleet.payloads import PayloadObject, made_objects
from dwcp.fleet.reality.found import Sent
from dwcp.fleet.timing import time_amst, time_hde, time_zstd

log = logging.getLogger(__name__)

VERSIONS = 2


def small_objects(mix: Mix, payloads: int, most_bytes: int) -> list[PayloadObject]:
    """Objects of the mix with ``VERSIONS`` versions each, ``payloads`` in all, about ``most_bytes`` at most."""
    types = {
        name: {**entry, "max_bytes": min(entry["max_bytes"], most_bytes), "tail_share": 0.0}
        for name, entry in mix.types.items()
    }
    too_large = [name for name, entry in types.items() if entry["min_bytes"] > most_bytes]
    if too_large:
        raise ValueError(f"no object of {', '.join(too_large)} is as small as {most_bytes} bytes: allow larger ones")
    smaller = dataclasses.replace(mix, types=types)
    return made_objects(smaller, -(-payloads // VERSIONS), VERSIONS, mix.library["seed"])


def prepare(objects: Sequence[PayloadObject], runs: int) -> list[Sent]:
    """Make every payload and time the engines on it, as ``dwcp fleet measure`` does: CPU, the least of ``runs``."""
    sent: list[Sent] = []
    for number, item in enumerate(objects):
        base: Base | None = None
        for version, payload in enumerate(item.versions()):
            sent.append(_timed(item.object_id, payload, base, len(sent) - 1 if version else -1, runs))
            base = Base.of(payload)
        if (number + 1) % 10 == 0 or number + 1 == len(objects):
            log.info("timed %d of %d objects", number + 1, len(objects))
    return sent


def _timed(object_id: str, payload: bytes, base: Base | None, base_number: int, runs: int) -> Sent:
    found = [engine(payload, base, runs) for engine in (time_hde, time_amst, time_zstd)]
    facts = {key: value for one in found for key, value in one.facts.items()}
    least = {key: min(times) for one in found for key, times in one.runs.items()}
    streams = planned_streams(len(payload))
    return Sent(
        object_id,
        payload,
        base_number,
        streams,
        {"none": len(payload)} | {name: int(facts[f"{name}_bytes"]) for name in ("hde", "amst", "zstd")},
        {"none": 0.0, "amst": least[f"amst_{streams}_ms"]} | {name: least[f"{name}_ms"] for name in ("hde", "zstd")},
        {"none": 0.0, "amst": least[f"amst_{streams}_back_ms"]}
        | {name: least[f"{name}_back_ms"] for name in ("hde", "zstd")},
    )


def planned_streams(size_bytes: int) -> int:
    """AMST's plan: the largest of ``STREAM_COUNTS`` that this process's cores and the payload's chunks allow."""
    most = min(usable_cores(), max(1, -(-size_bytes // engines.CHUNK_BYTES)))
    return max(count for count in STREAM_COUNTS if count <= most)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
