import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURES, REGIONS
from dwcp.oracle import label_batch
from dwcp.watch.drift import profile_of
from dwcp.watch.measure import COLUMNS, MAX_WEIGHT, effective_rows, measure
from dwcp.window import Window
from transfers import START, make_transfers

DAY = Window.of_day(START.date())
PROFILE = profile_of(np.random.default_rng(0).uniform(0, 1, (50, len(FEATURES))).astype(np.float32))


def field(rows: int = 2_000, *, arm: str = "champion", version: str = "v1", **kinds: float) -> pa.Table:
    """Transfers as the warehouse gives them, decided by ``version`` in ``arm``."""
    table = make_transfers(rows, **kinds)
    labels = label_batch(table, "seed_3_1")
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    return put(put(table, "model_version", [version] * rows), "rollout_arm", [arm] * rows)


def put(table: pa.Table, name: str, values: object) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(index).type))


def measured(table: pa.Table, **changes: object):
    given = {"regions": REGIONS, "window": DAY, "training_profile": PROFILE, "label_ceilings": {1: 0.9, 5: 0.99}}
    return measure(table, "v1", **{**given, **changes})


def by_row(table: pa.Table) -> dict[str, float]:
    """The same figures by a slow loop over dictionaries."""
    right = weight = regret = size = time = squares = 0.0
    times = {"hde": "hde", "amst": "amst", "zstd": "baseline"}
    for row in table.to_pylist():
        if row["optimal_compression"] is None:
            continue
        w = min(1 / row["measurement_propensity"], MAX_WEIGHT)
        costs = {algorithm: row[f"cost_{algorithm}_ms"] for algorithm in ALGORITHMS}
        best = min(costs[algorithm] for algorithm in CANDIDATES)
        executed = row["current_compression"]
        weight += w
        squares += w * w
        right += w * (row["predicted_compression"] == row["optimal_compression"])
        regret += w * (costs[executed] - best) / best
        spent = row["actual_transfer_time_ms"]
        if executed in times:
            spent += row[f"{times[executed]}_compression_time_ms"] + row[f"{times[executed]}_decompression_time_ms"]
        size += w * row["data_size_bytes"]
        time += w * spent
    return {
        "accuracy": right / weight,
        "mean_regret": regret / weight,
        "throughput_mbps": size / time / 125,
        "effective_rows": weight**2 / squares,
    }


def test_it_equals_a_slow_reference_with_uneven_propensities():
    rng = np.random.default_rng(3)
    table = put(field(), "measurement_propensity", rng.uniform(0.005, 1, 2_000))
    found, expected = measured(table), by_row(table)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    assert found.clipped_rows > 0
    assert found.effective_rows < found.measured_rows


def test_equal_propensities_count_as_rows():
    found = measured(field(fully_measured=1.0))
    assert found.rows == found.measured_rows == found.effective_rows == found.executed_rows == 2_000
    assert found.clipped_rows == 0


def test_weights_undo_a_biased_choice_of_what_is_measured():
    """Half the traffic is always right and rarely measured: unweighted, accuracy would be far too low."""
    rng = np.random.default_rng(5)
    table = field(20_000, fully_measured=1.0)
    easy = np.arange(20_000) % 2 == 0
    propensity = np.where(easy, 0.05, 0.5)
    labels = np.array(table["optimal_compression"].to_pylist())
    wrong = np.where(labels == "hde", "amst", "hde")
    table = put(table, "predicted_compression", np.where(easy | (rng.random(20_000) < 0.8), labels, wrong))
    table = put(table, "measurement_propensity", propensity)
    picked = table.filter(pa.array(rng.random(20_000) < propensity))
    found = measured(picked)
    unweighted = np.mean(np.array(picked["predicted_compression"]) == np.array(picked["optimal_compression"]))
    assert found.accuracy == pytest.approx(0.9, abs=0.02)
    assert unweighted < 0.84
    assert abs(found.accuracy - 0.9) < 2 * found.accuracy_half_width


def test_the_interval_is_that_of_a_share():
    found = measured(field(fully_measured=1.0))
    binomial = 1.96 * np.sqrt(found.accuracy * (1 - found.accuracy) / found.measured_rows)
    assert found.accuracy_half_width == pytest.approx(binomial)


def test_only_the_version_its_regions_and_the_window_count():
    table = field()
    all_rows = measured(table).rows
    assert measure(table, "v2", regions=REGIONS, window=DAY, training_profile=PROFILE, label_ceilings={}).rows == 0
    parts = [measured(table, regions=[region]).rows for region in REGIONS]
    assert sum(parts) == all_rows == 2_000
    noon = START.replace(hour=12)
    assert (
        measured(table, window=Window(START, noon)).rows == measured(table, window=Window(noon, DAY.end)).rows == 1_000
    )


def test_shadow_rows_say_how_accurate_but_not_how_fast():
    found = measured(field(arm="shadow"))
    assert found.accuracy is not None
    assert (found.executed_rows, found.effective_executed_rows) == (0, 0.0)
    assert found.throughput_mbps is found.mean_regret is None


def test_rows_without_counterfactuals_are_no_evidence_of_accuracy():
    found = measured(field(fully_measured=0.0))
    assert (found.rows, found.measured_rows, found.effective_rows) == (2_000, 0, 0.0)
    assert found.accuracy is found.accuracy_half_width is found.throughput_mbps is None
    assert set(found.psi) == {feature.name for feature in FEATURES}


def test_an_empty_log_measures_nothing():
    found = measured(field().slice(0, 0))
    assert (found.rows, found.accuracy, found.psi) == (0, None, {})


def test_a_prediction_that_failed_is_no_answer():
    table = put(field(fully_measured=1.0), "predicted_compression", [None] * 500 + ["hde"] * 1_500)
    found = measured(table)
    assert (found.rows, found.measured_rows) == (2_000, 1_500)


def test_it_reads_no_column_but_those_it_names():
    table = field()
    assert measured(table.select(COLUMNS)) == measured(table)


@pytest.mark.parametrize(
    ("weights", "expected"), [([], 0), ([5.0], 1), ([1e9] * 7, 7), ([1, 1, 1e12], 1), ([1, 3], 1.6)]
)
def test_kish(weights: list[float], expected: float):
    assert effective_rows(np.array(weights, np.float64)) == pytest.approx(expected)


def test_what_labels_are_worth_follows_from_their_runs():
    table = field(400, fully_measured=1.0)
    runs = [5] * 300 + [2] * 100
    assert measured(put(table, "measured_runs", runs)).label_ceiling == pytest.approx(0.99 * 0.75 + 0.9 * 0.25)
    assert measured(table, label_ceilings={}).label_ceiling is None
