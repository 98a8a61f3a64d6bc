"""4. A bad update reaches half of the region's nodes: they log numbers that are none, and impossible ones."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa

from dwcp.pipeline import QualityGateFailed
from dwcp.pipeline.weekly import validate
from incidents.field import HOUR, fleet_week, nodes_of, rows_of, set_column, watch_hours
from incidents.report import Incident, Span
from incidents.site import END, HERE, Site

QUIET_HOURS = 6
"""The nodes log well for so long in the new week, before the update comes."""
MENDED_AFTER = 2 * HOUR
"""So long after the alert the update is taken back."""


def run(site: Site) -> Incident:
    """Until the alert, until the update is undone, and until the watch says that the quarantine is as ever."""
    table, cause = fleet_week(site), END + QUIET_HOURS * HOUR
    bad_nodes = nodes_of(table)[::2]
    broken = garbled(table, bad_nodes, cause, cause + timedelta(days=7))
    looks = watch_hours(site, broken, END, 5 * 24)
    found = next((look for look in looks if look.until > cause and look.speaks_of("quarantine rise")), None)
    if found is None:
        return _incident(site, bad_nodes, None, None, ())
    fixed = found.until + MENDED_AFTER
    mended = garbled(table, bad_nodes, cause, fixed)
    clean = None
    for look in watch_hours(site, mended, found.until, 8 * 24, every=3):
        bad = site.rows(
            "SELECT verdict, value FROM field_figures WHERE region = %s AND hour = %s AND quantity = 'quarantine_rise'",
            (HERE, look.until),
        )
        if look.until > fixed and bad and bad[0][0] == "PASS":
            clean = look
            break
    day = cause.date()
    counts = site.rows(
        "SELECT sum(rows_read), sum(rows_loaded), sum(rows_quarantined) FROM ingestion_windows WHERE region = %s "
        "AND day >= %s",
        (HERE, day),
    )[0]
    reasons = site.rows(
        "SELECT split_part(regexp_split_to_table(reason, '; '), ':', 1), count(*) FROM quarantined_transfers "
        "WHERE region = %s GROUP BY 1 ORDER BY 2 DESC LIMIT 3",
        (HERE,),
    )
    did = (
        f"read {counts[0]:,} = loaded {counts[1]:,} + quarantined {counts[2]:,}: "
        + ", ".join(f"{count:,} × {why}" for why, count in reasons),
        f"the quality gate over the day of the cause: {_gate(site, day)}",
        "the champion was judged by the good rows and kept",
    )
    return _incident(
        site,
        bad_nodes,
        Span((found.until - cause).total_seconds(), "field", "the first look that is sure of a rise of 5 points"),
        Span((clean.until - found.until).total_seconds(), "field", "mended 2 h after the alert; the look covers 3 days")
        if clean
        else None,
        did,
    )


def garbled(table: pa.Table, nodes: list[str], start: datetime, end: datetime) -> pa.Table:
    """Jitter that is no number in half of their rows, in the others a loss below zero."""
    hit = rows_of(table, nodes, start, end)
    half = hit & (np.arange(table.num_rows) % 2 == 0)
    jitter = np.where(half, np.nan, np.asarray(table["jitter_ms"]))
    loss = np.where(hit & ~half, -1.0, np.asarray(table["packet_loss_rate"]))
    return set_column(set_column(table, "jitter_ms", jitter), "packet_loss_rate", loss)


def _gate(site: Site, day: date) -> str:
    span = {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()}
    try:
        done = validate(site.settings, run_id="day", **span)
    except QualityGateFailed as error:
        return f"FAIL, the window stays hidden from the trainer ({error})"
    return f"passes with {done['warnings']} warnings; the bad rows are not in the table"


def _incident(
    site: Site, nodes: list[str], detected: Span | None, recovered: Span | None, did: tuple[str, ...]
) -> Incident:
    return Incident(
        number=4,
        name="Nodes log garbage",
        cause=f"A bad update reaches {', '.join(nodes)}: jitter is NaN in half of their rows, loss −1 in the others.",
        detected=detected,
        recovered=recovered,
        said=site.said,
        did=did,
        on_call="the console's quarantine table names the column; have the update taken back; nothing is lost, the raw "
        "rows lie in quarantined_transfers",
        nodes=site.nodes.total(),
    )
