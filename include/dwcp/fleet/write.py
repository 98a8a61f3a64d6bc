"""Put what the fleet logged where nodes put it: the Parquet archive, or a running InfluxDB."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwcp.contract import REGIONS

if TYPE_CHECKING:
    from dwcp.settings import Settings

_NS_PER_DAY = 86_400_000_000_000


def write_to_archive(directory: Path, tables: Iterable[pa.Table]) -> int:
    """Replace the archive's partitions (day, region) of ``tables`` in ``LOGGED_SCHEMA``; rows written.

    Each table must hold its days whole. Writing the same again gives the same files.
    """
    from dwcp.sources.archive import write_archive

    written = 0
    for table in tables:
        day_number = table["timestamp_ns"].to_numpy() // _NS_PER_DAY
        for number in np.unique(day_number).tolist():
            day = table.filter(pa.array(day_number == number))
            date = datetime.fromtimestamp(number * 86_400, UTC).date()
            for region in REGIONS:
                here = day.filter(pc.equal(day["region"], region))
                if here.num_rows:
                    written += write_archive(directory, date, region, here.to_batches())
    return written


def write_to_influx(settings: Settings, tables: Iterable[pa.Table]) -> int:
    """Write ``tables`` as points of the settings' bucket (made if it is not there); points written.

    Line protocol has no NaN: a node leaves such a field out, so it arrives as missing. A duplicate overwrites itself.
    """
    from dwcp.sources.influx import ensure_bucket, write_points

    ensure_bucket(settings)
    return sum(write_points(settings, _without_nan(table)) for table in tables)


def _without_nan(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            bad = pc.fill_null(pc.is_nan(table[field.name]), False)
            if pc.any(bad).as_py():
                table = table.set_column(place, field, pc.if_else(bad, pa.scalar(None, field.type), table[field.name]))
    return table
