"""The one place where bits, bytes and milliseconds meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.units import throughput_mbps, transfer_time_ms

POSITIVE = st.floats(1e-3, 1e12)


def test_one_megabyte_at_one_gigabit_takes_eight_milliseconds() -> None:
    assert transfer_time_ms(1_000_000.0, 1_000.0) == pytest.approx(8.0)
    assert throughput_mbps(1_000_000.0, 8.0) == pytest.approx(1_000.0)


@given(POSITIVE, POSITIVE)
def test_time_and_throughput_are_inverse(size_bytes: float, bandwidth_mbps: float) -> None:
    time_ms = transfer_time_ms(size_bytes, bandwidth_mbps)
    assert throughput_mbps(size_bytes, time_ms) == pytest.approx(bandwidth_mbps)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1))
def test_arrays_are_their_elements(pairs: list[tuple[float, float]]) -> None:
    size, bandwidth = np.array(pairs).T
    assert transfer_time_ms(size, bandwidth).tolist() == [transfer_time_ms(a, b) for a, b in pairs]
