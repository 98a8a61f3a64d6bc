"""Labels made anew from stored measurements."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial

import pytest

from dwcp.oracle import label_batch
from dwcp.warehouse.load import Counts
from dwcp.warehouse.relabel import relabel_day
from dwcp.warehouse.transaction import LoadError
from dwcp.warehouse.windows import loaded_counts, read_states
from dwcp.window import Window
from fixtures_postgres import Warehouse
from transfers import START, make_transfers, replace

DAY = START.date()
ROWS = "SELECT * FROM compression_training_data ORDER BY transfer_id"
CONTENT = "SELECT transfer_id, optimal_compression, oracle_definition, cost_hde_ms FROM {} ORDER BY transfer_id"


def relabel(warehouse: Warehouse, definition: str = "seed_3_2", **options: object) -> object:
    label = partial(label_batch, definition=definition)
    return relabel_day(
        warehouse.loader_dsn,
        **{"day": DAY, "regions": None, "run_id": "anew", "label": label, "oracle_definition": definition, **options},
    )


def test_relabelling_gives_what_a_load_with_that_oracle_gives(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(1_000)
    table = replace(table, "transfer_id", 9, table["transfer_id"][4].as_py())
    fresh_warehouse.load(table, definition="seed_3_2")
    expected = [
        fresh_warehouse.query(CONTENT.format(name)) for name in ("compression_training_data", "duplicate_transfers")
    ]
    fresh_warehouse.load(table)
    before = dict(fresh_warehouse.query("SELECT transfer_id, optimal_compression FROM compression_training_data"))
    fresh_warehouse.validate(DAY)
    dry = relabel(fresh_warehouse, dry_run=True)
    assert {state.state for state in read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))} == {"validated"}
    done = relabel(fresh_warehouse)
    found = [
        fresh_warehouse.query(CONTENT.format(name)) for name in ("compression_training_data", "duplicate_transfers")
    ]
    assert found == expected
    after = dict(fresh_warehouse.query("SELECT transfer_id, optimal_compression FROM compression_training_data"))
    flips = Counter((before[name], after[name]) for name in before if before[name] != after[name])
    assert sum(flips.values()) > 0
    assert done == dry
    assert (done.rows, done.flips) == (999, flips)
    states = read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))
    assert {(state.state, state.oracle_definition, state.ingestion_run_id) for state in states} == {
        ("loaded", "seed_3_2", "anew")
    }
    assert loaded_counts(fresh_warehouse.reader_dsn, Window.of_day(DAY)) == Counts(1_000, 999, 0, 1)


def test_a_dry_run_changes_nothing(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(300))
    before = fresh_warehouse.query(ROWS)
    relabel(fresh_warehouse, dry_run=True)
    assert fresh_warehouse.query(ROWS) == before


def test_only_the_regions_asked_for_are_relabelled(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(300))
    fresh_warehouse.load(make_transfers(100, start=START + timedelta(days=1), seed=2))
    relabel(fresh_warehouse, regions=["us-east"])
    definitions = fresh_warehouse.query(
        "SELECT DISTINCT (timestamp AT TIME ZONE 'UTC')::DATE = %s AND region = 'us-east', oracle_definition "
        "FROM compression_training_data WHERE oracle_definition IS NOT NULL",
        (DAY,),
    )
    assert sorted(definitions) == [(False, "seed_3_1"), (True, "seed_3_2")]


def test_a_label_function_that_fails_or_loses_rows_changes_nothing(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(300))
    before = fresh_warehouse.query(ROWS)
    with pytest.raises(LoadError, match="300 rows got 299 labels"):
        relabel(fresh_warehouse, label=lambda batch: label_batch(batch.slice(1), "seed_3_2"))
    with pytest.raises(ValueError, match="unknown oracle"):
        relabel(fresh_warehouse, definition="seed_9_9")
    assert fresh_warehouse.query(ROWS) == before
