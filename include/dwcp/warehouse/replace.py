"""Put an extract's rows in the place of a scope's, so that one transfer_id stays one row in the whole warehouse.

Of several rows with one transfer_id the earliest ``timestamp_ns`` is loaded, then the first region, then the first
content in text order. The others are kept in ``duplicate_transfers``: a row that loses to another window's is moved
there, one whose winner a reload took away comes back, and the ledgers of both windows are corrected in the same
transaction. What is loaded therefore depends on the extracts, not on the order in which they were loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from psycopg2 import extensions, sql

from dwcp.contract import COLUMNS
from dwcp.warehouse.transaction import LoadError

LOCK_KEY = 0x6477_6370_0002
"""Advisory lock under which windows change. One for all: a transfer_id may turn up in any two of them."""
ROWS_IN_SCOPE = sql.SQL(
    "timestamp >= %(start)s AND timestamp < %(start)s + INTERVAL '1 day'"
    " AND (%(regions)s::TEXT[] IS NULL OR region = ANY(%(regions)s::TEXT[]))"
)
LEDGER_IN_SCOPE = sql.SQL("day = %(day)s AND (%(regions)s::TEXT[] IS NULL OR region = ANY(%(regions)s::TEXT[]))")
COLUMN_LIST = sql.SQL(", ").join(sql.Identifier(column.name) for column in COLUMNS)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a load replaces: one UTC day of some regions, or of all (None)."""

    day: date
    regions: tuple[str, ...] | None

    @classmethod
    def of(cls, day: date, regions: Sequence[str] | None) -> Scope:
        """Raises ``LoadError`` on an empty list of regions: it could mean none or all."""
        if regions is not None and not regions:
            raise LoadError(f"no region named for {day}: name at least one, or pass None for the whole day")
        return cls(day, None if regions is None else tuple(sorted(set(regions))))

    def __str__(self) -> str:
        return f"{self.day} ({', '.join(self.regions) if self.regions else 'all regions'})"

    def parameters(self) -> dict[str, object]:
        """For ``ROWS_IN_SCOPE`` and ``LEDGER_IN_SCOPE``."""
        start = datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)
        return {"day": self.day, "start": start, "regions": list(self.regions) if self.regions else None}


def lock(cursor: extensions.cursor) -> None:
    """Wait until no other transaction changes windows; held until this one ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))


def try_lock(cursor: extensions.cursor) -> bool:
    """Take the lock if it is free, and say whether it was."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK_KEY,))
    return cursor.fetchone() == (True,)


def delete_rows(cursor: extensions.cursor, scope: Scope) -> None:
    """Delete the scope's rows, loaded and duplicate. The caller holds the lock and inserts others."""
    for table in ("compression_training_data", "duplicate_transfers"):
        delete = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), ROWS_IN_SCOPE)
        cursor.execute(delete, scope.parameters())


def insert_staged(cursor: extensions.cursor, scope: Scope) -> None:
    """Insert what is in ``staged``, which is used up, beside the scope's rows that were loaded meanwhile.

    The caller holds the lock since it deleted the scope's old rows.
    """
    cursor.execute(sql.SQL(_RECALL).format(columns=COLUMN_LIST, in_scope=ROWS_IN_SCOPE), scope.parameters())
    cursor.execute("ANALYZE staged (transfer_id)")  # all 80 columns would cost more than the COPY
    for step in (_DROP_REPEATED, _FIND_CONTENDERS, _DROP_BEATEN, _DISPLACE, _INSERT, _PROMOTE):
        cursor.execute(sql.SQL(step).format(columns=COLUMN_LIST))


# Rows that were loaded before it showed that others claim their transfer_id: they compete like these.
_RECALL = """
WITH recalled AS (
    DELETE FROM compression_training_data WHERE {in_scope}
    AND transfer_id IN (SELECT transfer_id FROM staged UNION ALL SELECT transfer_id FROM duplicate_transfers)
    RETURNING *
)
INSERT INTO staged ({columns}) SELECT {columns} FROM recalled
"""
# Within the extract: all but the first row of a transfer_id are duplicates.
_DROP_REPEATED = """
WITH ranked AS (
    SELECT s.ctid AS place, row_number() OVER (
        PARTITION BY transfer_id ORDER BY timestamp_ns, region COLLATE "C", s::TEXT COLLATE "C", s.ctid
    ) AS rank
    FROM staged AS s
    WHERE transfer_id IN (SELECT transfer_id FROM staged GROUP BY transfer_id HAVING count(*) > 1)
),
lost AS (
    DELETE FROM staged USING ranked WHERE staged.ctid = ranked.place AND ranked.rank > 1 RETURNING staged.*
)
INSERT INTO duplicate_transfers ({columns}) SELECT {columns} FROM lost
"""
# Rows of other windows that claim a staged transfer_id.
_FIND_CONTENDERS = """
CREATE TEMP TABLE contenders ON COMMIT DROP AS
SELECT t.transfer_id, t.timestamp_ns, t.region FROM compression_training_data AS t JOIN staged USING (transfer_id)
UNION ALL
SELECT d.transfer_id, d.timestamp_ns, d.region FROM duplicate_transfers AS d JOIN staged USING (transfer_id)
"""
_DROP_BEATEN = """
WITH lost AS (
    DELETE FROM staged AS s USING contenders AS c
    WHERE c.transfer_id = s.transfer_id
    AND (c.timestamp_ns, c.region COLLATE "C") < (s.timestamp_ns, s.region COLLATE "C")
    RETURNING s.*
)
INSERT INTO duplicate_transfers ({columns}) SELECT {columns} FROM lost
"""
# A staged row that is left beats the loaded row of another window.
_DISPLACE = """
WITH lost AS (
    DELETE FROM compression_training_data AS t USING contenders AS c
    WHERE c.transfer_id = t.transfer_id AND EXISTS (SELECT FROM staged AS s WHERE s.transfer_id = t.transfer_id)
    RETURNING t.*
),
kept AS (
    INSERT INTO duplicate_transfers ({columns}) SELECT {columns} FROM lost
),
change AS (
    SELECT (timestamp AT TIME ZONE 'UTC')::DATE AS day, region, count(*) AS rows FROM lost GROUP BY 1, 2
)
UPDATE ingestion_windows AS w SET rows_loaded = rows_loaded - rows, rows_duplicate = rows_duplicate + rows
FROM change WHERE w.day = change.day AND w.region = change.region
"""
_INSERT = """
INSERT INTO compression_training_data ({columns}) SELECT {columns} FROM staged
"""
# A duplicate whose winner is gone is the earliest now.
_PROMOTE = """
WITH orphan AS (
    SELECT DISTINCT ON (transfer_id) d.ctid AS place FROM duplicate_transfers AS d
    WHERE NOT EXISTS (SELECT FROM compression_training_data AS t WHERE t.transfer_id = d.transfer_id)
    ORDER BY transfer_id, timestamp_ns, region COLLATE "C", d::TEXT COLLATE "C"
),
back AS (
    DELETE FROM duplicate_transfers AS d USING orphan WHERE d.ctid = orphan.place RETURNING d.*
),
kept AS (
    INSERT INTO compression_training_data ({columns}) SELECT {columns} FROM back
),
change AS (
    SELECT (timestamp AT TIME ZONE 'UTC')::DATE AS day, region, count(*) AS rows FROM back GROUP BY 1, 2
)
UPDATE ingestion_windows AS w SET rows_loaded = rows_loaded + rows, rows_duplicate = rows_duplicate - rows
FROM change WHERE w.day = change.day AND w.region = change.region
"""
