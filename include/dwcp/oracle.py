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
_LEAST_WORK_FIRST = np.array([CANDIDATES.index(name) for name in ("none", "amst", "hde")])


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
    nothing is an algorithm whose size is the payload's and whose times are 0. Raises ``ValueError`` on an unknown definition.
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
    candidates = costs_ms[:, : len(CANDIDATES)]
    best = _LEAST_WORK_FIRST[np.argmin(candidates[:, _LEAST_WORK_FIRST], axis=1)]
    lowest_two = np.partition(candidates, 1, axis=1)
    return best, lowest_two[:, 1] - lowest_two[:, 0]


def transfer_costs_ms(batch: pa.RecordBatch | pa.Table, definition: str) -> NDArray[np.float64]:
    """Cost of every algorithm for fully measured transfers, shape (rows, 4) in ``ALGORITHMS`` order.

    Raises ``ValueError`` if a value that the definition needs is null or not finite.
    """
    rows = batch.num_rows
    sizes = _numbers(batch, "data_size_bytes")
    shape = (rows, len(ALGORITHMS))
    compressed_bytes, compression_ms, decompression_ms = np.empty(shape), np.zeros(shape), np.zeros(shape)
    streams = np.ones(shape)
    streams[:, ALGORITHMS.index("amst")] = _numbers(batch, "amst_streams")
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
        rtt_ms=_numbers(batch, "rtt_ms"),
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
    full = measured.to_numpy(zero_copy_only=False)
    missing = ~full

    costs_ms = np.zeros((batch.num_rows, len(ALGORITHMS)))
    costs_ms[full] = transfer_costs_ms(batch.filter(measured), definition)
    best, margin_ms = best_choice(costs_ms)
    columns = [
        pa.array(np.array(CANDIDATES)[best], pa.string(), mask=missing),
        pa.array(np.full(batch.num_rows, definition), pa.string(), mask=missing),
        *(pa.array(costs_ms[:, position], mask=missing) for position in range(len(ALGORITHMS))),
        pa.array(margin_ms, mask=missing),
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
