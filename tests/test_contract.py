"""The contract is whole in itself, agrees with the seed, and everything that should follow from it does."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import psycopg2
import pytest

from dwcp import contract
from dwcp.contract import COLUMNS, FEATURES, FIELDS, LOGGED, OUTCOMES, SEED_FEATURES, TAGS, Column, Kind, Role
from dwcp.sources.schema import LOGGED_SCHEMA
from fixtures_postgres import Warehouse

SEED_COLUMNS = [
    "timestamp",
    "region",
    "availability_zone",
    "link_type",
    "node_id",
    "peer_id",
    "rtt_ms",
    "jitter_ms",
    "available_bandwidth_mbps",
    "packet_loss_rate",
    "data_size_bytes",
    "data_type",
    "entropy",
    "compressibility_score",
    "cpu_usage",
    "memory_available_mb",
    "active_transfers",
    "hde_compression_ratio",
    "hde_delta_hit_rate",
    "hde_compression_time_ms",
    "hde_compressed_size_bytes",
    "hde_throughput_mbps",
    "amst_streams",
    "amst_transfer_rate_mbps",
    "amst_compression_time_ms",
    "amst_compressed_size_bytes",
    "baseline_compression_ratio",
    "baseline_compression_time_ms",
    "baseline_compressed_size_bytes",
    "current_compression",
    "optimal_compression",
    "actual_transfer_time_ms",
    "actual_throughput_mbps",
    "total_cpu_overhead_ms",
]
SEED_FEATURE_NAMES = [
    "rtt_ms",
    "jitter_ms",
    "bandwidth_mbps",
    "packet_loss_rate",
    "link_type",
    "region",
    "size_bytes",
    "entropy",
    "compressibility_score",
    "delta_potential",
    "data_type",
    "cpu_usage",
    "memory_available",
    "active_transfers",
    "time_of_day",
    "recent_hde_ratio",
    "recent_amst_ratio",
    "baseline_ratio",
]


def test_the_seeds_columns_come_first_in_its_order() -> None:
    assert [column.name for column in COLUMNS if column.seed] == SEED_COLUMNS
    assert [column.name for column in COLUMNS[: len(SEED_COLUMNS)]] == SEED_COLUMNS


def test_the_seeds_features_come_first_in_its_order() -> None:
    assert [feature.name for feature in SEED_FEATURES] == SEED_FEATURE_NAMES
    assert FEATURES[: len(SEED_FEATURES)] == SEED_FEATURES


def test_tags_are_the_bounded_ones() -> None:
    assert {column.name for column in TAGS} == {
        "region",
        "availability_zone",
        "link_type",
        "data_type",
        "current_compression",
        "node_id",
    }
    unbounded = {"peer_id", "transfer_id", "object_id", "object_version", "payload_digest"}
    assert unbounded <= {column.name for column in FIELDS}


def test_names_are_unique() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_says_everything(column: Column) -> None:
    assert column.meaning
    if column.kind is Kind.STRING:
        size = re.fullmatch(r"VARCHAR\((\d+)\)", column.postgres)
        assert size is not None
        assert column.max_length == int(size[1])
        assert all(0 < len(value) <= column.max_length for value in column.values or ())
    elif column.name != "timestamp":
        assert column.unit
        assert column.minimum is not None
        assert column.maximum is not None
        assert column.minimum < column.maximum
    if column.postgres == "INT":
        assert column.maximum is not None
        assert column.maximum < 2**31
    if column.role is Role.TAG:
        assert not column.nullable, "InfluxDB drops an empty tag, and the series with it"


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_feature_has_a_cold_start_default_and_a_logged_column(feature: contract.Feature) -> None:
    assert feature.minimum <= feature.default <= feature.maximum
    column = contract.BY_NAME[feature.column]
    assert (column.minimum, column.maximum, column.nullable) == (feature.minimum, feature.maximum, False)
    if feature.codes is not None:
        assert (feature.minimum, feature.maximum) == (contract.UNKNOWN_CODE, len(feature.codes))
        assert feature.default == contract.UNKNOWN_CODE


def test_outcomes_are_the_nullable_measurements() -> None:
    assert tuple(OUTCOMES) == contract.ALGORITHMS
    outcomes = {name for names in OUTCOMES.values() for name in names}
    prediction = {"predicted_compression", "confidence", "model_version"}
    assert {column.name for column in LOGGED if column.nullable} == outcomes | prediction


def edited(old: str, new: str) -> ModuleType:
    """The contract as it would be with one piece of its text changed."""
    text = Path(contract.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1
    module = ModuleType("edited_contract")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(text.replace(old, new), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


def test_any_change_to_a_feature_changes_the_digest() -> None:
    changes = [
        ('Feature("rtt_ms", "ms", 10.0, ', 'Feature("rtt_ms", "ms", 11.0, '),
        ("moving average of jitter to this peer", "average of jitter to this peer"),
        ("(*SEED_FEATURES, *DERIVED_FEATURES)", "(*DERIVED_FEATURES, *SEED_FEATURES)"),
        ('LINK_TYPES = ("dc", "metro", "wan")', 'LINK_TYPES = ("dc", "metro", "wan", "edge")'),
    ]
    digests = {edited(old, new).FEATURE_SET_DIGEST for old, new in changes}
    assert len(digests | {contract.FEATURE_SET_DIGEST}) == len(changes) + 1
    same = edited("Standard library only", "Only the standard library")
    assert same.FEATURE_SET_DIGEST == contract.FEATURE_SET_DIGEST


@pytest.mark.parametrize(
    ("mode", "rtt_ms", "link_type"),
    [
        ("datacenter", 99.0, "dc"),
        ("wan", 0.1, "wan"),
        ("hybrid", 0.0, "dc"),
        ("hybrid", 0.999, "dc"),
        ("hybrid", 1.0, "metro"),
        ("hybrid", 10.0, "metro"),
        ("hybrid", 10.1, "wan"),
    ],
)
def test_the_seeds_network_modes_are_link_types(mode: str, rtt_ms: float, link_type: str) -> None:
    assert contract.link_type_of(mode, rtt_ms) == link_type


def test_an_unknown_network_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="'lan'"):
        contract.link_type_of("lan", 1.0)


def test_the_arrow_schema_follows() -> None:
    assert LOGGED_SCHEMA.names == [column.name for column in LOGGED]


# -- the database --

SQL_TYPES = {
    "BIGINT": "bigint",
    "INT": "integer",
    "FLOAT": "double precision",
    "TIMESTAMPTZ": "timestamp with time zone",
}


def expected(columns: tuple[Column, ...]) -> list[tuple[str, str, int | None]]:
    return [
        (c.name, SQL_TYPES.get(c.postgres, "character varying"), c.max_length if c.kind is Kind.STRING else None)
        for c in columns
    ]


def test_the_migrated_table_has_the_contracts_columns_the_seeds_first(warehouse: Warehouse) -> None:
    with closing(psycopg2.connect(warehouse.owner_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name = 'compression_training_data' ORDER BY ordinal_position"
        )
        found = cursor.fetchall()
    assert found[0][0] == "id"
    seeds = [column for column in COLUMNS if column.seed]
    assert found[1 : len(seeds) + 1] == expected(tuple(seeds))
    # Columns that a later migration adds come last in the table, wherever the contract has them.
    assert sorted(found[1:]) == sorted(expected(COLUMNS))
    extra = replace(COLUMNS[-1], name="battery")
    assert sorted(found[1:]) != sorted(expected((*COLUMNS, extra)))
