"""The steps of the hourly watch: bring in the hour's rows, look at each region, act, and ask for retraining."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dwcp.pipeline.ingest import load_day
from dwcp.settings import Settings
from dwcp.window import Window

log = logging.getLogger(__name__)
HOUR = timedelta(hours=1)


def evidence_until(settings: Settings, until: str) -> Window:
    """The evidence of a look at ``until``, cut to the full hour."""
    end = Window.parse("2000-01-01", until).end.replace(minute=0, second=0, microsecond=0)
    return Window(end - settings.watch_evidence, end)


def plan_look(settings: Settings, *, until: str | None) -> dict[str, Any]:
    """The full hour that the look ends with, and the regions in which a model has a say.

    ``until`` defaults to the last full hour. Raises ``ValueError`` if it lies in the future.
    """
    from dwcp.release.registry import connect, region_states

    now = datetime.now(UTC)
    end = evidence_until(settings, until or now.isoformat()).end
    if end > now + settings.max_clock_ahead:
        raise ValueError(f"{end:%Y-%m-%d %H:%M} UTC lies in the future: leave the field empty for the last full hour")
    with connect(settings) as db:
        watched = sorted(r for r, state in region_states(db).items() if state.champion or state.challenger)
    log.info("looking at %s until %s", ", ".join(watched) or "no region: no model has a say", end.isoformat())
    return {"until": end.isoformat(), "regions": watched}


def refresh_rows(settings: Settings, *, run_id: str, until: str) -> dict[str, Any]:
    """Load the day of the hour that ends at ``until`` again, so that the watch sees its rows.

    A load replaces the day, so each hour may do it. A day that the weekly run has validated is complete and left alone.
    If the source is down or gives no row of the hour, the watch is blind: that is said, and nothing is done.
    """
    from dwcp.sources import SourceError

    end = datetime.fromisoformat(until)
    day = (end - HOUR).date()
    blind = None
    if not _is_validated(settings, day):
        try:
            load_day(settings, run_id=run_id, day=day.isoformat())
        except SourceError as error:
            blind = f"the source cannot be read: {error}"
    if blind is None and not _rows(settings, Window(end - HOUR, end)):
        blind = "no row of this hour has arrived"
    if blind is None:
        return {"fresh": True, "until": until, "notices": []}
    line = (
        f"the watch is blind for the hour to {end:%Y-%m-%d %H:%M} UTC: {blind} → nothing was done; look at the source"
    )
    log.warning("%s", line)
    return {"fresh": False, "until": until, "reason": line, "notices": [line]}


def look_at_region(settings: Settings, *, region: str, refreshed: Mapping[str, Any]) -> dict[str, Any]:
    """Measure, judge and store what each version with a say in the region did."""
    from dwcp.watch.observe import get_observation, observe

    window = evidence_until(settings, refreshed["until"])
    found = [get_observation(settings, number) for number in observe(settings, window, regions=[region])]
    return {
        "region": region,
        "observations": [one.id for one in found],
        "actions": [one.action for one in found],
        "verdicts": {one.version: one.verdict for one in found},
        "reasons": [reason for one in found for reason in one.reasons] or ["no model has a say: nothing to watch"],
    }


def act_in_region(settings: Settings, *, looked: Mapping[str, Any]) -> dict[str, Any]:
    """Do what the observations ask for, once; ``notices`` are for people, ``retrain`` asks for a training run."""
    from dwcp.watch.act import act

    outcomes = [act(settings, number) for number in looked["observations"]]
    for outcome in outcomes:
        log.log(logging.INFO if outcome.action == "none" else logging.WARNING, "%s", outcome.line)
    return {
        "lines": [outcome.line for outcome in outcomes] or list(looked["reasons"]),
        "notices": [outcome.line for outcome in outcomes if outcome.action != "none"],
        "retrain": any(outcome.action == "retrain" for outcome in outcomes),
    }


def plan_retraining(settings: Settings, *, until: str, acted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The last seven whole days, for a training run; its name allows one a week, however many regions ask."""
    end = datetime.fromisoformat(until).date()
    year, week, _ = end.isocalendar()
    return {
        "run_id": f"watch__{year}-W{week:02d}",
        "start": (end - timedelta(days=7)).isoformat(),
        "end": end.isoformat(),
    }


def _is_validated(settings: Settings, day: date) -> bool:
    from dwcp.release.registry import connect

    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute("SELECT bool_or(state = 'validated') FROM ingestion_windows WHERE day = %s", (day,))
        (found,) = cursor.fetchone() or (None,)
    return bool(found)


def _rows(settings: Settings, window: Window) -> int:
    from dwcp.release.registry import connect

    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM compression_training_data WHERE timestamp >= %s AND timestamp < %s",
            (window.start, window.end),
        )
        (found,) = cursor.fetchone() or (0,)
    return int(found)
