"""The labels that the warehouse holds now, validated or not: what a backfill compares its own with."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from psycopg2 import sql

from dwcp.warehouse.reads import stream_query
from dwcp.window import Window

LABEL_SCHEMA = pa.schema([pa.field("transfer_id", pa.string()), pa.field("optimal_compression", pa.string())])


def loaded_labels(dsn: str, window: Window, regions: Sequence[str] | None = None) -> pa.Table:
    """``transfer_id`` and ``optimal_compression`` (null: not fully measured) of every loaded row of the window."""
    query = sql.SQL(
        "SELECT transfer_id, optimal_compression FROM compression_training_data"
        " WHERE timestamp >= {start} AND timestamp < {end}"
        " AND ({regions}::TEXT[] IS NULL OR region = ANY({regions}::TEXT[]))"
    ).format(
        start=sql.Literal(window.start),
        end=sql.Literal(window.end),
        regions=sql.Literal(None if regions is None else list(regions)),
    )
    return pa.Table.from_batches(stream_query(dsn, query, LABEL_SCHEMA), LABEL_SCHEMA)
