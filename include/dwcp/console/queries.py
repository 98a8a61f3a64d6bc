"""What the console asks Postgres, as the reader, in one snapshot. Every question is bounded, however long the history.

A figure is looked up by its key or by the index (quantity, region, hour); lists have a limit. The history of a figure
is its newest look in each of ``POINTS`` equal spans of time: a look covers days of evidence, so nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from psycopg2 import errors
from psycopg2.extensions import connection

from dwcp.release.registry import RegistryError

POINTS = 120
"""Points of a line."""
CANARIES_WITHIN_DAYS = 90
LOG_ROWS, LOG_LINES = 200, 40
"""Transitions read, and lines shown of them."""
DAYS_OF_INGESTION = 14
REASONS_OF_ROWS = 5_000
"""How many of the newest quarantined rows are read for their reasons."""
TIMEOUT = "5s"
CHARTED = (
    *("accuracy", "mean_regret", "throughput_loss", "throughput_gain", "feature_psi"),
    *("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
)
"""Quantities whose history is shown."""

STATEMENTS = {
    "clock": "SELECT now()",
    # The recently taken back stand beside what serves: whoever looks at night looks for them.
    "places": """
        SELECT region, version, state, role, share_buckets, since, who, reason
        FROM rollout_now
        WHERE role <> 'none' OR state = 'registered' OR state = 'rolled_back' AND since > now() - interval '1 day'
        ORDER BY region, role, number
    """,
    "pauses": "SELECT region, at, who, reason FROM rollout_paused ORDER BY region",
    # By key: a window's end may be long ago where measured weeks are replayed.
    "looks": """
        SELECT DISTINCT ON (region, version) region, version, window_end, observed_at, verdict, action, reasons, serial
        FROM (
            SELECT id, version, regions, window_end, observed_at, verdict, action, reasons, serial
            FROM watch_observations ORDER BY id DESC LIMIT 2000
        ) AS newest
        CROSS JOIN LATERAL unnest(regions) AS region
        ORDER BY region, version, window_end DESC, id DESC
    """,
    "figures": """
        SELECT f.region, f.version, f.role, f.hour, f.quantity, f.value, f.lower, f.upper, f.rows, f.threshold,
               f.verdict, f.note, f.detail
        FROM rollout_now AS n
        CROSS JOIN LATERAL (
            SELECT hour FROM field_figures WHERE region = n.region AND version = n.version ORDER BY hour DESC LIMIT 1
        ) AS newest
        CROSS JOIN LATERAL (
            SELECT * FROM field_figures
            WHERE region = n.region AND version = n.version AND hour = newest.hour LIMIT 100
        ) AS f
        WHERE n.role <> 'none'
        ORDER BY f.region, f.role, f.version, f.quantity
    """,
    "history": """
        SELECT f.quantity, f.hour, f.version, f.role, f.value, f.lower, f.upper, f.threshold
        FROM unnest(%(quantities)s::text[]) AS q (quantity)
        CROSS JOIN generate_series(0, %(points)s - 1) AS step
        CROSS JOIN LATERAL (
            SELECT * FROM field_figures
            WHERE quantity = q.quantity AND region = %(region)s AND value IS NOT NULL
                AND hour > %(until)s - (step + 1) * %(width)s AND hour <= %(until)s - step * %(width)s
            ORDER BY hour DESC, CASE role WHEN 'champion' THEN 1 WHEN 'canary' THEN 2 ELSE 3 END
            LIMIT 1
        ) AS f
        ORDER BY f.quantity, f.hour
    """,
    "newest_hour": """
        SELECT hour FROM field_figures WHERE quantity = 'staleness_days' AND region = %(region)s
        ORDER BY hour DESC LIMIT 1
    """,
    "marks": """
        SELECT at, version, to_state FROM rollout_transitions
        WHERE region = %(region)s AND to_state = ANY (%(marked)s)
            AND at BETWEEN %(until)s - %(points)s * %(width)s AND %(until)s + interval '1 hour'
        ORDER BY number DESC LIMIT 120
    """,
    "gates": """
        SELECT version, verdict, window_end, evaluated_at,
               coalesce(metrics -> 'gate' -> 'lines', '[]'), metrics ->> 'report', reasons
        FROM model_versions
        WHERE version IN (SELECT version FROM rollout_now WHERE role <> 'none')
            OR version = (SELECT version FROM model_versions ORDER BY evaluated_at DESC LIMIT 1)
        ORDER BY evaluated_at DESC LIMIT 8
    """,
    "days": """
        SELECT day, regions_validated, regions_failed, regions, rows_read, rows_loaded, rows_quarantined
        FROM ingestion_by_day ORDER BY day DESC LIMIT %(days_of_ingestion)s
    """,
    "failed_days": """
        SELECT day, region, failure FROM ingestion_windows
        WHERE state = 'failed' AND day > (SELECT max(day) FROM ingestion_windows) - %(days_of_ingestion)s
        ORDER BY day DESC, region LIMIT 20
    """,
    "quarantine": """
        SELECT split_part(one, ':', 1), count(*), count(DISTINCT region), max(day)
        FROM (
            SELECT reason, region, day FROM quarantined_transfers ORDER BY id DESC LIMIT %(reasons_of_rows)s
        ) AS newest
        CROSS JOIN LATERAL regexp_split_to_table(newest.reason, '; ') AS one
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8
    """,
    # What was done to several regions at once is one line.
    "log": """
        SELECT min(at), array_agg(region ORDER BY region), version, move, from_state, to_state, who, reason,
               evidence_digest, serial
        FROM (
            (SELECT at, region, version, move, from_state, to_state, who, reason, evidence_digest, serial
             FROM rollout_transitions ORDER BY at DESC LIMIT %(log_rows)s)
            UNION ALL
            (SELECT at, region, NULL, CASE WHEN paused THEN 'pause' ELSE 'resume' END, NULL, NULL, who, reason, NULL,
                    NULL
             FROM rollout_pauses ORDER BY id DESC LIMIT %(log_rows)s)
        ) AS newest
        GROUP BY date_trunc('minute', at), version, move, from_state, to_state, who, reason, evidence_digest, serial
        ORDER BY min(at) DESC, min(CASE to_state WHEN 'full' THEN 1 ELSE 2 END) LIMIT %(log_lines)s
    """,
}
"""Every statement that the console sends, by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """A version in a region. ``share_buckets`` are those of the state; a champion has what a challenger leaves."""

    region: str
    version: str
    state: str
    role: str
    share_buckets: int
    since: datetime
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A region where nothing moves forward."""

    region: str
    at: datetime
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """The watch's newest word on a version in a region; ``serial`` is the release that it led to."""

    region: str
    version: str
    until: datetime
    observed_at: datetime
    verdict: str | None
    action: str
    reasons: Sequence[str]
    serial: int | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of the newest look; ``verdict`` is None where no rule judges it."""

    region: str
    version: str
    role: str
    hour: datetime
    quantity: str
    value: float | None
    lower: float | None
    upper: float | None
    rows: int
    threshold: float | None
    verdict: str | None
    note: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """A quantity's newest look within one span of the history."""

    quantity: str
    hour: datetime
    version: str
    role: str
    value: float
    lower: float | None
    upper: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A release that a line may bend at."""

    at: datetime
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate said of a version; ``lines`` as ``release.gate.Verdict`` writes them, empty if none were kept."""

    version: str
    verdict: str
    trained_to: datetime
    evaluated_at: datetime
    lines: Sequence[Mapping[str, Any]]
    report: str | None
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class Day:
    """What became of a UTC day's rows, over all regions."""

    day: date
    validated: int
    failed: int
    regions: int
    read: int
    loaded: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class FailedDay:
    """A region's day that the quality gate did not let through."""

    day: date
    region: str
    failure: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows were quarantined, without their values."""

    reason: str
    rows: int
    regions: int
    last_day: date


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the rollout's log; a pause or its end has no version."""

    at: datetime
    regions: Sequence[str]
    version: str | None
    move: str
    origin: str | None
    target: str | None
    who: str
    reason: str
    evidence_digest: str | None
    serial: int | None


@dataclass(frozen=True, slots=True)
class History:
    """A region's lines from ``start`` to ``until``; without ``until`` nothing was ever measured there."""

    region: str
    start: datetime | None
    until: datetime | None
    points: tuple[Point, ...] = ()
    marks: tuple[Mark, ...] = ()

    def of(self, quantity: str) -> tuple[Point, ...]:
        """One quantity's points, oldest first."""
        return tuple(point for point in self.points if point.quantity == quantity)


@dataclass(frozen=True, slots=True)
class Facts:
    """What Postgres said at ``now``, its clock."""

    now: datetime
    places: tuple[Place, ...]
    pauses: tuple[Pause, ...]
    looks: tuple[Look, ...]
    figures: tuple[Figure, ...]
    gates: tuple[Gate, ...]
    days: tuple[Day, ...]
    failed_days: tuple[FailedDay, ...]
    quarantine: tuple[Reason, ...]
    log: tuple[Entry, ...]

    def look(self, region: str, version: str) -> Look | None:
        """The newest look at that version there."""
        return next((look for look in self.looks if (look.region, look.version) == (region, version)), None)

    def figure(self, region: str, version: str, quantity: str) -> Figure | None:
        """One figure of the newest look."""
        wanted = (region, version, quantity)
        return next((found for found in self.figures if (found.region, found.version, found.quantity) == wanted), None)


def parameters(**chosen: object) -> dict[str, object]:
    """What the statements are sent with: the limits, and ``chosen``."""
    limits = {
        "points": POINTS,
        "log_rows": LOG_ROWS,
        "log_lines": LOG_LINES,
        "days_of_ingestion": DAYS_OF_INGESTION,
        "reasons_of_rows": REASONS_OF_ROWS,
        "quantities": list(CHARTED),
    }
    return {**limits, **chosen}


def read_facts(db: connection) -> Facts:
    """Everything but the history."""
    ((now,),) = _rows(db, "clock")
    return Facts(
        now=now,
        places=tuple(Place(*row) for row in _rows(db, "places")),
        pauses=tuple(Pause(*row) for row in _rows(db, "pauses")),
        looks=tuple(Look(*row) for row in _rows(db, "looks")),
        figures=tuple(Figure(*row) for row in _rows(db, "figures")),
        gates=tuple(Gate(*row) for row in _rows(db, "gates")),
        days=tuple(Day(*row) for row in _rows(db, "days")),
        failed_days=tuple(FailedDay(*row) for row in _rows(db, "failed_days")),
        quarantine=tuple(Reason(*row) for row in _rows(db, "quarantine")),
        log=tuple(Entry(*row) for row in _rows(db, "log")),
    )


def read_history(db: connection, region: str, days: int) -> History:
    """The region's last ``days`` days that were measured."""
    newest = _rows(db, "newest_hour", region=region)
    if not newest:
        return History(region, None, None)
    until, width = newest[0][0], timedelta(days=days) / POINTS
    span = {"region": region, "until": until, "width": width}
    points = tuple(Point(*row) for row in _rows(db, "history", **span))
    # In a year's picture every canary would be a line: what serves and what was taken back are enough.
    marked = ["full", "rolled_back", *(["canary"] if days <= CANARIES_WITHIN_DAYS else [])]
    marks = tuple(Mark(*row) for row in reversed(_rows(db, "marks", **span, marked=marked)))
    return History(region, until - timedelta(days=days), until, points, marks)


def begin(db: connection) -> None:
    """One moment's view of everything, and no statement that runs for ever."""
    with db.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute(f"SET LOCAL statement_timeout = '{TIMEOUT}'")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")
        cursor.execute("SET LOCAL jit = off")  # compiling takes longer than any of these statements runs


def outdated(error: Exception) -> RegistryError | None:
    """The error that a database older than this page gives, in a person's words; None for any other."""
    if isinstance(error, (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege)):
        return RegistryError("the database is older than this page: run `dwcp migrate`, then look again")
    return None


def _rows(db: connection, name: str, **chosen: object) -> list[tuple[Any, ...]]:
    with db.cursor() as cursor:
        cursor.execute(STATEMENTS[name], parameters(**chosen))
        return cursor.fetchall()
