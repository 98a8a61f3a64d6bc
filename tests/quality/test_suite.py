"""The quality gate against a real Postgres: what a good window gives, and what each kind of damage turns red."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as with_changes
from datetime import datetime, timedelta

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp import contract
from dwcp.contract import COLUMNS, Column, Kind, Role
from dwcp.oracle import label_batch
from dwcp.quality.check import check_batch
from dwcp.quality.expectations import Surroundings, build_suite
from dwcp.quality.report import render
from dwcp.quality.result import CheckResult, ValidationResult
from dwcp.quality.suite import EXAMPLES, validate_window
from dwcp.quality.view import drop_orphans, run_view
from dwcp.warehouse.load import Counts, load_day
from dwcp.warehouse.server import ServerInfo
from dwcp.window import Window
from fixtures_postgres import Warehouse, _copy
from transfers import START, make_transfers, replace

DAY = Window.of_day(START.date())
NOW = START + timedelta(days=9)
ROWS = 600


def load(warehouse: Warehouse, table: pa.Table, day: datetime = START) -> Counts:
    """Check, label and load one day as the pipeline does."""
    (batch,) = table.combine_chunks().to_batches()
    now_ns = int(NOW.timestamp()) * 10**9
    checked = check_batch(batch, window=Window.of_day(day.date()), now_ns=now_ns, max_clock_ahead_ns=0)
    labels = label_batch(checked.good, "seed_3_1")
    good = pa.RecordBatch.from_arrays(
        [*checked.good.columns, *labels.columns], names=[*checked.good.schema.names, *labels.schema.names]
    )
    return load_day(
        warehouse.loader_dsn,
        day=day.date(),
        regions=None,
        run_id="load",
        source="test",
        checked=iter([(good, checked.bad)]),
        oracle_definition="seed_3_1",
    )


def validate(warehouse: Warehouse, window: Window = DAY, columns: tuple[Column, ...] = ()) -> ValidationResult:
    """Without the expectations on single columns, unless ``columns`` names some: they take most of the time."""
    return validate_window(warehouse.loader_dsn, window, "run-1", now=NOW, columns=columns)


def execute(dsn: str, statement: str, *parameters: object) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def views(warehouse: Warehouse) -> list[str]:
    with closing(psycopg2.connect(warehouse.loader_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT viewname FROM pg_views WHERE schemaname = 'quality_runs'")
        return [name for (name,) in cursor.fetchall()]


def failed(result: ValidationResult, title: str, column: str | None = None) -> CheckResult:
    """The one failed check with this title; its absence fails the test."""
    (check,) = [c for c in result.failures if c.title == title and column in (None, c.column)]
    return check


@pytest.fixture(scope="module")
def good_day(warehouse: Warehouse) -> Warehouse:
    load(warehouse, make_transfers(ROWS))
    return warehouse


@pytest.fixture(scope="module")
def good_results(good_day: Warehouse) -> list[ValidationResult]:
    """Two validations of the same window at the same time."""
    results: list[ValidationResult] = []
    threads = [threading.Thread(target=lambda: results.append(validate(good_day, columns=COLUMNS))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_good_window_passes_twice_at_once_and_leaves_no_view(
    good_day: Warehouse, good_results: list[ValidationResult]
) -> None:
    first, second = good_results
    assert first == second
    assert (first.failures, first.warnings) == ((), ()), first.summary()
    assert first.passed
    assert first.counts == Counts(read=ROWS, loaded=ROWS)
    assert sum(count for _, count in first.labels) == pytest.approx(0.3 * ROWS, rel=0.3)
    assert {check.column for check in first.checks} >= {column.name for column in COLUMNS}
    assert views(good_day) == []


def test_result_survives_the_store(damaged: tuple[ValidationResult, set[str]]) -> None:
    result, _ = damaged
    assert ValidationResult.from_json_bytes(result.to_json_bytes()) == result


def test_bad_rows_are_counted_by_reason_and_a_time_used_twice_warns(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(ROWS)
    table = replace(table, "rtt_ms", 3, float("nan"))
    table = replace(table, "rtt_ms", 4, float("inf"))
    table = replace(table, "link_type", 4, "lan")
    table = replace(table, "transfer_id", 9, table["transfer_id"][8].as_py())
    for name in ("timestamp_ns", "node_id"):
        table = replace(table, name, 16, table[name][15].as_py())
    load(fresh_warehouse, table)
    result = validate(fresh_warehouse)
    assert result.passed, result.summary()
    assert result.counts == Counts(read=ROWS, loaded=ROWS - 3, quarantined=2, duplicate=1)
    assert dict(result.quarantine)["rtt_ms is not finite"] == 2
    assert dict(result.quarantine)["link_type is unknown"] == 1
    assert [check.title for check in result.warnings] == ["a node decides once in a nanosecond"]


# Damage that a table can hold although the check stands before it: a hand that wrote SQL, an old load, a bug. Each is
# done to rows of its own, and one validation judges them all.
EACH = 5
SWAP_LABEL = "optimal_compression = CASE optimal_compression WHEN 'hde' THEN 'none' ELSE 'hde' END"
DAMAGE: list[tuple[str, str, str | None]] = [
    ("rtt_ms = 'NaN'", "lies in its range", "rtt_ms"),
    ("served_rtt_ms = 'Infinity'", "lies in its range", "served_rtt_ms"),
    ("jitter_ms = -1", "lies in its range", "jitter_ms"),
    ("entropy = NULL", "is never missing", "entropy"),
    ("link_type = 'lan'", "is a known value", "link_type"),
    ("peer_id = ''", "has a legal length", "peer_id"),
    ("timestamp_ns = timestamp_ns + 5000000", "timestamp is timestamp_ns cut to µs", None),
    (
        "measured_candidates = 'zstd', current_compression = 'zstd', optimal_compression = NULL",
        "hde's outcomes are all there if it was measured, none otherwise",
        None,
    ),
    (
        "current_compression = 'hde', measured_candidates = 'none', optimal_compression = NULL",
        "the executed choice was measured",
        None,
    ),
    (
        "hde_compression_ratio = 2 * hde_compression_ratio",
        "compressed size × ratio is the size",
        "hde_compression_ratio",
    ),
    ("confidence = NULL", "prediction, confidence and model version come together", None),
    ("cost_zstd_ms = NULL", "labelled and costed if and only if fully measured", None),
    (SWAP_LABEL, "the label is the cheapest candidate", None),
    (SWAP_LABEL, "labels and costs are the oracle's", None),
    ("oracle_margin_ms = oracle_margin_ms * 1.001 + 0.001", "labels and costs are the oracle's", None),
]
FOLLOWS = {f"{name}'s outcomes are all there if it was measured, none otherwise" for name in ("amst", "zstd")}
"""What the damage to measured_candidates breaks beside what it is listed for."""


@pytest.fixture(scope="module")
def damaged(postgres_server: ServerInfo, _template: str) -> Iterator[tuple[ValidationResult, set[str]]]:
    """The validation of a day with every damage, and the ids of the damaged rows."""
    with _copy(postgres_server, _template) as copy:
        table = make_transfers(ROWS)
        load(copy, table)
        ids = table["transfer_id"].filter(pc.equal(table["measured_candidates"], contract.FULLY_MEASURED)).to_pylist()
        hurt = ids[: EACH * len(DAMAGE)]
        for n, (change, _, _) in enumerate(DAMAGE):
            statement = f"UPDATE compression_training_data SET {change} WHERE transfer_id = ANY (%s)"
            execute(copy.loader_dsn, statement, hurt[n * EACH : (n + 1) * EACH])
        execute(copy.loader_dsn, "DELETE FROM compression_training_data WHERE transfer_id = %s", ids[-1])
        yield validate(copy, columns=COLUMNS), set(hurt)


@pytest.mark.parametrize(
    ("change", "title", "column"), DAMAGE, ids=[f"{change}: {title}" for change, title, _ in DAMAGE]
)
def test_damage_turns_the_window_red_and_names_rows(
    damaged: tuple[ValidationResult, set[str]], change: str, title: str, column: str | None
) -> None:
    result, hurt = damaged
    check = failed(result, title, column)
    assert check.unexpected >= EACH
    assert len(check.examples) == EXAMPLES
    assert {example.transfer_id for example in check.examples} <= hurt
    assert not result.passed


def test_only_what_was_damaged_fails(damaged: tuple[ValidationResult, set[str]]) -> None:
    result, _ = damaged
    ledger = "the table holds what the ledger says was loaded"
    assert failed(result, ledger).observed == f"{ROWS - 1:,}"
    assert {check.title for check in result.failures} == {title for _, title, _ in DAMAGE} | FOLLOWS | {ledger}


def test_an_empty_window_fails_and_says_so(fresh_warehouse: Warehouse) -> None:
    result = validate(fresh_warehouse)
    assert [check.title for check in result.failures] == ["the window has rows"]
    assert "NOT validated" in result.summary()
    assert result.counts == Counts()
    assert "No row was fully measured" in render(result).decode()


def test_a_window_without_a_fully_measured_row_fails_and_says_so(fresh_warehouse: Warehouse) -> None:
    load(fresh_warehouse, make_transfers(ROWS, fully_measured=0.0))
    result = validate(fresh_warehouse)
    assert [check.title for check in result.failures] == ["some rows were fully measured"]
    assert result.labels == ()


def test_missing_days_stale_rows_and_low_volume_show(fresh_warehouse: Warehouse) -> None:
    load(fresh_warehouse, make_transfers(ROWS))
    earlier = [DAY.start - timedelta(days=n) for n in (1, 2, 3, 4, 5)]  # the second window of three lacks a day
    for day in earlier:
        execute(
            fresh_warehouse.loader_dsn,
            "INSERT INTO ingestion_windows (day, region, state, rows_read, rows_loaded, rows_quarantined, "
            "rows_duplicate, oracle_definition, ingestion_run_id, source, loaded_at) "
            "VALUES (%s, 'us-east', 'loaded', 30000, 30000, 0, 0, 'seed_3_1', 'earlier', 'test', now())",
            day,
        )
    result = validate(fresh_warehouse, Window(DAY.start, DAY.start + timedelta(days=3)))
    assert failed(result, "the newest row is recent").observed.startswith("2026-08-03 23:5")
    assert "90,000, the median of 1" in failed(result, "volume is like that of earlier windows").expected
    (missing,) = [check for check in result.warnings if check.title == "every day of the window has rows"]
    assert missing.observed == "none on 2026-08-04, 2026-08-05"


@pytest.mark.parametrize(("earlier", "failures", "warnings"), [(ROWS, 0, 0), (ROWS * 3, 0, 1), (ROWS * 11, 1, 1)])
def test_volume_is_compared_with_windows_of_equal_length(earlier: int, failures: int, warnings: int) -> None:
    around = Surroundings(DAY, NOW, rows=ROWS, labelled=1, ledger_loaded=ROWS, earlier_rows=(earlier, earlier, 1))
    suite = build_suite(around)
    broken = [
        e.meta["severity"]
        for e in suite.expectations
        if e.meta["title"].startswith("volume") and not e.min_value <= ROWS <= e.max_value
    ]
    assert (broken.count("fail"), broken.count("warn")) == (failures, warnings)


def test_a_killed_run_leaves_a_view_that_the_next_run_drops_and_a_living_one_stays(good_day: Warehouse) -> None:
    with closing(psycopg2.connect(good_day.loader_dsn)) as killed:
        with killed, killed.cursor() as cursor:
            cursor.execute("CREATE VIEW quality_runs.run_000000000000_killed AS SELECT 1")
        with run_view(good_day.loader_dsn, DAY, "living") as living:
            assert views(good_day) == [living]
            killed.autocommit = True
            assert drop_orphans(killed) == []
            assert views(good_day) == [living]
    assert views(good_day) == []


def test_the_view_goes_when_the_run_fails(good_day: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), run_view(good_day.loader_dsn, DAY, "'; DROP SCHEMA quality_runs --"):
        raise ZeroDivisionError
    assert views(good_day) == []


def test_the_reader_may_not_make_views(good_day: Warehouse) -> None:
    with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ReadOnlySqlTransaction)):
        validate_window(good_day.reader_dsn, DAY, "run")


def test_the_suite_follows_the_contract() -> None:
    around = Surroundings(DAY, NOW, rows=ROWS, labelled=1, ledger_loaded=ROWS, earlier_rows=())
    extra = Column("battery", Role.FIELD, Kind.FLOAT, "FLOAT", "fraction", "charge", minimum=0.0, maximum=1.0)

    def judged(columns: tuple[Column, ...]) -> set[tuple[str, str, str]]:
        suite = build_suite(around, columns)
        return {(e.meta["column"], e.meta["title"], e.meta["expected"]) for e in suite.expectations}

    assert judged((*COLUMNS, extra)) - judged(COLUMNS) == {
        ("battery", "has the contract's type", "FLOAT"),
        ("battery", "is never missing", "a value in every row"),
        ("battery", "lies in its range", "0 to 1"),
    }
    narrowed = tuple(with_changes(c, maximum=5.0) if c.name == "rtt_ms" else c for c in COLUMNS)
    assert ("rtt_ms", "lies in its range", "0 ms to 5 ms") in judged(narrowed) - judged(COLUMNS)


def test_every_expectation_is_marked_fail_or_warn() -> None:
    around = Surroundings(DAY, NOW, rows=ROWS, labelled=1, ledger_loaded=ROWS, earlier_rows=(ROWS,))
    marks = [e.meta["severity"] for e in build_suite(around).expectations]
    assert len(marks) > len(COLUMNS)
    assert set(marks) == {"fail", "warn"}


def test_the_page_puts_counts_then_failures_first_and_escapes_values(
    damaged: tuple[ValidationResult, set[str]],
) -> None:
    result, _ = damaged
    evil = with_changes(result, quarantine=(("<script>alert(1)</script> is unknown", 3),))
    page = render(evil).decode()
    places = [
        page.index(text) for text in ("rows read", "What failed", "labels and costs", "Quarantine", "What passed")
    ]
    assert places == sorted(places)
    assert "<script>" not in page
    assert "http" not in page
    for check in result.failures:
        for example in check.examples:
            assert example.transfer_id in page
