"""Conversions between megabit/s, bytes and milliseconds: the only place where 8, 1e3 and 1e6 meet.

The seed's §3.2 divides bytes by Mbit/s and adds milliseconds; the sum has no unit, and the transfer weighs 125 times
too much. Here one Mbit/s carries 125 bytes a millisecond.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BYTES_PER_MS_AT_1_MBPS = 125.0
Number = TypeVar("Number", float, NDArray[np.float64])


def transfer_time_ms(size_bytes: Number, bandwidth_mbps: Number) -> Number:
    """Milliseconds that ``size_bytes`` take at ``bandwidth_mbps``. Scalars or arrays of equal shape."""
    return size_bytes / (bandwidth_mbps * BYTES_PER_MS_AT_1_MBPS)


def throughput_mbps(size_bytes: Number, time_ms: Number) -> Number:
    """Megabit/s at which ``size_bytes`` in ``time_ms`` travel. Scalars or arrays of equal shape."""
    return size_bytes / (time_ms * BYTES_PER_MS_AT_1_MBPS)
