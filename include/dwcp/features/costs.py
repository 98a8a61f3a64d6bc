"""The cost structure: what each choice would cost by what the node knows, as ratios to sending uncompressed.

The oracle's §3.1, with estimates in place of measurements::

    cost = size / (bandwidth · (1 - loss)) + time of compression and decompression

Sizes and times come from the past (``*_cost_ratio``), or from the probe and what the engine made of the probe's
figures in the past (``probe_*_cost_ratio``: the better ones where the object is new, or changes). Ratios and not
differences: one threshold, 1, then holds for all sizes and bandwidths.

HDE is zstd on what the peer lacks, so its past size is remembered relative to zstd's on the same transfer and to the
share that was new then, and its past time relative to what hashing all and compressing the new part take: what is new
today then tells both, also of an object whose changes come and go, or whose first version was sent whole. Where the
peer has no version, HDE is zstd.

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
DELTA_MS_PER_MB, NEW_MS_PER_MB = 1.8, 5.8
"""What a delta takes, both ways: hashing and finding every block, and beyond it compressing one that the peer lacks,
with its dictionary. Least squares over the recorded library's deltas; only their proportion matters, as a node's past
times are remembered relative to them. Zstd's own speed on the payload adds next to nothing."""
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
    "peer_has_version",
    "probe_zstd_share",
    "probe_zstd_ms_per_mb",
    "probe_lz4_ms_per_mb",
    "amst_streams",
    "recent_amst_ratio",
    "baseline_ratio",
    "recent_amst_ms_per_mb",
    "recent_zstd_ms_per_mb",
    "hde_past_size_quotient",
    "hde_past_time_quotient",
    "hde_size_quotient",
    "amst_size_quotient",
    "zstd_size_quotient",
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


def delta_work(known_share: Floats) -> tuple[Floats, Floats]:
    """The share of a payload that a delta compresses, never 0, and how long a delta takes, in ms per MB of payload."""
    new = 1.0 - known_share
    return new + LEAST_SHARE, DELTA_MS_PER_MB + NEW_MS_PER_MB * new


def probe_estimates(at: Mapping[str, Floats]) -> dict[str, Floats]:
    """The probe's own figures for each engine, by ``<engine>_size`` (share left) and ``<engine>_time`` (ms per MB).

    Systematically wrong, as single blocks are no payload; what an engine made of them before sets that right
    (``features.history``'s quotients). ``at`` holds the probe's features, by name. HDE's size is that of a delta, whose
    time the probe does not tell.
    """
    light = 1.0 - at["compressibility_score"] + LEAST_SHARE
    heavy = at["probe_zstd_share"] + LEAST_SHARE
    literal, _ = delta_work(at["known_share"])
    return {
        "hde_size": literal * heavy,
        "amst_size": light,
        "zstd_size": heavy,
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
    thread = (busiest_bytes(size, at["amst_streams"]) + CALL_BYTES) / 1e6 / none_ms
    delta = at["peer_has_version"] > 0.5
    literal, delta_ms_per_mb = delta_work(at["known_share"])

    zstd_size, zstd_time = 1.0 / at["baseline_ratio"], at["recent_zstd_ms_per_mb"]
    hde_size = zstd_size * np.where(delta, literal * at["hde_past_size_quotient"], 1.0)
    delta_time = delta_ms_per_mb * at["hde_past_time_quotient"] * whole
    hde = hde_size + np.where(delta, delta_time, zstd_time * whole)
    amst = 1.0 / at["recent_amst_ratio"] + at["recent_amst_ms_per_mb"] * thread

    look = probe_estimates(at)
    seen = {name: value * at[f"{name}_quotient"] for name, value in look.items()}
    probe_zstd = seen["zstd_size"] + seen["zstd_time"] * whole
    return {
        "hde_cost_ratio": hde,
        "amst_cost_ratio": amst,
        "zstd_cost_ratio": zstd_size + zstd_time * whole,
        "hde_amst_cost_ratio": hde / amst,
        "probe_hde_cost_ratio": np.where(delta, seen["hde_size"] + delta_time, probe_zstd),
        "probe_amst_cost_ratio": seen["amst_size"] + seen["amst_time"] * thread,
        "probe_zstd_cost_ratio": probe_zstd,
    }
