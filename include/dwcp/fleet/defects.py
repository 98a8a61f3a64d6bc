"""What real nodes now and then log: defective rows, and rows sent twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwcp.fleet.mix import Mix
from dwcp.sources.schema import LOGGED_SCHEMA

_CHANGES: dict[str, tuple[str, Callable[[pa.ChunkedArray], pa.ChunkedArray | pa.Scalar]]] = {
    "not_a_number": ("jitter_ms", lambda _: pa.scalar(float("nan"))),
    "missing": ("cpu_usage", lambda _: pa.scalar(None, pa.float64())),
    "unknown_enum": ("data_type", lambda _: pa.scalar("vm_snapshot")),
    "wrong_unit": ("available_bandwidth_mbps", lambda values: pc.multiply(values, 1_000.0)),
}
"""Each defect's column and what becomes of it."""


def with_defects(table: pa.Table, mix: Mix, seed: int, week: int) -> pa.Table:
    """``table`` with the mix's small share of defective rows."""
    rng = np.random.default_rng([seed, week, 4_711])
    rows = table.num_rows
    for name, (column, change) in _CHANGES.items():
        hit = rng.random(rows) < mix.defects[name]
        if hit.any():
            values = pc.if_else(pa.array(hit), change(table[column]), table[column])
            table = table.set_column(table.schema.get_field_index(column), LOGGED_SCHEMA.field(column), values)
    again = np.flatnonzero(rng.random(rows) < mix.defects["duplicate"])
    edges = [0, *(again + 1).tolist(), rows]
    # Each part ends with a row that is sent twice, and the next begins with it.
    parts = [table.slice(max(0, begin - 1), end - max(0, begin - 1)) for begin, end in pairwise(edges)]
    return pa.concat_tables(parts).combine_chunks()
