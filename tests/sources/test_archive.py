"""The Parquet archive: partitions replaced whole, read in bounded memory, and never believed blindly."""

from __future__ import annotations

import multiprocessing
import os
import time
import tracemalloc
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dwcp.contract import REGIONS
from dwcp.settings import Settings
from dwcp.sources import SourceError, open_source
from dwcp.sources.archive import (
    BATCH_ROWS,
    Archived,
    ArchiveSource,
    ArchiveWriter,
    archiving,
    partition_of,
    write_archive,
)
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window
from transfers import make_transfers, replace

MONDAY = date(2026, 8, 3)
DAY = Window.of_day(MONDAY)
WEEK = Window.parse("2026-08-03", "2026-08-10")


def archive(directory: Path, rows: pa.Table, batch_rows: int = 1_000) -> Archived:
    with ArchiveWriter(directory) as writer:
        for batch in rows.to_batches(max_chunksize=batch_rows):
            writer.write(batch)
        return writer.commit()


def read(directory: Path, window: Window = WEEK, regions: list[str] | None = None) -> pa.Table:
    return pa.Table.from_batches(ArchiveSource(directory).read(window, regions), LOGGED_SCHEMA)


def assert_same_rows(got: pa.Table, expected: pa.Table) -> None:
    got, expected = got.sort_by("transfer_id").combine_chunks(), expected.sort_by("transfer_id").combine_chunks()
    assert got.equals(expected)


def of_region(rows: pa.Table, region: str) -> pa.Table:
    return rows.filter(pc.equal(rows["region"], region))


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_what_was_archived_is_read_back(tmp_path: Path) -> None:
    rows = make_transfers(7_000, seconds=7 * 86_400)
    archived = archive(tmp_path, rows)
    assert archived == Archived(7_000, 7 * len(REGIONS), ())
    assert {p.parent.name for p in tmp_path.glob("day=2026-08-05/*/part-*.parquet")} == {f"region={r}" for r in REGIONS}
    source = open_source(Settings(home=tmp_path.parent), "archive")
    assert isinstance(source, ArchiveSource)
    assert_same_rows(read(tmp_path), rows)
    assert ArchiveSource(tmp_path).count(WEEK) == 7_000


def test_windows_and_regions_cut_exactly(tmp_path: Path) -> None:
    rows = make_transfers(2_000, seconds=2 * 86_400)
    archive(tmp_path, rows)
    window = Window.parse("2026-08-03T07:30:00Z", "2026-08-04T11:00:00Z")
    inside = rows.filter(
        pc.and_(pc.greater_equal(rows["timestamp_ns"], window.start_ns), pc.less(rows["timestamp_ns"], window.end_ns))
    )
    inside = inside.filter(pc.is_in(inside["region"], value_set=pa.array(["us-east", "ap-south"])))
    assert_same_rows(read(tmp_path, window, ["us-east", "ap-south", "nowhere"]), inside)
    assert ArchiveSource(tmp_path).count(window, ["us-east", "ap-south", "nowhere"]) == inside.num_rows > 0
    assert read(tmp_path, window, []).num_rows == 0


def test_an_absent_day_is_no_rows_but_an_absent_archive_is_an_error(tmp_path: Path) -> None:
    assert read(tmp_path).num_rows == ArchiveSource(tmp_path).count(WEEK) == 0
    with pytest.raises(SourceError, match=r"there is no archive at .*gone"):
        read(tmp_path / "gone")


def test_rows_with_missing_or_odd_regions_are_kept(tmp_path: Path) -> None:
    rows = make_transfers(50)
    odd = [None, "", "../../etc", "a/b", "..", "x" * 300, "é", "us east", "a\nb", "__unknown__", "mars"]
    for row, region in enumerate(odd):
        rows = replace(rows, "region", row, region)
    archive(tmp_path / "archive", rows)
    assert_same_rows(read(tmp_path / "archive"), rows)
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]
    names = {p.name for p in (tmp_path / "archive" / "day=2026-08-03").iterdir()}
    assert names == {f"region={name}" for name in (*REGIONS, "__unknown__", "mars")}
    for region in odd[2:]:
        assert read(tmp_path / "archive", DAY, [str(region)]).num_rows == 1
    assert read(tmp_path / "archive", DAY, [""]).num_rows == 2  # null and empty


@pytest.mark.parametrize("region", ["..", "../x", "a/b", "", "x" * 300, ".hidden", "a\x00b", "a\n"])
def test_a_region_that_escapes_is_refused(tmp_path: Path, region: str) -> None:
    assert partition_of(region) == "__unknown__"
    with pytest.raises(SourceError, match="cannot name an archive partition"):
        write_archive(tmp_path, MONDAY, region, [])
    assert list(tmp_path.iterdir()) == []


def test_a_partition_is_replaced_whole_and_twice_is_once(tmp_path: Path) -> None:
    first, second = (of_region(make_transfers(3_000, seed=seed), "us-east") for seed in (1, 2))
    foreign = tmp_path / "day=2026-08-03" / "region=us-east" / "part-7.parquet"
    foreign.parent.mkdir(parents=True)
    pq.write_table(first, foreign)
    assert write_archive(tmp_path, MONDAY, "us-east", first.to_batches()) == first.num_rows
    once = files(tmp_path)
    assert write_archive(tmp_path, MONDAY, "us-east", first.to_batches(max_chunksize=7)) == first.num_rows
    assert files(tmp_path) == once
    assert list(once) == ["day=2026-08-03/region=us-east/part-0.parquet"]
    write_archive(tmp_path, MONDAY, "us-east", second.to_batches())
    assert_same_rows(read(tmp_path), second)


def test_a_failure_on_the_way_leaves_the_old_partition(tmp_path: Path) -> None:
    rows = make_transfers(3_000)
    archive(tmp_path, rows)
    before = files(tmp_path)

    def breaks() -> Iterator[pa.RecordBatch]:
        yield from make_transfers(2_000, seed=9).to_batches()
        raise SourceError("the source broke")

    with pytest.raises(SourceError, match="the source broke"):
        list(archiving(tmp_path, breaks()))
    with pytest.raises(SourceError, match="the source broke"):
        write_archive(tmp_path, MONDAY, None, (replace_region(b) for b in breaks()))
    reading = archiving(tmp_path, iter(make_transfers(2_000, seed=9).to_batches()))
    next(reading)
    reading.close()  # a reader that stops half-way has not seen the whole window
    assert files(tmp_path) == before


def replace_region(batch: pa.RecordBatch) -> pa.RecordBatch:
    index = LOGGED_SCHEMA.get_field_index("region")
    return batch.set_column(index, LOGGED_SCHEMA.field(index), pa.nulls(batch.num_rows, pa.string()))


def test_archiving_passes_on_every_batch(tmp_path: Path) -> None:
    rows = make_transfers(3_000)
    passed = pa.Table.from_batches(archiving(tmp_path, rows.to_batches(max_chunksize=100)))
    assert passed.equals(rows)
    assert_same_rows(read(tmp_path), rows)


def test_an_archive_does_not_forget_what_its_source_forgot(tmp_path: Path) -> None:
    rows = make_transfers(600)
    archive(tmp_path, rows)
    rest = rows.filter(pc.greater(rows["timestamp_ns"], rows["timestamp_ns"][400].as_py()))
    again = archive(tmp_path, rest)
    assert again.rows == again.replaced == 0
    assert set(again.kept) == {f"day=2026-08-03/region={region}" for region in REGIONS}
    assert_same_rows(read(tmp_path), rows)


def test_rows_that_belong_elsewhere_are_refused(tmp_path: Path) -> None:
    rows = make_transfers(100)
    with pytest.raises(SourceError, match="rows of another day or region do not belong"):
        write_archive(tmp_path, MONDAY, "us-east", rows.to_batches())
    with pytest.raises(SourceError, match="rows of another day or region do not belong"):
        write_archive(tmp_path, MONDAY + timedelta(days=1), "us-east", of_region(rows, "us-east").to_batches())
    misplaced = tmp_path / "day=2026-08-03" / "region=us-west" / "part-0.parquet"
    misplaced.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(of_region(rows, "us-east"), misplaced)
    for act in (lambda: read(tmp_path), lambda: ArchiveSource(tmp_path).count(WEEK)):
        with pytest.raises(SourceError, match=r"do not belong into .*region=us-west"):
            act()


def test_a_row_without_timestamp_is_given_once_and_never_archived(tmp_path: Path) -> None:
    rows = replace(of_region(make_transfers(200), "us-east"), "timestamp_ns", 3, None)
    with pytest.raises(SourceError, match="without timestamp"):
        archive(tmp_path, rows)
    write_archive(tmp_path, MONDAY, "us-east", rows.to_batches())  # another writer's file
    assert read(tmp_path, Window.parse("2026-08-03", "2026-08-03T12:00:00Z"))["timestamp_ns"].null_count == 1
    assert read(tmp_path, Window.parse("2026-08-03T12:00:00Z", "2026-08-04"))["timestamp_ns"].null_count == 0
    assert ArchiveSource(tmp_path).count(DAY) == rows.num_rows


def foreign_file(tmp_path: Path, table: pa.Table) -> Path:
    path = tmp_path / "day=2026-08-03" / "region=us-east" / "part-a.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_a_file_against_the_contract_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    rows = of_region(make_transfers(100), "us-east")
    index = LOGGED_SCHEMA.get_field_index("data_size_bytes")
    wrong = rows.set_column(index, "data_size_bytes", rows["data_size_bytes"].cast(pa.float64()))
    foreign_file(tmp_path, wrong.drop_columns(["rtt_ms"]))
    for act in (lambda: read(tmp_path), lambda: ArchiveSource(tmp_path).count(WEEK)):
        with pytest.raises(
            SourceError, match=r"part-a.parquet.*rtt_ms is missing; data_size_bytes is double, not int64"
        ):
            act()


def test_pandas_text_and_further_columns_are_read(tmp_path: Path) -> None:
    rows = of_region(make_transfers(100), "us-east")
    large = pa.schema([pa.field(f.name, pa.large_string() if f.type == pa.string() else f.type) for f in rows.schema])
    foreign_file(tmp_path, rows.cast(large).append_column("note", pa.nulls(rows.num_rows)))
    assert_same_rows(read(tmp_path), rows)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = foreign_file(tmp_path, of_region(make_transfers(5_000), "us-east"))
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:middle],
            "empty": b"",
            "garbage": b"PAR1" + b"\xff" * 500 + b"PAR1",
            "flipped": whole[: middle - 3_000] + b"\xff" * 6_000 + whole[middle + 3_000 :],
        }[damage]
    )
    with pytest.raises(SourceError, match=r"part-a.parquet cannot be read .*restore it"):
        read(tmp_path)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_archive(tmp_path, MONDAY, "us-east", of_region(make_transfers(5_000), "us-east").to_batches())
    (path,) = tmp_path.rglob("part-*.parquet")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match=r"part-0.parquet cannot be read .*restore it"):
        read(tmp_path)


def replace_repeatedly(directory: Path, seed: int, rounds: int) -> None:
    rows = of_region(make_transfers(2_000, seed=seed), "us-east")
    for _ in range(rounds):
        write_archive(directory, MONDAY, "us-east", rows.to_batches())


def test_writers_and_readers_at_once_see_one_or_the_other(tmp_path: Path) -> None:
    candidates = [of_region(make_transfers(2_000, seed=seed), "us-east").sort_by("transfer_id") for seed in (1, 2)]
    write_archive(tmp_path, MONDAY, "us-east", candidates[0].to_batches())
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=replace_repeatedly, args=(tmp_path, seed, 15)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        got = read(tmp_path).sort_by("transfer_id")
        assert any(got.equals(candidate) for candidate in candidates)
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [p.name for p in (tmp_path / "day=2026-08-03" / "region=us-east").iterdir()] == ["part-0.parquet"]


def kill_midway(directory: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from of_region(make_transfers(2_000, seed=5), "us-east").to_batches()
        os._exit(9)

    write_archive(directory, MONDAY, "us-east", batches())


def test_a_killed_writer_leaves_the_old_rows_and_its_litter_is_swept(tmp_path: Path) -> None:
    rows = of_region(make_transfers(1_000), "us-east")
    write_archive(tmp_path, MONDAY, "us-east", rows.to_batches())
    process = multiprocessing.get_context("spawn").Process(target=kill_midway, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert_same_rows(read(tmp_path), rows)
    (litter,) = (p for p in tmp_path.rglob(".*") if p.is_file())
    two_days_ago = time.time() - 2 * 86_400
    os.utime(litter, (two_days_ago, two_days_ago))
    write_archive(tmp_path, MONDAY, "us-east", rows.to_batches())
    assert not litter.exists()


POOLS: list[pa.MemoryPool] = []
"""Kept to the end: Arrow crashes if a buffer outlives its pool."""


def peak_bytes(directory: Path, days: int) -> tuple[int, int]:
    """Peaks of Arrow's memory and of Python's heap over archiving and reading ``days`` × 20,000 rows."""
    one_day = make_transfers(20_000)
    index = LOGGED_SCHEMA.get_field_index("timestamp_ns")
    day_ns = 86_400 * 10**9
    old, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    POOLS.append(counted)
    pa.set_memory_pool(counted)
    tracemalloc.start()
    try:
        with ArchiveWriter(directory) as writer:
            for day in range(days):
                moved = pc.add(one_day["timestamp_ns"], day * day_ns)
                for batch in one_day.set_column(index, "timestamp_ns", moved).to_batches(max_chunksize=5_000):
                    writer.write(batch)
            assert writer.commit().rows == days * 20_000
        rows = 0
        for batch in ArchiveSource(directory).read(Window.parse("2026-08-03", "2026-09-03")):
            rows += batch.num_rows
            assert batch.num_rows <= BATCH_ROWS
        assert rows == days * 20_000
        return counted.max_memory(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(old)


def test_memory_does_not_grow_with_the_window(tmp_path: Path) -> None:
    few, many = peak_bytes(tmp_path / "few", 4), peak_bytes(tmp_path / "many", 12)
    assert many[0] < few[0] * 1.5
    assert many[1] < few[1] * 1.5 + 2_000_000
