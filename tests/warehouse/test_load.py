"""Loads: counts that reconcile, windows that are replaced whole, duplicates that have one winner, nothing half done."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from itertools import islice

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwcp.contract import COLUMNS, REGIONS
from dwcp.warehouse.load import NO_REGION, Counts, load_day
from dwcp.warehouse.replace import lock
from dwcp.warehouse.transaction import LoadError
from dwcp.warehouse.windows import loaded_counts, read_states
from dwcp.window import Window
from fixtures_postgres import Warehouse, checked_batches
from transfers import START, make_transfers, replace

DAY = START.date()
NEXT = START + timedelta(days=1)
OURS = ", ".join(column.name for column in COLUMNS if column.name != "ingestion_run_id")


def rows(warehouse: Warehouse, table: str = "compression_training_data") -> list[tuple[object, ...]]:
    """Everything but ``id`` and the run, which two loads may differ in."""
    return warehouse.query(f"SELECT {OURS} FROM {table} ORDER BY transfer_id, timestamp_ns, region")


def bad_rows(table: pa.Table, reason: str = "broken") -> pa.Table:
    return table.append_column("reason", pa.array([reason] * table.num_rows, pa.string()))


def test_loaded_rows_are_those_that_were_read(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(1_000)
    counts = fresh_warehouse.load(table)
    assert counts == Counts(read=1_000, loaded=1_000)
    stored = fresh_warehouse.query(
        f"SELECT {', '.join(table.schema.names)} FROM compression_training_data ORDER BY timestamp_ns"
    )
    assert stored == list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    times = fresh_warehouse.query("SELECT timestamp, timestamp_ns FROM compression_training_data")
    assert all(START + timedelta(microseconds=(ns - Window.of_day(DAY).start_ns) // 1_000) == at for at, ns in times)


def test_only_fully_measured_rows_have_a_label(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(500))
    groups = fresh_warehouse.query(
        "SELECT DISTINCT measured_candidates = 'hde,amst,none,zstd', optimal_compression IS NOT NULL, "
        "oracle_margin_ms IS NOT NULL FROM compression_training_data"
    )
    assert sorted(groups) == [(False, False, False), (True, True, True)]


def test_loading_twice_gives_the_same_rows_and_the_second_runs_id(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(500), run_id="first")
    before = rows(fresh_warehouse)
    fresh_warehouse.load(make_transfers(500), run_id="second", batch_rows=77)
    assert rows(fresh_warehouse) == before
    assert fresh_warehouse.query("SELECT DISTINCT ingestion_run_id FROM compression_training_data") == [("second",)]


def test_two_loads_at_once_give_the_same_rows(fresh_warehouse: Warehouse) -> None:
    today, tomorrow = make_transfers(600, seed=1), make_transfers(600, start=NEXT, seed=2)
    shared = today["transfer_id"].to_pylist()[:50]
    tomorrow = tomorrow.set_column(
        tomorrow.schema.get_field_index("transfer_id"),
        "transfer_id",
        pa.array(shared + tomorrow["transfer_id"].to_pylist()[50:]),
    )
    failures: list[Exception] = []

    def work(table: pa.Table, run_id: str) -> None:
        try:
            for _ in range(3):
                fresh_warehouse.load(table, run_id=run_id)
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(table, f"run-{n}")) for n, table in enumerate((today, tomorrow, today))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(rows(fresh_warehouse)) == 1_150
    window = Window(START, START + timedelta(days=2))
    assert loaded_counts(fresh_warehouse.reader_dsn, window) == Counts(1_200, 1_150, 0, 50)
    assert len(fresh_warehouse.query("SELECT DISTINCT ingestion_run_id FROM compression_training_data")) == 2


def test_only_the_regions_that_were_extracted_are_replaced(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(600), run_id="whole")
    part = make_transfers(300, seed=5)
    part = part.filter(pa.array(np.isin(part["region"].to_pylist(), ["us-east", "eu-west"])))
    counts = fresh_warehouse.load(part, regions=["us-east", "eu-west"], run_id="part")
    assert counts == Counts(part.num_rows, part.num_rows)
    runs = dict(fresh_warehouse.query("SELECT DISTINCT region, ingestion_run_id FROM compression_training_data"))
    assert runs == {region: "part" if region in ("us-east", "eu-west") else "whole" for region in REGIONS}


def test_other_days_are_left_alone(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(200))
    fresh_warehouse.load(make_transfers(300, start=NEXT))
    fresh_warehouse.load(make_transfers(100))
    by_day = fresh_warehouse.query(
        "SELECT (timestamp AT TIME ZONE 'UTC')::DATE, count(*) FROM compression_training_data GROUP BY 1 ORDER BY 1"
    )
    assert by_day == [(DAY, 100), (NEXT.date(), 300)]


def test_an_empty_day_empties_the_window_and_says_so(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(200))
    assert fresh_warehouse.load(make_transfers(1).slice(0, 0), day=DAY) == Counts()
    assert rows(fresh_warehouse) == []
    states = read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))
    assert [(state.region, state.counts) for state in states] == [(region, Counts()) for region in sorted(REGIONS)]


def test_a_replaced_window_loses_its_validated_state(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(200))
    fresh_warehouse.validate(DAY)
    fresh_warehouse.load(make_transfers(200).filter(pa.array([True] * 200)), run_id="again")
    states = read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))
    assert {(state.state, state.validation_run_id, state.ingestion_run_id) for state in states} == {
        ("loaded", None, "again")
    }


# -- quarantine --


def test_bad_rows_are_kept_as_they_were_read(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(100)
    broken = table.slice(0, 5)
    for name, row, value in [
        ("rtt_ms", 0, float("nan")),
        ("jitter_ms", 0, float("-inf")),
        ("region", 1, None),
        ("region", 2, "x" * 51),
        ("object_id", 3, 'nul \0, quote " and \n line'),
        ("transfer_id", 4, None),
        ("active_transfers", 4, 2**60),
        ("peer_id", 4, ""),
    ]:
        broken = replace(broken, name, row, value)
    counts = fresh_warehouse.load(table.slice(5), bad=bad_rows(broken, "rtt_ms: not finite"))
    assert counts == Counts(read=100, loaded=95, quarantined=5)
    raw = [row for (row,) in fresh_warehouse.query("SELECT raw FROM quarantined_transfers ORDER BY id")]
    assert raw[0]["rtt_ms"] == "NaN"
    assert raw[0]["jitter_ms"] == "-Infinity"
    assert raw[1]["region"] is None
    assert raw[3]["object_id"] == 'nul \ufffd, quote " and \n line'
    assert (raw[4]["active_transfers"], raw[4]["peer_id"], raw[4]["transfer_id"]) == (2**60, "", None)
    assert set(raw[0]) == set(table.schema.names)
    kept = fresh_warehouse.query("SELECT DISTINCT ingestion_run_id, day, reason, source FROM quarantined_transfers")
    assert kept == [("run-1", DAY, "rtt_ms: not finite", "archive")]
    states = {state.region: state.counts for state in read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))}
    assert states[NO_REGION] == Counts(read=2, quarantined=2)
    assert all(count.reconciled for count in states.values())


def test_a_reload_replaces_the_quarantine_too(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(100)
    for _ in range(2):
        fresh_warehouse.load(table.slice(10), bad=bad_rows(table.slice(0, 10)))
    assert fresh_warehouse.query("SELECT count(*) FROM quarantined_transfers") == [(10,)]
    assert fresh_warehouse.load(table) == Counts(100, 100)
    assert fresh_warehouse.query("SELECT count(*) FROM quarantined_transfers") == [(0,)]


def test_the_ledger_refuses_counts_that_do_not_reconcile(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(50))
    statement = "UPDATE ingestion_windows SET rows_loaded = rows_loaded + 1"
    with pytest.raises(psycopg2.errors.CheckViolation, match="nothing_is_lost"):
        fresh_warehouse.execute(statement, dsn=fresh_warehouse.loader_dsn)


# -- duplicates --


def test_within_an_extract_the_earliest_wins(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(100)
    for row in (50, 70):
        table = replace(table, "transfer_id", row, table["transfer_id"][20].as_py())
    backwards = table.take(pa.array(np.arange(100)[::-1]))
    assert fresh_warehouse.load(backwards, day=DAY) == Counts(100, 98, 0, 2)
    winner = fresh_warehouse.query(
        "SELECT timestamp_ns FROM compression_training_data WHERE transfer_id = %s", (table["transfer_id"][20].as_py(),)
    )
    assert winner == [(table["timestamp_ns"][20].as_py(),)]


def test_a_tie_does_not_depend_on_the_order_of_rows(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(2)
    for name in ("transfer_id", "timestamp_ns", "region"):
        table = replace(table, name, 1, table[name][0].as_py())
    results = []
    for order in ([0, 1], [1, 0]):
        assert fresh_warehouse.load(table.take(order)) == Counts(2, 1, 0, 1)
        results.append((rows(fresh_warehouse), rows(fresh_warehouse, "duplicate_transfers")))
    assert results[0] == results[1]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["earlier day first", "later day first"])
def test_across_days_the_earliest_wins_and_both_ledgers_say_so(
    fresh_warehouse: Warehouse, order: tuple[int, int]
) -> None:
    days = [make_transfers(100, seed=1), make_transfers(100, start=NEXT, seed=2)]
    days[1] = replace(days[1], "transfer_id", 7, days[0]["transfer_id"][3].as_py())
    for n in order:
        fresh_warehouse.load(days[n])
    dsn = fresh_warehouse.reader_dsn
    assert loaded_counts(dsn, Window.of_day(DAY)) == Counts(100, 100)
    assert loaded_counts(dsn, Window.of_day(NEXT.date())) == Counts(100, 99, 0, 1)
    fresh_warehouse.load(days[0].filter(pa.array(np.arange(100) != 3)))  # the winner goes: the other comes back
    assert loaded_counts(dsn, Window.of_day(DAY)) == Counts(99, 99)
    assert loaded_counts(dsn, Window.of_day(NEXT.date())) == Counts(100, 100)


REGION_NAMES = ("us-east", "eu-west")
EXTRACT = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 86_399), st.sampled_from(REGION_NAMES)), min_size=0, max_size=6
)


def extract(day_number: int, items: list[tuple[int, int, str]]) -> pa.Table:
    """Transfers of a few ids, so that they collide within the day and between days."""
    table = make_transfers(max(1, len(items)), seed=day_number).slice(0, len(items))
    start_ns = Window.of_day(DAY + timedelta(days=day_number)).start_ns
    for name, values in {
        "transfer_id": [f"t{number}" for number, _, _ in items],
        "timestamp_ns": [start_ns + second * 10**9 for _, second, _ in items],
        "region": [region for _, _, region in items],
    }.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    return table


def load_in_turn(warehouse: Warehouse, table: pa.Table, day: date, batch_rows: int = 300) -> Counts:
    """Load while another session holds the lock until the last row is read: everything waits in staging."""
    with closing(psycopg2.connect(warehouse.loader_dsn)) as other, other.cursor() as cursor:
        lock(cursor)

        def checked() -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
            yield from checked_batches(table, rows=batch_rows)
            other.commit()

        return load_day(
            warehouse.loader_dsn,
            day=day,
            regions=None,
            run_id="run-1",
            source="archive",
            checked=checked(),
            oracle_definition="seed_3_1",
        )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(loads=st.lists(st.tuples(st.integers(0, 2), EXTRACT), min_size=1, max_size=4), data=st.data())
def test_what_is_loaded_depends_on_the_last_extracts_alone(
    warehouse: Warehouse, loads: list[tuple[int, list[tuple[int, int, str]]]], data: st.DataObject
) -> None:
    def run(sequence: list[tuple[int, list[tuple[int, int, str]]]]) -> tuple[object, object, object]:
        warehouse.execute("TRUNCATE compression_training_data, duplicate_transfers, ingestion_windows")
        for number, items in sequence:
            table, day = extract(number, items), DAY + timedelta(days=number)
            batch_rows = data.draw(st.integers(1, 6))
            if data.draw(st.booleans()):
                counts = load_in_turn(warehouse, table, day, batch_rows)
            else:
                counts = warehouse.load(table, day=day, batch_rows=batch_rows)
            assert counts.read == len(items)
        ledger = warehouse.query(
            "SELECT day, region, rows_read, rows_loaded, rows_duplicate FROM ingestion_windows "
            "WHERE rows_read > 0 ORDER BY day, region"
        )
        actual = warehouse.query(
            "SELECT (timestamp AT TIME ZONE 'UTC')::DATE, region, count(*), count(*) FILTER (WHERE loaded), "
            "count(*) FILTER (WHERE NOT loaded) FROM (SELECT timestamp, region, TRUE AS loaded FROM "
            "compression_training_data UNION ALL SELECT timestamp, region, FALSE FROM duplicate_transfers) AS rows "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        )
        assert ledger == actual
        return rows(warehouse), rows(warehouse, "duplicate_transfers"), ledger

    result = run(loads)
    last = dict(loads)
    assert run(data.draw(st.permutations(list(last.items())))) == result
    firsts: dict[str, tuple[int, int, str]] = {}
    for number, items in last.items():
        for name, second, region in items:
            key = (number, second, region)
            firsts[f"t{name}"] = min(key, firsts.get(f"t{name}", key))
    loaded = warehouse.query("SELECT transfer_id, timestamp_ns, region FROM compression_training_data")
    start_ns = Window.of_day(DAY).start_ns
    assert {name: (ns, region) for name, ns, region in loaded} == {
        name: (start_ns + (number * 86_400 + second) * 10**9, region)
        for name, (number, second, region) in firsts.items()
    }


def test_a_load_that_finds_the_lock_held_gives_the_same_rows(fresh_warehouse: Warehouse) -> None:
    """Ids repeated in one block and in two, and one that another day has: straight into the table, and by staging."""
    other_day = make_transfers(50, start=START - timedelta(days=1), seed=3)
    fresh_warehouse.load(other_day)
    table = make_transfers(900)
    for row, taken in [
        (10, table["transfer_id"][11]),
        (700, table["transfer_id"][20]),
        (500, other_day["transfer_id"][0]),
    ]:
        table = replace(table, "transfer_id", row, taken.as_py())
    results = []
    for counts in (lambda: fresh_warehouse.load(table), lambda: load_in_turn(fresh_warehouse, table, DAY)):
        assert counts() == Counts(900, 897, 0, 3)
        results.append((rows(fresh_warehouse), rows(fresh_warehouse, "duplicate_transfers")))
    assert results[0] == results[1]


def test_while_a_load_reads_another_may_stage(fresh_warehouse: Warehouse) -> None:
    """The first one's source waits until the second has read everything: neither stops the other's reading."""
    all_read = threading.Event()
    counts: list[Counts] = []

    def load(table: pa.Table, day: date, *, first: bool) -> None:
        def checked() -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
            yield from checked_batches(table)
            if first:
                assert all_read.wait(60)
            else:
                all_read.set()

        counts.append(
            load_day(
                fresh_warehouse.loader_dsn,
                day=day,
                regions=None,
                run_id="r",
                source="archive",
                checked=checked(),
                oracle_definition="seed_3_1",
            )
        )

    threads = [
        threading.Thread(
            target=load, args=(make_transfers(400, start=start, seed=n), start.date()), kwargs={"first": n == 0}
        )
        for n, start in enumerate((START, NEXT))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [Counts(400, 400), Counts(400, 400)]


# -- refusals: the old rows stay --


def test_nothing_changes_if_the_source_breaks_off(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(200))
    fresh_warehouse.validate(DAY)
    before = (rows(fresh_warehouse), read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY)))

    def broken() -> object:
        yield next(checked_batches(make_transfers(100, seed=9)))
        raise ConnectionResetError("the source went away")

    with pytest.raises(ConnectionResetError):
        load_day(
            fresh_warehouse.loader_dsn,
            day=DAY,
            regions=None,
            run_id="broken",
            source="archive",
            checked=broken(),
            oracle_definition="seed_3_1",
        )
    assert (rows(fresh_warehouse), read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))) == before


def test_nothing_changes_if_the_server_ends_the_session_in_the_middle(fresh_warehouse: Warehouse) -> None:
    fresh_warehouse.load(make_transfers(200))
    before = (rows(fresh_warehouse), read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY)))
    superuser = fresh_warehouse.server.dsn("postgres", fresh_warehouse.database)

    def killed() -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        batches = checked_batches(make_transfers(3_000, seed=9))
        yield from islice(batches, 5)
        fresh_warehouse.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'dwcp_loader'",
            dsn=superuser,
        )
        yield from batches

    with pytest.raises(LoadError, match="the old rows stay, run it again"):
        load_day(
            fresh_warehouse.loader_dsn,
            day=DAY,
            regions=None,
            run_id="killed",
            source="archive",
            checked=killed(),
            oracle_definition="seed_3_1",
        )
    assert (rows(fresh_warehouse), read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))) == before


def test_rows_of_another_day_or_region_are_refused(fresh_warehouse: Warehouse) -> None:
    with pytest.raises(LoadError, match="rows outside 2026-08-03"):
        fresh_warehouse.load(make_transfers(10, start=START + timedelta(hours=20)), day=DAY)
    with pytest.raises(LoadError, match=r"rows of region .*, but 2026-08-03 \(us-east\) was asked for"):
        fresh_warehouse.load(make_transfers(50), regions=["us-east"])
    with pytest.raises(LoadError, match="no region named"):
        fresh_warehouse.load(make_transfers(50), regions=[])
    assert rows(fresh_warehouse) == []
    assert read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY)) == []


def test_unlabelled_rows_are_refused(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(10).to_batches()[0]
    pairs = iter([(table, next(checked_batches(make_transfers(1)))[1])])
    with pytest.raises(LoadError, match="lack cost_amst_ms"):
        load_day(
            fresh_warehouse.loader_dsn,
            day=DAY,
            regions=None,
            run_id="r",
            source="archive",
            checked=pairs,
            oracle_definition="seed_3_1",
        )


def test_every_region_is_counted_by_itself(fresh_warehouse: Warehouse) -> None:
    table = make_transfers(400)
    fresh_warehouse.load(table)
    expected = Counter(table["region"].to_pylist())
    states = read_states(fresh_warehouse.reader_dsn, Window.of_day(DAY))
    assert {state.region: state.counts for state in states} == {
        region: Counts(rows, rows) for region, rows in expected.items()
    }
