"""Extract, check, label and load one UTC day: what the weekly run and a backfill share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING

from dwcp.pipeline.site import dsn
from dwcp.settings import Settings
from dwcp.sources import open_source
from dwcp.window import Window

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)
COUNTS = ("read", "loaded", "quarantined", "duplicate")


def checked_batches(
    settings: Settings, batches: Iterable[pa.RecordBatch], *, window: Window, oracle: str
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Split each batch into good rows with their oracle columns and bad rows with reasons; one batch in memory."""
    from dwcp.oracle import label_batch
    from dwcp.quality.check import check_batch

    ahead_ns = int(settings.max_clock_ahead.total_seconds() * 1e9)
    for batch in batches:
        checked = check_batch(batch, window=window, now_ns=time.time_ns(), max_clock_ahead_ns=ahead_ns)
        good = checked.good
        labels = label_batch(good, oracle)
        for name in labels.schema.names:
            good = good.append_column(name, labels.column(name))
        yield good, checked.bad


def load_day(
    settings: Settings,
    *,
    run_id: str,
    day: str,
    regions: Sequence[str] | None = None,
    source: str | None = None,
    oracle: str | None = None,
) -> dict[str, int | str]:
    """Replace one day (of ``regions``, or whole) in the warehouse by what the source holds.

    Returns the day's counts; read = loaded + quarantined + duplicate. What is read from InfluxDB is archived as well,
    since InfluxDB's retention would otherwise make a model impossible to rebuild.
    """
    from dwcp.sources.archive import archiving
    from dwcp.warehouse import load

    kind = source or settings.source
    oracle = oracle or settings.oracle
    window = Window.of_day(date.fromisoformat(day))
    batches = open_source(settings, kind).read(window, regions)
    if kind == "influxdb":
        batches = archiving(settings.archive_dir, batches)
    counts = load.load_day(
        dsn(settings, "loader"),
        day=date.fromisoformat(day),
        regions=regions,
        run_id=run_id,
        source=kind,
        checked=checked_batches(settings, batches, window=window, oracle=oracle),
        oracle_definition=oracle,
    )
    result = asdict(counts)
    log.info("%s: %s", day, ", ".join(f"{name} {result[name]}" for name in COUNTS))
    return {"day": day, **{name: result[name] for name in COUNTS}}
