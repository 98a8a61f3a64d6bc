"""What every DAG and every task must have, checked on the DAGs as Airflow reads them."""

from __future__ import annotations

from datetime import timedelta

from dwcp.airflow_services import POOLS

TAGS = {"dwcp", "training", "weekly", "backfill", "manual", "rollout", "rollback", "watch"}


def test_the_dags_are_seen(dags) -> None:
    assert {dag_id: len(dag.tasks) for dag_id, dag in dags.items()} == {
        "dwcp_manual_backfill": 6,
        "dwcp_manual_rollback": 2,
        "dwcp_drift_watch": 6,
        "dwcp_staged_rollout": 3,
        "dwcp_weekly_retraining": 14,
    }


def test_every_dag_says_what_it_is_and_runs_once_at_a_time(dags) -> None:
    assert len(dags) == 5
    for dag in dags.values():
        assert dag.tags, dag.dag_id
        assert dag.tags <= TAGS, f"{dag.dag_id}: unknown tags {dag.tags - TAGS}"
        assert "dwcp" in dag.tags
        assert "###" in dag.doc_md
        assert len(dag.doc_md) > 500
        assert dag.description
        assert dag.dag_display_name != dag.dag_id
        assert dag.max_active_runs == 1
        assert dag.catchup is False
        # A DAG-level deadline makes `dags test` crash in Airflow 3.3.2.
        assert not dag.deadline


def test_every_task_has_owner_pool_retries_and_a_timeout(dags) -> None:
    tasks = [task for dag in dags.values() for task in dag.tasks]
    assert len(tasks) == 31
    for task in tasks:
        assert task.owner == "dwcp-ml", task.task_id
        assert task.pool in POOLS, task.task_id
        assert task.retries >= 2, task.task_id
        assert task.retry_exponential_backoff, task.task_id
        assert task.max_retry_delay, task.task_id
        assert task.retry_policy, task.task_id
        assert timedelta() < task.execution_timeout <= timedelta(hours=6), task.task_id


def test_every_param_explains_itself(dags) -> None:
    params = [(dag, name) for dag in dags.values() for name in dag.params]
    assert len(params) == 2 + 8 + 3 + 1
    for dag, name in params:
        param = dag.params.get_param(name)
        assert param.schema.get("title"), name
        assert (param.description or "").endswith("."), name
        # A section starts collapsed in the trigger form, and what is collapsed is not read.
        assert "section" not in param.schema, name


def test_a_weekly_run_never_waits_for_a_backfill(dags) -> None:
    """Slots that one takes are none that the other could: apart from planning, they share no pool."""
    pools = {dag_id: {task.pool for task in dags[dag_id].tasks} for dag_id in dags}
    assert pools["dwcp_manual_backfill"] & pools["dwcp_weekly_retraining"] == {"dwcp_light"}
    assert pools["dwcp_manual_backfill"] & pools["dwcp_manual_rollback"] == set()


def test_every_pool_is_used(dags) -> None:
    assert {task.pool for dag in dags.values() for task in dag.tasks} == set(POOLS)
