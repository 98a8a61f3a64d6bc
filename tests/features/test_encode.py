from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import DATA_TYPES, LINK_TYPES, REGIONS, UNKNOWN_CODE
from dwcp.features.encode import enum_codes, rtt_bin, size_category, time_of_day


@pytest.mark.parametrize("known", [LINK_TYPES, DATA_TYPES, REGIONS])
def test_known_values_count_from_one_and_all_else_is_unknown(known):
    codes = enum_codes(pa.array([*known, "mars", None, ""]), known)
    assert codes.tolist() == [*range(1, len(known) + 1), UNKNOWN_CODE, UNKNOWN_CODE, UNKNOWN_CODE]
    assert codes.dtype == np.float32


def test_codes_of_numpy_chunked_and_no_values():
    assert enum_codes(np.array(["wan", "dc"]), LINK_TYPES).tolist() == [3, 1]
    assert enum_codes(pa.chunked_array([["wan"], ["dc"]]), LINK_TYPES).tolist() == [3, 1]
    assert enum_codes(pa.array([], pa.string()), LINK_TYPES).tolist() == []


def test_edges_of_bins():
    assert rtt_bin(np.array([0.0, 0.999, 1.0, 10.0, 10.01, 500.0])).tolist() == [1, 1, 2, 2, 3, 3]
    sizes = np.array([1, 1_023, 1_024, 1_048_576, 1_048_577])
    assert size_category(sizes).tolist() == [1, 1, 2, 2, 3]


def test_hour_is_utc():
    hour = 3_600 * 10**9
    assert time_of_day(np.array([0, hour - 1, hour, 23 * hour, 24 * hour])).tolist() == [0, 0, 1, 23, 0]
