"""Every day, region by region: a challenger that has proved itself gets more traffic. Wiring only."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, chain, task_group

from approval import ApproveStep
from defaults import DAG_DEFAULT_ARGS
from dwcp.contract import REGIONS
from dwcp.settings import Settings
from wiring import FROM_CONTEXT, step

SETTINGS = Settings()

WHY = """
### Why this runs
A model that passed the gate has proved itself on recorded transfers only. Here it earns its traffic in each region:
shadow, 5 % of the objects, more, all of them. `docs/rollout_states.md` holds every state, step and soak time.

### What happens, for each region by itself
1. **judge_region** asks the watch about the challenger and decides. *Advance* takes a soak that is over, the verdict
   that the step asks for, and a region that is not paused. A verdict of FAIL *reverts*. Anything else *holds*: too few
   rows are no reason to go on.
2. **approve** is skipped, unless `DWCP_ROLLOUT_APPROVE_CANARY` or `DWCP_ROLLOUT_APPROVE_FULL` is on and this is that
   step. Then it waits for a person (*Required actions* on the run). Silence is no yes: unanswered it fails, the region
   stays as it is, and the next run asks again, as it does after a *Reject*.
3. **move_region** asks the watch once more and does it: a row in the transition log, then the signed channel document.

Each region's line stands in the log of its `move_region`. A run may be repeated, or cleared: a step is taken once.

### To hold, or to go back
* `dwcp rollout pause --region eu-west --reason "..."`: nothing moves forward there until `dwcp rollout resume`. Harm is
  still taken back.
* Take the challenger or the champion back now: `dwcp_manual_rollback`.
"""

with DAG(
    "dwcp_staged_rollout",
    dag_display_name="DWCP staged rollout",
    description="Advance, hold or revert the challenger of each region",
    doc_md=WHY,
    schedule=SETTINGS.rollout_cron or None,
    start_date=datetime(2026, 1, 5),
    catchup=False,
    max_active_runs=1,
    default_args=DAG_DEFAULT_ARGS,
    tags=["dwcp", "rollout"],
) as dag:

    @task_group(group_id="region")  # type: ignore[untyped-decorator]
    def in_region(region: str) -> None:
        """Judge, perhaps ask, move."""
        named = {"map_index_template": "{{ task.op_kwargs['region'] }}"}
        judged = step("rollout.judge_region", named, region=region)
        approved = ApproveStep(
            task_id="approve",
            subject="A step of the rollout",
            judged=judged,
            response_timeout=SETTINGS.rollout_approval_wait,
            map_index_template="{{ task.judged['region'] }}",
        )
        moved = step(
            "rollout.move_region",
            # Runs if nothing had to be approved, too, and after a refusal, which it obeys.
            {**named, "trigger_rule": "none_failed"},
            run_id=FROM_CONTEXT,
            region=region,
            judged=judged,
            approval=approved.output,
        )
        chain(judged, approved, moved)

    in_region.expand(region=list(REGIONS))
