"""Load or relabel past days again: planned, refused early if it cannot be, one day at a time, dry by default."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from dwcp.contract import REGIONS
from dwcp.oracle import DEFINITIONS
from dwcp.pipeline import weekly
from dwcp.pipeline.ingest import checked_batches, load_day
from dwcp.pipeline.options import BackfillOptions
from dwcp.pipeline.site import dsn
from dwcp.settings import Settings
from dwcp.sources import open_source
from dwcp.window import Window

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)


def plan_backfill(settings: Settings, *, start: str, end: str, options: BackfillOptions) -> dict[str, Any]:
    """The days to do beside window and options, or a ``ValueError`` of one line before anything is touched.

    Refused: a window that is empty, in the future or longer than ``backfill_max_days``; an unknown region or oracle; to
    store labels of another oracle than the one that trains; retraining that would see none of it, or undo it; a source
    that holds nothing of it; relabelling days that were never loaded.
    """
    plan = weekly.plan_window(settings, start=start, end=end)
    window = Window.parse(plan["start"], plan["end"])
    days = plan["days"]
    if len(days) > settings.backfill_max_days:
        raise ValueError(f"{len(days)} days are more than a backfill may take ({settings.backfill_max_days}): split it")
    options = options.resolved(settings)
    regions = options.regions or None
    unknown = sorted(set(options.regions) - set(REGIONS))
    if unknown:
        raise ValueError(f"unknown region {', '.join(unknown)}: choose from {', '.join(REGIONS)}")
    if options.oracle not in DEFINITIONS:
        raise ValueError(f"unknown oracle {options.oracle!r}: choose from {', '.join(DEFINITIONS)}")
    if options.oracle != settings.oracle and not options.dry_run:
        # A label must mean one thing: to the trainer, to the watch, and to whoever reads the table.
        raise ValueError(
            f"labels by {options.oracle} may be looked at in a dry run only, as this site trains on {settings.oracle}: "
            "to change that, set DWCP_ORACLE, then relabel every day of the training window"
        )
    if options.retrain:
        _check_retraining(settings, window, options)
    span = f"from {days[0]} to {days[-1]}"
    if options.relabel_only:
        from dwcp.warehouse.windows import read_states

        if not read_states(dsn(settings, "loader"), window, regions):
            raise ValueError(f"nothing was ever loaded {span}: there is nothing to relabel")
    elif open_source(settings, options.source).count(window, regions) == 0:
        raise ValueError(f"the {options.source} holds no transfer {span}: choose another source or window")
    return {**plan, **asdict(options), "regions": list(options.regions)}


def backfill_day(settings: Settings, *, run_id: str, day: str, options: BackfillOptions) -> dict[str, Any]:
    """Do one day, or say what doing it would change: rows now, rows after, label flips (``old→new``: rows)."""
    from dwcp.oracle import label_batch
    from dwcp.warehouse.relabel import relabel_day

    options = options.resolved(settings)
    source, oracle, regions = options.source, str(options.oracle), options.regions or None
    before = _labels_now(settings, day, regions)
    if options.relabel_only:
        done = relabel_day(
            dsn(settings, "loader"),
            day=date.fromisoformat(day),
            regions=regions,
            run_id=run_id,
            label=partial(label_batch, definition=oracle),
            oracle_definition=oracle,
            dry_run=options.dry_run,
        )
        flips, after = done.flips, done.rows
    else:
        if options.dry_run:
            labels_after = _labels_of_source(settings, day, regions, source, oracle)
        else:
            load_day(settings, run_id=run_id, day=day, regions=regions, source=source, oracle=oracle)
            labels_after = _labels_now(settings, day, regions)
        flips, after = _flips(before, labels_after), labels_after.num_rows
    changed = {f"{old or 'no label'}→{new or 'no label'}": rows for (old, new), rows in sorted(flips.items(), key=str)}
    log.info("%s: %d rows now, %d after, %d labels flip", day, before.num_rows, after, sum(changed.values()))
    return {"day": day, "rows_now": before.num_rows, "rows_after": after, "label_flips": changed}


def validate_backfill(settings: Settings, *, run_id: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Put what was loaded or relabelled before the quality gate, as its windows are visible only once it passed.

    A dry run changed nothing and validates nothing. Raises ``QualityGateFailed``.
    """
    if BackfillOptions.among(plan).dry_run:
        return {"passed": None, "report": None}
    return weekly.validate(settings, run_id=run_id, start=plan["start"], end=plan["end"])


def summarise_backfill(settings: Settings, *, plan: Mapping[str, Any], days: Iterable[Mapping[str, Any]]) -> str:
    """What was done, or would be, as a table in plain text."""
    rows = list(days)
    flips: Counter[str] = Counter()
    for row in rows:
        flips.update(row["label_flips"])
    options = BackfillOptions.among(plan)
    head = "DRY RUN, nothing was changed" if options.dry_run else "done"
    what = "relabelled" if options.relabel_only else f"loaded from the {options.source}"
    lines = [
        f"{head}: {len(rows)} days {what}, oracle {options.oracle}, regions {', '.join(options.regions) or 'all'}",
        f"{'day':12}{'rows now':>10}{'rows after':>12}{'labels flip':>13}",
        *(
            f"{row['day']:12}{row['rows_now']:>10}{row['rows_after']:>12}{sum(row['label_flips'].values()):>13}"
            for row in rows
        ),
        f"{'all':12}{sum(r['rows_now'] for r in rows):>10}{sum(r['rows_after'] for r in rows):>12}{flips.total():>13}",
        *(f"  {change}: {count}" for change, count in flips.most_common()),
    ]
    if options.retrain and options.dry_run:
        lines.append("not a dry run, it would retrain afterwards")
    text = "\n".join(lines)
    log.info("%s", text)
    return text


def plan_retraining(settings: Settings, *, run_id: str, plan: Mapping[str, Any]) -> dict[str, str]:
    """The window of the training run that follows the backfill ``run_id``; its name allows that backfill one."""
    week = _newest_week(settings, Window.parse(plan["start"], plan["end"]))
    return {"run_id": f"after__{run_id}", "start": week.start.date().isoformat(), "end": week.end.date().isoformat()}


def run_backfill(settings: Settings, *, run_id: str, start: str, end: str, options: BackfillOptions) -> str:
    """Plan, do every day, validate and summarise in this process: what the DAG does, without Airflow."""
    plan = plan_backfill(settings, start=start, end=end, options=options)
    days = [backfill_day(settings, run_id=run_id, day=day, options=options) for day in plan["days"]]
    validate_backfill(settings, run_id=run_id, plan=plan)
    return summarise_backfill(settings, plan=plan, days=days)


def _check_retraining(settings: Settings, window: Window, options: BackfillOptions) -> None:
    """Refuse a training run that would learn nothing of what the backfill does, or load other rows over it."""
    week = _newest_week(settings, window)
    oldest = week.end - timedelta(weeks=settings.training_weeks)
    if window.end <= oldest:
        raise ValueError(
            f"training takes the {settings.training_weeks} weeks from {oldest:%Y-%m-%d}, and nothing of this window: "
            "switch Retrain afterwards off"
        )
    if window.end > week.start and not options.relabel_only and options.source != settings.source:
        raise ValueError(
            f"retraining loads {week.start:%Y-%m-%d} to {week.end:%Y-%m-%d} again from {settings.source}, over what "
            f"comes from {options.source} now: switch Retrain afterwards off, or end the window on "
            f"{week.start:%Y-%m-%d}"
        )


def _newest_week(settings: Settings, window: Window) -> Window:
    """The seven whole days up to the newest that the warehouse holds, or will hold once ``window`` is loaded."""
    from dwcp.warehouse.windows import newest_day

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    newest = newest_day(dsn(settings, "loader"))
    end = max(window.end, Window.of_day(newest).end) if newest else window.end
    end = min(end, today)
    return Window(end - timedelta(days=7), end)


def _labels_now(settings: Settings, day: str, regions: Sequence[str] | None) -> pa.Table:
    """Labels as the warehouse has them, validated or not."""
    from dwcp.warehouse.labels import loaded_labels

    return loaded_labels(dsn(settings, "loader"), Window.of_day(date.fromisoformat(day)), regions)


def _labels_of_source(
    settings: Settings, day: str, regions: Sequence[str] | None, source: str | None, oracle: str
) -> pa.Table:
    """Labels as a load would make them; of a transfer logged twice, one row counts."""
    import pyarrow as pa

    from dwcp.warehouse.labels import LABEL_SCHEMA

    window = Window.of_day(date.fromisoformat(day))
    batches = open_source(settings, source).read(window, regions)
    checked = checked_batches(settings, batches, window=window, oracle=oracle)
    labels = pa.Table.from_batches([good.select(LABEL_SCHEMA.names) for good, _ in checked], LABEL_SCHEMA)
    return labels.group_by("transfer_id", use_threads=False).aggregate([("optimal_compression", "first")])


def _flips(before: pa.Table, after: pa.Table) -> Counter[tuple[str | None, str | None]]:
    """How often a transfer's label changes, by (old, new); rows that come or go are no flips."""
    names = ["transfer_id", "label"]
    pairs = before.rename_columns(names).to_pandas().merge(after.rename_columns(names).to_pandas(), on="transfer_id")
    changed = pairs[pairs["label_x"].fillna("") != pairs["label_y"].fillna("")]
    counts = changed.fillna("").groupby(["label_x", "label_y"]).size()
    return Counter({(old or None, new or None): int(rows) for (old, new), rows in counts.items()})
