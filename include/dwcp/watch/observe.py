"""Look at every champion over a window: measure, decide, store. Acting is ``act``'s."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection
from psycopg2.extras import Json

from dwcp.release.registry import RegistryError, connect, find_version, region_states
from dwcp.settings import Settings
from dwcp.watch.decide import Action, Decision, Released, decide
from dwcp.window import Window

if TYPE_CHECKING:
    import pyarrow as pa

    from dwcp.watch.measure import Measurement

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observation:
    """One row of ``watch_observations``. ``serial`` is the release that it led to, if any."""

    id: int
    window: Window
    version: str
    regions: tuple[str, ...]
    measurement: dict[str, Any]
    action: Action
    reasons: tuple[str, ...]
    serial: int | None


def observe(settings: Settings, window: Window, log: pa.Table | None = None) -> list[int]:
    """Measure each champion in the regions that it serves, decide, store; the ids of ``watch_observations``.

    ``log`` defaults to the warehouse's rows of the window, validated or not: harm in the field must be seen even while
    training is held. What a rollback was already decided on is no evidence a second time: a region's rows before the
    end of that window are left out. Looking twice at one window refreshes its observation until it was acted on.
    Without a champion there is nothing to watch and the list is empty.
    """
    with connect(settings) as db:
        groups = _groups(db, window)
    if not groups:
        _log.info("no region has a champion: nothing to watch")
        return []
    if log is None:
        log = _read_log(settings, window)
    return [_observe_one(settings, log, window, *group) for group in groups]


def get_observation(settings: Settings, observation_id: int) -> Observation:
    """The stored observation. Raises ``RegistryError`` if there is none."""
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, window_start, window_end, version, regions, measurement, action, reasons, serial
            FROM watch_observations WHERE id = %s
            """,
            (observation_id,),
        )
        row = cursor.fetchone()
    if row is None:
        raise RegistryError(f"there is no watch observation {observation_id}")
    window = Window.parse(row[1].isoformat(), row[2].isoformat())
    return Observation(row[0], window, row[3], tuple(row[4]), row[5], row[6], tuple(row[7]), row[8])


def _read_log(settings: Settings, window: Window) -> pa.Table:
    from dwcp.warehouse.reads import read_log
    from dwcp.watch.measure import COLUMNS

    if settings.registry_dsn is None:
        raise RegistryError("no Postgres connection for the registry role: set DWCP_REGISTRY_DSN")
    return read_log(settings.registry_dsn.get_secret_value(), window, COLUMNS, validated=False)


def _groups(db: connection, window: Window) -> list[tuple[str, list[str], datetime]]:
    """(champion, its regions, from when on rows count) for each champion; regions of one start are watched together."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT region, max(evidence_end) FROM releases JOIN release_regions USING (serial)
            WHERE action = 'rollback' AND evidence_end IS NOT NULL GROUP BY region
            """
        )
        used_until: dict[str, datetime] = dict(cursor.fetchall())
    groups: dict[tuple[str, datetime], list[str]] = {}
    for region, state in region_states(db).items():
        if state.champion is not None:
            start = max(window.start, used_until.get(region, window.start))
            groups.setdefault((state.champion, start), []).append(region)
    return [(champion, regions, start) for (champion, start), regions in groups.items()]


def _observe_one(
    settings: Settings, log: pa.Table, window: Window, version: str, regions: list[str], start: datetime
) -> int:
    from dwcp.watch.measure import measure

    with connect(settings) as db:
        model = find_version(db, version)
    if start >= window.end:
        reason = "the rows of this window have led to a rollback already: they are no evidence a second time"
        return _store(settings, window, version, regions, None, Decision("none", (reason,)))
    usable = Window.parse(start.isoformat(), window.end.isoformat())
    found = measure(
        log,
        version,
        regions=regions,
        window=usable,
        training_profile=model.training_profile,
        label_ceilings=settings.gate_label_ceilings,
    )
    decision = decide(found, Released(model.accuracy, model.throughput_mbps), settings)
    _log.info("%s in %s: %s (%s)", version, ", ".join(regions), decision.action, "; ".join(decision.reasons))
    return _store(settings, usable, version, regions, found, decision)


def _store(
    settings: Settings,
    window: Window,
    version: str,
    regions: Iterable[str],
    measurement: Measurement | None,
    decision: Decision,
) -> int:
    key = (window.start, window.end, version, sorted(regions))
    body = Json(measurement.to_json() if measurement else {})
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO watch_observations (window_start, window_end, version, regions, measurement, action, reasons)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (window_start, window_end, version, regions) DO UPDATE
            SET measurement = excluded.measurement, action = excluded.action, reasons = excluded.reasons,
                observed_at = now()
            WHERE watch_observations.serial IS NULL
            """,
            (*key, body, decision.action, Json(list(decision.reasons))),
        )
        cursor.execute(
            """
            SELECT id FROM watch_observations
            WHERE window_start = %s AND window_end = %s AND version = %s AND regions = %s::varchar[]
            """,
            key,
        )
        (found,) = cursor.fetchone() or (0,)
    return int(found)
