"""By hand: load days again, or label them again, after looking at what would change. Wiring only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Param, chain, task

from defaults import BACKFILL, DAG_DEFAULT_ARGS
from dwcp.contract import REGIONS
from dwcp.pipeline.options import BackfillOptions
from dwcp.settings import Settings
from retraining import retrain_as
from wiring import FROM_CONTEXT, call, step

SETTINGS = Settings()

WHY = f"""
### When to use this
* A source was down or wrong, and the warehouse misses days or holds bad ones: load them again.
* The oracle was mended: **relabel only** computes labels again from rows already there.
* What if labels meant something else? A **dry run** by another cost counts the labels that would flip. It can be looked
  at only: stored labels are those of the one definition that this site trains on (`DWCP_ORACLE`), as a label must mean
  one thing to the trainer, the watch and the data team. To change it, set `DWCP_ORACLE`, then relabel the training
  window; until that is done the weekly run refuses to train on a mixture, and the watch overlooks the old labels.

### It is safe to press
**Dry run is on** unless you switch it off. A dry run changes nothing: it prints, day by day, the rows now, the rows
after, and how many labels would flip. The table stands in the log of `summarise_backfill` and in its XCom.

A window of more than {SETTINGS.backfill_max_days} days, in the future, without a day in it, or without a source is
refused by `plan_backfill` in one line, before anything is touched. Days are done one at a time in a pool of their own
(`dwcp_backfill`), so a weekly run never waits for them.

A day is replaced in one transaction. If a day fails, the others go on; clear the red day and only that day runs again.
What was loaded or relabelled goes before the quality gate (`validate_backfill`). Once that is green, the trainer and
the data team see it.

### Retrain afterwards
Once validated, **plan_retraining → retrain** start `dwcp_weekly_retraining` for the seven days up to the newest that
the warehouse holds, once for a backfill; behind a weekly run that is in progress it waits in the queue.
"""


def why_no_retraining(arguments: dict[str, Any]) -> str | None:
    """Not asked for, or nothing was changed."""
    options = BackfillOptions.among(arguments["plan"])
    if options.dry_run:
        return "a dry run changed nothing to learn from"
    return None if options.retrain else "Retrain afterwards is off"


with DAG(
    "dwcp_manual_backfill",
    dag_display_name="DWCP manual backfill",
    description="Load or relabel chosen days again; a dry run unless told otherwise",
    doc_md=WHY,
    schedule=None,
    start_date=datetime(2026, 1, 5),
    catchup=False,
    max_active_runs=1,
    default_args=DAG_DEFAULT_ARGS,
    tags=["dwcp", "backfill", "manual"],
    params={
        "start": Param(
            type="string",
            format="date",
            title="From",
            description="First day to do again, UTC. Whole days are replaced.",
        ),
        "end": Param(
            type="string",
            format="date",
            title="To (not included)",
            description=f"The day after the last, UTC. At most {SETTINGS.backfill_max_days} days at a time.",
        ),
        "dry_run": Param(
            True,
            type="boolean",
            title="Dry run",
            description="On: write nothing, show what would change. Read the summary, then run again with this off.",
        ),
        "source": Param(
            SETTINGS.source,
            type="string",
            enum=["archive", "influxdb"],
            values_display={"archive": "Parquet archive", "influxdb": "InfluxDB (keeps recent weeks only)"},
            title="Read from",
            description="Where the rows come from. Older weeks are in the archive only.",
        ),
        "regions": Param(
            None,
            type=["null", "array"],
            items={"enum": list(REGIONS)},
            examples=list(REGIONS),
            uniqueItems=True,
            title="Regions",
            description="Only these regions are replaced. None chosen: all of them.",
        ),
        "relabel_only": Param(
            False,
            type="boolean",
            title="Relabel only",
            description="On: read no source; compute the labels of the rows already there again, by the cost below.",
        ),
        "oracle": Param(
            SETTINGS.oracle,
            type="string",
            enum=["seed_3_1", "seed_3_2", "stream_aware"],
            values_display={
                "seed_3_1": "§3.1 compression + transfer + decompression time",
                "seed_3_2": "§3.2 compression time × CPU in use, and transfer",
                "stream_aware": "§3.1 at the rate that TCP streams reach",
            },
            title="Cost behind the label",
            description=f"Another than {SETTINGS.oracle}, on which this site trains, in a dry run only.",
        ),
        "retrain": Param(
            False,
            type="boolean",
            title="Retrain afterwards",
            description="On: once what was loaded has passed the checks, start a weekly run. A dry run starts none.",
        ),
    },
) as dag:

    @task
    def plan_backfill(params: dict[str, Any], ti: Any) -> list[str]:
        """Refuse what cannot be done, in one line; else the days to do."""
        options = BackfillOptions.among(params)
        plan = call("backfill.plan_backfill", start=params["start"], end=params["end"], options=options)
        ti.xcom_push("plan", plan)
        return list(plan["days"])  # Airflow maps over nothing but what a task returns

    @task(**BACKFILL, map_index_template="{{ task.op_kwargs['day'] }}")  # type: ignore[untyped-decorator]
    def backfill_day(day: str, params: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Replace or relabel one day, or say what that would change."""
        done: dict[str, Any] = call(
            "backfill.backfill_day", run_id=run_id, day=day, options=BackfillOptions.among(params)
        )
        return done

    plan = plan_backfill()
    done = backfill_day.expand(day=plan)
    validated = step("backfill.validate_backfill", BACKFILL, report=True, run_id=FROM_CONTEXT, plan=plan["plan"])
    planned = step("backfill.plan_retraining", skip=why_no_retraining, run_id=FROM_CONTEXT, plan=plan["plan"])
    retrain_as(planned)
    chain(done, validated, planned)
    step("backfill.summarise_backfill", plan=plan["plan"], days=done)
