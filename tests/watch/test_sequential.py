"""Looking every hour must not inflate false alarms, and a real loss must be found."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from dwcp.settings import Settings
from dwcp.watch.experiment import compare, known_before, overlap_weights
from dwcp.watch.measure import EFFECT, served_features
from dwcp.watch.sequential import MIN_UNITS, Estimate, effective_rows, half_width, ratio, share
from transfers import make_transfers

ALPHA = 0.05
LOOKS, ROWS_AN_HOUR, SERIES = 300, 25, 600


def looks_at_means(effect: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hourly estimates (series, looks) of a mean, and their standard errors, all from skewed single transfers.

    They begin with the fewest rows that the policy judges.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.exponential(0.4, (SERIES, LOOKS * ROWS_AN_HOUR)) - 0.4 + effect
    ends = np.arange(Settings().watch_min_arm_rows, LOOKS * ROWS_AN_HOUR + 1, ROWS_AN_HOUR)
    mean = drawn.cumsum(axis=1)[:, ends - 1] / ends
    square = (drawn**2).cumsum(axis=1)[:, ends - 1] / ends
    return mean, np.sqrt((square - mean**2) / ends)


def test_hourly_looks_raise_false_alarms_with_a_usual_interval_and_not_with_this_one():
    mean, error = looks_at_means(0.0, seed=1)
    usual = np.mean((np.abs(mean) > 1.96 * error).any(axis=1))
    halves = np.vectorize(half_width)(error**2, EFFECT, ALPHA)
    always = np.mean((np.abs(mean) > halves).any(axis=1))
    assert usual > 0.3
    assert always <= ALPHA


def test_a_real_loss_of_5_percent_is_found():
    mean, error = looks_at_means(np.log(0.95), seed=2)
    halves = np.vectorize(half_width)(error**2, EFFECT, ALPHA)
    found = (mean + halves < 0).any(axis=1)
    assert np.mean(found) > 0.95


@cache
def transfers(rows: int) -> pa.Table:
    return make_transfers(rows, seconds=rows * 60.0)


def experiment(rows: int, effect: float, *, seed: int, share_of_canary: float = 0.25) -> dict[str, np.ndarray]:
    """Transfers whose time depends on size and link, on their object, on luck, and in canary on ``effect``."""
    rng = np.random.default_rng(seed)
    table = transfers(rows)
    features = served_features(table)
    units = rng.integers(0, 800, rows)
    canary = units < 800 * share_of_canary
    wire_ms = np.asarray(table["data_size_bytes"]) / np.asarray(table["available_bandwidth_mbps"]) / 125
    of_object = rng.normal(0, 0.1, 800)[units]
    time_ms = wire_ms * np.exp(of_object + rng.normal(0, 0.3, rows) - canary * np.log1p(effect))
    hour = np.asarray(table["timestamp_ns"]) // 3_600_000_000_000
    known = known_before(features)
    return {"time_ms": time_ms, "known": known, "is_canary": canary, "hour": hour, "units": units}


def bounds(data: dict[str, np.ndarray], rows: int) -> tuple[float, float] | None:
    found = compare(**{name: values[:rows] for name, values in data.items()}).typical
    return found.bounds(EFFECT, ALPHA) if found else None


def test_canary_as_good_as_control_is_hardly_ever_accused_over_many_looks():
    """50 experiments, 12 looks each: at a chance of 5 % two or three miss at most on average; 7 are surely too many."""
    accused = 0
    for seed in range(50):
        data = experiment(3_600, 0.0, seed=seed)
        looks = [bounds(data, rows) for rows in range(300, 3_601, 300)]
        accused += any(look is not None and not look[0] <= 0 <= look[1] for look in looks)
    assert accused < 7


def test_a_canary_that_loses_5_percent_is_found():
    found = 0
    for seed in range(5):
        data = experiment(24_000, -0.05, seed=seed)
        looks = [bounds(data, rows) for rows in range(6_000, 24_001, 6_000)]
        found += any(look is not None and look[1] < 0 for look in looks)
        assert all(look is None or look[0] <= np.log(0.95) <= look[1] for look in looks)
    assert found >= 4


def test_a_share_that_grew_over_a_bad_day_is_no_effect_of_the_canary():
    """Pooled, the canary looks slow: most of it ran on the second day, when everything was slow."""
    rng = np.random.default_rng(4)
    rows = 8_000
    data = experiment(rows, 0.0, seed=4)
    late = np.arange(rows) >= rows // 2
    data["hour"] = late.astype(np.int64)
    data["is_canary"] = rng.random(rows) < np.where(late, 0.75, 0.05)
    data["units"] = np.arange(rows)
    data["time_ms"] = data["time_ms"] * np.where(late, 2.0, 1.0)
    found = compare(**data)
    lower, upper = found.typical.bounds(EFFECT, ALPHA)
    assert lower <= 0 <= upper
    assert abs(found.typical.value) < 0.05
    canary = data["is_canary"]
    pooled = np.log(data["time_ms"][~canary]).mean() - np.log(data["time_ms"][canary]).mean()
    assert pooled < -0.2


def test_hours_with_one_arm_only_count_nothing():
    weights = overlap_weights(np.array([True, False, False, True, False]), np.array([1, 1, 1, 2, 3]))
    assert weights == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 0])


def test_bulk_sees_what_harms_the_large_alone():
    data = experiment(20_000, 0.0, seed=6)
    large = data["time_ms"] > np.quantile(data["time_ms"], 0.9)
    data["time_ms"] = data["time_ms"] * np.where(large & data["is_canary"], 1.5, 1.0)
    found = compare(**data)
    assert found.bulk.value < -0.25
    assert found.typical.value > -0.08


def test_too_few_objects_leave_no_interval():
    data = experiment(500, 0.0, seed=7)
    data["units"] = data["is_canary"].astype(np.int64)
    assert compare(**data).typical.variance is None
    data["is_canary"][:] = False
    assert compare(**data).typical is None


def test_rows_of_one_object_count_once():
    rng = np.random.default_rng(8)
    per_object = np.repeat(rng.random(100) < 0.9, 50)
    ones = np.ones(5_000)
    clustered = share(per_object, ones, np.repeat(np.arange(100), 50))
    alone = share(per_object, ones, np.arange(5_000))
    assert clustered.variance == pytest.approx(50 * alone.variance, rel=0.05)


def test_nothing_but_hits_proves_no_certainty():
    found = share(np.ones(100, bool), np.ones(100), np.arange(100))
    assert found.value == 1
    assert found.bounds(EFFECT, ALPHA)[0] < 0.96
    assert ratio(np.ones(5), np.ones(5), np.ones(5), np.arange(5)).bounds(EFFECT, ALPHA) is None
    assert MIN_UNITS > 5


def test_no_rows_give_no_figure():
    nothing = np.empty(0)
    assert ratio(nothing, nothing, nothing, np.empty(0, np.int64)) is None
    assert Estimate(0.5, None, 3, 3.0).bounds(EFFECT, ALPHA) is None


def test_the_interval_is_that_of_the_mixture_test():
    """Johari et al. (2022): the test's statistic reaches 1/α exactly where the interval ends."""
    variance, mixing = 2e-4, EFFECT**2
    half = half_width(variance, EFFECT, ALPHA)
    statistic = np.sqrt(variance / (variance + mixing)) * np.exp(
        half**2 * mixing / (2 * variance * (variance + mixing))
    )
    assert statistic == pytest.approx(1 / ALPHA)
    assert half_width(0.0, EFFECT, ALPHA) == 0


@pytest.mark.parametrize(
    ("weights", "expected"), [([], 0), ([5.0], 1), ([1e9] * 7, 7), ([1, 1, 1e12], 1), ([1, 3], 1.6)]
)
def test_kish(weights: list[float], expected: float):
    assert effective_rows(np.array(weights, np.float64)) == pytest.approx(expected)
