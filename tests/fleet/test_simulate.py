"""What the fleet logs satisfies the contract, repeats, and was served as it would be recomputed."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURES, FULLY_MEASURED, LINK_TYPES
from dwcp.features.recompute import recompute_features, served_features
from dwcp.fleet.library import Profiles
from dwcp.fleet.mix import load_mix
from dwcp.fleet.policy import Choices
from dwcp.fleet.simulate import WORLD_START, simulate, window_of
from dwcp.oracle import label_batch
from dwcp.quality.check import check_batch
from dwcp.rules import choose_by_rules
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window

MIX = load_mix()
WINDOW = Window.parse("2026-08-03", "2026-10-26")


def run(profiles: Profiles, **changes: object) -> list[pa.Table]:
    arguments: dict[str, object] = {"seed": 1, "weeks": 2, "transfers_per_week": 2_000, "defects": False}
    return list(simulate(profiles, MIX, **(arguments | changes)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def log(profiles: Profiles) -> pa.Table:
    return pa.concat_tables(run(profiles)).combine_chunks()


def checked(table: pa.Table) -> tuple[int, list[str]]:
    good, reasons = 0, []
    for batch in table.to_batches():
        result = check_batch(batch, window=WINDOW, now_ns=time.time_ns(), max_clock_ahead_ns=0)
        good += result.good.num_rows
        reasons += result.bad["reason"].to_pylist()
    return good, reasons


def test_the_log_satisfies_the_contract(log: pa.Table) -> None:
    assert log.schema.equals(LOGGED_SCHEMA)
    assert checked(log) == (4_000, [])


def test_what_was_served_is_what_is_recomputed(log: pa.Table) -> None:
    np.testing.assert_array_equal(served_features(log), recompute_features(log))


def test_timestamps_increase_per_node_and_lie_in_the_window(log: pa.Table) -> None:
    times = log["timestamp_ns"].to_numpy()
    for node in pc.unique(log["node_id"]).to_pylist():
        own = times[np.asarray(pc.equal(log["node_id"], node))]
        assert (np.diff(own) > 0).all()
    begin, end = window_of(WORLD_START, 0, 2)
    assert begin <= times.min()
    assert times.max() < end


def test_shares_are_those_of_the_mix(log: pa.Table) -> None:
    full = np.asarray(pc.equal(log["measured_candidates"], FULLY_MEASURED))
    assert full.mean() == pytest.approx(0.30, abs=0.03)
    for name in LINK_TYPES:
        here = np.asarray(pc.equal(log["link_type"], name))
        assert here.mean() == pytest.approx(MIX.links[name]["share"], abs=0.03)
        assert full[here].mean() == pytest.approx(0.30, abs=0.05), "what was measured depends on the link"


def test_rules_decide_but_for_the_explored_share(log: pa.Table) -> None:
    by_rules = np.array(ALGORITHMS)[choose_by_rules(served_features(log))]
    differs = by_rules != np.array(log["current_compression"].to_pylist())
    assert 0.02 < differs.mean() < 0.06


class ByHistory:
    """A choice that hangs on the last bits of what is remembered, so that every change of the past changes it."""

    model_version: str | None = "by-history"

    def choose(self, features: np.ndarray, _bucket: np.ndarray, /) -> Choices:
        names = [feature.name for feature in FEATURES]
        past = features[:, [names.index(name) for name in ("recent_hde_ratio", "recent_amst_ratio", "baseline_ratio")]]
        predicted = np.ascontiguousarray(past).view(np.uint32).sum(axis=1, dtype=np.int64) % 3
        rows = len(features)
        confidence = np.full(rows, 0.5, np.float32)
        return Choices(predicted, predicted, confidence, np.full(rows, "model"), np.full(rows, "champion"))

    def decision_us(self, _features: np.ndarray, /) -> None:
        pass


def test_choices_settle_however_much_they_hang_on_one_another(profiles: Profiles) -> None:
    policy = ByHistory()
    tables = run(profiles, policy=policy, transfers_per_week=500)
    log = pa.concat_tables(tables)
    served = served_features(log)
    np.testing.assert_array_equal(served, recompute_features(log))
    chosen = np.array(ALGORITHMS)[policy.choose(served, np.empty(0)).executed]
    assert log["current_compression"].to_pylist() == chosen.tolist()
    assert len(set(chosen)) == 3


class Fickle(ByHistory):
    """Decides otherwise whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, features: np.ndarray, bucket: np.ndarray, /) -> Choices:
        self.asked += 1
        choices = super().choose(features, bucket)
        return replace(choices, executed=np.full(len(features), self.asked % 4))


def test_a_policy_that_contradicts_itself_is_refused(profiles: Profiles) -> None:
    with pytest.raises(RuntimeError, match="did not settle"):
        run(profiles, policy=Fickle(), weeks=1, transfers_per_week=50)


def test_every_choice_is_best_somewhere(log: pa.Table) -> None:
    labels = label_batch(log, "seed_3_1")["optimal_compression"].drop_null().to_pylist()
    assert set(labels) == set(CANDIDATES)


def test_the_same_arguments_give_the_same_rows(profiles: Profiles, log: pa.Table) -> None:
    assert pa.concat_tables(run(profiles)).combine_chunks().equals(log)
    assert not pa.concat_tables(run(profiles, seed=2)).combine_chunks().equals(log)


def test_a_later_week_is_the_same_week_however_it_is_reached(profiles: Profiles, log: pa.Table) -> None:
    (second,) = run(profiles, first_week=1, weeks=1)
    assert second.combine_chunks().equals(log.slice(2_000).combine_chunks())


def test_objects_come_again_with_later_versions_and_new_ones_appear(profiles: Profiles) -> None:
    weeks = run(profiles, weeks=6, transfers_per_week=500)
    first = set(weeks[0]["object_id"].to_pylist())
    assert set(weeks[5]["object_id"].to_pylist()) - first
    log = pa.concat_tables(weeks)
    newest: dict[str, int] = {}
    for name, version in zip(log["object_id"].to_pylist(), log["object_version"].to_pylist(), strict=True):
        assert version >= newest.get(name, 0)
        newest[name] = version
    assert max(newest.values()) >= 2


def test_defects_go_to_quarantine_and_nothing_else_does(profiles: Profiles) -> None:
    many = {"not_a_number": 0.01, "missing": 0.01, "unknown_enum": 0.01, "wrong_unit": 0.01, "duplicate": 0.01}
    worse = load_mix()
    worse.defects.update(many)
    (clean,) = run(profiles, weeks=1)
    (table,) = simulate(profiles, worse, seed=1, weeks=1, transfers_per_week=2_000)
    duplicates = table.num_rows - pc.count_distinct(table["transfer_id"]).as_py()
    assert duplicates > 5
    good, reasons = checked(table)
    text = "\n".join(reasons)
    for words in ("jitter_ms", "cpu_usage is missing", "vm_snapshot", "kbit/s"):
        assert words in text
    assert good + len(reasons) == table.num_rows == clean.num_rows + duplicates
    assert 40 < len(reasons) < 160
    ids = table["transfer_id"].to_pylist()
    assert list(dict.fromkeys(ids)) == clean["transfer_id"].to_pylist(), "defects lose and reorder nothing"
    assert sum(one == other for one, other in pairwise(ids)) == duplicates


@pytest.mark.parametrize("span", [(-1, 2), (0, 0), (5, 8)])
def test_weeks_outside_the_world_are_refused(profiles: Profiles, span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="world"):
        run(profiles, first_week=span[0], weeks=span[1])
