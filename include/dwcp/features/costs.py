"""The cost structure: what each choice would cost by what the node knows, as ratios to sending uncompressed.

The oracle's §3.1, with estimates in place of measurements::

    cost = size / (bandwidth · (1 - loss)) + time of compression and decompression

Sizes and times come from the past (``*_cost_ratio``), or from the probe and what the engine made of the probe's
figures in the past (``probe_*_cost_ratio``: the better ones where the object is new, or changes). Ratios and not
differences: one threshold, 1, then holds for all sizes and bandwidths.

Times are remembered per megabyte of work (``ms_per_mb``), so that they carry over between versions of other sizes.
AMST's is that of its busiest thread: with the plan of streams, known before the choice, its makespan follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import AMST_CHUNK_BYTES
from dwcp.units import transfer_time_ms

CALL_BYTES = 8_192
"""A call costs about as much as this many bytes of work, however short the payload."""
LEAST_SHARE = 0.005
"""What an engine leaves of a payload that the probe takes for empty; it keeps quotients finite."""
HASHING_SHARE = 0.1
"""What HDE spends on a block that the peer has, hashing it, over what it spends on one that it has not."""
COST_FEATURES = (
    "hde_cost_ratio",
    "amst_cost_ratio",
    "zstd_cost_ratio",
    "hde_amst_cost_ratio",
    "probe_hde_cost_ratio",
    "probe_amst_cost_ratio",
    "probe_zstd_cost_ratio",
)
_NEEDED = (
    "size_bytes",
    "bandwidth_mbps",
    "packet_loss_rate",
    "compressibility_score",
    "known_share",
    "probe_zstd_share",
    "probe_zstd_ms_per_mb",
    "probe_lz4_ms_per_mb",
    "amst_streams",
    "recent_hde_ratio",
    "recent_amst_ratio",
    "baseline_ratio",
    "recent_hde_ms_per_mb",
    "recent_amst_ms_per_mb",
    "recent_zstd_ms_per_mb",
    "hde_size_quotient",
    "amst_size_quotient",
    "zstd_size_quotient",
    "hde_time_quotient",
    "amst_time_quotient",
    "zstd_time_quotient",
)

Floats = NDArray[np.float64]


def busiest_bytes(size_bytes: Floats, streams: Floats) -> Floats:
    """Bytes on AMST's busiest thread: chunk i runs on thread i modulo ``streams``, and the last chunk is shorter."""
    chunks = np.ceil(size_bytes / AMST_CHUNK_BYTES)
    most = np.ceil(chunks / streams)
    missing = np.where((chunks - 1) % streams == 0, chunks * AMST_CHUNK_BYTES - size_bytes, 0.0)
    return most * AMST_CHUNK_BYTES - missing


def ms_per_mb(time_ms: Floats, work_bytes: Floats) -> Floats:
    """Time per 10^6 bytes of work, with ``CALL_BYTES`` added for the call."""
    return time_ms * 1e6 / (work_bytes + CALL_BYTES)


def probe_estimates(at: Mapping[str, Floats]) -> dict[str, Floats]:
    """The probe's own figures for each engine, by ``<engine>_size`` (share left) and ``<engine>_time`` (ms per MB).

    Systematically wrong, as single blocks are no payload; what an engine made of them before sets that right
    (``features.history``'s quotients). ``at`` holds the probe's features, by name.
    """
    light = 1.0 - at["compressibility_score"] + LEAST_SHARE
    heavy = at["probe_zstd_share"] + LEAST_SHARE
    new = 1.0 - at["known_share"]
    return {
        "hde_size": (new + LEAST_SHARE) * heavy,
        "amst_size": light,
        "zstd_size": heavy,
        "hde_time": at["probe_zstd_ms_per_mb"] * (new + HASHING_SHARE),
        "amst_time": at["probe_lz4_ms_per_mb"],
        "zstd_time": at["probe_zstd_ms_per_mb"],
    }


def cost_ratios(known: Mapping[str, Any]) -> dict[str, Floats]:
    """``COST_FEATURES`` of rows, from their other features and the quotients: arrays of shape (rows,), by name.

    Computed from float32, as the model sees its inputs: then what is served and what is recomputed are the same bits.
    Finite for every input within the contract.
    """
    at = {name: np.asarray(known[name], np.float32).astype(np.float64) for name in _NEEDED}
    size = np.maximum(at["size_bytes"], 1.0)
    none_ms = transfer_time_ms(size, at["bandwidth_mbps"] * (1.0 - at["packet_loss_rate"]))
    whole = (size + CALL_BYTES) / 1e6 / none_ms
    work = {
        "hde": whole,
        "amst": (busiest_bytes(size, at["amst_streams"]) + CALL_BYTES) / 1e6 / none_ms,
        "zstd": whole,
    }
    look = probe_estimates(at)
    past_ratio = {"hde": "recent_hde_ratio", "amst": "recent_amst_ratio", "zstd": "baseline_ratio"}
    ratios = {
        f"{engine}_cost_ratio": 1.0 / at[past_ratio[engine]] + at[f"recent_{engine}_ms_per_mb"] * work[engine]
        for engine in work
    }
    ratios["hde_amst_cost_ratio"] = ratios["hde_cost_ratio"] / ratios["amst_cost_ratio"]
    return ratios | {
        f"probe_{engine}_cost_ratio": look[f"{engine}_size"] * at[f"{engine}_size_quotient"]
        + look[f"{engine}_time"] * at[f"{engine}_time_quotient"] * work[engine]
        for engine in work
    }
