"""The data team's views and example queries, as the data team's role."""

from __future__ import annotations

from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.oracle import label_batch
from dwcp.warehouse.files import SQL_DIR
from fixtures_postgres import Warehouse
from transfers import START, make_transfers

QUERIES = sorted((SQL_DIR / "queries").glob("*.sql"))
HIDDEN = START + timedelta(days=7)


@pytest.fixture(scope="module")
def filled(warehouse: Warehouse) -> Warehouse:
    """A validated day with a row in quarantine, and a day a week later that the gate has not passed."""
    table = make_transfers(2_000)
    bad = table.slice(0, 3).append_column("reason", pa.array(["rtt_ms: negative"] * 3))
    warehouse.load(table.slice(3), bad=bad)
    warehouse.validate(START.date())
    warehouse.load(make_transfers(100, start=HIDDEN, seed=7))
    return warehouse


def ask(warehouse: Warehouse, statement: str) -> list[dict[str, Any]]:
    with closing(psycopg2.connect(warehouse.reader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def labelled_rows() -> list[dict[str, Any]]:
    table = make_transfers(2_000).slice(3)
    labels = label_batch(table.combine_chunks().to_batches()[0], "seed_3_1")
    for name in labels.schema.names:
        table = table.append_column(name, pa.chunked_array([labels.column(name)]))
    return table.filter(pc.is_valid(table["optimal_compression"])).to_pylist()


def test_there_are_examples() -> None:
    assert len(QUERIES) >= 5
    assert all(path.read_text().startswith("-- ") for path in QUERIES)


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_every_example_answers_the_reader(filled: Warehouse, path: Path) -> None:
    assert ask(filled, path.read_text())


def test_one_row_a_transfer_in_readable_units(filled: Warehouse) -> None:
    rows = {row["transfer_id"]: row for row in ask(filled, "SELECT * FROM transfers")}
    logged = make_transfers(2_000).slice(3).to_pylist()
    assert set(rows) == {row["transfer_id"] for row in logged}
    for row in logged[:50]:
        shown = rows[row["transfer_id"]]
        assert float(shown["size_megabytes"]) == pytest.approx(row["data_size_bytes"] / 1e6, abs=5.1e-4)
        assert float(shown["wire_seconds"]) == pytest.approx(row["actual_transfer_time_ms"] / 1e3, abs=5.1e-5)
        assert float(shown["packet_loss_percent"]) == pytest.approx(row["packet_loss_rate"] * 100, abs=5.1e-4)


def test_label_balance_is_that_of_validated_labels(filled: Warehouse) -> None:
    rows = ask(filled, "SELECT * FROM label_balance_by_week")
    labels = [row["optimal_compression"] for row in labelled_rows()]
    assert {(row["week"], row["label"]): row["transfers"] for row in rows} == {
        (date(2026, 8, 3), label): labels.count(label) for label in set(labels)
    }
    assert float(sum(row["percent"] for row in rows)) == pytest.approx(100, abs=0.05)


def test_regret_is_executed_less_best(filled: Warehouse) -> None:
    shown = {row["data_type"]: row for row in ask(filled, "SELECT * FROM regret_by_data_type")}
    by_type: dict[str, list[float]] = {}
    for row in labelled_rows():
        best = min(row["cost_hde_ms"], row["cost_amst_ms"], row["cost_none_ms"])
        by_type.setdefault(row["data_type"], []).append(row[f"cost_{row['current_compression']}_ms"] - best)
    assert set(shown) == set(by_type)
    for name, regrets in by_type.items():
        assert shown[name]["transfers"] == len(regrets)
        assert float(shown[name]["mean_regret_ms"]) == pytest.approx(sum(regrets) / len(regrets), abs=5.1e-4)


def test_quarantine_and_ledger_show_all_windows(filled: Warehouse) -> None:
    (reason,) = ask(filled, "SELECT * FROM quarantine_by_reason")
    assert (reason["reason"], reason["rows"], reason["first_day"]) == ("rtt_ms", 3, START.date())
    days = {row["day"]: row for row in ask(filled, "SELECT * FROM ingestion_by_day")}
    assert days[START.date()]["rows_read"] == 2_000
    assert days[START.date()]["rows_quarantined"] == 3
    assert float(days[START.date()]["quarantined_percent"]) == 0.15
    assert days[START.date()]["regions_validated"] == days[START.date()]["regions"]
    assert days[HIDDEN.date()]["regions_validated"] == 0
