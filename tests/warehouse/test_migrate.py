"""Migrations: the table they make, and that they are applied once, unchanged, by one at a time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from dwcp.contract import COLUMNS, FEATURES
from dwcp.warehouse import server
from dwcp.warehouse.files import SQL_DIR
from dwcp.warehouse.migrate import MigrationError, migrate, read_migrations
from fixtures_postgres import Warehouse
from transfers import START, make_transfers

SPELLED = {"double precision": "FLOAT", "integer": "INT", "bigint": "BIGINT", "timestamp with time zone": "TIMESTAMPTZ"}


@pytest.fixture
def empty(postgres_server: server.ServerInfo) -> Iterator[Warehouse]:
    """A database without a single migration."""
    server.create_database(postgres_server, "empty")
    yield Warehouse(postgres_server, "empty")
    server.drop_database(postgres_server, "empty")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (n INT);")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE two (n INT); SELECT pg_sleep(0.2);")
    return tmp_path


def columns(warehouse: Warehouse, table: str) -> dict[str, str]:
    found = warehouse.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = %s",
        (table,),
    )
    return {name: f"VARCHAR({size})" if size else SPELLED[kind] for name, kind, size in found}


def test_the_table_has_exactly_the_contracts_columns(warehouse: Warehouse) -> None:
    expected = {column.name: column.postgres for column in COLUMNS}
    assert columns(warehouse, "compression_training_data") == {"id": "BIGINT", **expected}
    assert columns(warehouse, "duplicate_transfers") == expected


def test_beside_the_contracts_own_columns_null_means_null(warehouse: Warehouse) -> None:
    found = dict(
        warehouse.query(
            "SELECT column_name, is_nullable FROM information_schema.columns WHERE table_schema = 'public' "
            "AND table_name = 'compression_training_data'"
        )
    )
    further = {column.name: "YES" if column.nullable else "NO" for column in COLUMNS if not column.seed}
    assert {name: found[name] for name in further} == further
    seeds = {column.name for column in COLUMNS if column.seed and column.name != "timestamp"}
    assert {found[name] for name in seeds} == {"YES"}  # the seed's table, exactly


def test_the_table_has_the_seeds_indexes_and_one_natural_key(warehouse: Warehouse) -> None:
    indexes = warehouse.query("SELECT indexdef FROM pg_indexes WHERE tablename = 'compression_training_data'")
    table = "ON public.compression_training_data USING btree"
    assert {definition for (definition,) in indexes} == {
        f"CREATE UNIQUE INDEX compression_training_data_pkey {table} (id)",
        f'CREATE INDEX idx_timestamp {table} ("timestamp")',
        f"CREATE INDEX idx_link_type {table} (link_type)",
        f"CREATE INDEX idx_optimal {table} (optimal_compression)",
        f"CREATE UNIQUE INDEX one_row_per_transfer {table} (transfer_id)",
    }


def test_rows_of_before_get_cold_start_features_and_later_ones_must_say_what_was_served(
    empty: Warehouse, tmp_path: Path
) -> None:
    for migration in sorted((SQL_DIR / "migrations").glob("000[1-5]_*.sql")):
        shutil.copy(migration, tmp_path)
    migrate(empty.owner_dsn, tmp_path)
    old = columns(empty, "compression_training_data")
    row = {name: value for name, value in make_transfers(1).to_pylist()[0].items() if name in old}
    row |= {"timestamp": START, "ingestion_run_id": "before", "optimal_compression": None}
    statement = sql.SQL("INSERT INTO compression_training_data ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(sql.Placeholder() * len(row))
    )
    empty.execute(statement, tuple(row.values()))

    assert "0006_what_a_node_can_know" in migrate(empty.owner_dsn)
    later = [feature for feature in FEATURES if feature.column not in old]
    assert later
    for feature in later:
        query = sql.SQL("SELECT {} FROM compression_training_data").format(sql.Identifier(feature.column))
        assert empty.query(query) == [(feature.default,)]
    with pytest.raises(psycopg2.errors.NotNullViolation):
        empty.execute(statement, tuple((row | {"transfer_id": "after"}).values()))


def test_migrating_again_does_nothing(warehouse: Warehouse) -> None:
    names = [migration.name for migration in read_migrations(SQL_DIR / "migrations")]
    assert names[0] == "0001_compression_training_data"
    assert [name for (name,) in warehouse.query("SELECT name FROM schema_migrations ORDER BY name")] == names
    assert migrate(warehouse.owner_dsn) == []


def test_what_came_later_is_applied_whatever_its_number(empty: Warehouse, directory: Path) -> None:
    assert migrate(empty.owner_dsn, directory) == ["0001_one", "0002_two"]
    (directory / "0100_three.sql").write_text("CREATE TABLE three (n INT)")
    assert migrate(empty.owner_dsn, directory) == ["0100_three"]
    (directory / "0003_four.sql").write_text("CREATE TABLE four (percent TEXT DEFAULT '100 %s')")
    assert migrate(empty.owner_dsn, directory) == ["0003_four"]


def test_a_changed_file_is_refused_before_anything_is_applied(empty: Warehouse, directory: Path) -> None:
    migrate(empty.owner_dsn, directory)
    (directory / "0001_one.sql").write_text("CREATE TABLE one (n BIGINT);")
    (directory / "0003_three.sql").write_text("CREATE TABLE three (n INT)")
    with pytest.raises(MigrationError, match=r"0001_one was changed after it was applied.*new migration"):
        migrate(empty.owner_dsn, directory)
    assert empty.query("SELECT to_regclass('three')") == [(None,)]


def test_a_database_from_the_future_is_refused(empty: Warehouse, directory: Path) -> None:
    migrate(empty.owner_dsn, directory)
    (directory / "0002_two.sql").unlink()
    with pytest.raises(MigrationError, match="0002_two, which this checkout lacks: update"):
        migrate(empty.owner_dsn, directory)


def test_a_failing_file_leaves_no_trace_and_the_ones_before_it_stay(empty: Warehouse, directory: Path) -> None:
    (directory / "0003_broken.sql").write_text("CREATE TABLE three (n INT); SELECT no_such_column;")
    with pytest.raises(MigrationError, match=r"0003_broken failed and was undone: column .no_such_column"):
        migrate(empty.owner_dsn, directory)
    assert empty.query("SELECT to_regclass('two')::TEXT, to_regclass('three')") == [("two", None)]
    (directory / "0003_broken.sql").write_text("CREATE TABLE three (n INT)")
    assert migrate(empty.owner_dsn, directory) == ["0003_broken"]


def test_two_at_once_apply_each_file_once(empty: Warehouse, directory: Path) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty.owner_dsn, directory))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], ["0001_one", "0002_two"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [("2_short.sql", "no migration's name"), ("0001_again.sql", "have the same number")],
)
def test_names_that_cannot_be_ordered_are_refused(directory: Path, name: str, message: str) -> None:
    (directory / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=message):
        read_migrations(directory)


def test_no_files_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="no migration in"):
        read_migrations(tmp_path)
