"""Do what a stored observation decided: take back through ``release.publish``; the rest is for people and the DAG."""

from __future__ import annotations

from dataclasses import dataclass

from dwcp.release.publish import LAST_GOOD, Release, rollback, serves
from dwcp.release.registry import connect
from dwcp.settings import Settings
from dwcp.watch.decide import Action
from dwcp.watch.observe import Observation, get_observation
from dwcp.watch.verdict import digest_in

WHO = "watch"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``release`` is what a rollback came to, None if none was asked for.

    ``line`` says it all to a tired person: what happened, what was done, what to look at.
    """

    observation: Observation
    action: Action
    release: Release | None
    line: str


def act(settings: Settings, observation_id: int) -> Outcome:
    """Carry out the observation's decision, once however often it is called.

    What is taken back is the judged version, only in the regions that were measured and only while it has a say there;
    rows that have led to a rollback lead to no second one. Raises what ``publish.rollback`` raises.
    """
    seen = get_observation(settings, observation_id)
    place = f"{', '.join(seen.regions)}: {seen.version}"
    reasons = "; ".join(seen.reasons) or "nothing to say"
    look = f"look at field_verdicts, {seen.version}, {seen.window.end:%Y-%m-%d %H:%M} UTC"
    if seen.action == "none":
        return Outcome(seen, "none", None, f"{place}: nothing to do ({reasons})")
    if seen.action != "rollback":
        if seen.action == "retrain":
            line = f"{place}: retrain: {reasons} → asked for retraining; {look}"
        else:
            line = f"{place}: alert: {reasons} → nothing was changed; {look}"
        return Outcome(seen, seen.action, None, line)
    with connect(settings) as db:
        digest = digest_in(db, seen.regions[0], seen.version, seen.window.end)
    release = rollback(
        settings,
        LAST_GOOD,
        reason=reasons,
        who=WHO,
        region=seen.regions,
        away_from=seen.version,
        evidence=seen.window,
        digest=digest,
    )
    if not release.states:
        return Outcome(seen, "none", release, f"{place}: no rollback now ({'; '.join(release.notes)})")
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute("UPDATE watch_observations SET serial = %s WHERE id = %s", (release.serial, seen.id))
    now = ", ".join(f"{region} {serves(state)}" for region, state in release.states.items())
    line = f"{place}: {reasons} → rolled back with serial {release.serial}, {now}; {look}"
    return Outcome(seen, "rollback", release, line)
