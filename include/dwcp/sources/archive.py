"""The cold archive: Parquet, one partition a day and region, ``day=YYYY-MM-DD/region=<region>/part-*.parquet``.

InfluxDB forgets what its retention says, so the weekly run keeps here what it read: with the archive any model can be
rebuilt. The files hold all columns of ``LOGGED_SCHEMA``; the path only says where to look. Rows whose region is missing
or can be no directory's name (a slash, 200 letters) share the partition ``region=__unknown__``, their region as it was.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dwcp.sources import SourceError
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window

log = logging.getLogger(__name__)

BATCH_ROWS = 10_000
"""Rows of a batch read and of a row group written; with about 1 kB a row it bounds memory."""
WAITING_ROWS = 60_000
"""Rows that an ``ArchiveWriter`` holds back, over all partitions, to fill row groups."""
UNKNOWN = "__unknown__"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PART = "part-0.parquet"
_TEMPORARY = ".part-"
_ORPHAN_AGE_S = 86_400
"""A temporary file this old was left by a writer that was killed."""
_READ_BUFFER_BYTES = 64 << 10


class ArchiveSource:
    """Transfers of a local archive. A day or region that is not there is simply no rows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, window: Window, regions: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows in ``LOGGED_SCHEMA``, day by day and region by region, at most 10,000 a batch.

        The region ``""`` names the rows without one; a row without timestamp belongs to its day's first instant.
        Raises ``SourceError`` on a file that cannot be read, contradicts the contract, or holds rows of another
        partition.
        """
        yield from self._scan(window, regions, LOGGED_SCHEMA)

    def count(self, window: Window, regions: Sequence[str] | None = None) -> int:
        """Rows of the window; reads two columns."""
        schema = pa.schema([LOGGED_SCHEMA.field("region"), LOGGED_SCHEMA.field("timestamp_ns")])
        return sum(batch.num_rows for batch in self._scan(window, regions, schema))

    def _scan(self, window: Window, regions: Sequence[str] | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        if not self._directory.is_dir():
            raise SourceError(f"there is no archive at {self._directory}: is DWCP_HOME right, is its disk mounted?")
        partitions = None if regions is None else {f"region={partition_of(region or None)}" for region in regions}
        for day in window.days():
            for directory in sorted((self._directory / f"day={day}").glob("region=*")):
                if partitions is None or directory.name in partitions:
                    for path in sorted(directory.glob("part-*.parquet")):
                        for batch in _read_file(path, schema):
                            _check_place(path, day, directory.name.removeprefix("region="), batch)
                            kept = batch.filter(_wanted(batch, day, window, regions))
                            if kept.num_rows:
                                yield kept


def partition_of(region: str | None) -> str:
    """The partition that rows of ``region`` lie in."""
    return region if region is not None and _PLAIN.fullmatch(region) else UNKNOWN


def write_archive(directory: Path, day: date, region: str | None, batches: Iterable[pa.RecordBatch]) -> int:
    """Replace one partition by ``batches`` in ``LOGGED_SCHEMA``; the rows written. ``region`` None: ``__unknown__``.

    Written whole under a temporary name and renamed: a reader, a crash and a second writer see the old partition or
    the new one, and the same rows give the same file. Raises ``SourceError`` on a region that is no partition's name
    and on rows that belong elsewhere.
    """
    if region is not None and partition_of(region) != region:
        raise SourceError(
            f"{region!r} cannot name an archive partition: use letters, digits, '.', '_' and '-', or None for unknown"
        )
    with _Partition(directory, day, region or UNKNOWN) as partition:
        for batch in batches:
            partition.write(batch)
        partition.commit()
        return partition.rows


@dataclass(frozen=True, slots=True)
class Archived:
    """What an ``ArchiveWriter`` did: rows and partitions replaced, and partitions kept as they held more rows."""

    rows: int
    replaced: int
    kept: tuple[str, ...]


class ArchiveWriter:
    """Archives rows of whole days as they stream by, whatever their order; a context manager.

    Nothing is visible until ``commit``, and leaving without it discards all. A partition that already holds more rows
    than were read is kept: its source has begun to forget. Partitions of which no row was read are not touched.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._partitions: dict[tuple[date, str], _Partition] = {}
        self._stack = ExitStack()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows in ``LOGGED_SCHEMA``, of any days and regions. Raises ``SourceError`` if a row has no timestamp."""
        if batch["timestamp_ns"].null_count:
            raise SourceError("a row without timestamp has no day to be archived under")
        days, names = batch["timestamp_ns"].cast(pa.timestamp("ns")).cast(pa.date32()), _partitions(batch["region"])
        places = pa.table({"day": days, "name": names}).group_by(["day", "name"]).aggregate([])
        for day, name in zip(places["day"].to_pylist(), places["name"].to_pylist(), strict=True):
            if (day, name) not in self._partitions:
                self._partitions[day, name] = self._stack.enter_context(_Partition(self._directory, day, name))
            here = pc.and_(pc.equal(days, pa.scalar(day)), pc.equal(names, name))
            self._partitions[day, name].write(batch.filter(here))
        while sum(partition.waiting_rows for partition in self._partitions.values()) > WAITING_ROWS:
            max(self._partitions.values(), key=lambda partition: partition.waiting_rows).flush()

    def commit(self) -> Archived:
        """Make every partition visible, each atomically; call it when the source has given its last batch."""
        rows, replaced, kept = 0, 0, []
        for partition in self._partitions.values():
            if partition.rows < (held := partition.rows_held()):
                log.warning("%s holds %d rows and %d were read: kept", partition.path.parent, held, partition.rows)
                kept.append(str(partition.path.parent.relative_to(self._directory)))
                continue
            partition.commit()
            rows += partition.rows
            replaced += 1
        return Archived(rows, replaced, tuple(kept))


def archiving(directory: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pass ``batches`` through and archive them; committed after the last one, discarded if the reading fails."""
    with ArchiveWriter(directory) as writer:
        for batch in batches:
            writer.write(batch)
            yield batch
        writer.commit()


class _Partition:
    """One partition being written beside the old one. Leaving the context without ``commit`` discards it."""

    def __init__(self, directory: Path, day: date, name: str) -> None:
        self.path = directory / f"day={day}" / f"region={name}" / _PART
        self.rows = 0
        self._day, self._name = day, name
        self.waiting_rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=_TEMPORARY)
        self._temporary = Path(temporary)
        self._file = os.fdopen(handle, "wb")
        self._writer = pq.ParquetWriter(self._file, LOGGED_SCHEMA, compression="zstd", write_page_checksum=True)

    def __enter__(self) -> _Partition:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, pa.ArrowException):  # on a full disk; what was not committed is thrown away anyhow
            self._writer.close()
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, batch: pa.RecordBatch) -> None:
        _check_place(self.path, self._day, self._name, batch)
        self._waiting.append(batch)
        self.rows += batch.num_rows
        self.waiting_rows += batch.num_rows
        if self.waiting_rows >= BATCH_ROWS:
            self.flush(self.waiting_rows - self.waiting_rows % BATCH_ROWS)

    def flush(self, rows: int | None = None) -> None:
        """Write the first ``rows`` of what waits, or all of it, in row groups of ``BATCH_ROWS``."""
        table = pa.Table.from_batches(self._waiting, LOGGED_SCHEMA)
        ready = table.slice(0, rows)
        if ready.num_rows:
            self._writer.write_table(ready, row_group_size=BATCH_ROWS)
        self._waiting = table.slice(ready.num_rows).to_batches()
        self.waiting_rows = table.num_rows - ready.num_rows

    def rows_held(self) -> int:
        """Rows of the partition as it stands; 0 for a file that cannot be read, which had better be replaced."""
        return sum(_footer_rows(path) for path in self.path.parent.glob("part-*.parquet"))

    def commit(self) -> None:
        self.flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.chmod(0o644)
        self._temporary.replace(self.path)
        for other in self.path.parent.glob("part-*.parquet"):
            if other != self.path:
                other.unlink(missing_ok=True)
        for orphan in self.path.parent.glob(f"{_TEMPORARY}*"):
            with suppress(FileNotFoundError):
                if time.time() - orphan.stat().st_mtime > _ORPHAN_AGE_S:
                    orphan.unlink()
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _read_file(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        # Buffered: else the column chunks of a whole row group lie in memory, however large its writer made it.
        with pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow)
            for batch in file.iter_batches(BATCH_ROWS, columns=schema.names):
                yield batch.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{path} cannot be read ({' '.join(str(error).split())}): restore it, or delete it and backfill the day "
            "from InfluxDB"
        ) from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    wrong = []
    for field in LOGGED_SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0:
            wrong.append(f"{field.name} is missing")
        elif (found := schema.field(index).type) != field.type and not (
            pa.types.is_string(field.type) and (pa.types.is_large_string(found) or pa.types.is_string_view(found))
        ):
            wrong.append(f"{field.name} is {found}, not {field.type}")
    if wrong:
        raise SourceError(f"{path} contradicts the contract: {'; '.join(wrong)}. Rewrite it with write_archive")


def _check_place(path: Path, day: date, name: str, batch: pa.RecordBatch) -> None:
    """Raise ``SourceError`` on rows that a read of another day or region would miss here."""
    whole = Window.of_day(day)
    here = pc.and_kleene(_within(batch["timestamp_ns"], whole), pc.equal(_partitions(batch["region"]), name))
    if strays := batch.num_rows - (pc.sum(pc.fill_null(here, True)).as_py() or 0):
        raise SourceError(f"{strays} rows of another day or region do not belong into {path.parent}")


def _wanted(batch: pa.RecordBatch, day: date, window: Window, regions: Sequence[str] | None) -> pa.Array:
    wanted = _within(pc.fill_null(batch["timestamp_ns"], Window.of_day(day).start_ns), window)
    if regions is not None:
        named = pc.is_in(pc.fill_null(batch["region"], ""), value_set=pa.array(regions, pa.string()))
        wanted = pc.and_(wanted, named)
    return wanted


def _within(timestamp_ns: pa.Array, window: Window) -> pa.Array:
    return pc.and_(pc.greater_equal(timestamp_ns, window.start_ns), pc.less(timestamp_ns, window.end_ns))


def _partitions(region: pa.Array) -> pa.Array:
    """``partition_of`` for a column."""
    plain = pc.fill_null(pc.match_substring_regex(region, rf"\A(?:{_PLAIN.pattern})\z"), False)
    return pc.if_else(plain, region, UNKNOWN)


def _footer_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0
