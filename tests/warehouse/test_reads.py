"""Reads: validated windows only, typed, in order, in bounded memory, and an error where the server breaks off."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg2 import sql
from pyarrow import csv, parquet

from dwcp.contract import FULLY_MEASURED
from dwcp.oracle import label_batch
from dwcp.warehouse import reads
from dwcp.warehouse.export import ExportError, export_window
from dwcp.warehouse.reads import WAREHOUSE_SCHEMA, ReadError, read_log, read_training, stream, stream_query
from dwcp.window import Window
from fixtures_postgres import Warehouse
from transfers import START, make_transfers, replace

NEXT = START + timedelta(days=1)
TWO_DAYS = Window(START, START + timedelta(days=2))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    table = make_transfers(1_000)
    for name, row, value in [
        ("peer_id", 0, ""),
        ("object_id", 1, 'quote " comma , and\nline, ß'),
        ("model_version", 2, None),
        ("predicted_compression", 2, None),
        ("confidence", 2, None),
        ("data_size_bytes", 3, 2**44),
        ("rtt_ms", 4, 1 / 3),
    ]:
        table = replace(table, name, row, value)
    return table


@pytest.fixture(scope="module")
def filled(warehouse: Warehouse, table: pa.Table) -> Warehouse:
    """A validated day, and a loaded one after it."""
    warehouse.load(table)
    warehouse.validate(START.date())
    warehouse.load(make_transfers(100, start=NEXT, seed=3))
    return warehouse


def test_the_log_is_every_row_of_validated_windows_exactly(filled: Warehouse, table: pa.Table) -> None:
    log = read_log(filled.reader_dsn, TWO_DAYS)
    assert log.schema == WAREHOUSE_SCHEMA
    assert log.select(table.schema.names).equals(table)
    labels = pa.Table.from_batches([label_batch(table.combine_chunks().to_batches()[0], "seed_3_1")])
    assert log.select(labels.schema.names).cast(labels.schema).equals(labels)
    assert set(log["ingestion_run_id"].to_pylist()) == {"run-1"}
    assert log["timestamp"][7].as_py() == START + timedelta(microseconds=7 * 86_400_000)


def test_training_reads_labelled_rows_alone(filled: Warehouse, table: pa.Table) -> None:
    training = read_training(filled.reader_dsn, TWO_DAYS)
    full = table.filter(pc.equal(table["measured_candidates"], FULLY_MEASURED))
    assert training["transfer_id"].to_pylist() == full["transfer_id"].to_pylist()
    assert training["optimal_compression"].null_count == 0


def test_windows_cut_to_the_moment_columns_and_regions_as_asked(filled: Warehouse, table: pa.Table) -> None:
    window = Window(START + timedelta(hours=6), START + timedelta(hours=12))
    part = read_log(filled.reader_dsn, window, columns=["transfer_id", "rtt_ms"], regions=["eu-west"])
    ns = table["timestamp_ns"]
    inside = pc.and_(pc.greater_equal(ns, window.start_ns), pc.less(ns, window.end_ns))
    wanted = table.filter(pc.and_(inside, pc.equal(table["region"], "eu-west"))).select(["transfer_id", "rtt_ms"])
    assert wanted.num_rows > 0
    assert part.equals(wanted)
    with pytest.raises(ReadError, match="no such column in the contract: colour"):
        read_log(filled.reader_dsn, window, columns=["colour"])


def test_the_watch_sees_what_is_not_validated_and_the_reader_does_not(filled: Warehouse) -> None:
    assert read_log(filled.registry_dsn, TWO_DAYS, validated=False).num_rows == 1_100
    assert read_log(filled.loader_dsn, TWO_DAYS).num_rows == 1_000
    with pytest.raises(ReadError, match="permission denied"):
        read_log(filled.reader_dsn, TWO_DAYS, validated=False)


def test_nothing_validated_gives_an_empty_table(filled: Warehouse) -> None:
    empty = read_training(filled.reader_dsn, Window.of_day(NEXT.date()))
    assert (empty.num_rows, empty.schema) == (0, WAREHOUSE_SCHEMA)


def test_rows_come_in_blocks_and_a_reader_may_leave_early(filled: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "BLOCK_BYTES", 1 << 16)
    batches = stream(filled.reader_dsn, TWO_DAYS)
    assert 0 < next(batches).num_rows < 500
    batches.close()
    assert sum(batch.num_rows for batch in stream(filled.reader_dsn, TWO_DAYS)) == 1_000


def test_a_read_that_breaks_off_is_an_error_and_not_a_short_table(filled: Warehouse) -> None:
    query = sql.SQL("SELECT 1 / (5000 - n) FROM generate_series(1, 6000) AS n")
    with pytest.raises(ReadError, match="division by zero"):
        list(stream_query(filled.reader_dsn, query, pa.schema([("n", pa.int64())])))


# -- export --


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_export_holds_what_a_read_gives(filled: Warehouse, tmp_path: Path, suffix: str, labelled: bool) -> None:
    path = tmp_path / f"deep/er/week{suffix}"
    expected = (read_training if labelled else read_log)(filled.reader_dsn, TWO_DAYS)
    assert export_window(filled.reader_dsn, TWO_DAYS, path, labelled=labelled) == expected.num_rows
    if suffix == ".parquet":
        found = parquet.read_table(path)
    else:
        options = csv.ConvertOptions(
            column_types=WAREHOUSE_SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        )
        found = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=options)
    assert found.equals(expected)
    assert list(path.parent.iterdir()) == [path]


def test_an_export_without_rows_leaves_the_old_file(filled: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "week.csv"
    path.write_text("old")
    with pytest.raises(
        ExportError, match=r"no labelled rows in validated windows from 2026-08-04.*validate the window"
    ):
        export_window(filled.reader_dsn, Window.of_day(NEXT.date()), path)
    assert path.read_text() == "old"
    with pytest.raises(ExportError, match=r"end it with \.parquet or \.csv"):
        export_window(filled.reader_dsn, TWO_DAYS, tmp_path / "week.xlsx")
    assert list(tmp_path.iterdir()) == [path]
