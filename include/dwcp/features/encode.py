"""From raw values to the numbers that models take: enum codes, bins, hour of the day (seed §4.2)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import RTT_BINS_MS, SIZE_BINS_BYTES, UNKNOWN_CODE

_NS_PER_HOUR = 3_600_000_000_000


def enum_codes(values: pa.Array | pa.ChunkedArray | NDArray[np.str_], known: tuple[str, ...]) -> NDArray[np.float32]:
    """The code of each value: its position in ``known`` + 1, or ``UNKNOWN_CODE`` if it is not there or null."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values, pa.string())
    positions = pc.fill_null(pc.index_in(values, value_set=pa.array(known, pa.string())), UNKNOWN_CODE - 1)
    codes: NDArray[np.float32] = np.asarray(positions, np.float32) + np.float32(1)
    return codes


def rtt_bin(rtt_ms: NDArray[np.float64]) -> NDArray[np.float32]:
    """1 datacenter (< 1 ms), 2 metro (up to and with 10 ms), 3 WAN (seed §4.2.1)."""
    datacenter, metro = RTT_BINS_MS
    return (1 + (rtt_ms >= datacenter) + (rtt_ms > metro)).astype(np.float32)


def size_category(size_bytes: NDArray[np.int64]) -> NDArray[np.float32]:
    """1 small (< 1 KiB), 2 medium (up to and with 1 MiB), 3 large (seed §4.2.2)."""
    small, medium = SIZE_BINS_BYTES
    return (1 + (size_bytes >= small) + (size_bytes > medium)).astype(np.float32)


def time_of_day(timestamp_ns: NDArray[np.int64]) -> NDArray[np.float32]:
    """UTC hour of the decision, 0 to 23 (seed §4.2.3)."""
    return ((timestamp_ns // _NS_PER_HOUR) % 24).astype(np.float32)
