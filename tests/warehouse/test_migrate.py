"""Migrations: the table they make, and that they are applied once, unchanged, by one at a time."""

from __future__ import annotations

from dwcp.contract import COLUMNS
from dwcp.warehouse.migrate import migrate
from fixtures_postgres import Warehouse

SPELLED = {"double precision": "FLOAT", "integer": "INT", "bigint": "BIGINT", "timestamp with time zone": "TIMESTAMPTZ"}


def columns(warehouse: Warehouse, table: str) -> dict[str, str]:
    found = warehouse.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = %s",
        (table,),
    )
    return {name: f"VARCHAR({size})" if size else SPELLED[kind] for name, kind, size in found}


def test_table_has_exactly_the_contracts_columns(warehouse: Warehouse) -> None:
    expected = {column.name: column.postgres for column in COLUMNS}
    assert columns(warehouse, "compression_training_data") == {"id": "BIGINT", **expected}
    assert columns(warehouse, "duplicate_transfers") == expected


def test_migrating_again_does_nothing(warehouse: Warehouse) -> None:
    assert migrate(warehouse.owner_dsn) == []
