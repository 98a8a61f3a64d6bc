"""Line protocol: what InfluxDB must be told, and what it must never be told."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from dwcp.contract import FIELDS, MEASUREMENT, TAGS, Kind
from dwcp.sources.line_protocol import encode
from transfers import make_transfers, replace


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def test_a_line_is_measurement_tags_fields_and_nanoseconds() -> None:
    table = make_transfers(3, fully_measured=1.0)
    row = table.to_pylist()[1]
    tags = ",".join(f"{c.name}={row[c.name]}" for c in TAGS)
    head, fields, timestamp = encode(batch_of(table))[1].split(" ")
    assert head == f"{MEASUREMENT},{tags}"
    assert timestamp == str(row["timestamp_ns"])
    cells = dict(re.findall(r'(\w+)=("[^"]*"|[^,]+)', fields))
    assert set(cells) == {column.name for column in FIELDS if row[column.name] is not None}
    assert cells["data_size_bytes"] == f"{row['data_size_bytes']}i"
    assert cells["transfer_id"] == f'"{row["transfer_id"]}"'
    assert float(cells["rtt_ms"]) == row["rtt_ms"]


def test_integers_carry_i_and_floats_do_not() -> None:
    table = make_transfers(1, fully_measured=1.0)
    line = encode(batch_of(replace(table, "rtt_ms", 0, 5.0)))[0]
    assert ",rtt_ms=5," in line.replace(" ", ",")
    for column in FIELDS:
        if column.kind is Kind.INTEGER:
            assert f"{column.name}={table[column.name][0].as_py()}i" in line


def test_nulls_and_empty_tags_are_left_out() -> None:
    table = replace(replace(make_transfers(2), "region", 0, ""), "availability_zone", 0, None)
    table = replace(table, "rtt_ms", 0, None)
    bare, full = encode(batch_of(table))
    assert ",region=" not in bare
    assert "availability_zone" not in bare
    assert "jitter_ms=" in bare
    assert ",rtt_ms=" not in bare.replace(" ", ",").replace("served_rtt_ms", "")
    assert ",region=" in full


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_never_left_out_in_silence(value: float) -> None:
    table = replace(make_transfers(3), "hde_compression_time_ms", 2, value)
    with pytest.raises(ValueError, match="hde_compression_time_ms holds NaN or infinity"):
        encode(batch_of(table))


def test_two_points_of_one_node_and_instant_are_refused() -> None:
    table = make_transfers(100)
    first = table["timestamp_ns"][0].as_py()
    table = replace(replace(table, "timestamp_ns", 1, first), "node_id", 1, table["node_id"][0].as_py())
    with pytest.raises(ValueError, match="1 points share node and timestamp"):
        encode(batch_of(table))


def test_a_row_without_timestamp_or_without_fields_is_refused() -> None:
    table = make_transfers(2)
    with pytest.raises(ValueError, match="1 rows have no timestamp"):
        encode(batch_of(replace(table, "timestamp_ns", 0, None)))
    for column in FIELDS:
        table = replace(table, column.name, 0, None)
    with pytest.raises(ValueError, match="1 rows have no field"):
        encode(batch_of(table))


@pytest.mark.parametrize("value", ["a\nb", "a\\", "a\\,b"])
def test_a_tag_that_would_change_the_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="tag node_id holds a line break or a backslash"):
        encode(batch_of(replace(make_transfers(2), "node_id", 0, value)))


def test_no_rows_are_no_lines() -> None:
    assert encode(batch_of(make_transfers(1)).slice(0, 0)) == []
