"""Is something wrong? One sentence for a tired person, and what stands behind it, the most urgent first.

The console decides nothing: harm is what the watch said, and whatever the watch cannot know is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dwcp.console.queries import Facts, Look, Place
from dwcp.contract import REGIONS
from dwcp.settings import Settings

Urgency = Literal["now", "day", "unknown", "fine"]
ORDER: tuple[Urgency, ...] = ("now", "unknown", "day", "fine")
"""Most urgent first: act now; nobody can tell; look at it by day; nothing to do."""
ACTING = ("canary", "share_25", "share_50", "share_75", "full")
"""States in which a version decides for somebody."""
UNSEEN = timedelta(hours=2)
"""The watch looks every hour: it has missed a version that has decided for so long without a look."""
STALE_DAYS = 14.0
"""Two weekly runs missed."""


@dataclass(frozen=True, slots=True)
class Concern:
    """Something to know. ``region`` is None where it concerns all."""

    urgency: Urgency
    region: str | None
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Status:
    """``sentence`` says it all; ``concerns`` are what it rests on, the most urgent first."""

    urgency: Urgency
    sentence: str
    concerns: tuple[Concern, ...]

    def urgency_of(self, region: str) -> Urgency:
        """How urgent the region's worst concern is."""
        found = {concern.urgency for concern in self.concerns if concern.region == region}
        return next(urgency for urgency in ORDER if urgency in found or urgency == "fine")

    def regions(self) -> tuple[str, ...]:
        """All regions, the most urgent first."""
        return tuple(sorted(REGIONS, key=lambda region: ORDER.index(self.urgency_of(region))))


def judge(facts: Facts, settings: Settings) -> Status:
    """What is wrong according to ``facts``."""
    found = [*_field(facts, settings), *_watch(facts, settings), *_rollout(facts), *_data(facts, settings)]
    found.sort(key=lambda concern: ORDER.index(concern.urgency))
    concerns = tuple(found)
    worst = concerns[0].urgency if concerns else "fine"
    return Status(worst, _sentence(worst, concerns, facts), concerns)


def _sentence(worst: Urgency, concerns: tuple[Concern, ...], facts: Facts) -> str:
    same = [concern for concern in concerns if concern.urgency == worst]
    more = f", and {len(same) - 1} more" if len(same) > 1 else ""
    if worst == "now":
        return f"Something is wrong: {same[0].what}{more}."
    if worst == "unknown":
        return f"Nobody can tell whether something is wrong: {same[0].what}{more}."
    if not any(place.state in ACTING for place in facts.places):
        waits = " Something waits to be looked at by day." if worst == "day" else ""
        return f"Nothing is wrong: no model decides anywhere, the rules do.{waits}"
    if worst == "day":
        count = "one thing waits" if len(same) == 1 else f"{len(same)} things wait"
        return f"Nothing is known to do harm now; {count} to be looked at by day."
    unsure = sorted({place.region for place in facts.places if place.state in ACTING and not _passed(facts, place)})
    if unsure:
        return f"Nothing is known to be wrong; too little was measured to be sure in {', '.join(unsure)}."
    return "Nothing is wrong: every model that decides was found within its limits."


def _passed(facts: Facts, place: Place) -> bool:
    look = facts.look(place.region, place.version)
    return look is not None and look.verdict == "PASS"


def _field(facts: Facts, settings: Settings) -> Iterator[Concern]:
    """What the watch says of each version that decides, or runs in the shadow."""
    for place in facts.places:
        if place.role == "none":
            continue
        name = f"{place.version} ({place.state})"
        look = facts.look(place.region, place.version)
        if look is None or look.verdict is None:
            if place.state in ACTING and facts.now - place.since > UNSEEN:
                yield Concern("unknown", place.region, f"{name} in {place.region} was never judged", _NEVER)
            continue
        if facts.now - look.observed_at > settings.watch_stale_after:
            if place.state in ACTING:
                what = f"{name} in {place.region} was last looked at {ago(facts.now - look.observed_at)}"
                yield Concern("unknown", place.region, what, _STALE)
            continue
        yield from _of_look(place, look, name)
        days = facts.figure(place.region, place.version, "staleness_days")
        if days is not None and days.value is not None and days.value > STALE_DAYS and place.role == "champion":
            what = f"{name} in {place.region} learned nothing of the last {days.value:.0f} days"
            yield Concern("day", place.region, what, "look why the weekly runs published nothing newer")


def _of_look(place: Place, look: Look, name: str) -> Iterator[Concern]:
    why = look.reasons[0] if look.reasons else "no reason was given"
    if look.verdict == "FAIL" or look.action == "rollback":
        if place.state in ACTING:
            yield Concern("now", place.region, f"{name} does harm in {place.region}: {why}", _HARM)
        else:
            yield Concern("day", place.region, f"{name} would do harm in {place.region}: {why}", _SHADOW)
    elif look.action in ("alert", "retrain"):
        done = "retraining was asked for" if look.action == "retrain" else "nothing was changed"
        yield Concern("day", place.region, f"{name} in {place.region}: {why}", done)


def _watch(facts: Facts, settings: Settings) -> Iterator[Concern]:
    """Whether anybody looks at all."""
    if not any(place.state in ACTING for place in facts.places) or not facts.looks:
        return
    last = max(look.observed_at for look in facts.looks)
    if facts.now - last > settings.watch_stale_after:
        yield Concern("unknown", None, f"the watch last looked {ago(facts.now - last)}", _STALE)


def _rollout(facts: Facts) -> Iterator[Concern]:
    for place in facts.places:
        if place.state == "rolled_back":
            what = f"{place.version} was taken back in {place.region} {ago(facts.now - place.since)}: {place.reason}"
            yield Concern("day", place.region, what, f"by {place.who}; it does not come back by itself")
    for pause in facts.pauses:
        what = f"{pause.region} is paused since {when(pause.at)}: {pause.reason}"
        yield Concern("day", pause.region, what, f"by {pause.who}; `dwcp rollout resume` lets it go on")


def _data(facts: Facts, settings: Settings) -> Iterator[Concern]:
    for failed in facts.failed_days:
        what = f"the quality gate held back {failed.day} of {failed.region}: {failed.failure}"
        yield Concern("day", failed.region, what, "mend the source, backfill that day")
    if facts.days and facts.days[0].read:
        newest = facts.days[0]
        share = newest.quarantined / newest.read
        if share > settings.watch_quality_drop:
            what = f"{share:.1%} of {newest.day}'s rows broke the contract"
            yield Concern("day", None, what, "their reasons stand under Quarantine")


def when(moment: datetime) -> str:
    """A moment of Postgres' (UTC) to the minute."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def ago(span: timedelta) -> str:
    """How long ago, in the largest whole unit."""
    return f"{lasting(span)} ago"


def lasting(span: timedelta) -> str:
    """How long, in the largest whole unit."""
    minutes = max(0, int(span.total_seconds() // 60))
    for size, unit in ((1_440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


_HARM = "the watch rolls back by itself; if that has not happened, roll back by the form above"
_NEVER = "see that dwcp_drift_watch runs and that nodes log; if in doubt, roll back"
_STALE = "see that dwcp_drift_watch runs; if in doubt, roll back"
_SHADOW = "it decides for nobody; the rollout takes it back"
