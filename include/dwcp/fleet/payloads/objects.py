"""What an object of the fleet is, and what its maker is told."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class PayloadError(RuntimeError):
    """Payloads cannot be read or made; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class PayloadObject:
    """One object. ``versions`` yields its payloads in order, version 0 first; a fresh chain at every call."""

    object_id: str
    data_type: str
    kind: str
    versions: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a maker is told: bytes of version 0, share that each version changes, versions, seed."""

    kind: str
    size: int
    dirty: float
    versions: int
    seed: int

    def rng(self) -> random.Random:
        """The object's own source of chance."""
        return random.Random(self.seed)  # noqa: S311


Maker = Callable[[Spec], Iterator[bytes]]
"""Yields ``spec.versions`` payloads; keeps its state (a database, a process, a disk image) between them."""


def run_tool(command: list[str]) -> None:
    """Run a program of the system. Raises ``PayloadError`` with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PayloadError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
