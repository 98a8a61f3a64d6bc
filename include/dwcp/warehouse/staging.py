"""Batches into the warehouse's tables, by binary COPY in a thread beside the one that reads, checks and labels."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import errors, extensions, sql

from dwcp.contract import BY_NAME, COLUMNS, LOGGED, Kind
from dwcp.warehouse.binary import encode
from dwcp.warehouse.replace import Scope
from dwcp.warehouse.transaction import LoadError
from dwcp.window import Window

COPY_ROWS = 16_384
"""Rows that one COPY takes; with the source's batch it bounds the memory of a load."""
REGION_MAX = BY_NAME["region"].max_length or 0
_POSTGRES_TYPES = {Kind.FLOAT: "FLOAT", Kind.INTEGER: "BIGINT", Kind.STRING: "TEXT"}
_NUL, _REPLACEMENT = "\0", "\ufffd"
_SEND_BYTES = 1 << 20
"""Sent at a time: each piece costs a turn at the interpreter, which the other thread may hold for milliseconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """A table that batches are copied into, and the Postgres types of the columns that are."""

    table: str
    types: Mapping[str, str]


LOADED = Target("compression_training_data", MappingProxyType({column.name: column.postgres for column in COLUMNS}))
STAGED = Target("staged", LOADED.types)
STAGED_BAD = Target(
    "staged_bad",
    MappingProxyType({column.name: _POSTGRES_TYPES[column.kind] for column in LOGGED} | {"reason": "TEXT"}),
)


class Copier:
    """COPY in a thread of its own, so that the server works on one block while the next is read, checked and labelled.

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

    def copy(self, target: Target, rows: pa.RecordBatch) -> None:
        """Append ``rows`` to ``target``. An error of an earlier block is raised here or by ``finish``."""
        for block in _blocks(rows):
            self._submit(self._sender(target, block))

    def load(self, rows: pa.RecordBatch) -> None:
        """Append ``rows`` to the training table; those whose ``transfer_id`` is taken to ``staged``."""
        for block in _blocks(rows):
            self._submit(partial(self._load, block, self._sender(LOADED, block)))

    def finish(self) -> None:
        """Wait until everything is copied."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _submit(self, work: Callable[[], None]) -> None:
        self.finish()
        self._pending = self._thread.submit(work)

    def _sender(self, target: Target, rows: pa.RecordBatch) -> Callable[[], None]:
        """Encode now, in the caller's thread; send when called."""
        names, message = encode(rows, target.types)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier(target.table), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        return lambda: self._cursor.copy_expert(statement, io.BytesIO(message), _SEND_BYTES)

    def _load(self, rows: pa.RecordBatch, send: Callable[[], None]) -> None:
        self._cursor.execute("SAVEPOINT block")
        try:
            send()
        except errors.UniqueViolation:
            self._cursor.execute("ROLLBACK TO SAVEPOINT block")
            taken = self._taken(rows["transfer_id"])
            for target, some in ((LOADED, rows.filter(pc.invert(taken))), (STAGED, rows.filter(taken))):
                if some.num_rows:
                    self._sender(target, some)()
        self._cursor.execute("RELEASE SAVEPOINT block")

    def _taken(self, transfer_ids: pa.Array) -> pa.Array:
        """Which ids are loaded already, or occur more than once among these."""
        counted = pc.value_counts(transfer_ids)
        repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
        self._cursor.execute(
            "SELECT transfer_id FROM compression_training_data WHERE transfer_id = ANY(%s)", (transfer_ids.to_pylist(),)
        )
        loaded = pa.array([name for (name,) in self._cursor.fetchall()], pa.string())
        return pc.is_in(transfer_ids, value_set=pa.concat_arrays([repeated, loaded]))


def create_staging(cursor: extensions.cursor) -> None:
    """An empty ``staged`` with the contract's columns, for this transaction."""
    cursor.execute("CREATE TEMP TABLE staged (LIKE duplicate_transfers) ON COMMIT DROP")


def create_bad_staging(cursor: extensions.cursor) -> None:
    """An empty ``staged_bad``: the logged columns without any bound, and ``reason``."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(postgres)) for name, postgres in STAGED_BAD.types.items()
    )
    cursor.execute(sql.SQL("CREATE TEMP TABLE staged_bad ({}) ON COMMIT DROP").format(columns))


def loadable(good: pa.RecordBatch, scope: Scope, run_id: str) -> pa.RecordBatch:
    """Labelled rows with the columns that a load sets itself.

    Raises ``LoadError`` if one lies outside ``scope`` or a column is missing.
    """
    window = Window.of_day(scope.day)
    bounds = pc.min_max(good["timestamp_ns"]).as_py()
    if good.num_rows and (bounds["min"] < window.start_ns or bounds["max"] >= window.end_ns):
        raise LoadError(f"the source gave rows outside {scope}: {bounds['min']} to {bounds['max']} ns since 1970")
    ours = {
        "timestamp": pc.divide(good["timestamp_ns"], 1_000).cast(pa.timestamp("us", tz="UTC")),
        "ingestion_run_id": pa.repeat(pa.scalar(run_id), good.num_rows),
    }
    missing = set(LOADED.types) - set(ours) - set(good.schema.names)
    if missing:
        raise LoadError(f"rows to load lack {', '.join(sorted(missing))}: label them before loading")
    return pa.RecordBatch.from_pydict({name: ours[name] if name in ours else good[name] for name in LOADED.types})


def storable(bad: pa.RecordBatch) -> pa.RecordBatch:
    """Rows that broke the contract, for ``staged_bad``. Postgres' text cannot hold NUL: it becomes U+FFFD."""
    columns = {}
    for name in STAGED_BAD.types:
        values = bad[name]
        if pa.types.is_string(values.type):
            values = pc.replace_substring(values, _NUL, _REPLACEMENT)
        columns[name] = values
    return pa.RecordBatch.from_pydict(columns)


def _blocks(rows: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [rows.slice(start, COPY_ROWS) for start in range(0, rows.num_rows, COPY_ROWS)]
