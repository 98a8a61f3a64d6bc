"""The ledger's states: who may become visible, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dwcp.contract import REGIONS
from dwcp.warehouse.load import Counts
from dwcp.warehouse.windows import WindowError, loaded_counts, mark_failed, mark_validated, read_states
from dwcp.window import Window
from fixtures_postgres import Warehouse
from transfers import START, make_transfers

DAY = Window.of_day(START.date())
TWO_DAYS = Window(START, START + timedelta(days=2))


def states(warehouse: Warehouse, window: Window = DAY) -> set[str]:
    return {state.state for state in read_states(warehouse.reader_dsn, window)}


def visible(warehouse: Warehouse) -> int:
    return warehouse.query("SELECT count(*) FROM validated_training_data")[0][0]


def test_rows_are_visible_only_while_validated(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(100))
    assert (states(fresh_warehouse), visible(fresh_warehouse)) == ({"loaded"}, 0)
    assert mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate") == len(REGIONS)
    assert (states(fresh_warehouse), visible(fresh_warehouse)) == ({"validated"}, 100)
    mark_failed(fresh_warehouse.loader_dsn, DAY, run_id="gate-2", failure="too few rows")
    assert (states(fresh_warehouse), visible(fresh_warehouse)) == ({"failed"}, 0)
    lines = read_states(fresh_warehouse.reader_dsn, DAY)
    assert {(line.validation_run_id, line.failure) for line in lines} == {("gate-2", "too few rows")}


def test_one_region_can_be_validated_alone(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(100)
    fresh_warehouse.load(table)
    assert mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate", regions=["us-east"]) == 1
    assert visible(fresh_warehouse) == table["region"].to_pylist().count("us-east")


def test_a_window_with_a_day_missing_is_not_validated(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(100))
    with pytest.raises(WindowError, match="not loaded yet: 2026-08-04"):
        mark_validated(fresh_warehouse.loader_dsn, TWO_DAYS, run_id="gate")
    with pytest.raises(WindowError, match="not loaded yet: mars"):
        mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate", regions=["us-east", "mars"])
    assert states(fresh_warehouse) == {"loaded"}


def test_what_was_loaded_while_the_gate_looked_is_not_validated(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(100))
    seen = read_states(fresh_warehouse.loader_dsn, DAY)
    fresh_warehouse.load(make_transfers(100, seed=1))
    with pytest.raises(WindowError, match="loaded again while the gate looked: 2026-08-03 ap-northeast"):
        mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate", seen=seen)
    assert states(fresh_warehouse) == {"loaded"}
    seen = read_states(fresh_warehouse.loader_dsn, DAY)
    mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate", seen=seen)
    mark_validated(fresh_warehouse.loader_dsn, DAY, run_id="gate", seen=seen)  # safe to repeat
    assert states(fresh_warehouse) == {"validated"}


def test_counts_are_summed_over_days_and_regions(fresh_warehouse: Warehouse) -> None:
    assert loaded_counts(fresh_warehouse.reader_dsn, TWO_DAYS) == Counts()
    fresh_warehouse.load(make_transfers(100))
    fresh_warehouse.load(make_transfers(50, start=START + timedelta(days=1)))
    assert loaded_counts(fresh_warehouse.reader_dsn, TWO_DAYS) == Counts(150, 150)
    assert loaded_counts(fresh_warehouse.reader_dsn, DAY) == Counts(100, 100)
