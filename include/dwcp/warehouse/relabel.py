"""Label stored rows anew, for another oracle definition or after the oracle was mended, without asking the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
from psycopg2 import extensions, sql

from dwcp.contract import LOGGED
from dwcp.warehouse.reads import WAREHOUSE_SCHEMA, stream_query
from dwcp.warehouse.replace import LEDGER_IN_SCOPE, ROWS_IN_SCOPE, Scope, delete_rows, insert_staged, lock
from dwcp.warehouse.staging import STAGED, Copier, create_staging, loadable
from dwcp.warehouse.transaction import LoadError, change

ORACLE_COLUMNS = (
    "optimal_compression",
    "oracle_definition",
    "cost_hde_ms",
    "cost_amst_ms",
    "cost_none_ms",
    "cost_zstd_ms",
    "oracle_margin_ms",
)
"""What a label function gives back: one row for each of its input, in the types of ``WAREHOUSE_SCHEMA``."""
LOADED = "compression_training_data"
_STORED = (*(column.name for column in LOGGED), "optimal_compression")


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What a relabelling did, or would do."""

    rows: int = 0
    flips: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """(label before, label after) -> rows, where the two differ."""


def relabel_day(
    dsn: str,
    *,
    day: date,
    regions: Sequence[str] | None,
    run_id: str,
    label: Callable[[pa.RecordBatch], pa.RecordBatch],
    oracle_definition: str,
    dry_run: bool = False,
) -> Relabelled:
    """Recompute the labels of ``day`` x ``regions`` from stored measurements, in one transaction.

    ``label`` maps a batch of the logged columns to ``ORACLE_COLUMNS``. Counts and quarantine stay; the windows become
    *loaded*, as other labels need another look of the quality gate. ``dry_run`` changes nothing. Raises ``LoadError``.
    """
    scope = Scope.of(day, regions)
    flips: Counter[tuple[str | None, str | None]] = Counter()
    rows = 0
    with change(dsn, f"relabelling {scope}") as cursor:
        # The rows are read by a second connection; under the lock nobody changes them.
        lock(cursor)
        create_staging(cursor)
        # Built beforehand: while the copier works the cursor is its own.
        queries = [(table, _query(cursor, table, scope)) for table in (LOADED, "duplicate_transfers")]
        with Copier(cursor) as copier:
            for table, stored in ((table, batch) for table, query in queries for batch in _stored(dsn, query)):
                labels = label(stored.select([column.name for column in LOGGED]))
                if labels.num_rows != stored.num_rows:
                    raise LoadError(f"relabelling {scope}: {stored.num_rows} rows got {labels.num_rows} labels")
                if table == LOADED:
                    rows += stored.num_rows
                    flips += _flips(stored["optimal_compression"], labels["optimal_compression"])
                if not dry_run:
                    copier.copy(STAGED, loadable(_with_labels(stored, labels), scope, run_id))
            copier.finish()
        if not dry_run:
            delete_rows(cursor, scope)
            insert_staged(cursor, scope)
            cursor.execute(
                sql.SQL(
                    "UPDATE ingestion_windows SET state = 'loaded', oracle_definition = %(definition)s,"
                    " ingestion_run_id = %(run_id)s, loaded_at = clock_timestamp(), validation_run_id = NULL,"
                    " validated_at = NULL, failure = NULL WHERE {}"
                ).format(LEDGER_IN_SCOPE),
                {**scope.parameters(), "definition": oracle_definition, "run_id": run_id},
            )
    return Relabelled(rows, flips)


def _query(cursor: extensions.cursor, table: str, scope: Scope) -> sql.Composable:
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(sql.Identifier, _STORED)), sql.Identifier(table), ROWS_IN_SCOPE
    )
    return sql.SQL(cursor.mogrify(query, scope.parameters()).decode())


def _stored(dsn: str, query: sql.Composable) -> Iterator[pa.RecordBatch]:
    return stream_query(dsn, query, pa.schema([WAREHOUSE_SCHEMA.field(name) for name in _STORED]))


def _with_labels(stored: pa.RecordBatch, labels: pa.RecordBatch) -> pa.RecordBatch:
    columns = {column.name: stored[column.name] for column in LOGGED}
    return pa.RecordBatch.from_pydict({**columns, **{name: labels[name] for name in ORACLE_COLUMNS}})


def _flips(before: pa.Array, after: pa.Array) -> Counter[tuple[str | None, str | None]]:
    pairs = pa.table({"before": before, "after": after}).group_by(["before", "after"]).aggregate([([], "count_all")])
    return Counter(
        {
            (pair["before"], pair["after"]): pair["count_all"]
            for pair in pairs.to_pylist()
            if pair["before"] != pair["after"]
        }
    )
