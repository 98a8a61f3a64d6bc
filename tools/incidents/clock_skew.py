"""7. A node's clock runs three hours ahead, another's three hours behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from dwcp.sources.archive import write_archive
from incidents.field import HOUR, fleet_week, nodes_of, rows_of, set_column, watch, within
from incidents.report import Incident, Span
from incidents.site import HERE, WEEKS, Site

SKEW_HOURS = 3
WATCHED_HOURS = 12


def run(site: Site) -> Incident:
    """In a week that ends now: what is ahead of a clock can be seen while it is ahead only."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    today = now.replace(hour=0)
    # The field's fourth day is today.
    start = today - timedelta(weeks=WEEKS, days=3)
    table = fleet_week(site, start=start)
    cause = now - WATCHED_HOURS * HOUR
    early, late, *_ = nodes_of(table)
    skewed = shifted(shifted(table, early, cause, SKEW_HOURS), late, cause, -SKEW_HOURS)
    found = None
    # Each look reads the real clock, so only the newest hour can be looked at as it was: its day is loaded once.
    logged = _logged_by(skewed, table, now)
    for day in (today - timedelta(days=1), today):
        if day + timedelta(days=1) > cause:
            rows = within(logged, day, day + timedelta(days=1))
            write_archive(site.settings.archive_dir, day.date(), HERE, rows.to_batches())
    _load(site, (today - timedelta(days=1)).date().isoformat())
    look = watch(site, now)
    ahead = site.rows(
        "SELECT count(*), min(reason) FROM quarantined_transfers WHERE region = %s AND reason LIKE %s",
        (HERE, "%ahead of the clock%"),
    )[0]
    named = [line for line in look.notices if early in line or "ahead" in line]
    if named:
        found = look
    total = site.rows(
        "SELECT sum(rows_read), sum(rows_quarantined) FROM ingestion_windows WHERE day >= %s", (cause.date(),)
    )[0]
    return Incident(
        number=7,
        name="Clock skew",
        cause=f"The clock of {early} is {SKEW_HOURS} h ahead, that of {late} as much behind, for {WATCHED_HOURS} h.",
        detected=Span(WATCHED_HOURS * 3_600.0, "field", "said by the watch") if found else None,
        recovered=None,
        said=site.said,
        did=(
            f"{ahead[0]} rows are in quarantine ({ahead[1]}); {total[1]} of {total[0]} rows of these days are",
            "the others count, with a time that is wrong by three hours; rows come out of quarantine by themselves "
            "once their hour has come and the day is loaded again",
            f"the champion was judged as ever: {', '.join(look.actions)}",
        ),
        on_call="nobody calls: who looks finds the node by sql/queries/quarantined_rows.sql; set its clock",
        nodes=site.nodes.total(),
        open=()
        if found
        else (
            "no alert names a node whose clock is off; what is ahead lies in quarantine while it is ahead, and a "
            "clock that is behind leaves no trace but a wrong time_of_day",
        ),
    )


def shifted(table: pa.Table, node: str, since: datetime, hours: int) -> pa.Table:
    """The node's rows from ``since`` on as a wrong clock stamps them; its features know the wrong hour, too."""
    hit = rows_of(table, [node], since, since + timedelta(days=30))
    at = table["timestamp_ns"].to_numpy() + np.where(hit, hours * 3_600_000_000_000, 0)
    hour = np.where(hit, (at // 3_600_000_000_000) % 24, np.asarray(table["served_time_of_day"]))
    return set_column(set_column(table, "timestamp_ns", at), "served_time_of_day", hour)


def _logged_by(skewed: pa.Table, real: pa.Table, now: datetime) -> pa.Table:
    """What had really happened by ``now``, in the order of its stamps."""
    before = np.asarray(real["timestamp_ns"].to_numpy() < int(now.timestamp()) * 1_000_000_000)
    return skewed.filter(pa.array(before)).sort_by("timestamp_ns").combine_chunks()


def _load(site: Site, day: str) -> None:
    from dwcp.pipeline.ingest import load_day

    load_day(site.settings, run_id="before", day=day)
