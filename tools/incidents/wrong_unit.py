"""8. A node release logs a wrong unit that no rule of the contract sees: the labels lie, and the watch with them."""

from __future__ import annotations

import time
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from dwcp.fleet.write import write_to_archive
from dwcp.pipeline import QualityGateFailed, backfill, weekly
from dwcp.pipeline.options import BackfillOptions
from dwcp.pipeline.rollout import plan_rollback, roll_back
from dwcp.quality.check import check_batch
from dwcp.window import Window
from incidents.field import fleet_week, set_column, watch_hours
from incidents.report import Incident, Span
from incidents.site import END, HERE, Site

TIMES = ("hde_compression_time_ms", "hde_decompression_time_ms")
WEEK = {"start": END.isoformat(), "end": (END + timedelta(days=7)).isoformat()}
MOST_HOURS = 3 * 24


def run(site: Site) -> Incident:
    """The watch hour by hour; the weekly run over the poisoned week; the archive put right, loaded again, rolled on."""
    found = first = None
    for look in watch_hours(site, in_seconds(fleet_week(site)), END, MOST_HOURS):
        first = first or (look if look.speaks_of("accuracy", "drift", "feature", "throughput", "suboptimal") else None)
        if "rollback" in look.actions:
            found = look
            break
    everywhere = fleet_week(site, region=None, rows=25_000)
    write_to_archive(site.settings.archive_dir, [in_seconds(everywhere)])
    held = _weekly(site)
    began = time.monotonic()
    write_to_archive(site.settings.archive_dir, [everywhere])
    flips = _load_again(site)
    if found:
        plan = plan_rollback(site.settings, region=HERE, to=site.champion, reason="the labels lied, not the model")
        roll_back(site.settings, who="on call", plan=plan)
    site.nodes.serve(HERE, site.champion)
    recovered_s = time.monotonic() - began
    kbit = set_column(everywhere, "available_bandwidth_mbps", pc.multiply(everywhere["available_bandwidth_mbps"], 1e3))
    refused, why = _refused(kbit)
    return Incident(
        number=8,
        name="Training data poisoned by a wrong unit",
        cause=f"A release of the node in {HERE} logs HDE's times in seconds under a name that says ms.",
        detected=Span((first.until - END).total_seconds(), "field", "the first notice") if first else None,
        recovered=Span(recovered_s, "wall", "the archive put right, the week loaded again, the champion back"),
        said=site.said,
        did=(
            f"the contract let {_passed(in_seconds(everywhere)):.0%} of the poisoned rows pass; of rows with bandwidth "
            f"in kbit/s it refuses {refused:.0%} ({why})",
            f"the watch, which trusts the labels, took the good champion back in {HERE} after "
            f"{(found.until - END).total_seconds() / 3_600:.0f} h: to the rules, which harm nobody"
            if found
            else f"the watch took nothing back in {MOST_HOURS} h",
            held,
            flips,
        ),
        on_call="when labels and accuracy leap in one region at once, look at its nodes' release before the model: "
        "compare hde_throughput_mbps with size over hde_compression_time_ms; put the archive right, then "
        "dwcp_manual_backfill, then roll back to the champion",
        nodes=site.nodes.total(),
        open=(
            "no rule of the contract holds an engine's times against the throughput that is logged beside them "
            "(hde_throughput_mbps), so a wrong unit of time is not refused",
        ),
    )


def in_seconds(table: pa.Table) -> pa.Table:
    """HDE's two times divided by a thousand, in ``HERE``."""
    here = pc.equal(table["region"], HERE)
    for name in TIMES:
        table = set_column(table, name, pc.if_else(here, pc.divide(table[name], 1e3), table[name]))
    return table


def _weekly(site: Site) -> str:
    try:
        done = weekly.run_weekly(site.settings, run_id="poisoned", **WEEK)
    except QualityGateFailed as error:
        return f"the weekly run stopped at its quality gate: {error}"
    gate = done["gate"]
    published = f"published as serial {done['published']['serial']}" if done["published"] else "nothing was published"
    return f"the weekly run came to {gate['verdict']}, {published}: {'; '.join(gate['reasons'][:3])}"


def _load_again(site: Site) -> str:
    options = BackfillOptions(dry_run=False)
    plan = backfill.plan_backfill(site.settings, **WEEK, options=options)
    before = _hde_share(site)
    for day in plan["days"]:
        backfill.backfill_day(site.settings, run_id="repair", day=day, options=options)
    backfill.validate_backfill(site.settings, run_id="repair", plan=plan)
    return (
        f"the backfill replaced the week: HDE was the label of {before:.0%} in {HERE}, and is of {_hde_share(site):.0%}"
    )


def _hde_share(site: Site) -> float:
    (share,) = site.rows(
        "SELECT avg((optimal_compression = 'hde')::INT) FROM compression_training_data "
        "WHERE region = %s AND timestamp >= %s AND optimal_compression IS NOT NULL",
        (HERE, END),
    )[0]
    return float(share)


def _passed(table: pa.Table) -> float:
    poisoned = table.filter(pc.equal(table["region"], HERE))
    return 1 - _refused(poisoned)[0]


def _refused(table: pa.Table) -> tuple[float, str]:
    """The share that the contract refuses, and the first reason."""
    window = Window.parse(WEEK["start"], WEEK["end"])
    checked = [
        check_batch(batch, window=window, now_ns=int(window.end.timestamp() * 1e9), max_clock_ahead_ns=0)
        for batch in table.combine_chunks().to_batches()
    ]
    bad = [reason for one in checked for reason in one.bad["reason"].to_pylist()]
    return len(bad) / table.num_rows, bad[0] if bad else ""
