"""The ledger: what became of each UTC day of each region, and whether it passed the quality gate.

States: *loaded* after every load; *validated* once the gate passed, and only then visible to trainer and data team;
*failed* when the gate said so. A load makes a window *loaded* again, whatever it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime

import psycopg2

from dwcp.warehouse.load import Counts
from dwcp.warehouse.replace import lock
from dwcp.warehouse.transaction import change
from dwcp.window import Window


class WindowError(RuntimeError):
    """A window cannot take the state asked for. The message names the day and what to do."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """One line of the ledger."""

    day: date
    region: str
    state: str
    counts: Counts
    oracle_definition: str
    ingestion_run_id: str
    source: str
    loaded_at: datetime
    validation_run_id: str | None
    failure: str | None


def read_states(dsn: str, window: Window, regions: Sequence[str] | None = None) -> list[WindowState]:
    """The ledger's lines of the days that ``window`` touches, by day and region."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT day, region, state, rows_read, rows_loaded, rows_quarantined, rows_duplicate, oracle_definition,"
            " ingestion_run_id, source, loaded_at, validation_run_id, failure FROM ingestion_windows"
            " WHERE day = ANY(%(days)s) AND (%(regions)s::TEXT[] IS NULL OR region = ANY(%(regions)s::TEXT[]))"
            " ORDER BY day, region",
            {"days": window.days(), "regions": None if regions is None else list(regions)},
        )
        return [
            WindowState(day, region, state, Counts(*rest[:4]), *rest[4:])
            for day, region, state, *rest in cursor.fetchall()
        ]


def loaded_counts(dsn: str, window: Window, regions: Sequence[str] | None = None) -> Counts:
    """What became of all rows of the days that ``window`` touches."""
    return sum((state.counts for state in read_states(dsn, window, regions)), Counts())


def newest_day(dsn: str) -> date | None:
    """The newest day of which any row was loaded."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT max(day) FROM ingestion_windows WHERE rows_loaded > 0")
        found: date | None = (cursor.fetchone() or (None,))[0]
        return found


def mark_validated(
    dsn: str,
    window: Window,
    *,
    run_id: str,
    regions: Sequence[str] | None = None,
    seen: Sequence[WindowState] | None = None,
) -> int:
    """Make the window's days visible: the quality gate of run ``run_id`` passed them. Returns the lines changed.

    ``seen`` is what ``read_states`` gave before the gate looked: a line that was loaded again since then is refused.
    Safe to repeat. Raises ``WindowError`` if a day is not loaded or not as it was; then nothing changes.
    """
    return _mark(dsn, window, regions, seen, ("validated", run_id, None))


def mark_failed(
    dsn: str,
    window: Window,
    *,
    run_id: str,
    failure: str = "the quality gate did not pass",
    regions: Sequence[str] | None = None,
    seen: Sequence[WindowState] | None = None,
) -> int:
    """Hide the window's days: the quality gate of run ``run_id`` refused them for the reason ``failure``.

    Otherwise like ``mark_validated``.
    """
    return _mark(dsn, window, regions, seen, ("failed", run_id, failure))


def _mark(
    dsn: str,
    window: Window,
    regions: Sequence[str] | None,
    seen: Sequence[WindowState] | None,
    to: tuple[str, str, str | None],
) -> int:
    with change(dsn, f"marking {window.start.date()} to {window.end.date()} {to[0]}") as cursor:
        lock(cursor)
        cursor.execute(
            "UPDATE ingestion_windows SET state = %(state)s, validation_run_id = %(run_id)s, failure = %(failure)s,"
            " validated_at = clock_timestamp() WHERE day = ANY(%(days)s)"
            " AND (%(regions)s::TEXT[] IS NULL OR region = ANY(%(regions)s::TEXT[]))"
            " RETURNING day, region, loaded_at",
            {
                "state": to[0],
                "run_id": to[1],
                "failure": to[2],
                "days": window.days(),
                "regions": None if regions is None else list(regions),
            },
        )
        marked = cursor.fetchall()
        missing = set(window.days()) - {day for day, _, _ in marked}
        absent = set(regions or ()) - {region for _, region, _ in marked}
        if missing or absent:
            names = ", ".join([*(day.isoformat() for day in sorted(missing)), *sorted(absent)])
            raise WindowError(f"not loaded yet: {names}; load the whole window before the gate marks it {to[0]}")
        if seen is not None:
            changed = set(marked) ^ {(state.day, state.region, state.loaded_at) for state in seen}
            if changed:
                names = ", ".join(sorted({f"{day} {region}" for day, region, _ in changed}))
                raise WindowError(f"loaded again while the gate looked: {names}; run the gate again")
        return len(marked)
