"""One validated window as a file for people: Parquet or CSV, by its suffix (seed §5.1)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet as pq

from dwcp.warehouse.reads import WAREHOUSE_SCHEMA, stream
from dwcp.window import Window


class ExportError(RuntimeError):
    """Nothing was exported, and an older file at the path stays. The message says why."""


def export_window(
    dsn: str, window: Window, path: Path, *, regions: Sequence[str] | None = None, labelled: bool = True
) -> int:
    """Write the labelled rows of ``window`` (all rows with ``labelled=False``) to ``path`` and return how many.

    Streams in bounded memory; the file appears whole or not at all. Raises ``ExportError`` on another suffix than
    ``.parquet`` or ``.csv``, and if there is nothing to export.
    """
    if path.suffix not in _WRITERS:
        raise ExportError(f"cannot tell the format of {path.name}: end it with .parquet or .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    building = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            rows = _write(file, path.suffix, stream(dsn, window, regions=regions, labelled=labelled))
            file.flush()
            os.fsync(file.fileno())
        if rows == 0:
            what = "labelled rows" if labelled else "rows"
            raise ExportError(
                f"no {what} in validated windows from {window.start.isoformat()} to {window.end.isoformat()}: "
                "load and validate the window first"
            )
        building.chmod(0o644)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
    return rows


_WRITERS: dict[str, Any] = {".parquet": pq.ParquetWriter, ".csv": csv.CSVWriter}


def _write(file: Any, suffix: str, batches: Iterator[pa.RecordBatch]) -> int:
    rows = 0
    with _WRITERS[suffix](file, WAREHOUSE_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
