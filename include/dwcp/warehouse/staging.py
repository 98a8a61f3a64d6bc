"""Batches into temporary tables, by COPY of CSV that Arrow writes: no row passes through Python."""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import extensions, sql
from pyarrow import csv

from dwcp.contract import BY_NAME, COLUMNS, LOGGED, Kind
from dwcp.warehouse.replace import Scope
from dwcp.warehouse.transaction import LoadError
from dwcp.window import Window

COPY_ROWS = 16_384
"""Rows that one COPY takes; with the source's batch it bounds the memory of a load."""
REGION_MAX = BY_NAME["region"].max_length or 0
_POSTGRES_TYPES = {Kind.FLOAT: "FLOAT", Kind.INTEGER: "BIGINT", Kind.STRING: "TEXT"}
_NUL, _REPLACEMENT = "\0", "\ufffd"


class Copier:
    """COPY in a thread of its own, so that the server parses one block while the next is read, checked and labelled.

    One block waits at most, which bounds the memory. Inside ``with`` nobody else may use the cursor before ``finish``.
    """

    def __init__(self, cursor: extensions.cursor) -> None:
        self._cursor = cursor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warehouse-copy")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def copy(self, table: str, rows: pa.Table) -> None:
        """Append ``rows`` to ``table``. An error of an earlier block is raised here or by ``finish``."""
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, rows.schema.names))
        )
        for start in range(0, rows.num_rows, COPY_ROWS):
            buffer = io.BytesIO()
            csv.write_csv(rows.slice(start, COPY_ROWS), buffer, csv.WriteOptions(include_header=False))
            buffer.seek(0)
            self.finish()
            self._pending = self._thread.submit(self._cursor.copy_expert, statement, buffer)

    def finish(self) -> None:
        """Wait until everything is copied."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def create_staging(cursor: extensions.cursor) -> None:
    """An empty ``staged`` with the contract's columns, for this transaction."""
    cursor.execute("CREATE TEMP TABLE staged (LIKE duplicate_transfers) ON COMMIT DROP")


def create_bad_staging(cursor: extensions.cursor) -> None:
    """An empty ``staged_bad``: the logged columns without any bound, and ``reason``."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(_POSTGRES_TYPES[column.kind])) for column in LOGGED
    )
    cursor.execute(sql.SQL("CREATE TEMP TABLE staged_bad ({}, reason TEXT) ON COMMIT DROP").format(columns))


def stage(copier: Copier, good: pa.RecordBatch, scope: Scope, run_id: str) -> None:
    """COPY labelled rows into ``staged``. Raises ``LoadError`` if one lies outside ``scope`` or a column is missing."""
    if good.num_rows == 0:
        return
    window = Window.of_day(scope.day)
    bounds = pc.min_max(good["timestamp_ns"]).as_py()
    if bounds["min"] < window.start_ns or bounds["max"] >= window.end_ns:
        raise LoadError(f"the source gave rows outside {scope}: {bounds['min']} to {bounds['max']} ns since 1970")
    ours = {
        "timestamp": pc.divide(good["timestamp_ns"], 1_000).cast(pa.timestamp("us", tz="UTC")),
        "ingestion_run_id": pa.repeat(pa.scalar(run_id), good.num_rows),
    }
    names = [column.name for column in COLUMNS]
    missing = set(names) - set(ours) - set(good.schema.names)
    if missing:
        raise LoadError(f"rows to load lack {', '.join(sorted(missing))}: label them before loading")
    copier.copy("staged", pa.table({name: ours[name] if name in ours else good[name] for name in names}))


def stage_bad(copier: Copier, bad: pa.RecordBatch) -> None:
    """COPY rows that broke the contract into ``staged_bad``. Postgres' text cannot hold NUL: it becomes U+FFFD."""
    columns = {}
    for name in (*(column.name for column in LOGGED), "reason"):
        values = bad[name]
        if pa.types.is_string(values.type):
            values = pc.replace_substring(values, _NUL, _REPLACEMENT)
        columns[name] = values
    copier.copy("staged_bad", pa.table(columns))
