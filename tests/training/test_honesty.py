"""Nothing that a model is judged on may be known to it, on transfers that real engines were measured for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.contract import CANDIDATES, FEATURES, FULLY_MEASURED, OUTCOMES
from dwcp.features.costs import cost_ratios
from dwcp.features.history import OUTCOME_FEATURES, QUOTIENTS
from dwcp.features.recompute import recompute_features, served_features
from dwcp.fleet.library import RECORDED, load_library
from dwcp.fleet.mix import DEFAULT_MIX, load_mix
from dwcp.fleet.simulate import simulate
from dwcp.oracle import label_batch
from dwcp.release import metrics
from dwcp.release.intervals import Ratio, bootstrap
from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, DatasetError, build_dataset
from dwcp.training.ensemble import booster_proba
from dwcp.training.leakage import IMPLAUSIBLE_SKILL, skill_of_each
from dwcp.training.split import split_by_time
from dwcp.training.xgb import train_xgboost

SETTINGS = Settings(training_threads=1)
OUTCOME_COLUMNS = (
    *(name for names in OUTCOMES.values() for name in names),
    "current_compression",
    "actual_transfer_time_ms",
    "actual_throughput_mbps",
    "total_cpu_overhead_ms",
    "decision_time_us",
)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    """Three weeks of the recorded fleet, small."""
    profiles, _ = load_library(RECORDED)
    weeks = simulate(profiles, load_mix(DEFAULT_MIX), seed=7, weeks=3, transfers_per_week=8_000, defects=False)
    return pa.concat_tables(weeks).combine_chunks()


@pytest.fixture(scope="module")
def labelled(log):
    labels = label_batch(log, SETTINGS.oracle)
    table = log
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    return table


@pytest.fixture(scope="module")
def dataset(labelled):
    return split_by_time(build_dataset(labelled), SETTINGS)


@pytest.fixture(scope="module")
def booster(dataset):
    return train_xgboost(dataset, SETTINGS)


def last_of_each_node(log: pa.Table) -> np.ndarray:
    """Rows after which their node sent nothing more: what they say of themselves can reach no other row."""
    nodes = np.array(log["node_id"].to_pylist())
    order = np.lexsort((log["timestamp_ns"].to_numpy(), nodes))
    last = np.r_[nodes[order][1:] != nodes[order][:-1], True]
    return order[last]


def with_permuted(log: pa.Table, name: str, rows: np.ndarray) -> pa.Table:
    """``log`` with one column's values dealt out anew among ``rows``."""
    order = np.arange(log.num_rows)
    order[rows] = np.roll(rows, 1)
    return log.set_column(log.schema.get_field_index(name), log.schema.field(name), log[name].take(pa.array(order)))


@pytest.mark.parametrize("name", OUTCOME_COLUMNS)
def test_no_outcome_of_the_current_transfer_moves_a_feature(log, name):
    fully = log.filter(pc.equal(log["measured_candidates"], FULLY_MEASURED))
    cut = fully.slice(0, fully.num_rows // 2)
    rows = last_of_each_node(cut)
    assert len(rows) >= 12
    permuted = with_permuted(cut, name, rows)
    assert not permuted[name].equals(cut[name]), "the column does not vary: the test says nothing"
    np.testing.assert_array_equal(recompute_features(permuted), recompute_features(cut))


def test_outcomes_of_earlier_transfers_do_move_features(log):
    """Else the test above could not fail."""
    fully = log.filter(pc.equal(log["measured_candidates"], FULLY_MEASURED))
    permuted = with_permuted(fully, "hde_compression_time_ms", np.arange(fully.num_rows // 2))
    assert (recompute_features(permuted) != recompute_features(fully)).any(axis=1).sum() > 100


def history_choice(features: np.ndarray) -> np.ndarray:
    """Argmin of the cost structure by history: it rests on the object's past and the link's present alone."""
    known = {feature.name: features[:, n] for n, feature in enumerate(FEATURES)}
    ratios = cost_ratios(known | dict.fromkeys(QUOTIENTS, np.ones(len(features))))
    by_past = [ratios["hde_cost_ratio"], ratios["amst_cost_ratio"], np.ones(len(features))]
    return np.column_stack(by_past).argmin(axis=1)


def several_versions(log: pa.Table) -> np.ndarray:
    """Transfers of objects that were sent in more than one version."""
    objects, code = np.unique(np.array(log["object_id"].to_pylist()), return_inverse=True)
    versions = log["object_version"].to_numpy()
    least, most = np.full(len(objects), 2**60), np.full(len(objects), -1)
    np.minimum.at(least, code, versions)
    np.maximum.at(most, code, versions)
    return (most > least)[code]


def test_history_dealt_one_transfer_late_is_worth_less_where_objects_change(log, labelled):
    """What the last transfer of an object taught is in its history; a history without it chooses worse."""
    features = served_features(log)
    past = [n for n, feature in enumerate(FEATURES) if feature.name in OUTCOME_FEATURES]
    key = np.char.add(np.array(log["node_id"].to_pylist()), np.array(log["object_id"].to_pylist()))
    order = np.lexsort((log["timestamp_ns"].to_numpy(), key))
    follows = np.flatnonzero(key[order][1:] == key[order][:-1])
    before, here = order[follows], order[follows + 1]
    late = features.copy()
    late[np.ix_(here, past)] = features[np.ix_(before, past)]
    rows = np.zeros(log.num_rows, np.bool_)
    rows[here] = several_versions(log)[here]
    rows &= pc.is_valid(labelled["optimal_compression"]).to_numpy()
    assert rows.sum() > 500
    truth = np.array(pc.fill_null(pc.index_in(labelled["optimal_compression"], pa.array(CANDIDATES)), -1))[rows]
    in_time, too_late = history_choice(features[rows]), history_choice(late[rows])
    assert (too_late == truth).mean() < (in_time == truth).mean()


def test_a_model_that_learned_shuffled_labels_scores_as_the_majority_class(dataset):
    learn = dataset.split != TEST
    labels = dataset.labels.copy()
    labels[learn] = np.random.default_rng(0).permutation(labels[learn])
    fooled = train_xgboost(dataclasses.replace(dataset, labels=labels), SETTINGS)
    test = dataset.only(TEST)
    said = booster_proba(fooled, test.features).argmax(axis=1)
    majority = np.full(test.rows, np.bincount(dataset.only(TRAIN).labels).argmax())
    codes = np.unique(test.object_id, return_inverse=True)[1]
    ones = np.ones(test.rows)
    found = bootstrap(
        {name: Ratio((choice == test.labels).astype(float), ones) for name, choice in (("m", majority), ("s", said))},
        codes,
        rounds=500,
        seed=0,
    )
    assert found["s"].lower <= found["m"].upper
    assert found["s"].estimate < 0.55


def test_the_model_that_learned_the_labels_scores_far_above(dataset, booster):
    """Else the test above could not fail."""
    test = dataset.only(TEST)
    said = booster_proba(booster, test.features).argmax(axis=1)
    assert (said == test.labels).mean() > 0.85
    assert metrics.regret(test.costs_ms, said).mean() < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_canary_that_equals_the_label_stops_the_training(labelled, noise):
    """Served under the name of any feature, as an outcome would be that a node computes too early."""
    rng = np.random.default_rng(1)
    label = pc.fill_null(pc.index_in(labelled["optimal_compression"], pa.array(CANDIDATES)), 0).to_numpy()
    wrong = rng.random(len(label)) < noise
    canary = np.where(wrong, rng.integers(3, size=len(label)), label) / 3.0
    served = labelled.schema.get_field_index("served_entropy")
    leaking = labelled.set_column(served, labelled.schema.field(served), pa.array(canary))
    with pytest.raises(DatasetError, match=r"entropy \(skill (0\.9\d|1\.00)\) alone tells the oracle's choice"):
        build_dataset(leaking)


def test_no_feature_of_the_fleet_comes_near_that(dataset):
    skills = skill_of_each(dataset.features, dataset.labels, dataset.object_id)
    assert skills.max() < IMPLAUSIBLE_SKILL - 0.1
    assert skills.max() > 0.2, "the cost ratios know something"


def test_no_test_payload_is_in_training(dataset):
    """Bytes, and versions of objects; and nothing in training is later than anything in the test."""
    assert dataset.dropped["payload seen before the test split"] > 0, "payloads repeat: the split had work to do"
    learned, judged = dataset.only(TRAIN, VALIDATION), dataset.only(TEST)
    assert not set(learned.payload_digest) & set(judged.payload_digest)
    versions = [set(zip(part.object_id, part.object_version.tolist(), strict=True)) for part in (learned, judged)]
    assert not versions[0] & versions[1]
    assert learned.timestamp_ns.max() <= judged.timestamp_ns.min()
