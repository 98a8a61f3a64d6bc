import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.contract import FEATURES
from dwcp.watch.drift import FEATURE_NAMES, SHARE_FLOOR, profile_of, psi_of

NAMES = ("rtt_ms", "data_type")


def sample(rows: int = 20_000, *, seed: int = 0, shift: float = 0.0, types: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.lognormal(shift, 1, rows), rng.integers(1, types + 1, rows)], axis=1).astype(np.float32)


def test_the_same_traffic_does_not_drift():
    profile = profile_of(sample(), NAMES)
    assert max(psi_of(profile, sample(seed=1), NAMES).values()) < 0.01
    assert psi_of(profile, sample(), NAMES) == pytest.approx({"rtt_ms": 0, "data_type": 0})


def test_it_equals_the_formula_by_hand():
    then = np.repeat([[1.0], [2.0]], [60, 40], axis=0).astype(np.float32)
    now = np.repeat([[1.0], [2.0]], [30, 70], axis=0).astype(np.float32)
    expected = (0.3 - 0.6) * np.log(0.3 / 0.6) + (0.7 - 0.4) * np.log(0.7 / 0.4)
    assert psi_of(profile_of(then, ["link_type"]), now, ["link_type"])["link_type"] == pytest.approx(expected)


def test_a_shift_shows_in_its_feature_alone():
    found = psi_of(profile_of(sample(), NAMES), sample(seed=1, shift=1.0), NAMES)
    assert found["rtt_ms"] > 0.25
    assert found["data_type"] < 0.01


@pytest.mark.parametrize("factor", [0.125, 1_000])
def test_a_wrong_unit_shows(factor: float):
    now = sample(seed=1)
    now[:, 0] *= factor
    assert psi_of(profile_of(sample(), NAMES), now, NAMES)["rtt_ms"] > 1


def test_new_and_unknown_codes_show():
    profile = profile_of(sample(types=7), NAMES)
    assert psi_of(profile, sample(types=8), NAMES)["data_type"] > 0.5
    unknown = sample(types=7)
    unknown[: len(unknown) // 4, 1] = 0
    assert psi_of(profile, unknown, NAMES)["data_type"] > 0.5


def test_a_constant_feature_that_moves_shows_either_way():
    still = np.full((1_000, 1), 5, np.float32)
    profile = profile_of(still, ["jitter_ms"])
    assert psi_of(profile, still, ["jitter_ms"])["jitter_ms"] == pytest.approx(0)
    for moved in (still + 1, still - 1):
        assert psi_of(profile, moved, ["jitter_ms"])["jitter_ms"] > 5


def test_a_profile_survives_json_and_names_what_it_knows():
    profile = json.loads(json.dumps(profile_of(sample(), NAMES)))
    assert set(psi_of(profile, np.ones((5, 3), np.float32), ("rtt_ms", "data_type", "entropy"))) == set(NAMES)


def test_no_rows_say_nothing():
    assert psi_of(profile_of(sample(), NAMES), sample()[:0], NAMES) == {}


@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.ones((3, 1)), np.ones(3), np.array([[1, np.nan]])])
def test_what_is_no_sample_is_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="feature"):
        profile_of(bad.astype(np.float32), NAMES)


def test_a_profile_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="'rtt_ms'"):
        psi_of({"rtt_ms": [1, 2]}, sample(), NAMES)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_it_is_finite_never_negative_and_shares_are_whole(then: int, now: int, seed: int):
    rng = np.random.default_rng(seed)
    drawn = rng.choice([-1e30, 0.0, 1e-30, 1.0, 3e38], (then + now, len(FEATURES))).astype(np.float32)
    profile = profile_of(drawn[:then])
    for entry in profile.values():
        assert sum(entry["shares"]) == pytest.approx(1)
        assert len(entry["shares"]) == len(entry["edges"]) + 1
    values = np.array(list(psi_of(profile, drawn[then:], FEATURE_NAMES).values()))
    assert np.isfinite(values).all()
    assert (values >= -SHARE_FLOOR).all()
