"""What the watch and a backfill have in common: they may start a weekly run, and never two for one reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

if TYPE_CHECKING:
    from airflow.sdk import XComArg

PLANNED = "{{{{ ti.xcom_pull(task_ids='{task}')['{part}'] }}}}"


def retrain_as(planned: XComArg) -> TriggerDagRunOperator:
    """Start the weekly run that the task behind ``planned`` gives as ``run_id``, ``start`` and ``end``.

    If it exists already, nothing is done. While another weekly run is in progress it waits in the queue for its turn;
    behind a DAG that is paused it would wait for ever, so that is a failure which people are told of.
    """

    def part(name: str) -> str:
        return PLANNED.format(task=planned.operator.task_id, part=name)

    retrain = TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="dwcp_weekly_retraining",
        trigger_run_id=part("run_id"),
        conf={bound: part(bound) for bound in ("start", "end")},
        skip_when_already_exists=True,
        fail_when_dag_is_paused=True,
    )
    planned.operator >> retrain
    return retrain
