"""Rollouts for tests: soak times of nothing, and looks of the watch as it stores them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import psycopg2
from psycopg2.extras import Json

from dwcp.contract import REGIONS
from dwcp.release.registry import connect
from dwcp.settings import Settings
from dwcp.watch.decide import Action

NO_SOAK = dict.fromkeys(
    (
        *("rollout_shadow_soak", "rollout_canary_soak", "rollout_25_soak", "rollout_50_soak", "rollout_75_soak"),
        *("rollout_next_shadow_soak", "rollout_next_canary_soak"),
    ),
    timedelta(0),
)
_seconds = count(1)


def look(settings: Settings, version: str, action: Action, *, regions: Sequence[str] = REGIONS) -> None:
    """The watch looked at the version until now and found that ``action`` is due."""
    measurement, verdict = {"rows": 1_000}, "PASS" if action == "none" else "FAIL"
    reasons = ["all within the limits" if action == "none" else "realised accuracy 50.00% is below 95%"]
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO watch_observations (window_start, window_end, version, regions, measurement, action, reasons,
                                            verdict)
            VALUES (now() - interval '7 days', now() + %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                timedelta(microseconds=next(_seconds)),
                *(version, list(regions), Json(measurement), action, Json(reasons), verdict),
            ),
        )


def let_pass(warehouse: object, span: timedelta) -> None:
    """Let ``span`` go by: everything that the rollout and the watch wrote becomes so much older. Only the owner can."""
    with psycopg2.connect(warehouse.owner_dsn) as db, db.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("ALTER TABLE rollout_transitions DISABLE TRIGGER USER")
        cursor.execute(
            "UPDATE rollout_transitions SET at = at - %(by)s, soak_since = soak_since - %(by)s", {"by": span}
        )
        cursor.execute("ALTER TABLE rollout_transitions ENABLE TRIGGER USER")
        shift = "window_start = window_start - %(by)s, window_end = window_end - %(by)s"
        cursor.execute(f"UPDATE watch_observations SET {shift}", {"by": span})
    db.close()
