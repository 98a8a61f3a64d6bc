from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.contract import CANDIDATES
from dwcp.release import metrics
from dwcp.release.intervals import MIN_OBJECTS, Interval, Ratio, bootstrap


@st.composite
def samples(draw):
    """Labels, predictions and costs of a few rows; costs are small integers, so that ties occur."""
    rows = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    costs = rng.integers(1, 6, (rows, 4)).astype(np.float64)
    return costs[:, :3].argmin(axis=1), rng.integers(3, size=rows), costs


def value(ratio: Ratio) -> float | None:
    below = ratio.denominator.sum()
    return ratio.numerator.sum() / below + ratio.offset if below else None


@given(samples())
@settings(max_examples=150, deadline=None)
def test_accuracy_and_class_scores_equal_a_slow_reference(sample):
    labels, predicted, costs = sample
    ratios = metrics.accuracy_ratios(labels, predicted, costs)
    pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
    assert value(ratios["accuracy"]) == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))

    clear = []
    for (truth, said), row in zip(pairs, costs.tolist(), strict=True):
        best, second = sorted(row[:3])[:2]
        if (second - best) / best > 0.01:
            clear.append(truth == said)
    expected = sum(clear) / len(clear) if clear else None
    assert value(ratios["accuracy_outside_ties"]) == (None if expected is None else pytest.approx(expected))

    for number, name in enumerate(CANDIDATES):
        hits = sum(t == p == number for t, p in pairs)
        said, true = sum(p == number for _, p in pairs), sum(t == number for t, _ in pairs)
        precision, recall = (hits / said if said else None), (hits / true if true else None)
        assert value(ratios[f"precision_{name}"]) == (None if precision is None else pytest.approx(precision))
        assert value(ratios[f"recall_{name}"]) == (None if recall is None else pytest.approx(recall))
        f1 = value(ratios[f"f1_{name}"])
        if precision and recall:
            assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
        else:
            assert not f1
    matrix = metrics.confusion(labels, predicted)
    assert matrix.tolist() == [[sum((t, p) == (i, j) for t, p in pairs) for j in range(3)] for i in range(3)]


@given(samples())
@settings(max_examples=150, deadline=None)
def test_regret_and_gains_equal_a_slow_reference(sample):
    labels, predicted, costs = sample
    rules = (predicted + 1) % 3
    look_ms = np.linspace(0.0, 9.0, len(labels))
    ratios = metrics.cost_ratios(costs, predicted, rules, look_ms=look_ms)
    blind = metrics.cost_ratios(costs, predicted, rules, look_ms=look_ms, looks=False)
    rows = costs.tolist()
    regrets = [(row[p] - min(row[:3])) / min(row[:3]) for row, p in zip(rows, predicted.tolist(), strict=True)]
    assert metrics.regret(costs, predicted) == pytest.approx(regrets)
    assert min(regrets) >= 0
    assert value(ratios["mean_regret"]) == pytest.approx(sum(regrets) / len(regrets))
    spent = sum(row[p] for row, p in zip(rows, predicted.tolist(), strict=True))
    paid = spent + look_ms.sum()
    assert value(ratios["gain_over_zstd"]) == pytest.approx(sum(row[3] for row in rows) / paid - 1)
    assert value(blind["gain_over_zstd"]) == pytest.approx(sum(row[3] for row in rows) / spent - 1)
    by_rules = sum(row[p] for row, p in zip(rows, rules.tolist(), strict=True)) + look_ms.sum()
    assert value(ratios["gain_over_rules"]) == pytest.approx(by_rules / paid - 1)
    assert not metrics.regret(costs, labels).any()


@given(st.integers(1, 60), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_calibration_error_equals_a_slow_reference(rows, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], rows).astype(np.float32)
    predicted, labels = probabilities.argmax(axis=1), rng.integers(3, size=rows)
    bins, error = metrics.calibration(probabilities, predicted, labels)
    groups: dict[int, list[tuple[float, bool]]] = {}
    for row, said, truth in zip(probabilities.astype(float), predicted, labels, strict=True):
        groups.setdefault(min(14, int(max(row) * 15)), []).append((max(row), said == truth))
    expected = sum(
        len(g) / rows * abs(sum(right for _, right in g) / len(g) - sum(c for c, _ in g) / len(g))
        for g in groups.values()
    )
    assert error == pytest.approx(expected)
    assert [part.rows for part in bins] == [len(groups[n]) for n in sorted(groups)]


def test_calibration_of_no_rows_is_unknown():
    nothing = np.empty(0, np.int64)
    assert metrics.calibration(np.empty((0, 3), np.float32), nothing, nothing) == ((), None)


# -- intervals --


def test_bootstrap_equals_drawing_whole_objects_row_by_row():
    rng = np.random.default_rng(1)
    objects = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    ratio = Ratio(rng.uniform(0, 1, len(objects)), rng.uniform(1, 2, len(objects)), offset=-0.5)
    found = bootstrap({"x": ratio}, objects, rounds=300, seed=7)["x"]

    weights = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=300)
    drawn = []
    for weight in weights:
        rows = np.concatenate([np.tile(np.flatnonzero(objects == n), times) for n, times in enumerate(weight)])
        drawn.append(ratio.numerator[rows].sum() / ratio.denominator[rows].sum() - 0.5)
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.estimate == pytest.approx(ratio.numerator.sum() / ratio.denominator.sum() - 0.5)


def test_interval_of_rows_that_resemble_one_another_is_wide():
    """A hundred transfers of one object say little more than one does."""
    rng = np.random.default_rng(2)
    objects = np.repeat(np.arange(40), 100)
    right = np.repeat(rng.random(40) < 0.8, 100).astype(np.float64)
    ones = np.ones(len(right))
    by_object = bootstrap({"x": Ratio(right, ones)}, objects, rounds=500, seed=1)["x"]
    by_row = bootstrap({"x": Ratio(right, ones)}, np.arange(len(right)), rounds=500, seed=1)["x"]
    assert by_object.half_width > 4 * by_row.half_width


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        share = np.repeat(rng.beta(8, 2, 60), 10)
        right = (rng.random(600) < share).astype(np.float64)
        found = bootstrap({"x": Ratio(right, np.ones(600))}, np.repeat(np.arange(60), 10), rounds=200, seed=trial)["x"]
        covered += found.lower <= 0.8 <= found.upper
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_parts_do_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    objects = rng.integers(30, size=500)
    ratio = {"x": Ratio(rng.random(500), np.ones(500))}
    whole = bootstrap(ratio, objects, rounds=100, seed=1)
    assert bootstrap(ratio, objects, rounds=100, seed=1) == whole
    assert bootstrap(ratio, objects, rounds=100, seed=2) != whole
    monkeypatch.setattr("dwcp.release.intervals._WEIGHTS_AT_ONCE", 70)
    in_parts = bootstrap(ratio, objects, rounds=100, seed=1)["x"]
    assert (in_parts.lower, in_parts.upper) == pytest.approx((whole["x"].lower, whole["x"].upper))


def test_too_few_objects_give_an_estimate_without_bounds():
    ones = np.ones(1_000)
    one_object = bootstrap({"x": Ratio(ones, ones)}, np.zeros(1_000, np.int64), rounds=50, seed=1)["x"]
    assert one_object == Interval(1.0)
    assert one_object.half_width is None
    # Objects count where they contribute: a slice of few objects within many.
    objects = np.arange(1_000) % 50
    mask = (objects < MIN_OBJECTS - 1).astype(np.float64)
    assert bootstrap({"x": Ratio(mask, mask)}, objects, rounds=50, seed=1)["x"].lower is None


def test_nothing_counted_gives_no_estimate():
    none = np.zeros(200)
    assert bootstrap({"x": Ratio(none, none)}, np.arange(200), rounds=20, seed=1)["x"] == Interval(None)
    assert bootstrap({"x": Ratio(none[:0], none[:0])}, np.empty(0, np.int64), rounds=20, seed=1)["x"] == Interval(None)
