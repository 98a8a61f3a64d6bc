"""3. A region's traffic changes: a new tenant fills its links, so that little of each is left."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa

from dwcp.fleet.mix import Mix
from dwcp.pipeline.ingest import load_day
from dwcp.pipeline.watch import plan_retraining
from incidents.field import changed, fleet_week, log_until, watch, within
from incidents.report import Incident, Span
from incidents.site import END, HERE, WEEKS, Site

DAYS_BEFORE = 3


def fuller(mix: Mix) -> Mix:
    """Links are used to 75 % in the mean instead of 35, and swing less over the day."""
    return changed(mix, traffic={"mean_utilisation": 0.75, "day_amplitude": 0.1})


def run(site: Site) -> Incident:
    """Three days as ever, then the change; the watch hour by hour until it speaks, then until it asks to retrain."""
    cause = END + timedelta(days=DAYS_BEFORE)
    usual = [fleet_week(site)]
    full = [fleet_week(site, WEEKS + number, mix=fuller) for number in range(2)]
    table = pa.concat_tables(
        [within(usual[0], END, cause), *(within(week, cause, END + timedelta(days=14)) for week in full)]
    ).combine_chunks()
    for day in range(DAYS_BEFORE):
        until = END + timedelta(days=day + 1)
        log_until(site, table, until)
        load_day(site.settings, run_id="before", day=(until - timedelta(days=1)).date().isoformat())
    before = watch(site, cause)
    alerted = asked = None
    until = cause
    while asked is None and until < END + timedelta(days=13):
        # Every hour of the first day, then every six: drift is looked for in three days, and a run has its limits.
        until += timedelta(hours=1 if until < cause + timedelta(days=1) else 6)
        log_until(site, table, until)
        look = watch(site, until)
        if alerted is None and look.speaks_of("drift", "feature"):
            alerted = look
        if look.retrain:
            asked = look
    accuracy = site.rows(
        "SELECT value, lower, upper, rows FROM field_figures WHERE region = %s AND quantity = 'accuracy' "
        "ORDER BY hour DESC LIMIT 1",
        (HERE,),
    )[0]
    did = [
        f"the day before: {', '.join(before.actions)}",
        f"the champion was kept: accuracy {accuracy[0]:.2%} ({accuracy[1]:.2%} to {accuracy[2]:.2%}, {accuracy[3]:,} "
        "rows) over the last 14 days"
        if accuracy[1] is not None
        else "accuracy could not be told",
    ]
    if asked:
        plan = plan_retraining(site.settings, until=asked.until.isoformat(), acted=[{"retrain": True}])
        did.append(
            f"asked for the training run {plan['run_id']} over {plan['start']} to {plan['end']}, once a week at most"
        )
    return Incident(
        number=3,
        name="A region's traffic changes",
        cause=f"A new tenant fills the links of {HERE}: 75 % used in the mean, where it was 35.",
        detected=Span((alerted.until - cause).total_seconds(), "field", "the first alert of drift")
        if alerted
        else None,
        recovered=Span(
            (asked.until - alerted.until).total_seconds(), "field", "until the watch asks for retraining by itself"
        )
        if asked and alerted
        else None,
        said=site.said,
        did=tuple(did),
        on_call="nothing at night: drift without harm changes nothing; the retraining run and its gate do the rest",
        nodes=site.nodes.total(),
    )
