"""What each role may do, and above all what it may not."""

from __future__ import annotations

import psycopg2
import pytest

from fixtures_postgres import Warehouse
from transfers import START, make_transfers

FORBIDDEN = psycopg2.errors.InsufficientPrivilege
TABLES = ("compression_training_data", "ingestion_windows", "quarantined_transfers", "duplicate_transfers")
VALIDATED = ("validated_training_data", "transfers", "label_balance_by_week", "regret_by_data_type")


@pytest.fixture(scope="module")
def filled(warehouse: Warehouse) -> Warehouse:
    warehouse.load(make_transfers(200))
    warehouse.validate(START.date())
    return warehouse


def as_writer(statement: str) -> str:
    """The reader's sessions are read-only by default; a determined one turns that off."""
    return f"SET default_transaction_read_only = off; COMMIT; {statement}"


@pytest.mark.parametrize("relation", [*TABLES, *VALIDATED])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", "TRUNCATE {}", "DROP TABLE {}"]
)
def test_the_reader_cannot_write(filled: Warehouse, relation: str, statement: str) -> None:
    if relation in VALIDATED and statement.split()[0] in ("TRUNCATE", "DROP"):
        statement = "DROP VIEW {}"
    # A view of several tables takes no rows from anyone, which is another refusal.
    with pytest.raises((FORBIDDEN, psycopg2.errors.ObjectNotInPrerequisiteState)):
        filled.execute(as_writer(statement.format(relation)), dsn=filled.reader_dsn)


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE mine (n INT)", "CREATE TEMP TABLE mine (n INT)", "CREATE SCHEMA mine"]
)
def test_the_reader_cannot_make_anything(filled: Warehouse, statement: str) -> None:
    with pytest.raises(FORBIDDEN):
        filled.execute(as_writer(statement), dsn=filled.reader_dsn)


def test_the_reader_is_read_only_by_default(filled: Warehouse) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        filled.execute("CREATE TABLE mine (n INT)", dsn=filled.reader_dsn)


@pytest.mark.parametrize("table", ["compression_training_data", "duplicate_transfers"])
def test_the_reader_sees_no_row_that_is_not_validated(filled: Warehouse, table: str) -> None:
    with pytest.raises(FORBIDDEN):
        filled.execute(f"SELECT * FROM {table}", dsn=filled.reader_dsn)


@pytest.mark.parametrize("relation", [*VALIDATED, "ingestion_windows", "quarantined_transfers", "ingestion_by_day"])
def test_the_reader_may_look(filled: Warehouse, relation: str) -> None:
    filled.execute(f"SELECT * FROM {relation}", dsn=filled.reader_dsn)


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DROP TABLE {table}" for table in TABLES),
        *(f"TRUNCATE {table}" for table in TABLES),
        "ALTER TABLE compression_training_data DROP COLUMN entropy",
        "DROP VIEW transfers",
        "DROP TABLE schema_migrations",
        "UPDATE schema_migrations SET sha256 = ''",
        "CREATE TABLE mine (n INT)",
        "DROP SCHEMA quality_runs",
    ],
)
def test_the_loader_cannot_drop_or_change_what_it_fills(filled: Warehouse, statement: str) -> None:
    with pytest.raises(FORBIDDEN):
        filled.execute(statement, dsn=filled.loader_dsn)


def test_the_loader_makes_and_drops_views_of_its_own(filled: Warehouse) -> None:
    filled.execute(
        "CREATE VIEW quality_runs.one AS SELECT * FROM public.compression_training_data; DROP VIEW quality_runs.one",
        dsn=filled.loader_dsn,
    )


@pytest.mark.parametrize("table", TABLES)
def test_the_registry_role_cannot_touch_the_warehouse(filled: Warehouse, table: str) -> None:
    with pytest.raises(FORBIDDEN):
        filled.execute(f"DELETE FROM {table}", dsn=filled.registry_dsn)


@pytest.mark.parametrize("role", ["owner", "loader", "reader", "registry"])
def test_no_role_rules_the_server(filled: Warehouse, role: str) -> None:
    for statement in ("CREATE ROLE mine", "ALTER ROLE postgres PASSWORD 'x'", "SELECT pg_read_file('PG_VERSION')"):
        with pytest.raises((FORBIDDEN, psycopg2.errors.ReadOnlySqlTransaction)):
            filled.execute(statement, dsn=getattr(filled, f"{role}_dsn"))
