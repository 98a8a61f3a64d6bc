"""The weekly DAG's shape: its order, its intervals, its assets, and what hangs off where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest


@pytest.fixture
def weekly(dags):
    return dags["dwcp_weekly_retraining"]


def test_steps_follow_one_another(weekly) -> None:
    line = ["plan_window", "load_day", "reconcile", "validate", "build_dataset", "train_xgboost", "export_model"]
    line += ["evaluate_model", "apply_gate", "publish_model", "verify_published"]
    for before, after in pairwise(line):
        assert after in weekly.get_task(before).downstream_task_ids, f"{before} → {after}"


def test_the_two_models_train_side_by_side(weekly) -> None:
    xgboost, network = weekly.get_task("train_xgboost"), weekly.get_task("train_network")
    assert xgboost.upstream_task_ids == network.upstream_task_ids == {"build_dataset"}
    assert {"train_xgboost", "train_network"} <= weekly.get_task("export_model").upstream_task_ids


def test_the_watch_needs_the_loaded_rows_and_nothing_later(weekly) -> None:
    ancestors = {task.task_id for task in weekly.get_task("act_on_field").get_flat_relatives(upstream=True)}
    assert ancestors == {"plan_window", "load_day", "reconcile", "watch_field"}


def test_a_day_is_a_mapped_task_that_names_itself(weekly) -> None:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    load = weekly.get_task("load_day")
    assert isinstance(load, MappedOperator)
    assert load.map_index_template == "{{ task.op_kwargs['day'] }}"


def test_scheduled_runs_cover_whole_weeks(weekly) -> None:
    from airflow.timetables.interval import CronDataIntervalTimetable

    timetable = weekly.timetable
    core = CronDataIntervalTimetable(timetable.expression, timezone="UTC")
    interval = core.infer_manual_data_interval(run_after=_pendulum(datetime(2026, 8, 12, 9, tzinfo=UTC)))
    assert interval.end - interval.start == timedelta(days=7)
    assert interval.end == datetime(2026, 8, 10, 3, tzinfo=UTC)


def test_assets_are_changed_by_validation_and_publication_alone(weekly) -> None:
    outlets = {task.task_id: [asset.name for asset in task.outlets] for task in weekly.tasks if task.outlets}
    assert outlets == {"validate": ["dwcp_training_table"], "publish_model": ["dwcp_model"]}


def test_reports_have_a_button(weekly, dags) -> None:
    tasks = [task for dag in dags.values() for task in dag.tasks]
    linked = {task.task_id for task in tasks if "Report" in {link.name for link in task.operator_extra_links}}
    assert linked == {"validate", "evaluate_model", "validate_backfill"}


def _pendulum(moment: datetime):
    import pendulum

    return pendulum.instance(moment)
