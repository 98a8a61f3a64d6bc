"""``dwcp weeks``: what weekly retraining is worth, on the rows of a run's training window, as a Markdown table."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dwcp.pipeline.site import dsn
from dwcp.settings import Settings

if TYPE_CHECKING:
    from dwcp.release.weeks import Week

log = logging.getLogger(__name__)


def run_weeks(settings: Settings, *, run_id: str | None = None, weeks: int = 4) -> str:
    """Train and judge the last ``weeks`` weeks of a registered run's window (default: the last run's)."""
    from dwcp.pipeline.summary import registered_model
    from dwcp.release.weeks import over_weeks
    from dwcp.training.dataset import build_dataset
    from dwcp.warehouse.reads import read_training

    window = registered_model(settings, run_id).window
    found = []
    dataset = build_dataset(read_training(dsn(settings, "reader"), window), settings.oracle)
    for week in over_weeks(dataset, settings, weeks=weeks):
        log.info("%s: new model %.2f %%", _date(week), 100 * (week.accuracy["new"].estimate or 0))
        found.append(week)
    return weeks_markdown(found)


def weeks_markdown(weeks: Iterable[Week]) -> str:
    """One line a week: accuracy of the new, the kept and the never-retrained model, and what retraining brought."""
    from dwcp.release.weeks import MODELS
    from dwcp.release.wording import NOTHING, bounds, interval

    names = {"new": "retrained", "kept": "a week old", "first": "never retrained"}
    head = ["week from", "rows", "objects", *(names[name] for name in MODELS), "retrained less never, points", "regret"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for week in weeks:
        gain = week.retraining
        gained = NOTHING if gain.estimate is None else f"{100 * gain.estimate:+.2f} ({bounds(gain.lower, gain.upper)})"
        cells = [
            _date(week),
            f"{week.rows:,}",
            f"{week.objects:,}",
            *(interval(week.accuracy[name]) for name in MODELS),
            gained,
            interval(week.mean_regret["new"], 3),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _date(week: Week) -> str:
    return f"{datetime.fromtimestamp(week.begin_ns / 1e9, UTC):%Y-%m-%d}"
