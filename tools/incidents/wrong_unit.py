"""8. A node release logs a wrong unit for a week: first one that the contract can see, then one that it cannot."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa

from dwcp.pipeline import QualityGateFailed, weekly
from incidents.field import fleet_week, log_until, set_column, watch_hours
from incidents.report import Incident, Span
from incidents.site import END, HERE, Site


def run(site: Site) -> Incident:
    """HDE's times in seconds, in every row of the region; the watch hour by hour, then the weekly run over the week."""
    table = in_seconds(fleet_week(site))
    end = END + timedelta(days=7)
    seen = None
    for look in watch_hours(site, table, END, 48):
        if look.notices:
            seen = look
            break
    for day in range(1, 8):
        log_until(site, table, END + timedelta(days=day))
    span = {"start": END.isoformat(), "end": end.isoformat()}
    held = _weekly(site, span)
    quarantined = site.rows(
        "SELECT coalesce(sum(rows_read), 0), coalesce(sum(rows_quarantined), 0) FROM ingestion_windows "
        "WHERE region = %s AND day >= %s",
        (HERE, END.date()),
    )[0]
    reason = site.rows("SELECT min(reason) FROM quarantined_transfers WHERE region = %s", (HERE,))[0][0]
    return Incident(
        number=8,
        name="Training data poisoned by a wrong unit",
        cause=f"A release of the node in {HERE} logs HDE's times in seconds under a name that says ms.",
        detected=Span((seen.until - END).total_seconds(), "field", "the first notice of the watch") if seen else None,
        recovered=None,
        said=site.said,
        did=(f"{quarantined[1]:,} of {quarantined[0]:,} rows went to quarantine ({reason})", held),
        on_call="",
        nodes=site.nodes.total(),
    )


def in_seconds(table: pa.Table) -> pa.Table:
    """HDE's two times divided by a thousand."""
    for name in ("hde_compression_time_ms", "hde_decompression_time_ms"):
        table = set_column(table, name, np.asarray(table[name]) / 1e3)
    return table


def _weekly(site: Site, span: dict[str, str]) -> str:
    try:
        done = weekly.run_weekly(site.settings, run_id="poisoned", **span)
    except QualityGateFailed as error:
        return f"the weekly run stopped at its quality gate: {error}"
    gate = done["gate"]
    return f"the weekly run came to {gate['verdict']}: {'; '.join(gate['reasons'][:4])}; published: {done['published']}"
