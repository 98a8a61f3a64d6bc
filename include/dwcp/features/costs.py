"""The cost structure: what each choice would cost by what the node knows, as ratios to sending uncompressed.

The oracle's §3.1, with estimates in place of measurements::

    cost = size / (bandwidth · (1 - loss)) + time of compression and decompression

Sizes come from past ratios (``*_cost_ratio``), or from the probe and what the engine made of it in the past
(``probe_*_cost_ratio``: the better ones where the object is new); times come from the node's past times. Ratios and not
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
COST_FEATURES = (
    "hde_cost_ratio",
    "amst_cost_ratio",
    "hde_amst_cost_ratio",
    "probe_hde_cost_ratio",
    "probe_amst_cost_ratio",
)
_NEEDED = (
    "size_bytes",
    "bandwidth_mbps",
    "packet_loss_rate",
    "compressibility_score",
    "known_share",
    "amst_streams",
    "recent_hde_ratio",
    "recent_amst_ratio",
    "recent_hde_ms_per_mb",
    "recent_amst_ms_per_mb",
    "hde_probe_quotient",
    "amst_probe_quotient",
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


def probe_shares(compressibility_score: Floats, known_share: Floats) -> tuple[Floats, Floats]:
    """The probe's estimate of the share of a payload's bytes that HDE and AMST leave."""
    light = 1.0 - compressibility_score + LEAST_SHARE
    return (1.0 - known_share + LEAST_SHARE) * light, light


def cost_ratios(known: Mapping[str, Any]) -> dict[str, Floats]:
    """``COST_FEATURES`` of rows, from their other features and ``PROBE_QUOTIENTS``: arrays of shape (rows,), by name.

    Computed from float32, as the model sees its inputs: then what is served and what is recomputed are the same bits.
    Finite for every input within the contract.
    """
    at = {name: np.asarray(known[name], np.float32).astype(np.float64) for name in _NEEDED}
    size = np.maximum(at["size_bytes"], 1.0)
    effective_mbps = at["bandwidth_mbps"] * (1.0 - at["packet_loss_rate"])
    none_ms = transfer_time_ms(size, effective_mbps)
    hde_ms = at["recent_hde_ms_per_mb"] * (size + CALL_BYTES) / 1e6
    amst_ms = at["recent_amst_ms_per_mb"] * (busiest_bytes(size, at["amst_streams"]) + CALL_BYTES) / 1e6
    hde = 1.0 / at["recent_hde_ratio"] + hde_ms / none_ms
    amst = 1.0 / at["recent_amst_ratio"] + amst_ms / none_ms
    hde_share, amst_share = probe_shares(at["compressibility_score"], at["known_share"])
    return {
        "hde_cost_ratio": hde,
        "amst_cost_ratio": amst,
        "hde_amst_cost_ratio": hde / amst,
        "probe_hde_cost_ratio": hde_share * at["hde_probe_quotient"] + hde_ms / none_ms,
        "probe_amst_cost_ratio": amst_share * at["amst_probe_quotient"] + amst_ms / none_ms,
    }
