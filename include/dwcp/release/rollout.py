"""The staged rollout: how a challenger earns its traffic, region by region, and how it is held, paused or taken back.

What may happen is the table of ``release.states``; when it happens is decided here. An advance needs the soak to be
over by the database's clock, the field's verdict as the table asks, and a person's word where a setting wants it;
it never takes anything back. Every act may be done twice, or by two at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from psycopg2.extensions import connection

from dwcp.contract import REGIONS
from dwcp.release.bundle import bundle_path, verify_bundle
from dwcp.release.channel import Channel, published_channel
from dwcp.release.publish import LAST_GOOD, PublishError, Release, announce, rollback, start_steps
from dwcp.release.registry import RegionState, connect, find_version, region_states
from dwcp.release.signing import load_signer
from dwcp.release.states import FULL, REGISTERED, RETIRED, Ladder, Move, needs_approval, next_move, soak_of
from dwcp.release.transitions import (
    Step,
    ladder_of,
    lock,
    newest_serial,
    paused_regions,
    place_of,
    places,
    record,
)
from dwcp.settings import Settings
from dwcp.window import Window

Action = Literal["start", "advance", "revert", "hold"]


class Evidence(Protocol):
    """What the watch says of a version in a region; ``dwcp.watch.verdict.Verdict`` is one."""

    @property
    def status(self) -> Literal["PASS", "FAIL", "INCONCLUSIVE"]:
        """The word."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in sentences."""

    @property
    def window(self) -> Window | None:
        """What was measured, None if nothing was."""

    @property
    def digest(self) -> str | None:
        """Names the window's figures."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a region's rollout stands.

    ``version`` is the challenger, or the version that waits for its turn if there is none; ``state`` its state,
    ``since`` when it came there, ``soaked`` how long its soak lasted by the database's clock. ``paused`` says who
    paused and why.
    """

    region: str
    champion: str | None
    version: str | None
    state: str | None
    since: datetime | None
    soaked: timedelta
    ladder: Ladder
    paused: str | None
    waiting: tuple[str, ...] = ()

    @property
    def move(self) -> Move | None:
        """The next step forward, if there is one."""
        return next_move(self.state, self.ladder) if self.state else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done in a region now, and why. ``approval``: a person has to say yes to it."""

    region: str
    action: Action
    version: str | None
    origin: str | None
    target: str | None
    reasons: tuple[str, ...]
    approval: bool = False

    def __str__(self) -> str:
        """In one line."""
        step = f"{self.action} {self.version} from {self.origin} to {self.target}" if self.action != "hold" else "hold"
        asking = "; a person has to approve" if self.approval else ""
        return f"{self.region}: {step} ({'; '.join(self.reasons)}{asking})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided, and the release that it led to; without ``states`` nothing that nodes see changed."""

    decision: Decision
    release: Release

    @property
    def done(self) -> bool:
        """Whether anything changed."""
        return bool(self.release.states)


def decide(position: Position, settings: Settings, evidence: Evidence | None) -> Decision:
    """Advance, revert or hold: FAIL reverts, a pause and whatever is missing hold, and all that is missing is named."""
    move, version = position.move, position.version

    def hold(*reasons: str) -> Decision:
        return Decision(position.region, "hold", version, position.state, None, reasons)

    if version is None or move is None:
        return hold(f"{position.champion or 'the rules'} alone, no challenger")
    if position.state == REGISTERED:
        if position.paused:
            return hold(position.paused)
        return Decision(position.region, "start", version, REGISTERED, move.target, (move.meaning,))
    if evidence is not None and evidence.status == "FAIL":
        return Decision(position.region, "revert", version, position.state, "rolled_back", evidence.reasons)
    missing = [position.paused] if position.paused else []
    left = soak_of(move, settings) - position.soaked
    if left > timedelta(0):
        missing.append(f"{version} stays in {position.state} for {_in_words(left)} more")
    if move.asks == "PASS":
        missing += _not_passed(position, evidence)
    if missing:
        return hold(*missing)
    why = evidence.reasons if evidence is not None and evidence.status == "PASS" else ("nothing speaks against it",)
    return Decision(
        position.region, "advance", version, position.state, move.target, why, needs_approval(move, settings)
    )


def status(settings: Settings, regions: Sequence[str] = REGIONS) -> list[Position]:
    """Where the rollout stands in each region."""
    with connect(settings) as db:
        return [_look(db, region) for region in regions]


def advance(
    settings: Settings,
    region: str,
    *,
    who: str,
    evidence: Evidence | None,
    version: str | None = None,
    target: str | None = None,
    approved_by: str | None = None,
) -> Outcome:
    """One step forward if it is time for it, else hold and say why; never backward.

    ``evidence`` is what the watch says of the challenger. With ``version`` and ``target`` the step is taken only if it
    still is that one: what was judged or approved is what happens, and done twice it is done once. Raises
    ``PublishError``, ``RegistryError`` or ``BundleError`` (its bundle does not verify) and then changes nothing.
    """
    _require(who, "a step forward")
    seen = published_channel(settings.channel_path, load_signer(settings).public_key)
    with connect(settings) as db:
        lock(db)
        position = _look(db, _known(region))
        decision = decide(position, settings, evidence)
        if decision.action in ("start", "advance"):
            if version not in (None, decision.version) or target not in (None, decision.target):
                decision = _held(decision, f"{decision.version} is in {decision.origin} now: asked too late, or twice")
            elif decision.approval and not approved_by:
                decision = _held(decision, f"the step to {decision.target} waits for a person's approval")
        serial = newest_serial(db)
        states: dict[str, RegionState] = {}
        if decision.action in ("start", "advance"):
            serial, states = _take(settings, db, position, decision, who, evidence, approved_by, seen)
    # The write may be what an earlier attempt lacked, so it is made whatever was decided.
    return Outcome(decision, announce(settings, Release(serial, states)))


def revert(
    settings: Settings,
    region: str | Sequence[str],
    *,
    to: str | None = None,
    who: str,
    reason: str,
    version: str | None = None,
    evidence: Evidence | None = None,
) -> Release:
    """Take back the challenger, or what else has the newest say: ``publish.rollback`` in the rollout's words.

    ``version`` is what has to leave; where it has no say any more, nothing is done.
    """
    return rollback(
        settings,
        to or LAST_GOOD,
        region=region,
        who=who,
        reason=reason,
        away_from=version,
        evidence=evidence.window if evidence else None,
        digest=evidence.digest if evidence else None,
    )


def pause(settings: Settings, regions: Sequence[str] | None, *, who: str, reason: str) -> list[str]:
    """Let nothing move forward in ``regions`` (None: all) until they are resumed; the regions that were not paused yet.

    Harm is still taken back there.
    """
    return _set_paused(settings, regions, who, reason, paused=True)


def resume(settings: Settings, regions: Sequence[str] | None, *, who: str, reason: str) -> list[str]:
    """Let the rollout go on in ``regions`` (None: all); the regions that were paused."""
    return _set_paused(settings, regions, who, reason, paused=False)


def _look(db: connection, region: str) -> Position:
    here = places(db).get(region, {})
    champion, challenger = place_of(here, "champion"), place_of(here, "challenger")
    waiting = [place for place in here.values() if place.state == REGISTERED]
    shown = challenger or (waiting[-1] if waiting else None)
    soaked = timedelta(0)
    if shown:
        with db.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp() - %s", (shown.soak_since,))
            (soaked,) = cursor.fetchone() or (soaked,)
    return Position(
        region=region,
        champion=champion.version if champion else None,
        version=shown.version if shown else None,
        state=shown.state if shown else None,
        since=shown.since if shown else None,
        soaked=soaked,
        ladder=ladder_of(db, region),
        paused=paused_regions(db).get(region),
        waiting=tuple(place.version for place in waiting),
    )


def _take(
    settings: Settings,
    db: connection,
    position: Position,
    decision: Decision,
    who: str,
    evidence: Evidence | None,
    approved_by: str | None,
    seen: Channel | None,
) -> tuple[int, dict[str, RegionState]]:
    """Record the step; its serial, and what nodes see in the region from then on."""
    version = str(decision.version)
    path, digest = bundle_path(settings.bundle_dir, version), find_version(db, version).bundle_digest
    verify_bundle(path, load_signer(settings).public_key, digest=digest)
    serial = record(
        db,
        "advance",
        who,
        "; ".join(decision.reasons) + (f"; approved by {approved_by}" if approved_by else ""),
        _steps(db, position, decision),
        seen,
        evidence=evidence.window if evidence else None,
        digest=evidence.digest if evidence else None,
    )
    return serial, {position.region: region_states(db)[position.region]}


def _steps(db: connection, position: Position, decision: Decision) -> list[Step]:
    region, version, target = position.region, str(decision.version), str(decision.target)
    if decision.action == "start":
        return start_steps(region, version, places(db)[region])
    gives_way = (
        [Step(region, position.champion, "retire", FULL, RETIRED)] if target == FULL and position.champion else []
    )
    return [*gives_way, Step(region, version, "advance", str(decision.origin), target)]


def _not_passed(position: Position, evidence: Evidence | None) -> list[str]:
    if evidence is None or evidence.window is None:
        return list(evidence.reasons) if evidence else ["nobody asked the field"]
    if evidence.status != "PASS":
        return [f"the field says {evidence.status}: {'; '.join(evidence.reasons) or 'no reason given'}"]
    if position.since is not None and evidence.window.end <= position.since:
        return [f"the newest look ended before {position.version} came to {position.state}"]
    return []


def _held(decision: Decision, reason: str) -> Decision:
    return Decision(decision.region, "hold", decision.version, decision.origin, None, (reason,), decision.approval)


def _set_paused(settings: Settings, regions: Sequence[str] | None, who: str, reason: str, *, paused: bool) -> list[str]:
    _require(who, reason)
    wanted = [_known(region) for region in (REGIONS if regions is None else sorted(set(regions)))]
    with connect(settings) as db, db.cursor() as cursor:
        lock(db)
        already = paused_regions(db)
        changing = [region for region in wanted if (region in already) is not paused]
        for region in changing:
            cursor.execute(
                "INSERT INTO rollout_pauses (region, paused, who, reason) VALUES (%s, %s, %s, %s)",
                (region, paused, who, reason),
            )
    return changing


def _require(who: str, reason: str) -> None:
    if not who.strip() or not reason.strip():
        raise PublishError("say who asks and why: both go into the rollout's log")


def _known(region: str) -> str:
    if region not in REGIONS:
        raise PublishError(f"unknown region {region}: choose from {', '.join(REGIONS)}")
    return region


def _in_words(span: timedelta) -> str:
    """Days and hours, or what is left below."""
    hours = span.total_seconds() / 3_600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if hours > 0.1 else f"{span.total_seconds():.0f} s"
