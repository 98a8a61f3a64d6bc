"""What the field says of one version in one region, in one word: the question that a staged rollout asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection

from dwcp.release.registry import connect
from dwcp.settings import Settings
from dwcp.store import digest_of
from dwcp.watch.decide import Status
from dwcp.window import Window


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reasons`` are sentences for a person; ``digest`` names the evaluated window's figures (64 hex digits).

    ``window`` is what was measured, None if nothing was; ``rows`` the transfers behind it.
    """

    status: Status
    reasons: tuple[str, ...]
    window: Window | None
    rows: int
    digest: str | None


def verdict_for(settings: Settings, region: str, version: str) -> Verdict:
    """The newest look at ``version`` in ``region``: PASS, FAIL for harm that rolls back, else INCONCLUSIVE.

    PASS asks for the PASS of every quantity that decides in its role: accuracy everywhere, and in canary the typical
    transfer's throughput against control. Too few rows, no look at all, or a look that is older than
    ``watch_stale_after`` are INCONCLUSIVE: a rollout holds on them.
    """
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT window_start, window_end, measurement, verdict, reasons, observed_at < now() - %s
            FROM watch_observations
            WHERE version = %s AND %s = ANY (regions) ORDER BY window_end DESC, id DESC LIMIT 1
            """,
            (settings.watch_stale_after, version, region),
        )
        row = cursor.fetchone()
        if row is None:
            return Verdict("INCONCLUSIVE", (f"the watch has not looked at {version} in {region} yet",), None, 0, None)
        start, end, measurement, verdict, reasons, stale = row
        digest = digest_in(db, region, version, end)
    window = Window.parse(start.isoformat(), end.isoformat())
    rows = int(measurement.get("rows") or 0)
    if stale:
        old = f"the watch last looked at {version} in {region} for the hour to {end:%Y-%m-%d %H:%M} UTC: it is stale"
        return Verdict("INCONCLUSIVE", (old,), window, rows, digest)
    return Verdict(verdict or "INCONCLUSIVE", tuple(reasons), window, rows, digest)


def digest_in(db: connection, region: str, version: str, until: datetime) -> str:
    """Names the figures that were stored for the window that ends at ``until``."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT quantity, value, lower, upper, rows, threshold, verdict FROM field_figures
            WHERE region = %s AND version = %s AND hour = %s ORDER BY quantity
            """,
            (region, version, until),
        )
        figures = cursor.fetchall()
    return digest_of(json.dumps([region, version, until.isoformat(), figures]).encode())
