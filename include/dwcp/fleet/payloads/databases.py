"""Databases: SQLite files, logs, exports under inserts, updates (half of them on a hot range) and deletes."""

from __future__ import annotations

import io
import math
import random
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dwcp.fleet import corpus
from dwcp.fleet.payloads.objects import Maker, Spec

_SMALL_BYTES = 32 << 10
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Schema:
    """Tables ``t(id, a, b, c, d)``: how ``id`` is kept, further statements, and what a row holds after its id."""

    row: Callable[[int, random.Random, bytes], Row]
    key: str = "id INTEGER PRIMARY KEY"
    without_rowid: bool = False
    extra: tuple[str, ...] = ("CREATE INDEX t_a ON t (a)",)


def _excerpt(text: bytes, rng: random.Random, most: int) -> str:
    at = rng.randrange(max(1, len(text) - most))
    return text[at : at + rng.randrange(most // 6, most)].decode("latin-1")


def _order(_number: int, rng: random.Random, _text: bytes) -> Row:
    return f"customer-{rng.randrange(5_000)}", rng.randrange(1, 50), round(rng.uniform(1, 900), 2), "open"


def _document(number: int, rng: random.Random, text: bytes) -> Row:
    return f"page {number}", rng.randrange(9), 0.0, _excerpt(text, rng, 600)


def _session(_number: int, rng: random.Random, _text: bytes) -> Row:
    return rng.randbytes(24).hex(), rng.randrange(10**9), rng.random(), rng.randbytes(16).hex()


def _reading(number: int, rng: random.Random, _text: bytes) -> Row:
    return f"sensor-{number % 97}", number, math.sin(number / 50) + rng.gauss(0, 0.05), None


def _blob(_number: int, rng: random.Random, text: bytes) -> Row:
    at = rng.randrange(max(1, len(text) - 600))
    return "blob", len(text), 0.0, zlib.compress(text[at : at + 600])


def _cell(number: int, rng: random.Random, _text: bytes) -> Row:
    return f"{rng.choice('nesw')}{number % 40}", rng.randrange(4), rng.randrange(100) / 4, rng.randbytes(180)


def _ledger(number: int, rng: random.Random, text: bytes) -> Row:
    amount = round(rng.lognormvariate(3, 1), 2)
    return f"DE{rng.randrange(10**18):018d}", 1_700_000_000 + number * 7, amount, _excerpt(text, rng, 60)


SCHEMAS = {
    "orders": _Schema(_order),
    "documents": _Schema(_document),
    "sessions": _Schema(_session),
    "readings": _Schema(_reading),
    "blobs": _Schema(_blob, extra=()),
    "tiles": _Schema(_cell, extra=("CREATE INDEX t_ab ON t (a, b)",)),
    "ledger": _Schema(_ledger, extra=("CREATE INDEX t_a ON t (a)", "CREATE INDEX t_b ON t (b)")),
    "keyed": _Schema(_session, key="id TEXT PRIMARY KEY", without_rowid=True, extra=()),
}


class _Database:
    """A database file in use."""

    def __init__(self, path: Path, schema: _Schema, spec: Spec, rng: random.Random) -> None:
        self.path, self.schema, self.rng = path, schema, rng
        self.text = corpus.take("text", 1 << 18, rng)
        self.rows = 0
        self.connection = sqlite3.connect(path, isolation_level=None)
        run = self.connection.execute
        run(f"PRAGMA page_size = {1_024 if spec.size < _SMALL_BYTES else 4_096}")
        run("PRAGMA synchronous = OFF")
        run(f"CREATE TABLE t ({schema.key}, a TEXT, b INTEGER, c REAL, d)" + " WITHOUT ROWID" * schema.without_rowid)
        for statement in schema.extra:
            run(statement)

    def _key(self, number: int) -> object:
        return f"{zlib.crc32(b'%d' % number):08x}-{number}" if self.schema.without_rowid else number

    def _new(self, number: int) -> Row:
        return self._key(number), *self.schema.row(number, self.rng, self.text)

    def insert(self, count: int) -> None:
        rows = [self._new(self.rows + n) for n in range(count)]
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        self.connection.execute("COMMIT")
        self.rows += count

    def fill(self, size: int, bytes_used: Callable[[], int]) -> None:
        while (missing := size - bytes_used()) > 0:
            self.insert(max(4, min(20_000, missing // 300)))

    def work(self, dirty: float) -> None:
        """Change about ``dirty`` of the rows; a tenth as many are deleted, an eighth as many inserted."""
        changes = max(1, int(self.rows * dirty / 2))
        hot = self.rng.randrange(self.rows)
        targets = [
            (hot + change) % self.rows if change % 2 else self.rng.randrange(self.rows) for change in range(changes)
        ]
        news = [self._new(target) for target in targets]
        gone = [(self._key(self.rng.randrange(self.rows)),) for _ in range(changes // 10)]
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "UPDATE t SET b = ?, c = ?, d = ? WHERE id = ?", [(*new[2:], new[0]) for new in news]
        )
        self.connection.executemany("DELETE FROM t WHERE id = ?", gone)
        self.connection.execute("COMMIT")
        self.insert(changes // 8)


def _versions(spec: Spec, schema: str, look: Callable[[_Database], bytes], fill: float = 1.0) -> Iterator[bytes]:
    """What ``look`` sees after each step. ``fill``: bytes of the file for each byte asked."""
    with tempfile.TemporaryDirectory() as folder:
        database = _Database(Path(folder, "database.sqlite"), SCHEMAS[schema], spec, spec.rng())
        try:
            database.fill(int(spec.size * fill), lambda: database.path.stat().st_size)
            yield look(database)
            for _ in range(spec.versions - 1):
                database.work(spec.dirty)
                yield look(database)
        finally:
            database.connection.close()


def _file(database: _Database) -> bytes:
    return database.path.read_bytes()


def _vacuumed(database: _Database) -> bytes:
    """A copy without free pages, every row in its order, as a backup makes it."""
    copy = database.path.with_suffix(".copy")
    database.connection.execute("VACUUM INTO ?", (str(copy),))
    data = copy.read_bytes()
    copy.unlink()
    return data


def _dump(database: _Database) -> bytes:
    return "\n".join(database.connection.iterdump()).encode()


def _table(database: _Database) -> Sequence[Sequence[object]]:
    columns = zip(*database.connection.execute("SELECT id, a, b, c, d FROM t ORDER BY id"), strict=True)
    return list(columns)


def _csv(database: _Database) -> bytes:
    import csv

    out = io.StringIO()
    csv.writer(out).writerows(database.connection.execute("SELECT id, a, b, c, d FROM t ORDER BY id"))
    return out.getvalue().encode()


def _parquet(database: _Database, compression: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pa.table(dict(zip("iabcd", _table(database), strict=True)))
    pq.write_table(table, out, compression=compression, row_group_size=20_000)
    return out.getvalue()


def _arrow(database: _Database) -> bytes:
    import pyarrow as pa

    table = pa.table(dict(zip("iabcd", _table(database), strict=True)))
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    return out.getvalue()


def _write_ahead_log(spec: Spec) -> Iterator[bytes]:
    """SQLite's log of changed pages: it grows to the size asked, and is then overwritten from its start."""
    rng = spec.rng()
    with tempfile.TemporaryDirectory() as folder:
        database = _Database(Path(folder, "database.sqlite"), SCHEMAS["orders"], spec, rng)
        log = Path(folder, "database.sqlite-wal")
        try:
            for statement in ("journal_mode = WAL", "wal_autocheckpoint = 0"):
                database.connection.execute(f"PRAGMA {statement}").fetchall()
            database.insert(max(20, spec.size // 400))
            while log.stat().st_size < spec.size:
                database.work(0.02)
            yield log.read_bytes()
            for _ in range(spec.versions - 1):
                database.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                database.work(spec.dirty)
                yield log.read_bytes()
        finally:
            database.connection.close()


KINDS: dict[str, Maker] = {
    **{name: partial(_versions, schema=name, look=_file) for name in SCHEMAS},
    "compacted": partial(_versions, schema="documents", look=_vacuumed),
    "log": _write_ahead_log,
    "dump": partial(_versions, schema="ledger", look=_dump, fill=1.6),
    "csv": partial(_versions, schema="orders", look=_csv, fill=1.5),
    "parquet_plain": partial(_versions, schema="readings", look=partial(_parquet, compression="none"), fill=2.0),
    "parquet_snappy": partial(_versions, schema="orders", look=partial(_parquet, compression="snappy"), fill=3.0),
    "arrow": partial(_versions, schema="sessions", look=_arrow, fill=1.7),
}
