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

from dwcp.contract import DATA_TYPES, FEATURES, LINK_TYPES, REGIONS
from dwcp.features.encode import enum_codes, rtt_bin, size_category, time_of_day
from dwcp.features.history import HISTORY_FEATURES, History, Observations

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
"""The logged columns that features come from, beside history and the probe's ``delta_potential``."""


def feature_matrix(
    raw: Mapping[str, Any],
    history: NDArray[np.float32],
    delta_potential: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Features of shape (rows, ``len(FEATURES)``) in contract order, float32 as the model sees them.

    ``raw`` holds ``RAW_COLUMNS`` (numpy arrays of shape (rows,), Arrow's for text; no nulls), ``history`` is what
    ``History`` returned and ``delta_potential`` the share of probed blocks that the peer's version has: the log keeps
    it as served only.
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
        "delta_potential": delta_potential,
        "data_type": enum_codes(raw["data_type"], DATA_TYPES),
        "cpu_usage": raw["cpu_usage"],
        "memory_available": raw["memory_available_mb"],
        "active_transfers": raw["active_transfers"],
        "time_of_day": time_of_day(raw["timestamp_ns"]),
        "rtt_bin": rtt_bin(raw["rtt_ms"]),
        "size_category": size_category(raw["data_size_bytes"]),
        **{name: history[:, position] for position, name in enumerate(HISTORY_FEATURES)},
    }
    matrix = np.empty((len(history), len(FEATURES)), np.float32)
    for position, feature in enumerate(FEATURES):
        matrix[:, position] = made[feature.name]
    return matrix


def observations(log: pa.Table) -> Observations:
    """What the transfers of a log add to their nodes' memory."""
    size = _floats(log, "data_size_bytes")
    ratios = [
        _floats(log, "hde_compression_ratio"),
        size / _floats(log, "amst_compressed_size_bytes"),
        _floats(log, "baseline_compression_ratio"),
    ]
    return Observations(np.column_stack(ratios), _floats(log, "available_bandwidth_mbps"), _floats(log, "jitter_ms"))


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
    return feature_matrix(raw, remembered, log["served_delta_potential"].to_numpy())


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
