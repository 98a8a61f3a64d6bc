"""Features from a log: what the node served, computed again from raw columns and history.

Training uses the features as served; this is for parity checks, for rows whose features follow an older definition, and
for the fleet, which serves through ``feature_matrix`` and ``History`` and so agrees to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import DATA_TYPES, FEATURES, FULLY_MEASURED, LINK_TYPES, REGIONS
from dwcp.features.costs import COST_FEATURES, busiest_bytes, cost_ratios, delta_work, ms_per_mb, probe_estimates
from dwcp.features.encode import enum_codes, rtt_bin, size_category, time_of_day
from dwcp.features.history import HISTORY_COLUMNS, History, Observations

RAW_COLUMNS = (
    "timestamp_ns",
    "region",
    "link_type",
    "rtt_ms",
    "jitter_ms",
    "available_bandwidth_mbps",
    "packet_loss_rate",
    "data_size_bytes",
    "data_type",
    "entropy",
    "compressibility_score",
    "cpu_usage",
    "memory_available_mb",
    "active_transfers",
)
"""The logged columns that features come from, beside history and what only the node could see."""
SEEN_FEATURES = (
    "delta_potential",
    "known_share",
    "zero_share",
    "probe_zstd_share",
    "probe_zstd_ms_per_mb",
    "probe_lz4_ms_per_mb",
    "peer_has_version",
    "amst_streams",
)
"""What the node saw before it chose and the log keeps as served only: the payload, and both sides' idle cores."""
SEEN_OF_OUTCOMES = ("peer_has_version", "probe_zstd_share", "probe_zstd_ms_per_mb", "probe_lz4_ms_per_mb")
"""Those of them that outcomes are held against when they are remembered."""
OUTCOME_COLUMNS = (
    "data_size_bytes",
    "compressibility_score",
    "hde_compression_ratio",
    "hde_delta_hit_rate",
    "hde_compression_time_ms",
    "hde_decompression_time_ms",
    "amst_streams",
    "amst_compressed_size_bytes",
    "amst_compression_time_ms",
    "amst_decompression_time_ms",
    "baseline_compression_ratio",
    "baseline_compression_time_ms",
    "baseline_decompression_time_ms",
    *(f"served_{name}" for name in SEEN_OF_OUTCOMES),
)
"""The logged columns that a transfer's outcomes, and what the engines made of the probe, are remembered from."""


def feature_matrix(
    raw: Mapping[str, Any], history: NDArray[np.float32], seen: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Features of shape (rows, ``len(FEATURES)``) in contract order, float32 as the model sees them.

    ``raw`` holds ``RAW_COLUMNS`` and ``seen`` ``SEEN_FEATURES`` (numpy arrays of shape (rows,), Arrow's for text; no
    nulls), ``history`` is what ``History`` returned.
    """
    made = {
        "rtt_ms": raw["rtt_ms"],
        "jitter_ms": raw["jitter_ms"],
        "bandwidth_mbps": raw["available_bandwidth_mbps"],
        "packet_loss_rate": raw["packet_loss_rate"],
        "link_type": enum_codes(raw["link_type"], LINK_TYPES),
        "region": enum_codes(raw["region"], REGIONS),
        "size_bytes": raw["data_size_bytes"],
        "entropy": raw["entropy"],
        "compressibility_score": raw["compressibility_score"],
        "data_type": enum_codes(raw["data_type"], DATA_TYPES),
        "cpu_usage": raw["cpu_usage"],
        "memory_available": raw["memory_available_mb"],
        "active_transfers": raw["active_transfers"],
        "time_of_day": time_of_day(raw["timestamp_ns"]),
        "rtt_bin": rtt_bin(raw["rtt_ms"]),
        "size_category": size_category(raw["data_size_bytes"]),
        **{name: seen[name] for name in SEEN_FEATURES},
        **{name: history[:, position] for position, name in enumerate(HISTORY_COLUMNS)},
    }
    made |= cost_ratios(made)
    matrix = np.empty((len(history), len(FEATURES)), np.float32)
    for position, feature in enumerate(FEATURES):
        matrix[:, position] = made[feature.name]
        if feature.name in COST_FEATURES:
            np.clip(matrix[:, position], feature.minimum, feature.maximum, out=matrix[:, position])
    return matrix


def outcomes(logged: Mapping[str, NDArray[np.float64]], fully_measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What transfers add to memory, shape (rows, ``len(history.REMEMBERED)``), NaN where nothing was measured.

    ``logged`` holds ``OUTCOME_COLUMNS`` as float64, NaN where null. Ratios count wherever they were measured, times
    only on fully measured transfers.
    """
    size = logged["data_size_bytes"]
    times = [
        ms_per_mb(logged["hde_compression_time_ms"] + logged["hde_decompression_time_ms"], size),
        ms_per_mb(
            logged["amst_compression_time_ms"] + logged["amst_decompression_time_ms"],
            busiest_bytes(size, logged["amst_streams"]),
        ),
        ms_per_mb(logged["baseline_compression_time_ms"] + logged["baseline_decompression_time_ms"], size),
    ]
    amst_ratio = size / logged["amst_compressed_size_bytes"]
    known_share = logged["hde_delta_hit_rate"]
    look = probe_estimates(
        {name: logged[f"served_{name}"] for name in SEEN_OF_OUTCOMES}
        | {"compressibility_score": logged["compressibility_score"], "known_share": known_share}
    )
    ratios = {"hde": logged["hde_compression_ratio"], "amst": amst_ratio, "zstd": logged["baseline_compression_ratio"]}
    full_times = [np.where(fully_measured, time, np.nan) for time in times]
    # Without a version at the peer HDE is zstd, and says nothing of deltas.
    delta = np.where(logged["served_peer_has_version"] > 0.5, 1.0, np.nan)
    every = np.ones(len(delta))
    of_deltas = {"hde": delta, "amst": every, "zstd": every}
    literal, delta_ms_per_mb = delta_work(known_share)
    return np.column_stack(
        [
            *ratios.values(),
            *full_times,
            delta * ratios["zstd"] / (ratios["hde"] * literal),
            delta * full_times[0] / delta_ms_per_mb,
            *(of_deltas[engine] / (ratio * look[f"{engine}_size"]) for engine, ratio in ratios.items()),
            *(time / look[f"{engine}_time"] for engine, time in zip(("amst", "zstd"), full_times[1:], strict=True)),
        ]
    )


def observations(log: pa.Table) -> Observations:
    """What the transfers of a log add to their nodes' memory."""
    full = pc.fill_null(pc.equal(log["measured_candidates"], FULLY_MEASURED), False).to_numpy()
    return Observations(
        outcomes({name: _floats(log, name) for name in OUTCOME_COLUMNS}, full),
        _floats(log, "available_bandwidth_mbps"),
        _floats(log, "jitter_ms"),
    )


def recompute_features(log: pa.Table, warm_up_end_ns: int | None = None) -> NDArray[np.float32]:
    """Features of the log's transfers, shape (rows, ``len(FEATURES)``), in the log's order.

    ``log`` holds whole nodes' transfers, labelled or not, in any order. Those before ``warm_up_end_ns`` only fill the
    history and get no row in the result. Nothing that a transfer's own outcome columns say enters its row.
    """
    timestamp_ns = log["timestamp_ns"].to_numpy()
    history = History()
    keys = history.keys(log["node_id"], log["object_id"], log["data_type"], log["peer_id"])
    remembered = history.advance(keys, timestamp_ns, observations(log))
    if warm_up_end_ns is not None:
        kept = timestamp_ns >= warm_up_end_ns
        log, remembered = log.filter(pa.array(kept)), remembered[kept]
    text = {"region", "link_type", "data_type"}
    raw = {name: log[name] if name in text else log[name].to_numpy() for name in RAW_COLUMNS}
    seen = {name: log[f"served_{name}"].to_numpy() for name in SEEN_FEATURES}
    return feature_matrix(raw, remembered, seen)


def served_features(log: pa.Table) -> NDArray[np.float32]:
    """Features as the nodes served and logged them, shape (rows, ``len(FEATURES)``) in contract order."""
    matrix = np.empty((log.num_rows, len(FEATURES)), np.float32)
    for position, feature in enumerate(FEATURES):
        matrix[:, position] = log[feature.column].to_numpy()
    return matrix


def _floats(log: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as float64, NaN where null."""
    values: NDArray[np.float64] = pc.cast(log[name], pa.float64(), safe=False).to_numpy()
    return values
