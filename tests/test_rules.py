from __future__ import annotations

import numpy as np
import pytest

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.features.recompute import served_features
from dwcp.rules import choose_by_rules
from transfers import make_transfers


def features(**values: float) -> np.ndarray:
    plain = {feature.name: feature.default for feature in FEATURES} | {"size_bytes": 1e6} | values
    return np.array([[plain[feature.name] for feature in FEATURES]], np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size_bytes": 1_023}, "none"),
        ({"compressibility_score": 0.01, "delta_potential": 0.0, "bandwidth_mbps": 10}, "none"),
        ({"compressibility_score": 0.01, "delta_potential": 0.9, "bandwidth_mbps": 500}, "hde"),
        ({"bandwidth_mbps": 25_000}, "none"),
        ({"bandwidth_mbps": 5_000, "delta_potential": 0.9}, "amst"),
        ({"bandwidth_mbps": 500, "recent_hde_ratio": 9.0, "recent_amst_ratio": 2.0}, "hde"),
        ({"bandwidth_mbps": 500, "recent_hde_ratio": 3.0, "recent_amst_ratio": 2.0}, "amst"),
        ({"bandwidth_mbps": 500, "packet_loss_rate": 0.7, "recent_hde_ratio": 3.0}, "hde"),
        ({"bandwidth_mbps": 50}, "hde"),
    ],
)
def test_rules_as_documented(values, expected):
    assert CANDIDATES[choose_by_rules(features(**values))[0]] == expected


def test_many_rows_are_decided_as_each_alone():
    matrix = served_features(make_transfers(300))
    together = choose_by_rules(matrix)
    assert set(together) == {0, 1, 2}
    assert together.tolist() == [int(choose_by_rules(matrix[row : row + 1])[0]) for row in range(300)]


def test_a_fallback_never_fails_on_values():
    matrix = np.full((1, len(FEATURES)), np.nan, np.float32)
    assert CANDIDATES[choose_by_rules(matrix)[0]] == "amst"


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=str(len(FEATURES))):
        choose_by_rules(np.zeros((2, 18), np.float32))
