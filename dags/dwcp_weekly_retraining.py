"""Every week: what the fleet measured becomes a gated, signed and revertible model. Wiring only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, chain, task

from defaults import DAG_DEFAULT_ARGS, LOAD, TRAIN
from dwcp.settings import SPLITS, Settings
from wiring import FROM_CONTEXT, MODEL, TRAINING_TABLE, call, chosen_window, step

WHY = """
### Why this runs
Nodes choose between HDE, AMST and no compression with a model. Links, payloads and code change, so last month's model
slowly goes wrong. This run learns from the weeks just measured and publishes **only** what beats the thresholds.

### What happens
1. **plan_window**: the run's week, or the window of the form.
2. **load_day**, one task a day: read, check, label, replace that day in the warehouse. A bad row goes to quarantine
   with its reason. A day may be loaded twice, or by two runs at once: the rows stay the same.
3. **reconcile**: read = loaded + quarantined + duplicate, for every day, or the run stops here.
4. **validate**: Great Expectations. A failed *fail* check is a **red** run, and no trainer ever sees the window.
5. **build_dataset → train_xgboost, train_network → export_model → evaluate_model**: what is judged is the exported
   file that nodes will load, not the objects in training.
6. **apply_gate**: PASS, FAIL or INCONCLUSIVE with reasons. FAIL is an answer, not an accident: the run stays **green**
   and publishing is *skipped*. The reason stands in the log of `publish_model` and on its *Storage* tab.
7. **publish_model → verify_published**: the signed bundle, then one atomic swap of the channel document.

**watch_field → act_on_field** look at the model now in the field and roll it back if it does harm. They need the loaded
rows only, so they run whatever validation, training and gate say.

### When something is red
* `load_day`: open the day's log; the source says what it refused. Clear the task to run that day again.
* `validate`: its report shows the failing rows (the address in its log; *Report* on its *Details* tab). Mend the
  source, run `dwcp_manual_backfill` for those days, then clear `validate`.
* Anything else: clear it. Every task may run twice.
"""

SETTINGS = Settings()
CRON = SETTINGS.weekly_cron
# Days, not moments: a picker of moments would mean the reader's time zone. Without a schedule a run has no week of its
# own, so the form must ask for one.
BOUND: dict[str, Any] = {"default": None, "type": ["null", "string"]} if CRON else {"type": "string"}
EMPTY = " Leave both empty for the last full week." if CRON else ""


def why_not_published(arguments: dict[str, Any]) -> str | None:
    """The gate's reasons, unless it says PASS."""
    gate = arguments["gate"]
    if gate["verdict"] == "PASS":
        return None
    return f"not published: the gate says {gate['verdict']}: {'; '.join(gate['reasons']) or 'no reason given'}"


with DAG(
    "dwcp_weekly_retraining",
    dag_display_name="DWCP weekly retraining",
    description="Extract, label, load, validate, train, export, evaluate, gate, publish, verify; and watch the field",
    doc_md=WHY,
    # A plain cron string gives data intervals of zero length in Airflow 3.
    schedule=CronDataIntervalTimetable(CRON, timezone="UTC") if CRON else None,
    start_date=datetime(2026, 1, 5),
    catchup=False,
    max_active_runs=1,
    default_args=DAG_DEFAULT_ARGS,
    tags=["dwcp", "training", "weekly"],
    params={
        "start": Param(**BOUND, format="date", title="From", description="First day to load and check, UTC." + EMPTY),
        "end": Param(
            **BOUND,
            format="date",
            title="To (not included)",
            description=f"The day after the last, UTC. Training takes the {SETTINGS.training_weeks} weeks up to it."
            + EMPTY,
        ),
    },
) as dag:

    @task
    def plan_window(
        params: dict[str, Any],
        ti: Any,
        data_interval_start: datetime | None = None,
        data_interval_end: datetime | None = None,
    ) -> list[str]:
        """The days of the run's week, or of the window that the form asked for; its bounds lie beside them."""
        start, end = chosen_window(params, data_interval_start, data_interval_end)
        window = call("weekly.plan_window", start=start, end=end)
        for bound in ("start", "end"):
            ti.xcom_push(bound, window[bound])
        return list(window["days"])  # Airflow maps over nothing but what a task returns

    days = plan_window()
    span = {"run_id": FROM_CONTEXT, "start": days["start"], "end": days["end"]}

    by_day = {**LOAD, "map_index_template": "{{ task.op_kwargs['day'] }}"}
    loads = step("weekly.load_day", by_day, each={"day": days}, run_id=FROM_CONTEXT)
    counts = step("weekly.reconcile", loads=loads, **span)

    validated = step("weekly.validate", LOAD, outlet=TRAINING_TABLE, report=True, **span)
    built = step("weekly.build_dataset", {**LOAD, "multiple_outputs": True}, **span)
    dataset = built["dataset"]
    by_split = {**TRAIN, "map_index_template": "{{ task.op_kwargs['split'] }}"}
    xgboost = step("weekly.train_xgboost", by_split, each={"split": list(SPLITS)}, dataset=dataset)
    # The networks take longest, so they start first: two slots are then busy to the end.
    longest = {**by_split, "priority_weight": 10}
    network = step("weekly.train_network", longest, each={"split": list(SPLITS)}, dataset=dataset)
    exported = step("weekly.export_model", TRAIN, dataset=dataset, xgboost=xgboost, network=network)
    evaluation = step(
        "weekly.evaluate_model", TRAIN, report=True, run_id=FROM_CONTEXT, dataset=dataset, exported=exported
    )
    gate = step("weekly.apply_gate", evaluation=evaluation)
    published = step(
        "weekly.publish_model",
        skip=why_not_published,
        outlet=MODEL,
        dataset=dataset,
        exported=exported,
        evaluation=evaluation,
        gate=gate,
        **span,
    )
    verified = step("weekly.verify_published", published=published)

    observed = step("weekly.watch_field", **span)
    acted = step("weekly.act_on_field", run_id=FROM_CONTEXT, observed=observed)

    chain(counts, validated, built)
    chain(counts, observed)
