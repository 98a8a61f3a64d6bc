"""The Arrow schema of a logged row, derived from the contract."""

from __future__ import annotations

import pyarrow as pa

from dwcp.contract import LOGGED, Column, Kind

ARROW_TYPES = {Kind.FLOAT: pa.float64(), Kind.INTEGER: pa.int64(), Kind.STRING: pa.string()}


def arrow_field(column: Column) -> pa.Field:
    """The Arrow field of one column; always nullable, as a source may lack what the contract demands."""
    return pa.field(column.name, ARROW_TYPES[column.kind])


LOGGED_SCHEMA = pa.schema([arrow_field(column) for column in LOGGED])
"""What every source yields: the columns of ``contract.LOGGED``, in their order."""
