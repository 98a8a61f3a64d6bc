"""Load one UTC day of transfers: replace exactly what was extracted, in one transaction.

A load may run twice, or twice at once: the replacement works under an advisory lock and depends on the extract alone,
so the same extract gives the same rows (``id`` and ``ingestion_run_id`` aside). Whatever breaks on the way, a source
that fails or a server that is killed, leaves the old rows.

A load that finds the lock free copies rows straight into the table while it reads on, and sets aside in ``staged``
those whose ``transfer_id`` is taken. One that finds it held stages everything meanwhile and replaces when its turn
comes. Both end in the same steps (``replace``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from psycopg2 import extensions, sql
from psycopg2.extras import execute_values

from dwcp.contract import REGIONS
from dwcp.warehouse.replace import (
    LEDGER_IN_SCOPE,
    ROWS_IN_SCOPE,
    Scope,
    delete_rows,
    insert_staged,
    lock,
    try_lock,
)
from dwcp.warehouse.staging import (
    REGION_MAX,
    STAGED,
    STAGED_BAD,
    Copier,
    create_bad_staging,
    create_staging,
    loadable,
    storable,
)
from dwcp.warehouse.transaction import LoadError, change

NO_REGION = "(none)"
"""The ledger's region of quarantined rows that have none, or one too long to be one."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows that were read."""

    read: int = 0
    loaded: int = 0
    quarantined: int = 0
    duplicate: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.loaded + other.loaded,
            self.quarantined + other.quarantined,
            self.duplicate + other.duplicate,
        )

    @property
    def reconciled(self) -> bool:
        """Whether every row that was read is accounted for."""
        return self.read == self.loaded + self.quarantined + self.duplicate


def load_day(
    dsn: str,
    *,
    day: date,
    regions: Sequence[str] | None,
    run_id: str,
    source: str,
    checked: Iterator[tuple[pa.RecordBatch, pa.RecordBatch]],
    oracle_definition: str,
) -> Counts:
    """Replace ``day`` x ``regions`` (the whole day if None) by what ``checked`` yields, and enter it in the ledger.

    Each item is a pair of batches: good rows with the contract's columns (``timestamp`` and ``ingestion_run_id`` are
    set here), and bad ones with the logged columns and ``reason``. The window's state becomes *loaded*, whatever it
    was; a region without rows is entered with zeros. Needs the loader's ``dsn``. Raises ``LoadError``; errors of the
    iterator pass through. Either way nothing changes.
    """
    scope = Scope.of(day, regions)
    with change(dsn, f"loading {scope}") as cursor:
        read: Counter[str] = Counter()
        create_staging(cursor)
        create_bad_staging(cursor)
        if ours := try_lock(cursor):
            delete_rows(cursor, scope)
        with Copier(cursor) as copier:
            for good, bad in checked:
                read.update(_rows_by_region(good, scope))
                read.update(_rows_by_region(bad, scope))
                if ours:
                    copier.load(loadable(good, scope, run_id))
                else:
                    copier.copy(STAGED, loadable(good, scope, run_id))
                copier.copy(STAGED_BAD, storable(bad))
            copier.finish()
        if not ours:
            lock(cursor)
            delete_rows(cursor, scope)
        insert_staged(cursor, scope)
        _replace_quarantine(cursor, scope, run_id, source)
        counts = _count(cursor, scope, read)
        _enter(cursor, scope, counts, (oracle_definition, run_id, source))
    return sum(counts.values(), Counts())


def _rows_by_region(rows: pa.RecordBatch, scope: Scope) -> dict[str, int]:
    """Rows per region, as the ledger names it. Raises ``LoadError`` on a region that was not asked for."""
    counted: Counter[str] = Counter()
    for item in pc.value_counts(rows["region"]).to_pylist():
        region = item["values"]
        known = region is not None and len(region) <= REGION_MAX
        counted[region.replace("\0", "\ufffd") if known else NO_REGION] += item["counts"]
    foreign = set(counted) - set(scope.regions or counted)
    if foreign:
        raise LoadError(f"the source gave rows of region {', '.join(sorted(foreign))}, but {scope} was asked for")
    return counted


def _replace_quarantine(cursor: extensions.cursor, scope: Scope, run_id: str, source: str) -> None:
    cursor.execute(sql.SQL("DELETE FROM quarantined_transfers WHERE {}").format(LEDGER_IN_SCOPE), scope.parameters())
    cursor.execute(
        "INSERT INTO quarantined_transfers (ingestion_run_id, day, region, reason, transfer_id, source, raw)"
        " SELECT %s, %s, CASE WHEN char_length(region) <= %s THEN region ELSE %s END, reason, transfer_id, %s,"
        " to_jsonb(staged_bad) - 'reason' FROM staged_bad",
        (run_id, scope.day, REGION_MAX, NO_REGION, source),
    )


def _count(cursor: extensions.cursor, scope: Scope, read: Mapping[str, int]) -> dict[str, Counts]:
    """Per region, what was read beside what the tables hold now. Raises ``LoadError`` if they do not reconcile."""
    loaded = _rows_in(cursor, "compression_training_data", ROWS_IN_SCOPE, scope)
    duplicate = _rows_in(cursor, "duplicate_transfers", ROWS_IN_SCOPE, scope)
    quarantined = _rows_in(cursor, "quarantined_transfers", LEDGER_IN_SCOPE, scope)
    entered = _rows_in(cursor, "ingestion_windows", LEDGER_IN_SCOPE, scope)
    regions = scope.regions or sorted({*REGIONS, *read, *entered})
    counts = {
        region: Counts(read.get(region, 0), loaded.get(region, 0), quarantined.get(region, 0), duplicate.get(region, 0))
        for region in regions
    }
    for region, count in counts.items():
        if not count.reconciled:
            raise LoadError(f"{scope.day} {region} does not reconcile and was not loaded: {count}")
    return counts


def _rows_in(cursor: extensions.cursor, table: str, condition: sql.SQL, scope: Scope) -> dict[str, int]:
    query = sql.SQL("SELECT region, count(*) FROM {} WHERE {} GROUP BY region").format(sql.Identifier(table), condition)
    cursor.execute(query, scope.parameters())
    return dict(cursor.fetchall())


def _enter(cursor: extensions.cursor, scope: Scope, counts: Mapping[str, Counts], what: tuple[str, str, str]) -> None:
    execute_values(
        cursor,
        "INSERT INTO ingestion_windows AS w (day, region, rows_read, rows_loaded, rows_quarantined, rows_duplicate,"
        " oracle_definition, ingestion_run_id, source, state, loaded_at) VALUES %s"
        " ON CONFLICT (day, region) DO UPDATE SET (rows_read, rows_loaded, rows_quarantined, rows_duplicate,"
        " oracle_definition, ingestion_run_id, source, state, loaded_at, validation_run_id, validated_at, failure) ="
        " (excluded.rows_read, excluded.rows_loaded, excluded.rows_quarantined, excluded.rows_duplicate,"
        " excluded.oracle_definition, excluded.ingestion_run_id, excluded.source, excluded.state, excluded.loaded_at,"
        " NULL, NULL, NULL)",
        [
            (scope.day, region, count.read, count.loaded, count.quarantined, count.duplicate, *what)
            for region, count in counts.items()
        ],
        template="(%s, %s, %s, %s, %s, %s, %s, %s, %s, 'loaded', clock_timestamp())",
    )
