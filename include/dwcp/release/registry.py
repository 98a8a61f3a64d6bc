"""The registry in Postgres: every model version with its lineage, figures and verdict, and what was released where.

A version is the digest of data window, code, lock, settings and canonical weights; no clock enters it. Postgres is the
authority: bundles and the channel document repeat what stands here.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg2
from psycopg2.extensions import connection
from psycopg2.extras import Json

from dwcp.contract import FEATURE_SET_DIGEST
from dwcp.settings import Settings
from dwcp.store import digest_of
from dwcp.window import Window

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
_PACKAGE = Path(__file__).parents[1]
_NOT_IN_A_VERSION = (
    # Where things are and when they run, secrets, and the thresholds that judge a finished model.
    *("home", "owner_", "loader_", "reader_", "registry_", "influx_", "source", "signing_"),
    *("gate_", "watch_", "notify_", "rollout_", "bootstrap_", "weekly_", "backfill_", "max_clock_"),
)


class RegistryError(RuntimeError):
    """The registry cannot be reached, lacks what was asked for, or holds something that contradicts it."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What a training run registers. ``artifacts`` maps a name (``model.onnx``) to its ``dwcp.store`` reference.

    ``accuracy`` (fraction) and ``throughput_mbps`` (Σ bytes ÷ Σ time of the executed choice) are those of the held-out
    split; with ``training_profile`` (``watch.profile.profile_of`` of the training features) they are what the watch
    compares the field with. ``metrics`` is anything that is JSON.
    """

    version: str
    run_id: str
    window: Window
    dataset_digest: str
    code_digest: str
    lock_digest: str
    settings_digest: str
    weights_digest: str
    artifacts: Mapping[str, str]
    metrics: Mapping[str, object]
    verdict: Verdict
    reasons: Sequence[str]
    training_profile: Mapping[str, object]
    accuracy: float | None
    throughput_mbps: float | None
    parent_champion: str | None = None
    feature_set_digest: str = FEATURE_SET_DIGEST


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A row of the view ``model_registry``, its columns by their names.

    ``state`` is the farthest over all regions: registered, challenger, champion, retired or rolled_back.
    """

    version: str
    state: str
    verdict: Verdict
    reasons: list[str]
    metrics: dict[str, object]
    artifacts: dict[str, str]
    training_profile: dict[str, object]
    accuracy: float | None
    throughput_mbps: float | None
    parent_champion: str | None
    bundle_digest: str | None
    run_id: str
    registered_at: datetime
    window: Window


@dataclass(frozen=True, slots=True)
class RegionState:
    """What serves one region. ``share_buckets`` of the 10,000 rollout buckets follow the challenger; 0 is shadow.

    A ``champion`` of None means that the rules decide.
    """

    champion: str | None
    challenger: str | None = None
    share_buckets: int = 0


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One region's line of the release log. ``version`` and ``previous`` are champions; None is the rules."""

    serial: int
    released_at: datetime
    action: str
    region: str
    version: str | None
    previous: str | None
    released_by: str
    reason: str


def version_of(*, window: Window, code_digest: str, lock_digest: str, settings_digest: str, weights_digest: str) -> str:
    """The version that these inputs make: 16 hex digits. The same inputs give the same version, on any day."""
    parts = {
        "window": [window.start.isoformat(), window.end.isoformat()],
        "code": code_digest,
        "lock": lock_digest,
        "settings": settings_digest,
        "weights": weights_digest,
    }
    return digest_of(json.dumps(parts, sort_keys=True).encode())[:16]


def code_digest(package: Path = _PACKAGE) -> str:
    """Digest of every Python file of the package, names and contents."""
    files = {str(path.relative_to(package)): digest_of(path.read_bytes()) for path in sorted(package.rglob("*.py"))}
    return digest_of(json.dumps(files, sort_keys=True).encode())


def lock_digest(root: Path = _PACKAGE.parents[1]) -> str:
    """Digest of the checkout's ``uv.lock``; without a checkout, of what is installed (name and version)."""
    lock = root / "uv.lock"
    if lock.exists():
        return digest_of(lock.read_bytes())
    installed = sorted(f"{found.name}=={found.version}" for found in importlib.metadata.distributions())
    return digest_of("\n".join(installed).encode())


def settings_digest(settings: Settings) -> str:
    """Digest of the settings that shape a model: connections, places, schedules and thresholds stay outside."""
    shaping = {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if not name.startswith(_NOT_IN_A_VERSION)
    }
    return digest_of(json.dumps(shaping, sort_keys=True).encode())


@contextmanager
def connect(settings: Settings, role: Literal["registry", "reader"] = "registry") -> Iterator[connection]:
    """One transaction as ``role``: committed at the end of the block, undone by an exception, closed either way.

    Raises ``RegistryError`` if no connection is configured or Postgres cannot be reached.
    """
    secret = settings.registry_dsn if role == "registry" else settings.reader_dsn
    if secret is None:
        raise RegistryError(f"no Postgres connection for the {role} role: set DWCP_{role.upper()}_DSN")
    try:
        opened = psycopg2.connect(secret.get_secret_value(), connect_timeout=10)
    except psycopg2.OperationalError as error:
        raise RegistryError(
            f"cannot reach Postgres as the {role} role ({_first_line(error)}): is it running?"
        ) from None
    try:
        with opened:
            yield opened
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise RegistryError(
            f"Postgres went away ({_first_line(error)}): run the same command again; it does what is left to do"
        ) from error
    finally:
        opened.close()


def register(settings: Settings, model: ModelVersion) -> bool:
    """Keep ``model``; True if it is new. Registering a version again refreshes its figures until it is released.

    A released version is frozen: the watch compares with what was recorded then. Raises ``RegistryError`` if the
    registry knows the version with other weights or data, which the digest rules out unless something is broken.
    """
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO model_versions (version, run_id, window_start, window_end, dataset_digest, code_digest,
                lock_digest, settings_digest, weights_digest, feature_set_digest, parent_champion, artifacts, metrics,
                verdict, reasons, training_profile, accuracy, throughput_mbps)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (version) DO NOTHING
            """,
            (
                *(model.version, model.run_id, model.window.start, model.window.end, model.dataset_digest),
                *(model.code_digest, model.lock_digest, model.settings_digest, model.weights_digest),
                *(model.feature_set_digest, model.parent_champion, _json(model.artifacts), _json(model.metrics)),
                *(model.verdict, _json(list(model.reasons)), _json(model.training_profile)),
                *(model.accuracy, model.throughput_mbps),
            ),
        )
        if cursor.rowcount == 1:
            return True
        cursor.execute(
            "SELECT weights_digest, dataset_digest, bundle_digest FROM model_versions WHERE version = %s FOR UPDATE",
            (model.version,),
        )
        weights, dataset, bundle = _one(cursor.fetchone())
        if (weights, dataset) != (model.weights_digest, model.dataset_digest):
            raise RegistryError(
                f"version {model.version} is registered with weights {weights[:12]} of dataset {dataset[:12]}, "
                f"not {model.weights_digest[:12]} of {model.dataset_digest[:12]}: compute it with version_of()"
            )
        if bundle is None:
            cursor.execute(
                """
                UPDATE model_versions SET run_id = %s, artifacts = %s, metrics = %s, verdict = %s, reasons = %s,
                    training_profile = %s, accuracy = %s, throughput_mbps = %s, evaluated_at = now()
                WHERE version = %s
                """,
                (
                    *(model.run_id, _json(model.artifacts), _json(model.metrics), model.verdict),
                    *(_json(list(model.reasons)), _json(model.training_profile)),
                    *(model.accuracy, model.throughput_mbps, model.version),
                ),
            )
    return False


def get_version(settings: Settings, version: str) -> RegisteredVersion:
    """The registry's row of ``version``. Raises ``RegistryError`` if there is none."""
    with connect(settings) as db:
        return find_version(db, version)


def find_version(db: connection, version: str) -> RegisteredVersion:
    """As ``get_version``, inside the caller's transaction."""
    found = _select(db, "WHERE version = %s", (version,))
    if not found:
        known = ", ".join(row.version for row in _select(db, "ORDER BY registered_at DESC LIMIT 5", ())) or "none"
        raise RegistryError(f"version {version!r} is not in the registry; the newest are: {known}")
    return found[0]


def list_versions(settings: Settings) -> list[RegisteredVersion]:
    """Every version, newest first."""
    with connect(settings) as db:
        return _select(db, "ORDER BY registered_at DESC, version", ())


def region_states(db: connection) -> dict[str, RegionState]:
    """What serves each region that was ever released to; a region that is missing follows the rules."""
    with db.cursor() as cursor:
        cursor.execute("SELECT region, champion, challenger, share_buckets FROM channel_state ORDER BY region")
        return {region: RegionState(*rest) for region, *rest in cursor.fetchall()}


def champions(settings: Settings) -> dict[str, str]:
    """The serving version of each region that has one."""
    with connect(settings) as db:
        return {region: state.champion for region, state in region_states(db).items() if state.champion}


def read_log(settings: Settings, limit: int = 50) -> list[LogEntry]:
    """The release log, newest first: one entry a serial and region."""
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT serial, released_at, action, region, champion, previous_champion, released_by, reason
            FROM releases JOIN release_regions USING (serial)
            ORDER BY serial DESC, region LIMIT %s
            """,
            (limit,),
        )
        return [LogEntry(*row) for row in cursor.fetchall()]


def _select(db: connection, tail: str, arguments: tuple[object, ...]) -> list[RegisteredVersion]:
    names = [field.name for field in fields(RegisteredVersion) if field.name != "window"]
    query = f"SELECT {', '.join(names)}, window_start, window_end FROM model_registry {tail}"  # noqa: S608
    with db.cursor() as cursor:
        cursor.execute(query, arguments)
        return [
            RegisteredVersion(**dict(zip(names, row, strict=True)), window=_window(start, end))
            for *row, start, end in cursor.fetchall()
        ]


def _one(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise RegistryError("the registry's row vanished in the middle of a transaction")
    return row


def _window(start: datetime, end: datetime) -> Window:
    return Window.parse(start.isoformat(), end.isoformat())


def _json(value: object) -> Json:
    # NaN is no JSON, and Postgres would say so in words that name no metric.
    return Json(value, dumps=lambda item: json.dumps(_plain(item), allow_nan=False))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
