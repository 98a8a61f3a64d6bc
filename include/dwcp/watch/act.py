"""Do what a stored observation decided: roll back through ``release.publish``; the rest is for people and the DAG."""

from __future__ import annotations

from dataclasses import dataclass

from dwcp.release.publish import LAST_GOOD, Release, rollback
from dwcp.release.registry import connect
from dwcp.settings import Settings
from dwcp.watch.decide import Action
from dwcp.watch.observe import Observation, get_observation

WHO = "watch"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``release`` is what a rollback came to, None if none was asked for; ``line`` says it all to a tired person."""

    observation: Observation
    action: Action
    release: Release | None
    line: str


def act(settings: Settings, observation_id: int) -> Outcome:
    """Carry out the observation's decision, once however often it is called.

    A rollback touches only the regions that were measured and only while the judged version still serves them; rows
    that have led to a rollback lead to no second one. Raises what ``publish.rollback`` raises.
    """
    seen = get_observation(settings, observation_id)
    place = f"{seen.version} in {', '.join(seen.regions)}"
    reasons = "; ".join(seen.reasons)
    if seen.action != "rollback":
        return Outcome(seen, seen.action, None, f"{place}: {seen.action} ({reasons})")
    release = rollback(
        settings,
        LAST_GOOD,
        reason=reasons,
        who=WHO,
        region=seen.regions,
        away_from=seen.version,
        evidence=seen.window,
    )
    if not release.changed:
        return Outcome(seen, "none", release, f"{place}: no rollback now ({'; '.join(release.notes)})")
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute("UPDATE watch_observations SET serial = %s WHERE id = %s", (release.serial, seen.id))
    now = ", ".join(f"{region} → {version or 'rules'}" for region, version in release.changed.items())
    return Outcome(seen, "rollback", release, f"{place}: rolled back with serial {release.serial}, {now} ({reasons})")
