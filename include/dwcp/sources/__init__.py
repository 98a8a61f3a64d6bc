"""Where transfers come from: one streaming interface, two implementations (InfluxDB, Parquet archive)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from dwcp.window import Window

if TYPE_CHECKING:
    import pyarrow as pa

    from dwcp.settings import Settings


class SourceError(RuntimeError):
    """The source could not give the whole window. The message says what was wrong, where, and what to do."""


class Source(Protocol):
    """A place that transfers are read from, a batch at a time; memory is bounded by one batch."""

    def read(self, window: Window, regions: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield every logged row of ``window`` (all regions if None) in ``schema.LOGGED_SCHEMA``, each row once.

        Raises ``SourceError`` if the source is unreachable, refuses, contradicts the contract, or gave fewer or more
        rows than it counts.
        """
        ...

    def count(self, window: Window, regions: Sequence[str] | None = None) -> int:
        """Rows of the window as the source itself counts them."""
        ...


def open_source(settings: Settings, kind: str | None = None) -> Source:
    """The source that ``kind`` (default: ``settings.source``) names: ``archive`` or ``influxdb``."""
    kind = kind or settings.source
    if kind == "archive":
        from dwcp.sources.archive import ArchiveSource

        return ArchiveSource(settings.archive_dir)
    if kind == "influxdb":
        from dwcp.sources.influx import InfluxSource

        return InfluxSource(settings)
    raise SourceError(f"unknown source {kind!r}: choose archive or influxdb")
