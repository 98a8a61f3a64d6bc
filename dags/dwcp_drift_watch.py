"""Every hour: is the model in the field still worth its trust? Measure, store, decide, act. Wiring only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, task

from defaults import DAG_DEFAULT_ARGS, LOAD, URGENT
from dwcp.settings import Settings
from retraining import retrain_as
from wiring import FROM_CONTEXT, call, step

SETTINGS = Settings()

WHY = """
### Why this runs
A model that passed the gate can still do harm: a bug in a node, a link that changed, a unit that is wrong. This run
looks at what really happened, and takes a model back while people sleep. `docs/watch_policy.md` holds every rule,
threshold and rest.

### What happens
1. **plan_look**: the hour, and the regions in which a model has a say.
2. **refresh_rows** loads the hour's day again (a load replaces the day). If InfluxDB is down or no row of the hour has
   arrived, it says so, and **nothing is done**: the rest is skipped.
3. For each region, **look_at_region** measures each version (accuracy, regret, canary against control, overhead,
   latency, drift) and stores every figure with its interval and verdict: view `field_verdicts`.
4. **act_in_region** does what the policy says, once: roll back, or say it. Harm is taken back by the pool
   `dwcp_urgent`, also while a weekly run is in progress.
5. **plan_retraining → retrain** start `dwcp_weekly_retraining` if a region asks for it, once a week at most. Behind a
   weekly run that is in progress it waits in the queue; if that DAG is paused, `retrain` fails and people are told.

Each act is one line to the webhook (`DWCP_NOTIFY_WEBHOOK`, or the connection `dwcp_webhook`).

### When something is red
Clear it: every task may run twice, and what was acted on stays as it was. A look at an older hour (*Until* in the form)
replaces that hour's figures and takes nothing back that is no longer served.
"""


def why_blind(arguments: dict[str, Any]) -> str | None:
    """Why there is nothing to look at, if so."""
    refreshed = arguments["refreshed"]
    return None if refreshed["fresh"] else str(refreshed["reason"])


def why_no_retraining(arguments: dict[str, Any]) -> str | None:
    """No region asks for it."""
    asked = any(acted["retrain"] for acted in arguments["acted"] if acted)
    return None if asked else "no region asks for retraining"


with DAG(
    "dwcp_drift_watch",
    dag_display_name="DWCP drift watch",
    description="Measure what each model does in the field, roll back harm, say the rest",
    doc_md=WHY,
    schedule=CronDataIntervalTimetable(SETTINGS.watch_cron, timezone="UTC") if SETTINGS.watch_cron else None,
    start_date=datetime(2026, 1, 5),
    catchup=False,
    max_active_runs=1,
    default_args=DAG_DEFAULT_ARGS,
    tags=["dwcp", "watch"],
    params={
        "until": Param(
            None,
            type=["null", "string"],
            title="Until",
            description="The end of the hour to look at, UTC, like 2026-08-10T06:00. Leave it empty for the last one.",
        )
    },
) as dag:

    @task
    def plan_look(params: dict[str, Any], ti: Any, data_interval_end: datetime | None = None) -> list[str]:
        """The regions to look at; the hour lies beside them."""
        until = params["until"] or (data_interval_end and data_interval_end.isoformat())
        plan = call("watch.plan_look", until=until)
        ti.xcom_push("until", plan["until"])
        return list(plan["regions"])  # Airflow maps over nothing but what a task returns

    plan = plan_look()
    ahead = {**LOAD, "priority_weight": 100}  # of the days of a weekly run or a backfill that wait for the same slots
    refreshed = step("watch.refresh_rows", ahead, run_id=FROM_CONTEXT, until=plan["until"])
    by_region = {"map_index_template": "{{ task.op_kwargs['region'] }}"}
    looked = step("watch.look_at_region", by_region, each={"region": plan}, skip=why_blind, refreshed=refreshed)
    acted = step("watch.act_in_region", URGENT, each={"looked": looked})
    # Runs after regions that failed, too: one region's trouble is not another's.
    planned = step(
        "watch.plan_retraining",
        {"trigger_rule": "all_done_min_one_success"},
        skip=why_no_retraining,
        until=plan["until"],
        acted=acted,
    )
    retrain_as(planned)
