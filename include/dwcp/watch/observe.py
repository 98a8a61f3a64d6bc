"""Look at every version that has a say, region by region: measure, decide, store. Acting is ``act``'s."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import connection
from psycopg2.extras import Json, execute_values

from dwcp.release.registry import RegisteredVersion, RegistryError, connect, find_version, region_states
from dwcp.settings import Settings
from dwcp.watch.decide import Action, Before, Decision, Status, decide
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
    verdict: Status | None


@dataclass(frozen=True, slots=True)
class _Look:
    """What is to be looked at: ``start`` is from when on rows count."""

    region: str
    version: str
    role: str
    champion: str | None
    start: datetime


def observe(
    settings: Settings, window: Window, log: pa.Table | None = None, regions: Sequence[str] | None = None
) -> list[int]:
    """Measure each champion and challenger in each region, decide, store; the ids of ``watch_observations``.

    ``window`` is the evidence; what is decided is decided at its end. ``log`` defaults to the warehouse's rows,
    validated or not: harm in the field must be seen even while training is held. What a rollback was already decided on
    is no evidence a second time: a region's rows before the end of that window are left out. Looking twice at one
    window refreshes its observation until it was acted on. Without a model there is nothing to watch and the list is
    empty. One region's rows are held at a time, ``watch_max_rows`` at most.
    """
    with connect(settings) as db:
        looks = list(_looks(db, settings, window, regions))
    if not looks:
        _log.info("no region has a model: nothing to watch")
    regional = groupby(looks, lambda look: look.region)
    return [number for _, here in regional for number in _observe_region(settings, log, window, list(here))]


def get_observation(settings: Settings, observation_id: int) -> Observation:
    """The stored observation. Raises ``RegistryError`` if there is none."""
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, window_start, window_end, version, regions, measurement, action, reasons, serial, verdict
            FROM watch_observations WHERE id = %s
            """,
            (observation_id,),
        )
        row = cursor.fetchone()
    if row is None:
        raise RegistryError(f"there is no watch observation {observation_id}")
    window = Window.parse(row[1].isoformat(), row[2].isoformat())
    return Observation(row[0], window, row[3], tuple(row[4]), row[5], row[6], tuple(row[7]), *row[8:])


def _observe_region(settings: Settings, log: pa.Table | None, window: Window, looks: Sequence[_Look]) -> list[int]:
    if log is None:
        log = _read_log(settings, window, looks[0])
    return [_observe_one(settings, log, window, look) for look in looks]


def _read_log(settings: Settings, window: Window, look: _Look) -> pa.Table:
    """The region's rows, as small as they can be kept: there are hundreds of thousands of them."""
    import pyarrow as pa

    from dwcp.warehouse.reads import WAREHOUSE_SCHEMA, stream
    from dwcp.watch.measure import COLUMNS

    if settings.registry_dsn is None:
        raise RegistryError("no Postgres connection for the registry role: set DWCP_REGISTRY_DSN")

    def narrow(field: pa.Field) -> pa.Field:
        """Words once each, and four bytes a number: features were served so, and no figure has seven digits."""
        if pa.types.is_string(field.type):
            return field.with_type(pa.dictionary(pa.int32(), field.type))
        return field.with_type(pa.float32()) if pa.types.is_floating(field.type) else field

    schema = pa.schema([narrow(WAREHOUSE_SCHEMA.field(name)) for name in COLUMNS])
    if look.start >= window.end:
        return schema.empty_table()
    usable = Window(look.start, window.end)
    dsn = settings.registry_dsn.get_secret_value()
    batches = stream(dsn, usable, columns=COLUMNS, regions=[look.region], validated=False, oracle=settings.oracle)
    return pa.Table.from_batches((batch.cast(schema) for batch in batches), schema)


def _looks(db: connection, settings: Settings, window: Window, regions: Sequence[str] | None) -> Iterator[_Look]:
    used_until = _used_until(db)
    for region, state in region_states(db).items():
        if regions is not None and region not in regions:
            continue
        start = max(_bounded(db, settings, window, region), used_until.get(region, window.start))
        if state.champion is not None:
            yield _Look(region, state.champion, "champion", None, start)
        if state.challenger is not None:
            role = "canary" if state.share_buckets else "shadow"
            yield _Look(region, state.challenger, role, state.champion, start)


def _bounded(db: connection, settings: Settings, window: Window, region: str) -> datetime:
    """From when on the window's newest whole days hold ``watch_max_rows`` rows at most; one day counts in any case.

    Whole days, so that looking again at the same hour finds the same start.
    """
    days = window.days()
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT day, rows_loaded FROM ingestion_windows
            WHERE region = %s AND day BETWEEN %s AND %s ORDER BY day DESC
            """,
            (region, days[0], days[-1]),
        )
        found = cursor.fetchall()
    held = accumulate(rows for _, rows in found)
    kept = [day for (day, _), rows in zip(found, held, strict=True) if rows <= settings.watch_max_rows]
    if len(kept) == len(found):
        return window.start
    return max(window.start, Window.of_day((kept or [found[0][0]])[-1]).start)


def _used_until(db: connection) -> dict[str, datetime]:
    """Until when each region's rows have led to something being taken back already."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT region, max(evidence_end) FROM releases JOIN release_regions USING (serial)
            WHERE action IN ('rollback', 'revert') AND evidence_end IS NOT NULL GROUP BY region
            """
        )
        return dict(cursor.fetchall())


def _observe_one(settings: Settings, log: pa.Table, window: Window, look: _Look) -> int:
    from dwcp.watch.drift import drift
    from dwcp.watch.measure import inside, measure
    from dwcp.watch.profile import parse_profile

    if look.start >= window.end:
        reason = "the rows of this window have led to a rollback already: they are no evidence a second time"
        return _store(settings, window, look, None, Decision("none", (reason,)))
    usable = Window(look.start, window.end)
    with connect(settings) as db:
        model = find_version(db, look.version)
        before = _before(db, look, window.end)
    if look.role == "shadow" and look.champion is not None:
        log = _replayed(settings, log, model, look.region)
    found = measure(
        log,
        look.version,
        region=look.region,
        role=look.role,
        window=usable,
        label_ceilings=settings.gate_label_ceilings,
        alpha=settings.watch_alpha,
        released_accuracy=model.accuracy,
        trained_until=model.window.end,
    )
    profile = parse_profile(model.training_profile)
    recent = inside(log, look.region, Window(max(window.start, window.end - settings.watch_recent), window.end))
    drifted = drift(recent, look.version, profile, settings.watch_alpha) if recent.num_rows else {}
    quality = _quarantine(settings, look.region, window.end, profile.quarantined.get(look.region))
    found = replace(found, figures={**found.figures, **drifted, "quarantine_rise": quality})
    decision = decide(found, settings, now=window.end, before=before)
    _log.info("%s in %s: %s (%s)", look.version, look.region, decision.action, "; ".join(decision.reasons))
    return _store(settings, usable, look, found, decision)


def _replayed(settings: Settings, log: pa.Table, model: RegisteredVersion, region: str) -> pa.Table:
    """Beside a champion a node asks one model only, and a shadow leaves no word in the log: ask it now.

    The region's fully measured rows with what the published model says of the features that the node served. Rows of
    another feature set are left out.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES
    from dwcp.export.runtime import OnnxModel
    from dwcp.release.bundle import bundle_path, verify_bundle
    from dwcp.release.signing import load_signer
    from dwcp.watch.measure import BLOCK_ROWS, served_features

    rows = log.filter(
        pc.field("optimal_compression").is_valid()
        & (pc.field("feature_set_digest") == FEATURE_SET_DIGEST)
        & (pc.field("region") == region)
    )
    path = bundle_path(settings.bundle_dir, model.version)
    verify_bundle(path, load_signer(settings).public_key, digest=model.bundle_digest)
    asked = OnnxModel((path / "model.onnx").read_bytes())
    names = [feature.name for feature in FEATURES]
    columns = [names.index(name) for name in asked.feature_names]
    # Block by block: the network's layers hold several times what its features do.
    blocks = (rows.slice(start, BLOCK_ROWS) for start in range(0, rows.num_rows, BLOCK_ROWS))
    answers = [asked.predict(served_features(block)[:, columns])[1] for block in blocks]
    said = np.concatenate(answers) if answers else np.empty(0, np.int64)
    words = pa.array(CANDIDATES, pa.string()).take(pa.array(said, pa.int64()))
    for name, values in {
        "predicted_compression": words,
        "model_version": pa.repeat(pa.scalar(model.version), rows.num_rows),
        "rollout_arm": pa.repeat(pa.scalar("shadow"), rows.num_rows),
    }.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


def _before(db: connection, look: _Look, until: datetime) -> Before:
    """What was done in the region by looks that ended earlier than this one."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT standing FROM watch_observations
            WHERE version = %(version)s AND %(region)s = ANY (regions) AND window_end < %(until)s
            ORDER BY window_end DESC, id DESC LIMIT 1
            """,
            {"version": look.version, "region": look.region, "until": until},
        )
        (standing,) = cursor.fetchone() or ({},)
        cursor.execute(
            """
            SELECT max(window_end) FILTER (WHERE serial IS NOT NULL),
                   max(window_end) FILTER (WHERE action = 'retrain')
            FROM watch_observations WHERE %s = ANY (regions) AND window_end < %s
            """,
            (look.region, until),
        )
        rolled_back, retrained = cursor.fetchone() or (None, None)
    return Before(standing, rolled_back, retrained)


def _quarantine(settings: Settings, region: str, until: datetime, then: float | None) -> Any:
    from dwcp.watch.drift import quarantine_rise

    days = Window(until - settings.watch_recent, until).days()
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce(sum(rows_read), 0), coalesce(sum(rows_quarantined), 0) FROM ingestion_windows
            WHERE region = %s AND day BETWEEN %s AND %s
            """,
            (region, days[0], days[-1]),
        )
        read, quarantined = cursor.fetchone() or (0, 0)
    return quarantine_rise(int(read), int(quarantined), then, settings.watch_alpha)


def _store(settings: Settings, window: Window, look: _Look, measurement: Measurement | None, decision: Decision) -> int:
    """The observation and its figures, in one transaction; what was acted on stays as it was."""
    key = (window.start, window.end, look.version, [look.region])
    body = measurement.to_json() if measurement else {}
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO watch_observations (window_start, window_end, version, regions, measurement, action, reasons,
                                            verdict, standing)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (window_start, window_end, version, regions) DO UPDATE
            SET measurement = excluded.measurement, action = excluded.action, reasons = excluded.reasons,
                verdict = excluded.verdict, standing = excluded.standing, observed_at = now()
            WHERE watch_observations.serial IS NULL
            RETURNING id
            """,
            (
                *key,
                *(Json({name: part for name, part in body.items() if name != "figures"}), decision.action),
                *(Json(list(decision.reasons)), decision.verdict, Json(decision.standing)),
            ),
        )
        stored = cursor.fetchone()
        if stored is not None and measurement is not None:
            _store_figures(db, window, look, measurement, decision)
        if stored is None:
            cursor.execute(
                """
                SELECT id FROM watch_observations
                WHERE window_start = %s AND window_end = %s AND version = %s AND regions = %s::varchar[]
                """,
                key,
            )
            stored = cursor.fetchone()
    return int(stored[0]) if stored else 0


def _store_figures(db: connection, window: Window, look: _Look, measurement: Measurement, decision: Decision) -> None:
    rows = []
    for quantity, figure in measurement.figures.items():
        judged = decision.judgements.get(quantity)
        said = (judged.threshold, judged.status, judged.note) if judged else (None, None, "")
        rows.append(
            (
                *(look.region, look.version, window.end, quantity, window.start, look.role),
                *(figure.value, figure.lower, figure.upper, figure.rows, figure.effective_rows),
                *(*said, Json(_plain(figure.detail))),
            )
        )
    with db.cursor() as cursor:
        cursor.execute(
            "DELETE FROM field_figures WHERE region = %s AND version = %s AND hour = %s",
            (look.region, look.version, window.end),
        )
        execute_values(
            cursor,
            "INSERT INTO field_figures (region, version, hour, quantity, window_start, role, value, lower, upper, rows,"
            " effective_rows, threshold, verdict, note, detail) VALUES %s",
            rows,
        )


def _plain(detail: Mapping[str, Any]) -> dict[str, Any]:
    return dict(detail)
