import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import ALGORITHMS, CANDIDATES
from dwcp.oracle import label_batch
from dwcp.watch.measure import COLUMNS, MAX_WEIGHT, Measurement, measure
from dwcp.watch.sequential import half_width
from dwcp.window import Window
from transfers import START, make_transfers

DAY = Window.of_day(START.date())
HERE = "eu-west"


def field(rows: int = 2_000, *, arm: str = "champion", version: str = "v1", **kinds: float) -> pa.Table:
    """Transfers as the warehouse gives them, decided by ``version`` in ``arm``."""
    table = make_transfers(rows, **kinds)
    labels = label_batch(table, "seed_3_1")
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    table = put(put(table, "model_version", [version] * rows), "rollout_arm", [arm] * rows)
    return put(table, "region", [HERE] * rows)


def put(table: pa.Table, name: str, values: object) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(index).type))


def measured(table: pa.Table, **changes: object) -> Measurement:
    given = {
        **{"region": HERE, "role": "champion", "window": DAY, "label_ceilings": {1: 0.9, 5: 0.99}, "alpha": 0.05},
        **{"released_accuracy": 0.985, "trained_until": START},
    }
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
    assert found.throughput_mbps == pytest.approx(expected["throughput_mbps"])
    for name in ("accuracy", "mean_regret"):
        assert found.figures[name].value == pytest.approx(expected[name]), name
        assert found.figures[name].effective_rows == pytest.approx(expected["effective_rows"])
    assert found.clipped_rows > 0
    assert found.figures["accuracy"].effective_rows < found.measured_rows


def test_equal_propensities_count_as_rows():
    found = measured(field(fully_measured=1.0))
    assert found.rows == found.measured_rows == found.figures["accuracy"].effective_rows == 2_000
    assert found.figures["throughput_loss"].rows == 2_000
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
    found = measured(picked).figures["accuracy"]
    unweighted = np.mean(np.array(picked["predicted_compression"]) == np.array(picked["optimal_compression"]))
    assert found.value == pytest.approx(0.9, abs=0.02)
    assert unweighted < 0.84
    assert found.lower < 0.9 < found.upper


def test_the_interval_holds_at_every_look():
    found = measured(field(fully_measured=1.0)).figures["accuracy"]
    binomial = found.value * (1 - found.value) / 2_000
    assert found.upper - found.value == pytest.approx(half_width(binomial, 0.1, 0.05), rel=0.15)


def test_only_the_version_its_region_and_the_window_count():
    table = field()
    assert measured(table).rows == 2_000
    assert measured(put(table, "model_version", ["v2"] * 2_000)).rows == 0
    assert measured(table, region="us-east").rows == 0
    noon = START.replace(hour=12)
    assert (
        measured(table, window=Window(START, noon)).rows == measured(table, window=Window(noon, DAY.end)).rows == 1_000
    )


def test_shadow_rows_say_how_accurate_but_not_how_fast():
    found = measured(field(arm="shadow"))
    assert found.figures["accuracy"].value is not None
    for name in ("mean_regret", "throughput_loss", "suboptimal_share", "overhead_of_time"):
        assert (found.figures[name].value, found.figures[name].rows) == (None, 0)
    assert found.throughput_mbps is None


def test_rows_without_counterfactuals_are_no_evidence_of_accuracy():
    found = measured(field(fully_measured=0.0))
    assert (found.rows, found.measured_rows) == (2_000, 0)
    assert found.figures["accuracy"].value is found.figures["accuracy_drop"].value is None
    assert found.figures["latency_p99_ms"].rows == 2_000


def test_an_empty_log_measures_nothing():
    found = measured(field().slice(0, 0))
    assert found.rows == 0
    assert {name for name, figure in found.figures.items() if figure.value is not None} == {"staleness_days"}


def test_a_prediction_that_failed_is_no_answer_and_is_counted():
    table = put(field(fully_measured=1.0), "predicted_compression", [None] * 500 + ["hde"] * 1_500)
    found = measured(table)
    assert (found.rows, found.measured_rows) == (2_000, 1_500)
    assert found.figures["missing_predictions"].value == 0.25


def test_it_reads_no_column_but_those_it_names():
    table = field()
    assert measured(table.select(COLUMNS)) == measured(table)


def test_what_labels_are_worth_follows_from_their_runs():
    table = field(400, fully_measured=1.0)
    runs = [5] * 300 + [2] * 100
    assert measured(put(table, "measured_runs", runs)).label_ceiling == pytest.approx(0.99 * 0.75 + 0.9 * 0.25)
    assert measured(table, label_ceilings={}).label_ceiling is None


def test_the_drop_since_release_is_the_accuracy_seen_from_above():
    found = measured(field(fully_measured=1.0)).figures
    accuracy, drop = found["accuracy"], found["accuracy_drop"]
    assert drop.value == pytest.approx(0.985 - accuracy.value)
    assert (drop.lower, drop.upper) == pytest.approx((0.985 - accuracy.upper, 0.985 - accuracy.lower))
    assert measured(field(), released_accuracy=None).figures["accuracy_drop"].value is None


def test_what_is_lost_and_what_is_suboptimal_are_those_of_the_executed_choice():
    """A thousand choose the best; a thousand choose what costs three times as much; one in a tie does not count."""
    table = field(fully_measured=1.0)
    costs = {"hde": 100.0, "amst": 300.0, "none": 100.5, "zstd": 90.0}
    for name, cost in costs.items():
        table = put(table, f"cost_{name}_ms", [cost] * 2_000)
    table = put(table, "current_compression", ["hde"] * 500 + ["none"] * 400 + ["zstd"] * 100 + ["amst"] * 1_000)
    found = measured(table).figures
    assert found["suboptimal_share"].value == 0.5
    spent = 500 * 100 + 400 * 100.5 + 100 * 90 + 1_000 * 300
    assert found["throughput_loss"].value == pytest.approx(1 - 2_000 * 100 / spent)


def test_overhead_latency_and_staleness_are_as_logged():
    table = put(field(), "decision_time_us", [1_000.0] * 1_960 + [20_000.0] * 40)
    table = put(put(table, "probe_time_ms", [3.0] * 2_000), "total_cpu_overhead_ms", [12.0] * 2_000)
    found = measured(table, trained_until=START.replace(day=1)).figures
    look_ms = 2_000 * 3.0 + 1_960 * 1.0 + 40 * 20.0
    assert found["overhead_of_cpu"].value == pytest.approx(look_ms / (look_ms + 2_000 * 12.0))
    assert 0 < found["overhead_of_time"].value < 1
    assert [found[f"latency_p{p}_ms"].value for p in (50, 95, 99)] == pytest.approx([1.0, 1.0, 20.0])
    assert found["latency_p95_ms"].upper == pytest.approx(1.0)
    assert found["staleness_days"].value == 3


def test_canary_is_compared_with_whoever_else_decided_in_its_hours():
    rng = np.random.default_rng(1)
    rows = 4_000
    canary = rng.random(rows) < 0.3
    table = put(field(rows), "rollout_arm", np.where(canary, "canary", "champion"))
    table = put(table, "model_version", np.where(canary, "v1", "v0"))
    slow = np.asarray(table["actual_transfer_time_ms"]) * np.where(canary, 2.0, 1.0)
    found = measured(put(table, "actual_transfer_time_ms", slow), role="canary").figures
    assert found["throughput_gain"].upper < 0
    assert found["throughput_gain"].detail == {"canary_rows": int(canary.sum()), "control_rows": int((~canary).sum())}
    assert measured(table, role="canary").figures["throughput_gain"].value == pytest.approx(0, abs=0.1)
    assert measured(field()).figures["throughput_gain"].value is None
