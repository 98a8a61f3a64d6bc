"""Publish and rollback: a transaction in Postgres decides, one atomic write of the channel document makes it known.

Order: verify the bundle as a node would; in one transaction under an advisory lock take the next serial and record the
release; after the commit derive the document from Postgres and write it. A crash before the commit leaves everything as
it was; a crash after it leaves the old document, and the next publish, rollback or ``sync_channel`` writes the new one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection

from dwcp.contract import REGIONS
from dwcp.release.bundle import BundleError, bundle_path, verify_bundle
from dwcp.release.channel import Channel, published_channel, sync_channel
from dwcp.release.registry import RegionState, RegistryError, connect, find_version, region_states
from dwcp.release.signing import PublicKey, load_signer
from dwcp.settings import Settings
from dwcp.window import Window

LOCK_KEY = 0x6477_6370_0100
"""Advisory lock under which a serial is taken: one release at a time."""
LAST_GOOD = "last-good"
RULES = "rules"
_log = logging.getLogger(__name__)


class PublishError(RuntimeError):
    """A publish or rollback is refused; nothing was changed. The message says why, and what would be possible."""


@dataclass(frozen=True, slots=True)
class Release:
    """What a publish or rollback came to. ``changed`` maps each region to its new champion (None: the rules).

    Empty ``changed`` means that all was as asked already; ``serial`` is the channel's either way. ``notes`` are lines
    for a person: regions left alone, damaged versions passed over.
    """

    serial: int
    changed: Mapping[str, str | None]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The same for a person, a line a fact."""
        head = (
            f"serial {self.serial}" if self.changed else f"nothing to change; the channel stays at serial {self.serial}"
        )
        changed = [f"{region} is served by {version or RULES}" for region, version in self.changed.items()]
        return "\n  ".join([head, *changed, *self.notes])


def publish(
    settings: Settings, version: str, *, who: str, reason: str, regions: Sequence[str] | None = None
) -> Release:
    """Make ``version`` the champion of ``regions`` (default: all of the contract's).

    Once per version and region: published again, or by two at once, it is released once, and a version that was since
    superseded or rolled back does not return (that is ``rollback``'s to say). Raises ``PublishError`` if the gate did
    not pass it, ``RegistryError`` if it is unknown, ``BundleError`` if its bundle does not verify.
    """
    _require(who, reason)
    wanted = _known_regions(regions)
    signer = load_signer(settings)
    bundle = verify_bundle(bundle_path(settings.bundle_dir, version), signer.public_key)
    seen = published_channel(settings.channel_path, signer.public_key)
    with connect(settings) as db:
        _lock(db)
        model = find_version(db, version)
        if model.verdict != "PASS":
            raise PublishError(
                f"version {version} did not pass the gate ({model.verdict}: {'; '.join(model.reasons) or 'no reason'})"
            )
        if model.bundle_digest is None:
            with db.cursor() as cursor:
                cursor.execute(
                    "UPDATE model_versions SET bundle_digest = %s WHERE version = %s", (bundle.digest, version)
                )
        elif model.bundle_digest != bundle.digest:
            raise PublishError(
                f"the bundle {bundle.path} is not the one that was released ({bundle.digest[:12]}, not "
                f"{model.bundle_digest[:12]}): restore it"
            )
        states = region_states(db)
        released = _released_in(db, version)
        changes = {region: RegionState(version) for region in wanted if region not in released}
        serial = _record(db, "publish", who, reason, states, changes, seen)
        notes = [
            f"{region}: {version} was published before; it is not published again"
            for region in wanted
            if region in released and states[region].champion != version
        ]
    return _announce(settings, serial, changes, notes)


def rollback(
    settings: Settings,
    to: str = LAST_GOOD,
    *,
    reason: str,
    who: str,
    region: str | Sequence[str] | None = None,
    away_from: str | None = None,
    evidence: Window | None = None,
) -> Release:
    """Let an older version serve again, by a higher serial.

    ``to`` is a version that was published before, ``last-good`` (each region's newest earlier champion that was not
    taken back there and whose bundle verifies; the rules if there is none), or ``rules``. ``region`` is one, several,
    or None for every region released to. Only regions that ``away_from`` serves are touched, if it is given: clicking
    twice, or two operators at once, step back once. ``evidence`` is the measured window that asks for it: a region that
    was rolled back by evidence reaching as far is left alone, so one rollback never chases another.

    ``last-good`` means away from what nodes are told: if an earlier attempt was recorded but died before it wrote the
    document, running it again finishes that attempt and steps back no further.

    Needs Postgres and the older bundle only: the newest bundle may be corrupt or gone. Raises ``PublishError`` or
    ``RegistryError`` with one line, and then nothing was changed.
    """
    _require(who, reason)
    public_key = load_signer(settings).public_key
    seen = published_channel(settings.channel_path, public_key)
    with connect(settings) as db:
        _lock(db)
        states = region_states(db)
        notes: list[str] = []
        touched: list[str] = []
        told = seen.regions if to == LAST_GOOD and seen and seen.serial < _newest_serial(db) else {}
        for name in _served_regions(region, states):
            leaving = away_from if away_from or name not in told else told[name].champion or RULES
            held = _left_alone(db, name, states[name], leaving, evidence)
            if held is None:
                touched.append(name)
            else:
                notes.append(f"{name}: {held}")
        if to == LAST_GOOD:
            targets = _last_good(settings, db, touched, public_key, notes)
        else:
            if to != RULES:
                _require_servable(settings, db, to, public_key)
            targets = dict.fromkeys(touched, RegionState(None if to == RULES else to))
        # A database restored from a backup may agree already while nodes are ahead of it: only a new serial tells them.
        ahead = seen is not None and seen.serial > _newest_serial(db)
        changes = {name: target for name, target in targets.items() if ahead or target != states[name]}
        notes += [
            f"{name}: {targets[name].champion or RULES} serves already" for name in touched if name not in changes
        ]
        serial = _record(db, "rollback", who, reason, states, changes, seen, evidence)
    return _announce(settings, serial, changes, notes)


def rollback_targets(settings: Settings) -> dict[str, list[str]]:
    """For each region the versions that ``last-good`` would try, in that order (bundles not yet verified)."""
    with connect(settings) as db:
        found = _earlier_champions(db)
        return {region: [version for version, _ in found.get(region, ())] for region in region_states(db)}


def _last_good(
    settings: Settings, db: connection, regions: Sequence[str], public_key: PublicKey, notes: list[str]
) -> dict[str, RegionState]:
    """For each region its newest earlier champion whose bundle verifies, else the rules; damaged ones are noted."""
    usable: dict[str, bool] = {}

    def verifies(version: str, digest: str) -> bool:
        if version not in usable:
            try:
                verify_bundle(bundle_path(settings.bundle_dir, version), public_key, digest=digest)
                usable[version] = True
            except BundleError as error:
                usable[version] = False
                notes.append(f"{version} is passed over: {error}")
        return usable[version]

    earlier = _earlier_champions(db)
    return {
        region: RegionState(next((v for v, digest in earlier.get(region, ()) if verifies(v, digest)), None))
        for region in regions
    }


def _require(who: str, reason: str) -> None:
    if not who.strip() or not reason.strip():
        raise PublishError("say who asks and why: both go into the release log")


def _known_regions(regions: Sequence[str] | None) -> list[str]:
    wanted = list(REGIONS) if regions is None else sorted(set(regions))
    unknown = [region for region in wanted if region not in REGIONS]
    if unknown or not wanted:
        raise PublishError(f"unknown region {', '.join(unknown) or '(none given)'}: choose from {', '.join(REGIONS)}")
    return wanted


def _served_regions(region: str | Sequence[str] | None, states: Mapping[str, RegionState]) -> list[str]:
    if not states:
        raise PublishError("nothing was published yet: every region follows the rules, there is nothing to roll back")
    if region is None:
        return sorted(states)
    wanted = [region] if isinstance(region, str) else sorted(set(region))
    unknown = [name for name in wanted if name not in states]
    if unknown or not wanted:
        raise PublishError(
            f"nothing was ever published to region {', '.join(unknown) or '(none given)'}: "
            f"choose from {', '.join(sorted(states))}"
        )
    return wanted


def _require_servable(settings: Settings, db: connection, version: str, public_key: PublicKey) -> None:
    try:
        model = find_version(db, version)
    except RegistryError as error:
        raise PublishError(f"cannot roll back: {error}") from None
    if model.bundle_digest is None:
        raise PublishError(f"cannot roll back to {version}: it was registered but never published")
    try:
        verify_bundle(bundle_path(settings.bundle_dir, version), public_key, digest=model.bundle_digest)
    except BundleError as error:
        raise PublishError(f"cannot roll back to {version}, its bundle is damaged: {error}") from error


def _left_alone(
    db: connection, region: str, state: RegionState, away_from: str | None, evidence: Window | None
) -> str | None:
    """Why the region is not to be rolled back, or None."""
    if away_from is not None and (state.champion or RULES) != away_from:
        return f"{state.champion or RULES} serves, no longer {away_from}"
    if evidence is not None:
        with db.cursor() as cursor:
            cursor.execute(
                """
                SELECT max(evidence_end) FROM releases JOIN release_regions USING (serial)
                WHERE region = %s AND action = 'rollback'
                """,
                (region,),
            )
            (used_until,) = cursor.fetchone() or (None,)
        if used_until is not None and evidence.start < used_until:
            return f"evidence up to {used_until:%Y-%m-%d %H:%M} UTC has led to a rollback already"
    return None


def _earlier_champions(db: connection) -> dict[str, list[tuple[str, str]]]:
    """For each region its earlier champions with their bundle digests, newest first, none that was taken back."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT rr.region, rr.champion, m.bundle_digest
            FROM release_regions AS rr
            JOIN model_versions AS m ON m.version = rr.champion
            JOIN channel_state AS now USING (region)
            WHERE rr.champion IS DISTINCT FROM now.champion
              AND (rr.region, rr.champion) NOT IN (SELECT region, version FROM withdrawn_versions)
            GROUP BY rr.region, rr.champion, m.bundle_digest
            ORDER BY rr.region, max(rr.serial) DESC
            """
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for region, version, digest in cursor.fetchall():
            found.setdefault(region, []).append((version, digest))
        return found


def _released_in(db: connection, version: str) -> set[str]:
    with db.cursor() as cursor:
        cursor.execute("SELECT DISTINCT region FROM release_regions WHERE champion = %s", (version,))
        return {region for (region,) in cursor.fetchall()}


def _lock(db: connection) -> None:
    with db.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))


def _newest_serial(db: connection) -> int:
    with db.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(serial), 0) FROM releases")
        (newest,) = cursor.fetchone() or (0,)
    return int(newest)


def _record(
    db: connection,
    action: str,
    who: str,
    reason: str,
    before: Mapping[str, RegionState],
    changes: Mapping[str, RegionState],
    seen: Channel | None,
    evidence: Window | None = None,
) -> int:
    """Write the release under the next serial and return it; without changes, the newest serial there is.

    ``seen`` is the published document: should Postgres have been restored from an older backup, its numbers
    must not be given out a second time, since nodes refuse to go back.
    """
    newest = _newest_serial(db)
    if not changes:
        return newest
    serial = max(newest, seen.serial if seen else 0) + 1
    with db.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO releases (serial, action, released_by, reason, evidence_start, evidence_end)
            VALUES (%s, %s, %s, %s, %s, %s)
            """,
            (serial, action, who, reason, evidence and evidence.start, evidence and evidence.end),
        )
        for region, state in changes.items():
            previous = before[region].champion if region in before else None
            cursor.execute(
                """
                INSERT INTO release_regions (serial, region, champion, challenger, share_buckets, previous_champion)
                VALUES (%s, %s, %s, %s, %s, %s)
                """,
                (serial, region, state.champion, state.challenger, state.share_buckets, previous),
            )
    return serial


def _announce(settings: Settings, serial: int, changes: Mapping[str, RegionState], notes: Sequence[str]) -> Release:
    """Write the document, also when nothing changed: the write may be what an earlier attempt lacked."""
    sync_channel(settings)
    for region, state in changes.items():
        _log.info("serial %d: %s is served by %s", serial, region, state.champion or RULES)
    for note in notes:
        _log.info("%s", note)
    return Release(serial, {region: state.champion for region, state in changes.items()}, tuple(notes))
