"""Rows of validated windows into Arrow, streamed from the server a block at a time.

``COPY ... TO STDOUT`` runs in a thread and feeds Arrow's CSV reader through a pipe, so no row becomes a Python object
and memory is bounded by a block, however large the window.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg2
import pyarrow as pa
from psycopg2 import sql
from pyarrow import csv

from dwcp.contract import BY_NAME, COLUMNS, FULLY_MEASURED, Column
from dwcp.sources.schema import ARROW_TYPES
from dwcp.window import Window

BLOCK_BYTES = 8 << 20


class ReadError(RuntimeError):
    """Rows could not be read to the end. The message says why."""


def _field(column: Column) -> pa.Field:
    timestamp = column.postgres == "TIMESTAMPTZ"
    return pa.field(column.name, pa.timestamp("us", tz="UTC") if timestamp else ARROW_TYPES[column.kind])


WAREHOUSE_SCHEMA = pa.schema([_field(column) for column in COLUMNS])
"""Every column of the contract, in its order."""


def read_training(
    dsn: str, window: Window, columns: Sequence[str] | None = None, regions: Sequence[str] | None = None
) -> pa.Table:
    """The fully measured, labelled rows of validated windows in ``window``, by time, then transfer_id.

    ``columns`` (default: all of the contract) are typed as in ``WAREHOUSE_SCHEMA``. No rows give an empty table.
    """
    batches = stream(dsn, window, columns=columns, regions=regions, labelled=True)
    return pa.Table.from_batches(batches, _schema(columns))


def read_log(
    dsn: str,
    window: Window,
    columns: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    *,
    validated: bool = True,
) -> pa.Table:
    """Like ``read_training``, but all rows, whatever was measured of them.

    With ``validated=False`` those of windows that the quality gate has not passed, too: for the watch, which must see
    harm in the field even then. The reader may not; it takes the loader's or the registry's ``dsn``.
    """
    batches = stream(dsn, window, columns=columns, regions=regions, validated=validated)
    return pa.Table.from_batches(batches, _schema(columns))


def stream(
    dsn: str,
    window: Window,
    *,
    columns: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    labelled: bool = False,
    validated: bool = True,
    oracle: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of the rows that ``read_training`` (``labelled``) or ``read_log`` give, in bounded memory.

    With ``oracle`` a label of another definition reads as none.
    """
    schema = _schema(columns)
    selected: dict[str, sql.Composable] = {name: sql.Identifier(name) for name in schema.names}
    if oracle and "optimal_compression" in selected:
        selected["optimal_compression"] = sql.SQL("CASE WHEN oracle_definition = {} THEN {} END").format(
            sql.Literal(oracle), selected["optimal_compression"]
        )
    condition = sql.SQL(" AND optimal_compression IS NOT NULL AND measured_candidates = {}").format(
        sql.Literal(FULLY_MEASURED)
    )
    query = sql.SQL(
        "SELECT {columns} FROM {table} WHERE timestamp >= {start} AND timestamp < {end}"
        " AND ({regions}::TEXT[] IS NULL OR region = ANY({regions}::TEXT[])){condition}"
        " ORDER BY timestamp_ns, transfer_id"
    ).format(
        columns=sql.SQL(", ").join(selected.values()),
        table=sql.Identifier("validated_training_data" if validated else "compression_training_data"),
        start=sql.Literal(window.start),
        end=sql.Literal(window.end),
        regions=sql.Literal(None if regions is None else list(regions)),
        condition=condition if labelled else sql.SQL(""),
    )
    return stream_query(dsn, query, schema)


def stream_query(dsn: str, query: sql.Composable, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches of what ``query`` selects; ``schema`` names its columns in order. Raises ``ReadError``."""
    read_end, write_end = os.pipe()
    failures: list[Exception] = []
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)

    def feed() -> None:
        try:
            with (
                os.fdopen(write_end, "wb") as sink,
                closing(psycopg2.connect(dsn)) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SET LOCAL TIME ZONE 'UTC'")
                cursor.copy_expert(statement, sink)
        except Exception as error:
            failures.append(error)

    feeder = threading.Thread(target=feed, name="warehouse-read", daemon=True)
    feeder.start()
    try:
        with os.fdopen(read_end, "rb") as pipe:
            first = pipe.peek(1)
            if first:
                yield from _parse(pipe, schema)
    except pa.ArrowInvalid as error:
        feeder.join()
        causes = [failure for failure in failures if not isinstance(failure, BrokenPipeError)]
        raise ReadError(f"the warehouse's rows could not be parsed: {(causes or [error])[0]}") from error
    finally:
        feeder.join()
    if failures:
        raise ReadError(f"the warehouse could not be read: {' '.join(str(failures[0]).split())}") from failures[0]


def _parse(pipe: object, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with csv.open_csv(
        pipe,
        read_options=csv.ReadOptions(column_names=schema.names, block_size=BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    ) as reader:
        yield from reader


def _schema(columns: Sequence[str] | None) -> pa.Schema:
    unknown = set(columns or ()) - set(BY_NAME)
    if unknown:
        raise ReadError(f"no such column in the contract: {', '.join(sorted(unknown))}")
    return pa.schema([WAREHOUSE_SCHEMA.field(name) for name in columns]) if columns else WAREHOUSE_SCHEMA
