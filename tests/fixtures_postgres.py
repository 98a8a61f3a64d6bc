"""A real Postgres for tests: one server a session, and databases copied from one that was migrated once.

``warehouse`` is shared by the tests of a module, ``fresh_warehouse`` belongs to one test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest

from dwcp.oracle import label_batch
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.warehouse import server
from dwcp.warehouse.load import Counts, load_day
from dwcp.warehouse.migrate import migrate
from dwcp.warehouse.windows import mark_validated
from dwcp.window import Window

_TEMPLATE = "template_warehouse"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Warehouse:
    """A migrated database that nobody else uses, and how each role gets in (libpq URIs)."""

    server: server.ServerInfo
    database: str

    @property
    def owner_dsn(self) -> str:
        return self.server.dsn("dwcp_owner", self.database)

    @property
    def loader_dsn(self) -> str:
        return self.server.dsn("dwcp_loader", self.database)

    @property
    def reader_dsn(self) -> str:
        return self.server.dsn("dwcp_reader", self.database)

    @property
    def registry_dsn(self) -> str:
        return self.server.dsn("dwcp_registry", self.database)

    def load(
        self,
        good: pa.Table,
        *,
        bad: pa.Table | None = None,
        day: date | None = None,
        regions: Sequence[str] | None = None,
        run_id: str = "run-1",
        definition: str = "seed_3_1",
        batch_rows: int = 300,
    ) -> Counts:
        """Label logged transfers, batch by batch, and load them as one day (default: their first row's)."""
        if day is None:
            day = datetime.fromtimestamp(good["timestamp_ns"][0].as_py() // 10**9, UTC).date()
        return load_day(
            self.loader_dsn,
            day=day,
            regions=regions,
            run_id=run_id,
            source="archive",
            checked=checked_batches(good, bad, definition, batch_rows),
            oracle_definition=definition,
        )

    def validate(self, *days: date) -> None:
        """Mark the days as if the quality gate had passed them."""
        for day in days:
            mark_validated(self.loader_dsn, Window.of_day(day), run_id="gate-1")

    def query(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """What the owner sees."""
        with closing(psycopg2.connect(self.owner_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def execute(self, statement: str, parameters: object = None, *, dsn: str | None = None) -> None:
        """Do it as the owner, or as whoever ``dsn`` lets in, and commit."""
        with closing(psycopg2.connect(dsn or self.owner_dsn)) as connection:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
            connection.commit()


def checked_batches(
    good: pa.Table, bad: pa.Table | None = None, definition: str = "seed_3_1", rows: int = 300
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """What the contract's check and the oracle hand to a load: pairs of labelled good rows and bad ones."""
    reason = pa.field("reason", pa.string())
    nothing = pa.RecordBatch.from_pylist([], LOGGED_SCHEMA.append(reason))
    for start in range(0, good.num_rows, rows):
        batch = good.slice(start, rows).combine_chunks().to_batches()[0]
        labels = label_batch(batch, definition)
        for name in labels.schema.names:
            batch = batch.append_column(name, labels.column(name))
        yield batch, nothing
    if bad is not None:
        empty = label_batch(good.slice(0, 0), definition)
        none = pa.RecordBatch.from_pylist([], LOGGED_SCHEMA)
        for name in empty.schema.names:
            none = none.append_column(name, empty.column(name))
        for batch in bad.to_batches():
            yield none, batch


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.ServerInfo]:
    """The session's own embedded server, in a temporary directory; stopped at the end."""
    home: Path = tmp_path_factory.mktemp("postgres-home")
    try:
        info = server.ensure_running(home)
        with closing(psycopg2.connect(info.dsn(server.SUPERUSER, "postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                # Nothing here must outlive a power cut, and fsync is most of a small test's time.
                cursor.execute("ALTER SYSTEM SET fsync = off")
                cursor.execute("SELECT pg_reload_conf()")
        yield info
    finally:
        server.stop(home)


@pytest.fixture(scope="session")
def _template(postgres_server: server.ServerInfo) -> str:
    server.create_database(postgres_server, _TEMPLATE)
    migrate(postgres_server.dsn("dwcp_owner", _TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="module")
def warehouse(postgres_server: server.ServerInfo, _template: str) -> Iterator[Warehouse]:
    """A migrated, empty warehouse for the tests of one module."""
    with _copy(postgres_server, _template) as copy:
        yield copy


@pytest.fixture
def fresh_warehouse(postgres_server: server.ServerInfo, _template: str) -> Iterator[Warehouse]:
    """A migrated, empty warehouse for one test."""
    with _copy(postgres_server, _template) as copy:
        yield copy


@contextmanager
def _copy(info: server.ServerInfo, template: str) -> Iterator[Warehouse]:
    name = f"warehouse_{next(_numbers)}"
    server.create_database(info, name, template=template)
    try:
        yield Warehouse(info, name)
    finally:
        server.drop_database(info, name)
