"""Publish and rollback: a transaction in Postgres decides, one atomic write of the channel document makes it known.

A version that passed the gate is registered and enters each region's ladder in the shadow (``release.rollout`` takes it
further); where ``rollout_immediate`` is set it serves at once.

Order: verify the bundle as a node would; in one transaction under an advisory lock take the next serial and record the
release; after the commit derive the document from Postgres and write it. A crash before the commit leaves everything as
it was; a crash after it leaves the old document, and the next publish, rollback or ``sync_channel`` writes the new one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection

from dwcp.contract import REGIONS, ROLLOUT_BUCKETS
from dwcp.release.bundle import BundleError, bundle_path, verify_bundle
from dwcp.release.channel import Channel, published_channel, sync_channel
from dwcp.release.registry import RegionState, RegistryError, connect, find_version, region_states
from dwcp.release.signing import PublicKey, load_signer
from dwcp.release.states import FULL, NONE, REGISTERED, RETIRED, ROLLED_BACK, SHADOW
from dwcp.release.targets import keep_targets
from dwcp.release.transitions import (
    Place,
    Places,
    Step,
    lock,
    newest_serial,
    paused_regions,
    place_of,
    places,
    record,
    state_of,
)
from dwcp.settings import Settings
from dwcp.window import Window

LAST_GOOD = "last-good"
RULES = "rules"
_log = logging.getLogger(__name__)


class PublishError(RuntimeError):
    """A publish or rollback is refused; nothing was changed. The message says why, and what would be possible."""


@dataclass(frozen=True, slots=True)
class Release:
    """What an act came to. ``states`` maps each region in which nodes see something new to what serves it now.

    Empty ``states`` mean that all was as asked already; ``serial`` is the channel's either way. ``notes`` are lines
    for a person: regions left alone, damaged versions passed over.
    """

    serial: int
    states: Mapping[str, RegionState]
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> dict[str, str | None]:
        """Each changed region's champion; None is the rules."""
        return {region: state.champion for region, state in self.states.items()}

    def __str__(self) -> str:
        """The same for a person, a line a fact."""
        head = (
            f"serial {self.serial}" if self.states else f"nothing to change; the channel stays at serial {self.serial}"
        )
        return "\n  ".join([head, *(f"{region} {serves(state)}" for region, state in self.states.items()), *self.notes])


def serves(state: RegionState) -> str:
    """What serves a region, in words."""
    champion = f"is served by {state.champion or RULES}"
    if state.challenger is None:
        return champion
    share = f"{state.share_buckets / ROLLOUT_BUCKETS:.0%}" if state.share_buckets else "the shadow"
    return f"{champion}, {state.challenger} has {share}"


def publish(
    settings: Settings, version: str, *, who: str, reason: str, regions: Sequence[str] | None = None
) -> Release:
    """Register ``version`` in ``regions`` (default: all of the contract's) and let it enter their ladders.

    It goes into the shadow at once where no challenger is on its way, replaces one that is still there itself (and
    takes over the time spent), and waits behind one that has left it; with ``rollout_immediate`` it serves in full.
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
        lock(db)
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
        before = places(db)
        old = region_states(db)
        paused = paused_regions(db)
        steps: list[Step] = []
        notes: list[str] = []
        for region in wanted:
            here = before.get(region, {})
            state = state_of(here, version)
            if state == NONE:
                steps.append(Step(region, version, "register", NONE, REGISTERED))
            if settings.rollout_immediate and state in (NONE, REGISTERED) and region not in paused:
                steps += _in_full(region, version, here)
            elif state == NONE:
                found, note = _entry(db, region, version, here, paused.get(region))
                steps += found
                notes.append(note)
            elif state in (RETIRED, ROLLED_BACK):
                notes.append(f"{region}: {version} was published before; it is not published again")
        serial = record(db, "publish", who, reason, steps, seen)
        states = _changes(old, region_states(db))
    return announce(settings, Release(serial, states, tuple(notes)))


def rollback(
    settings: Settings,
    to: str = LAST_GOOD,
    *,
    reason: str,
    who: str,
    region: str | Sequence[str] | None = None,
    away_from: str | None = None,
    evidence: Window | None = None,
    digest: str | None = None,
    once: bool = False,
) -> Release:
    """Take back what does harm, by a higher serial.

    ``to`` is a version that was full before, ``last-good``, or ``rules``. ``last-good`` takes back the newest version
    that acts: a challenger with a share leaves and the champion stays; else the region's newest earlier champion that
    was not taken back there and whose bundle verifies serves again (the rules if there is none), and a challenger in
    the shadow stays there. A named version, or the rules, serve alone afterwards.

    ``region`` is one, several, or None for every region released to. Only regions in which ``away_from`` has a say are
    touched, if it is given, and it is what leaves: two operators at once step back once. ``once`` leaves regions alone
    that were rolled back within ``rollout_repeat_within``: clicking 'last-good' twice does it once. ``evidence`` is the
    measured window that asks for it, ``digest`` that of its figures: a region that was rolled back by evidence reaching
    as far is left alone, so one rollback never chases another.

    ``last-good`` means away from what nodes are told: if an earlier attempt was recorded but died before it wrote the
    document, running it again finishes that attempt and steps back no further.

    Needs Postgres and the older bundle only: the newest bundle may be corrupt or gone. Raises ``PublishError`` or
    ``RegistryError`` with one line, and then nothing was changed.
    """
    _require(who, reason)
    public_key = load_signer(settings).public_key
    seen = published_channel(settings.channel_path, public_key)
    with connect(settings) as db:
        lock(db)
        states, before = region_states(db), places(db)
        notes: list[str] = []
        leaving: dict[str, str] = {}
        told = _not_finished(db, seen) if to == LAST_GOOD and seen else {}
        for name in _served_regions(region, states):
            leaves = away_from or (_acting(told[name]) if name in told else None)
            held = _left_alone(db, name, states[name], leaves, evidence)
            if held is None and once and to == LAST_GOOD:
                held = _just_rolled_back(db, name, settings)
            if held is None:
                leaving[name] = leaves or _acting(states[name])
            else:
                notes.append(f"{name}: {held}")
        if to == LAST_GOOD:
            targets = _last_good(settings, db, states, leaving, public_key, notes)
        else:
            if to != RULES:
                _require_servable(settings, db, to, public_key)
            targets = dict.fromkeys(leaving, RegionState(None if to == RULES else to))
        # A database restored from a backup may agree already while nodes are ahead of it: only a new serial tells them.
        ahead = seen is not None and seen.serial > newest_serial(db)
        changes = {name: target for name, target in targets.items() if ahead or target != states[name]}
        notes += [
            f"{name}: {targets[name].champion or RULES} serves already" for name in targets if name not in changes
        ]
        steps = [step for name, target in changes.items() for step in _steps_to(name, before[name], target)]
        only_challengers = bool(changes) and all(changes[n].champion == states[n].champion for n in changes)
        serial = record(
            db,
            "revert" if only_challengers and not ahead else "rollback",
            who,
            reason,
            steps,
            seen,
            evidence=evidence,
            digest=digest,
            tell_again=ahead and bool(changes),
        )
    return announce(settings, Release(serial, changes, tuple(notes)))


def check_rollback(settings: Settings, to: str, *, region: str | Sequence[str] | None) -> list[str]:
    """The regions that a rollback to ``to`` would look at; raises ``PublishError`` in one line if it would refuse."""
    public_key = load_signer(settings).public_key
    with connect(settings) as db:
        regions = _served_regions(region, region_states(db))
        if to not in (LAST_GOOD, RULES):
            _require_servable(settings, db, to, public_key)
    return regions


def rollback_targets(settings: Settings) -> dict[str, list[str]]:
    """For each region the versions that ``last-good`` would try, in that order (bundles not yet verified)."""
    with connect(settings) as db:
        found = _earlier_champions(db)
        return {region: [version for version, _ in found.get(region, ())] for region in region_states(db)}


def start_steps(region: str, version: str, here: Places) -> list[Step]:
    """What takes a registered ``version`` into the shadow: it replaces a challenger that is still there.

    Empty if the challenger has left the shadow: one at a time.
    """
    challenger = place_of(here, "challenger")
    if challenger is None:
        return [Step(region, version, "start", REGISTERED, SHADOW)]
    if challenger.state != SHADOW:
        return []
    return [
        Step(region, challenger.version, "replace", SHADOW, RETIRED),
        Step(region, version, "start", REGISTERED, SHADOW, soak_since=challenger.soak_since),
    ]


def announce(settings: Settings, release: Release) -> Release:
    """Write the document, also when nothing changed: the write may be what an earlier attempt lacked."""
    sync_channel(settings)
    keep_targets(settings)
    for region, state in release.states.items():
        _log.info("serial %d: %s %s", release.serial, region, serves(state))
    for note in release.notes:
        _log.info("%s", note)
    return release


def _in_full(region: str, version: str, here: Places) -> list[Step]:
    champion = place_of(here, "champion")
    gives_way = [Step(region, champion.version, "retire", FULL, RETIRED)] if champion else []
    return [*gives_way, Step(region, version, "publish", REGISTERED, FULL)]


def _entry(db: connection, region: str, version: str, here: Places, paused: str | None) -> tuple[list[Step], str]:
    """How a version that was just registered enters the region, and a line that says so."""
    window = find_version(db, version).window
    rivals = [place for place in here.values() if place.role != "none" or place.state == REGISTERED]
    newer = [rival.version for rival in rivals if find_version(db, rival.version).window.end > window.end]
    if newer:
        learned = f"{region}: {version} learned from older weeks than {newer[0]} and gives way to it"
        return [Step(region, version, "replace", REGISTERED, RETIRED)], learned
    waiting = [Step(region, p.version, "replace", REGISTERED, RETIRED) for p in rivals if p.state == REGISTERED]
    starting = [] if paused else start_steps(region, version, here)
    if starting:
        return waiting + starting, f"{region}: {version} is in the shadow"
    behind = paused or "one challenger at a time"
    return waiting, f"{region}: {version} is registered and waits ({behind})"


def _steps_to(region: str, here: Places, target: RegionState) -> list[Step]:
    """What a rollback to ``target`` does to the region's versions: who leaves comes first."""
    leaving: list[Place] = [
        place
        for place in here.values()
        if place.role != "none" and place.version not in (target.champion, target.challenger)
    ]
    steps = [
        Step(region, place.version, "roll_back" if place.state == FULL else "revert", place.state, ROLLED_BACK)
        for place in leaving
    ]
    if target.champion is not None and state_of(here, target.champion) != FULL:
        steps.append(Step(region, target.champion, "recall", state_of(here, target.champion), FULL))
    return steps


def _changes(old: Mapping[str, RegionState], new: Mapping[str, RegionState]) -> dict[str, RegionState]:
    return {region: state for region, state in new.items() if state != old.get(region)}


def _acting(state: RegionState) -> str:
    """The newest version with a say: a challenger that has a share, else the champion, else the rules."""
    return state.challenger if state.challenger and state.share_buckets else state.champion or RULES


def _last_good(
    settings: Settings,
    db: connection,
    states: Mapping[str, RegionState],
    leaving: Mapping[str, str],
    public_key: PublicKey,
    notes: list[str],
) -> dict[str, RegionState]:
    """For each region what serves once ``leaving`` has left; versions with a damaged bundle are passed over, noted."""
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
    targets = {}
    for region, leaves in leaving.items():
        now = states[region]
        if leaves == now.challenger:
            targets[region] = RegionState(now.champion)
        else:
            found = next((version for version, digest in earlier.get(region, ()) if verifies(version, digest)), None)
            targets[region] = RegionState(found, now.challenger, now.share_buckets)
    return targets


def _require(who: str, reason: str) -> None:
    if not who.strip() or not reason.strip():
        raise PublishError("say who asks and why: both go into the release log")


def _not_finished(db: connection, seen: Channel) -> dict[str, RegionState]:
    """What nodes are told of regions that were rolled back since: that attempt is to be finished, not repeated.

    A step forward of which nodes were not told yet, perhaps because somebody takes it right now, is no such attempt.
    """
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT region FROM releases JOIN release_regions USING (serial)
            WHERE serial > %s AND action IN ('rollback', 'revert')
            """,
            (seen.serial,),
        )
        return {region: seen.regions[region] for (region,) in cursor.fetchall() if region in seen.regions}


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
    with db.cursor() as cursor:
        cursor.execute("SELECT FROM rollout_transitions WHERE version = %s AND to_state = 'full' LIMIT 1", (version,))
        if cursor.fetchone() is None:
            raise PublishError(f"cannot roll back to {version}: it was registered but never published in full")
    try:
        verify_bundle(bundle_path(settings.bundle_dir, version), public_key, digest=model.bundle_digest)
    except BundleError as error:
        raise PublishError(f"cannot roll back to {version}, its bundle is damaged: {error}") from error


def _left_alone(
    db: connection, region: str, state: RegionState, away_from: str | None, evidence: Window | None
) -> str | None:
    """Why the region is not to be rolled back, or None."""
    if away_from is not None and away_from not in (state.champion or RULES, state.challenger):
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


def _just_rolled_back(db: connection, region: str, settings: Settings) -> str | None:
    """Who rolled the region back within ``rollout_repeat_within``, by the database's clock, or None."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT at, who FROM rollout_transitions
            WHERE region = %s AND move IN ('revert', 'roll_back', 'recall') AND at > clock_timestamp() - %s
            ORDER BY number DESC LIMIT 1
            """,
            (region, settings.rollout_repeat_within),
        )
        found = cursor.fetchone()
    if found is None:
        return None
    return f"rolled back at {found[0]:%H:%M:%S} UTC by {found[1]} already; name a version to go further back"


def _earlier_champions(db: connection) -> dict[str, list[tuple[str, str]]]:
    """For each region its earlier champions with their bundle digests, newest first, none that was taken back."""
    with db.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.region, n.version, m.bundle_digest
            FROM rollout_now AS n
            JOIN model_versions AS m USING (version)
            JOIN LATERAL (
                SELECT max(number) AS served FROM rollout_transitions AS t
                WHERE t.region = n.region AND t.version = n.version AND t.to_state = 'full'
            ) AS past ON past.served IS NOT NULL
            WHERE n.state = 'retired'
            ORDER BY n.region, past.served DESC
            """
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for region, version, digest in cursor.fetchall():
            found.setdefault(region, []).append((version, digest))
        return found
