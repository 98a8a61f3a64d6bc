"""The offline oracle: what every algorithm would have cost a transfer, and the choice that would have been best.

Three definitions, chosen by ``Settings.oracle``:

``seed_3_1`` (default, seed §3.1)
    compressed size / (bandwidth x (1 - loss)) + compression time + decompression time.
``seed_3_2`` (seed §3.2's listing)
    compressed size / bandwidth + compression time x CPU usage.
``stream_aware``
    §3.1 with the rate that TCP reaches in place of the link's: one stream carries no more than its RTT and loss allow
    (Mathis et al., 1997), AMST's parallel streams together as many times that. Reported beside the gate's.

Units. The seed's listing divides bytes by Mbit/s and adds milliseconds. That quotient is no time: 1 MB over 1,000
Mbit/s reads 1,000 where the wire takes 8 ms. The transfer weighs 125 times too much beside CPU time, as if every link
were 125 times slower, so the smallest output wins where it should not. Here every term is milliseconds; the conversion
is ``dwcp.units.transfer_time_ms`` and happens nowhere else.

AMST's compression and decompression times are makespans over its threads: what the transfer waits for, not the CPU sum.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES, FULLY_MEASURED
from dwcp.units import transfer_time_ms

DEFINITIONS = ("seed_3_1", "seed_3_2", "stream_aware")
ORACLE_COLUMNS = (
    "optimal_compression",
    "oracle_definition",
    *(f"cost_{algorithm}_ms" for algorithm in ALGORITHMS),
    "oracle_margin_ms",
)
"""What ``label_batch`` adds to a row, in contract order."""

SEGMENT_BITS = 1_460 * 8
_MATHIS_CONSTANT = 1.22
_PREFIX = {"hde": "hde", "amst": "amst", "zstd": "baseline"}
_LEAST_WORK_FIRST = tuple(CANDIDATES.index(name) for name in ("none", "amst", "hde"))
_INPUTS = (
    "data_size_bytes",
    "amst_streams",
    *(
        f"{prefix}_{what}"
        for prefix in _PREFIX.values()
        for what in ("compressed_size_bytes", "compression_time_ms", "decompression_time_ms")
    ),
    "available_bandwidth_mbps",
    "packet_loss_rate",
    "cpu_usage",
    "rtt_ms",
)
"""The columns that costs follow from."""


def cost_ms(
    definition: str,
    *,
    compressed_bytes: NDArray[np.float64],
    compression_ms: NDArray[np.float64],
    decompression_ms: NDArray[np.float64],
    bandwidth_mbps: NDArray[np.float64],
    packet_loss_rate: NDArray[np.float64],
    cpu_usage: NDArray[np.float64],
    rtt_ms: NDArray[np.float64],
    streams: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Cost in milliseconds of each algorithm, shape (rows, algorithms).

    Sizes, times and ``streams`` have that shape, in any order of algorithms; the others have shape (rows,). Doing
    nothing is an algorithm whose size is the payload's and whose times are 0. Raises ``ValueError`` on an unknown
    definition.
    """
    if definition == "seed_3_1":
        effective_mbps = bandwidth_mbps * (1.0 - packet_loss_rate)
        return transfer_time_ms(compressed_bytes, effective_mbps[:, None]) + compression_ms + decompression_ms
    if definition == "stream_aware":
        link_mbps = (bandwidth_mbps * (1.0 - packet_loss_rate))[:, None]
        reached_mbps = np.minimum(link_mbps, streams * stream_limit_mbps(rtt_ms, packet_loss_rate)[:, None])
        return transfer_time_ms(compressed_bytes, reached_mbps) + compression_ms + decompression_ms
    if definition == "seed_3_2":
        return transfer_time_ms(compressed_bytes, bandwidth_mbps[:, None]) + compression_ms * cpu_usage[:, None]
    raise ValueError(f"unknown oracle {definition!r}: choose one of {', '.join(DEFINITIONS)}")


def stream_limit_mbps(rtt_ms: NDArray[np.float64], packet_loss_rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """What one TCP stream carries at most, shape (rows,): segment / RTT x 1.22 / sqrt(loss); unlimited without either.

    Mathis, Semke, Mahdavi, Ott (1997): The macroscopic behavior of the TCP congestion avoidance algorithm.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(SEGMENT_BITS * _MATHIS_CONSTANT / (rtt_ms * np.sqrt(packet_loss_rate) * 1e3))


def best_choice(costs_ms: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cheapest candidate of each row and its margin.

    ``costs_ms`` has shape (rows, ≥3) with ``CANDIDATES`` first; further columns (zstd) are never chosen. Returns
    indices into ``CANDIDATES`` and the runner-up's cost less the best's, both of shape (rows,). A tie goes to the
    choice with the least work: none before amst before hde.
    """
    first, *others = _LEAST_WORK_FIRST
    best = np.full(len(costs_ms), first)
    lowest, second = costs_ms[:, first], np.full(len(costs_ms), np.inf)
    for choice in others:
        cost = costs_ms[:, choice]
        best[cost < lowest] = choice
        second = np.minimum(second, np.maximum(lowest, cost))
        lowest = np.minimum(lowest, cost)
    return best, second - lowest


def transfer_costs_ms(batch: pa.RecordBatch | pa.Table, definition: str) -> NDArray[np.float64]:
    """Cost of every algorithm for fully measured transfers, shape (rows, 4) in ``ALGORITHMS`` order.

    Raises ``ValueError`` if a value that the definition needs is null or not finite.
    """
    sizes = _numbers(batch, "data_size_bytes")
    # A column of each lies in one piece, as Arrow's do.
    compressed_bytes, compression_ms, decompression_ms, streams = (
        np.full((batch.num_rows, len(ALGORITHMS)), value, order="F") for value in (0.0, 0.0, 0.0, 1.0)
    )
    rtt_ms = np.zeros(batch.num_rows)
    if definition == "stream_aware":
        streams[:, ALGORITHMS.index("amst")], rtt_ms = _numbers(batch, "amst_streams"), _numbers(batch, "rtt_ms")
    for position, algorithm in enumerate(ALGORITHMS):
        if algorithm == "none":
            compressed_bytes[:, position] = sizes
            continue
        prefix = _PREFIX[algorithm]
        compressed_bytes[:, position] = _numbers(batch, f"{prefix}_compressed_size_bytes")
        compression_ms[:, position] = _numbers(batch, f"{prefix}_compression_time_ms")
        decompression_ms[:, position] = _numbers(batch, f"{prefix}_decompression_time_ms")
    return cost_ms(
        definition,
        compressed_bytes=compressed_bytes,
        compression_ms=compression_ms,
        decompression_ms=decompression_ms,
        bandwidth_mbps=_numbers(batch, "available_bandwidth_mbps"),
        packet_loss_rate=_numbers(batch, "packet_loss_rate"),
        cpu_usage=_numbers(batch, "cpu_usage"),
        rtt_ms=rtt_ms,
        streams=streams,
    )


def label_batch(batch: pa.RecordBatch | pa.Table, definition: str) -> pa.RecordBatch:
    """The oracle's columns (``ORACLE_COLUMNS``) for ``batch``, one row for each of its rows, in its order.

    Only rows whose ``measured_candidates`` names every algorithm are labelled; all columns of the others are NULL.
    ``batch`` must have passed the contract check. Raises ``ValueError`` on an unknown definition, or if a row that says
    it was fully measured lacks a measurement.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown oracle {definition!r}: choose one of {', '.join(DEFINITIONS)}")
    measured = pc.fill_null(pc.equal(batch["measured_candidates"], FULLY_MEASURED), False)
    if isinstance(measured, pa.ChunkedArray):
        measured = measured.combine_chunks()
    if measured.true_count == batch.num_rows:
        return _labels(batch, definition)
    known = [name for name in ("transfer_id", *_INPUTS) if name in batch.schema.names]
    labels = _labels(batch.select(known).filter(measured), definition)
    full = measured.to_numpy(zero_copy_only=False)
    return labels.take(pa.array(np.cumsum(full) - 1, mask=~full))


def _labels(batch: pa.RecordBatch | pa.Table, definition: str) -> pa.RecordBatch:
    """``ORACLE_COLUMNS`` of rows that are all fully measured."""
    costs_ms = transfer_costs_ms(batch, definition)
    best, margin_ms = best_choice(costs_ms)
    columns = [
        pa.array(CANDIDATES, pa.string()).take(pa.array(best)),
        pa.repeat(definition, batch.num_rows),
        *(pa.array(costs_ms[:, position]) for position in range(len(ALGORITHMS))),
        pa.array(margin_ms),
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(ORACLE_COLUMNS))


def _numbers(batch: pa.RecordBatch | pa.Table, name: str) -> NDArray[np.float64]:
    column = batch[name]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        identity = batch["transfer_id"][row].as_py() if "transfer_id" in batch.schema.names else f"in row {row}"
        raise ValueError(
            f"transfer {identity} says it was fully measured, but its {name} is null or not finite: "
            "run the contract check (dwcp.quality.check) before the oracle"
        )
    return values
