"""By hand, at any hour: take a model back, in one region or everywhere. Wiring only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Param, task

from defaults import DAG_DEFAULT_ARGS, URGENT
from dwcp.contract import REGIONS
from dwcp.release.targets import read_targets, targets_table
from dwcp.settings import Settings
from wiring import call, step

SETTINGS = Settings()
KNOWN = read_targets(SETTINGS)
TO = (
    "last-good takes back the newest version that acts: a canary leaves, else the last champion that did no harm "
    "serves again. rules is no model at all. Or a version's name: it then serves alone."
)

WHY = f"""
### When to use this
A model does harm, or you suspect it. Choose the region, leave *Back to* at `last-good`, say why, press the button.

### It is safe to press
* Nodes are told within seconds, by one signed document with a higher serial. A node never fails over it.
* It needs Postgres and the older version's files only. InfluxDB may be down, the newest bundle may be corrupt, the
  weekly run may be in progress.
* Pressed twice it is done once: within {SETTINGS.rollout_repeat_within.total_seconds() / 60:.0f} minutes a second
  *last-good* leaves a region alone that was just rolled back. To go further back, name the version.
* What cannot be done is refused by `plan_rollback` in one line, before anything is touched. Its log lists the versions
  one can go back to.

### Afterwards
What serves now stands in the log of `roll_back`. A version that was taken back does not return by itself. To keep new
versions out as well: `dwcp rollout pause --reason "..."`.
"""

with DAG(
    "dwcp_manual_rollback",
    dag_display_name="DWCP manual rollback",
    description="Take a model back, in one region or everywhere",
    doc_md=WHY,
    schedule=None,
    start_date=datetime(2026, 1, 5),
    catchup=False,
    max_active_runs=1,
    default_args={**DAG_DEFAULT_ARGS, **URGENT},
    tags=["dwcp", "manual", "rollback"],
    params={
        "region": Param(
            type="string",
            enum=["all", *REGIONS],
            title="Region",
            description="Where to take it back; all is every region.",
        ),
        "to": Param(
            "last-good",
            type="string",
            pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
            examples=["last-good", "rules", *(target.version for target in KNOWN)],
            title="Back to",
            description=TO,
            description_md=f"{TO}\n\n{targets_table(KNOWN)}",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            pattern=r"\S",
            title="Reason",
            description="What you saw, in a few words; kept in the release log.",
        ),
    },
) as dag:

    @task
    def plan_rollback(params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
        """Refuse what cannot be done, in one line; else the regions, and who asks."""
        asked = {name: params[name] for name in ("region", "to", "reason")}
        plan: dict[str, Any] = call("rollout.plan_rollback", **asked)
        return {**plan, "who": f"{getattr(dag_run, 'triggering_user_name', None) or 'somebody'} ({dag_run.run_id})"}

    plan = plan_rollback()
    step("rollout.roll_back", who=plan["who"], plan=plan)
