"""What was measured beforehand, what links and threads gave, and what the oracle predicts of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS
from dwcp.fleet.link import Link
from dwcp.oracle import cost_ms

STAGES = ("compression", "transfer", "decompression")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sent:
    """One payload to send, and what was measured of it beforehand; times in ms, by algorithm."""

    object_id: str
    payload: bytes
    base: int
    streams: int
    compressed_bytes: dict[str, int]
    compression_ms: dict[str, float]
    decompression_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one link gave.

    ``stage_ms`` has shape (payloads, algorithms, repeats, stages), in the orders of ``ALGORITHMS`` and ``STAGES``; the
    transfer ends when its last byte was read.
    """

    link: Link
    bandwidth_mbps: float
    rtt_ms: float
    loss: float
    congestion: str
    stage_ms: Floats

    @property
    def total_ms(self) -> Floats:
        """From before compression to after decompression, shape (payloads, algorithms, repeats)."""
        return np.asarray(self.stage_ms.sum(axis=3))

    @property
    def best_stage_ms(self) -> Floats:
        """The stages of each transfer's fastest repeat, shape (payloads, algorithms, stages)."""
        fastest = self.total_ms.argmin(axis=2)[:, :, None, None]
        return np.asarray(np.take_along_axis(self.stage_ms, fastest, axis=2)[:, :, 0])


@dataclass(frozen=True, slots=True)
class Plan:
    """AMST on real threads: measured over predicted makespan of each payload, compression and decompression."""

    streams: int
    compression: Floats
    decompression: Floats


@dataclass(frozen=True, slots=True)
class Reality:
    """Everything that was found. ``way`` says how links were emulated."""

    way: str
    cores: int
    fresh: bool
    sent: tuple[Sent, ...]
    links: tuple[Measured, ...]
    plans: tuple[Plan, ...]


def predicted_ms(sent: Sequence[Sent], measured: Measured) -> Floats:
    """The oracle's costs (§3.1) on this link, shape (payloads, algorithms)."""
    rows = len(sent)
    return cost_ms(
        "seed_3_1",
        compressed_bytes=_table(sent, lambda one, name: one.compressed_bytes[name]),
        compression_ms=_table(sent, lambda one, name: one.compression_ms[name]),
        decompression_ms=_table(sent, lambda one, name: one.decompression_ms[name]),
        # A bulk transfer's goodput already lacks what was sent twice.
        bandwidth_mbps=np.full(rows, measured.bandwidth_mbps / (1 - measured.loss)),
        packet_loss_rate=np.full(rows, measured.loss),
        cpu_usage=np.zeros(rows),
        rtt_ms=np.full(rows, measured.rtt_ms),
        streams=_table(sent, lambda one, name: one.streams if name == "amst" else 1),
    )


def excess_ms(sent: Sequence[Sent], measured: Measured) -> Floats:
    """How much longer each stage took than predicted, shape (payloads, algorithms, stages)."""
    compression = _table(sent, lambda one, name: one.compression_ms[name])
    decompression = _table(sent, lambda one, name: one.decompression_ms[name])
    transfer = predicted_ms(sent, measured) - compression - decompression
    return measured.best_stage_ms - np.stack([compression, transfer, decompression], axis=2)


def _table(sent: Sequence[Sent], pick: Callable[[Sent, str], float]) -> Floats:
    return np.array([[pick(one, name) for name in ALGORITHMS] for one in sent], dtype=np.float64)
