"""Arrow rows to InfluxDB line protocol, a column at a time.

Format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/ .
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from dwcp.contract import FIELDS, MEASUREMENT, TAGS, Column, Kind


def encode(batch: pa.RecordBatch) -> list[str]:
    """One line a row of a batch in ``LOGGED_SCHEMA``: tags, then fields (integers carry ``i``), then nanoseconds.

    Nulls are left out. Raises ``ValueError`` on what line protocol cannot carry without loss: a row without timestamp
    or without any field, NaN or infinity, a tag with a line break or a backslash, and two points that
    InfluxDB would lay over one another (equal node and timestamp).
    """
    if batch.num_rows == 0:
        return []
    _refuse_overwriting(batch)
    tags = [_prefixed(f",{column.name}=", _tag(batch, column)) for column in TAGS]
    head = pc.binary_join_element_wise(
        pa.repeat(MEASUREMENT, batch.num_rows), *tags, "", null_handling="replace", null_replacement=""
    )
    cells = [_prefixed(f"{column.name}=", _field(batch, column)) for column in FIELDS]
    if bare := pc.coalesce(*cells).null_count:  # Arrow's join would drop such a row and shift all that follow
        raise ValueError(f"{bare} rows have no field at all: InfluxDB stores no such point")
    fields = pc.binary_join_element_wise(*cells, ",", null_handling="skip")
    timestamps = pc.cast(batch["timestamp_ns"], pa.string())
    lines: list[str] = pc.binary_join_element_wise(head, fields, timestamps, " ").to_pylist()
    return lines


def _prefixed(prefix: str, values: pa.Array) -> pa.Array:
    """``prefix`` before every value; null stays null."""
    return pc.binary_join_element_wise(prefix, values, "")


def _tag(batch: pa.RecordBatch, column: Column) -> pa.Array:
    values = batch[column.name]
    if pc.any(pc.match_substring_regex(values, r"[\r\n\\]")).as_py():
        raise ValueError(f"tag {column.name} holds a line break or a backslash: InfluxDB cannot store it")
    values = pc.if_else(pc.equal(values, ""), None, values)  # an empty tag is no tag
    return _escape(values, ",= ")


def _field(batch: pa.RecordBatch, column: Column) -> pa.Array:
    values = batch[column.name]
    if column.kind is Kind.STRING:
        return pc.binary_join_element_wise('"', _escape(values, '\\"'), '"', "")
    if column.kind is Kind.INTEGER:
        return pc.binary_join_element_wise(pc.cast(values, pa.string()), "i", "")
    if pc.any(pc.invert(pc.is_finite(values))).as_py():
        raise ValueError(f"field {column.name} holds NaN or infinity: InfluxDB cannot store it; leave the cell null")
    return pc.cast(values, pa.string())


def _escape(values: pa.Array, special: str) -> pa.Array:
    """A backslash before every special character; a backslash that is special itself comes first."""
    for character in special:
        values = pc.replace_substring(values, character, f"\\{character}")
    return values


def _refuse_overwriting(batch: pa.RecordBatch) -> None:
    if missing := batch["timestamp_ns"].null_count:
        raise ValueError(f"{missing} rows have no timestamp: InfluxDB would make one up")
    key = pa.table({name: batch[name] for name in ("node_id", "timestamp_ns")})
    overwritten = batch.num_rows - key.group_by(["node_id", "timestamp_ns"]).aggregate([]).num_rows
    if overwritten:
        raise ValueError(
            f"{overwritten} points share node and timestamp with another, and InfluxDB would keep one of each: "
            "a node's timestamps must strictly increase"
        )
