"""The steps of the staged rollout and of a rollback by hand: ask the watch, decide, act, say it in one line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dwcp.release.publish import LAST_GOOD, PublishError, check_rollback, rollback
from dwcp.release.rollout import Evidence, Position, advance, decide, revert, status
from dwcp.release.states import REGISTERED
from dwcp.release.targets import read_targets, targets_table
from dwcp.settings import Settings
from dwcp.watch.verdict import verdict_for

log = logging.getLogger(__name__)
ALL = "all"
APPROVE = "Approve"
"""What Airflow's ApprovalOperator calls a yes."""


def evidence_for(settings: Settings, position: Position) -> Evidence | None:
    """What the watch says of the region's challenger; None where there is none to ask about."""
    if position.version is None or position.state == REGISTERED:
        return None
    return verdict_for(settings, position.region, position.version)


def judge_region(settings: Settings, *, region: str) -> dict[str, Any]:
    """What is to be done in the region now, and why; changes nothing."""
    (position,) = status(settings, [region])
    decision = decide(position, settings, evidence_for(settings, position))
    log.info("%s", decision)
    return {**asdict(decision), "reasons": list(decision.reasons), "line": str(decision)}


def move_region(
    settings: Settings,
    *,
    run_id: str,
    region: str,
    judged: Mapping[str, Any],
    approval: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Do what was judged, if it still holds: the field is asked again, as an approval may have taken a day.

    ``approval`` is what Airflow's ApprovalOperator left, if a person was asked.
    """
    refused = judged["approval"] and approval is not None and approved_by(approval) is None
    (position,) = status(settings, [region])
    evidence = evidence_for(settings, position)
    decision = decide(position, settings, evidence)
    if decision.action == "revert":
        why = "; ".join(decision.reasons)
        release = revert(
            settings, region, who=run_id, reason=f"FAIL: {why}", version=decision.version, evidence=evidence
        )
        line, serial, done = str(decision), release.serial, bool(release.states)
    else:
        outcome = advance(
            settings,
            region,
            who=run_id,
            evidence=evidence,
            version=judged["version"],
            target=judged["target"],
            approved_by=approved_by(approval),
        )
        line, serial, done = str(outcome.decision), outcome.release.serial, outcome.done
        if refused:
            # Airflow does not skip what follows a refusal inside a mapped group, so it comes to here and holds.
            line += f": {_person(approval)} said no; the next run asks again"
    log.warning("%s", line)
    look = f"{line} → serial {serial}; look at rollout_transitions and field_verdicts, {region}"
    return {"region": region, "line": line, "serial": serial, "notices": [look] if done else []}


def approved_by(approval: Mapping[str, Any] | None) -> str | None:
    """The name of who approved, or None if nobody did."""
    if not approval or approval.get("chosen_options") != [APPROVE]:
        return None
    return _person(approval)


def _person(approval: Mapping[str, Any] | None) -> str:
    user = (approval or {}).get("responded_by_user") or {}
    return str(user.get("name") or user.get("id") or "somebody")


def plan_rollback(settings: Settings, *, region: str, to: str, reason: str) -> dict[str, Any]:
    """Show the versions one can go back to; refuse what cannot be done in one line, before anything is touched."""
    for line in targets_table(read_targets(settings)).splitlines():
        log.info("%s", line)
    try:
        regions = check_rollback(settings, to, region=None if region == ALL else region)
    except PublishError as error:
        raise ValueError(str(error)) from None
    return {"regions": regions, "to": to, "reason": reason.strip()}


def roll_back(settings: Settings, *, who: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Take back, tell the nodes, and say what serves now; 'last good' asked twice within minutes is done once."""
    release = rollback(
        settings,
        str(plan["to"]),
        region=list(plan["regions"]),
        who=who,
        reason=str(plan["reason"]),
        once=plan["to"] == LAST_GOOD,
    )
    for line in str(release).splitlines():
        log.warning("%s", line.strip())
    said = " | ".join(line.strip() for line in str(release).splitlines())
    return {
        "serial": release.serial,
        "changed": release.changed,
        "notes": list(release.notes),
        "notices": [f"{who} rolled back ({plan['reason']}) → {said}; look at rollout_transitions"]
        if release.states
        else [],
    }
