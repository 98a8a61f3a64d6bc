import json
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.contract import REGIONS
from dwcp.watch.drift import SHARE_FLOOR, distance, drift, noise, psi, quarantine_rise
from dwcp.watch.measure import served_features
from dwcp.watch.profile import (
    ALL,
    FEATURE_NAMES,
    Profile,
    groups_of,
    parse_profile,
    predictions_of,
    profile_of,
    shares_in,
)
from transfers import make_transfers

NAMES = ("rtt_ms", "data_type")
SOME = FEATURE_NAMES[:4]


def psi_of(profile: dict, now: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Index of each feature that the profile knows, over everything."""
    known = parse_profile(profile).groups[ALL].features
    return {
        name: psi(known[name].shares, shares_in(column.astype(np.float64), np.asarray(known[name].edges)))
        for name, column in zip(names, now.T, strict=True)
        if name in known
    }


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


@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.ones((3, 1)), np.ones(3), np.array([[1, np.nan]])])
def test_what_is_no_sample_is_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="feature"):
        profile_of(bad.astype(np.float32), NAMES)


def test_a_profile_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="'rtt_ms'"):
        parse_profile({"rtt_ms": [1, 2]})
    with pytest.raises(ValueError, match="groups are no object"):
        parse_profile({"format": 2, "groups": []})


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_it_is_finite_never_negative_and_shares_are_whole(then: int, now: int, seed: int):
    rng = np.random.default_rng(seed)
    drawn = rng.choice([-1e30, 0.0, 1e-30, 1.0, 3e38], (then + now, len(SOME))).astype(np.float32)
    profile = profile_of(drawn[:then], SOME)
    for entry in profile["groups"][ALL]["features"].values():
        assert sum(entry["shares"]) == pytest.approx(1, abs=1e-4)
        assert len(entry["shares"]) == len(entry["edges"]) + 1
    values = np.array(list(psi_of(profile, drawn[then:], SOME).values()))
    assert np.isfinite(values).all()
    assert (values >= -SHARE_FLOOR).all()


def field(rows: int = 6_000, *, seed: int = 1) -> pa.Table:
    table = make_transfers(rows, seconds=7 * 86_400.0, seed=seed)
    return table.append_column("optimal_compression", pa.nulls(rows, pa.string()))


def profile_for(table: pa.Table, **more: object) -> dict[str, object]:
    features = served_features(table)
    labels = np.arange(len(features)) % 3
    objects = table["rollout_bucket"].cast(pa.string()).to_pylist()
    return {
        **profile_of(features, labels=labels, objects=objects),
        "predictions": predictions_of(labels, features, FEATURE_NAMES, objects),
        **more,
    }


@cache
def trained() -> Profile:
    return parse_profile(profile_for(field(20_000, seed=9)))


def test_an_old_profile_stays_readable_beside_a_new_one():
    """Versions that were registered before groups: ``{feature: {edges, shares}}`` over everything."""
    new = parse_profile(profile_for(field(seed=9)))
    old = parse_profile(profile_for(field(seed=9))["groups"][ALL]["features"])
    assert set(old.groups) == {ALL}
    assert old.groups[ALL].features == new.groups[ALL].features
    assert len(new.groups) == 1 + 3 * len(REGIONS)
    moved = drift(field(), "test-model", old, 0.01)
    assert moved["feature_psi"].value is not None
    assert moved["label_drift"].value is moved["prediction_drift"].value is None


def test_the_same_traffic_is_surely_nowhere_beyond_the_limits():
    profile = trained()
    found = drift(field(), "test-model", profile, 0.01)
    assert found["feature_psi"].lower < 0.1
    assert found["feature_distance"].lower < 0.05
    assert found["prediction_drift"].lower < 0.1


def test_a_region_that_changes_is_named_with_its_link():
    profile = trained()
    now = field()
    rtt = np.asarray(now["served_rtt_ms"]) * np.where(np.asarray(now["served_link_type"]) == 3, 4.0, 1.0)
    index = now.schema.get_field_index("served_rtt_ms")
    found = drift(now.set_column(index, "served_rtt_ms", pa.array(rtt)), "test-model", profile, 0.01)
    assert found["feature_psi"].lower > 0.25
    assert next(iter(found["feature_psi"].detail)) == "rtt_ms@wan"
    assert found["feature_distance"].lower > 0.1


def test_predictions_and_labels_are_compared_with_their_own_past():
    profile = trained()
    now = field()
    for name, quantity in (("predicted_compression", "prediction_drift"), ("optimal_compression", "label_drift")):
        index = now.schema.get_field_index(name)
        all_none = now.set_column(index, name, pa.array(["none"] * now.num_rows))
        assert drift(all_none, "test-model", profile, 0.01)[quantity].lower > 1
    assert drift(now, "another", profile, 0.01)["prediction_drift"].value is None


def test_few_objects_prove_no_drift():
    """Two objects of many rows look unlike any training; that is no drift yet."""
    profile = trained()
    now = field()
    index = now.schema.get_field_index("served_entropy")
    moved = now.set_column(index, "served_entropy", pa.array(np.full(now.num_rows, 0.9)))
    assert drift(moved, "v", profile, 0.01)["feature_psi"].lower > 0.25
    index = moved.schema.get_field_index("rollout_bucket")
    two = moved.set_column(index, "rollout_bucket", pa.array(np.arange(now.num_rows) % 2, pa.int32()))
    found = drift(two, "v", profile, 0.01)["feature_psi"]
    assert found.lower < 0


def test_distances_are_scipys_and_lie_between_0_and_1():
    then, now = [1.0, 0, 0, 0], [0, 0, 0, 1.0]
    assert distance(then, now, codes=False) == pytest.approx(1)
    assert distance(then, [0, 1.0, 0, 0], codes=False) == pytest.approx(1 / 3)
    assert distance(then, now, codes=True) == pytest.approx(1, abs=0.01)
    assert distance(then, then, codes=False) == distance(then, then, codes=True) == 0


@pytest.mark.parametrize("codes", [True, False])
def test_noise_is_what_chance_reaches_as_often_as_it_says(codes: bool):
    rng = np.random.default_rng(1)
    true = np.array([0.4, 0.3, 0.2, 0.1])
    index_limit, distance_limit = noise(4, 300, 200, 0.05, codes=codes)
    draws = [(rng.multinomial(300, true) / 300, rng.multinomial(200, true) / 200) for _ in range(800)]
    assert np.mean([psi(*pair) > index_limit for pair in draws]) < 0.08
    assert np.mean([distance(*pair, codes=codes) > distance_limit for pair in draws]) < 0.08


def test_rows_that_go_bad_are_compared_with_training():
    assert quarantine_rise(1_000, 10, 0.01, 0.01).value == pytest.approx(0)
    garbage = quarantine_rise(1_000, 200, 0.01, 0.01)
    assert garbage.lower > 0.05
    assert quarantine_rise(0, 0, 0.01, 0.01).value is None
    assert quarantine_rise(5, 5, None, 0.01).value is None
    assert quarantine_rise(3, 1, 0.0, 0.01).lower < 0.05


def test_groups_are_regions_and_links():
    features = np.array([[1, 3], [6, 1], [0, 1], [1, 0]], np.float32)
    assert groups_of(features, ("region", "link_type")).tolist() == ["us-east/wan", "ap-northeast/dc", ALL, ALL]
    assert groups_of(features, ("rtt_ms", "jitter_ms")).tolist() == [ALL] * 4


def test_no_rows_say_nothing():
    found = drift(field().slice(0, 0), "v", parse_profile(profile_for(field())), 0.01)
    assert {figure.value for figure in found.values()} == {None}
