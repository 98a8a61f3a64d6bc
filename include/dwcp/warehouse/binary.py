"""Arrow columns in the binary format of Postgres' COPY, a column at a time: no row passes through Python.

The format (Postgres' manual, COPY, "Binary Format"), everything big-endian: a header, per row the number of its fields
as int16 and per field its length in bytes as int32 (-1: NULL, no bytes follow) and its bytes, then a trailer. Here each
column becomes an array of such fields, Arrow joins the arrays row by row, and what it joined is the message.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.warehouse.transaction import LoadError

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_NULL_LENGTH = -1
_EPOCH_US = 946_684_800_000_000
"""Postgres counts microseconds from 2000, Arrow from 1970."""
_NUMBERS = {"FLOAT": ">f8", "BIGINT": ">i8", "INT": ">i4", "TIMESTAMPTZ": ">i8"}
"""Postgres types of fixed length, and their bytes; every other type is sent as text."""


def encode(rows: pa.RecordBatch, types: Mapping[str, str]) -> tuple[list[str], bytes]:
    """``rows`` as one message for ``COPY ... (FORMAT binary)``, and the order of columns to name in the statement.

    ``types`` says each column's Postgres type: FLOAT, INT, BIGINT, TIMESTAMPTZ, or one of text. Columns that have a
    number in every row come first: they make one block. Raises ``LoadError`` on a number that its type cannot hold.
    """
    numbers = {name: _number(name, rows[name], types[name]) for name in rows.schema.names if types[name] in _NUMBERS}
    whole = [name for name in numbers if rows[name].null_count == 0]
    partly = [name for name in numbers if rows[name].null_count]
    texts = [name for name in rows.schema.names if name not in numbers]
    fields = [_block([numbers[name] for name in whole], len(rows.schema.names), rows.num_rows)]
    fields += [_nullable(numbers[name], rows[name].is_valid().to_numpy(zero_copy_only=False)) for name in partly]
    for name in texts:
        fields += _text(rows[name])
    message = pc.binary_join_element_wise(*fields, b"").buffers()[2]
    return [*whole, *partly, *texts], b"".join((_HEADER, message or b"", _TRAILER))


def _number(name: str, column: pa.Array, postgres: str) -> NDArray[np.generic]:
    """The column as Postgres stores it, NULL as 0."""
    if postgres == "TIMESTAMPTZ":
        column = pc.subtract(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), _EPOCH_US)
    try:
        values = column.cast({"FLOAT": pa.float64(), "INT": pa.int32()}.get(postgres, pa.int64()))
    except pa.ArrowInvalid as error:
        raise LoadError(f"{name} does not fit into {postgres}: {error}") from error
    if values.null_count:
        values = pc.fill_null(values, pa.scalar(0, values.type))
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _block(columns: Sequence[NDArray[np.generic]], fields: int, rows: int) -> pa.Array:
    """What every row begins with: the number of its fields, and the fields that are never NULL."""
    layout = [("fields", ">i2")]
    for position, column in enumerate(columns):
        layout += [(f"length {position}", ">i4"), (f"value {position}", f">{column.dtype.str[1:]}")]
    alike = np.array((fields, *(part for column in columns for part in (column.dtype.itemsize, 0))), layout)
    block = np.full(rows, alike)
    for position, column in enumerate(columns):
        block[f"value {position}"] = column
    return _binary(block, np.full(rows, block.dtype.itemsize))


def _nullable(column: NDArray[np.generic], present: NDArray[np.bool_]) -> pa.Array:
    """The fields of a column in which some are NULL."""
    width = column.dtype.itemsize
    cells = np.empty(len(column), [("length", ">i4"), ("value", f">{column.dtype.str[1:]}")])
    cells["length"] = np.where(present, width, _NULL_LENGTH)
    cells["value"] = column
    keep = np.ones((len(column), cells.dtype.itemsize), dtype=np.bool_)
    keep[:, -width:] = present[:, None]
    return _binary(cells.view(np.uint8).reshape(keep.shape)[keep], np.where(present, keep.shape[1], 4))


def _text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The lengths and the bytes of a column of texts."""
    column = column.cast(pa.string())
    lengths = pc.fill_null(pc.binary_length(column), _NULL_LENGTH).to_numpy(zero_copy_only=False).astype(">i4")
    return _binary(lengths, np.full(len(lengths), 4)), pc.fill_null(column, "").cast(pa.binary())


def _binary(data: NDArray[np.generic], lengths: NDArray[np.int64]) -> pa.Array:
    """``data`` cut into pieces of ``lengths`` bytes."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
