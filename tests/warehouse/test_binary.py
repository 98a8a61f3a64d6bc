"""The binary format of COPY, as a real Postgres reads it: every type, NULL and extreme comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO

import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2 import errors, extensions

from dwcp.warehouse.binary import encode
from dwcp.warehouse.server import ServerInfo
from dwcp.warehouse.transaction import LoadError

TYPES = {"f": "FLOAT", "t": "VARCHAR(20)", "i": "INT", "b": "BIGINT", "at": "TIMESTAMPTZ", "long": "TEXT"}
SCHEMA = pa.schema(
    {
        "f": pa.float64(),
        "t": pa.string(),
        "i": pa.int64(),
        "b": pa.int64(),
        "at": pa.timestamp("us", tz="UTC"),
        "long": pa.string(),
    }
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ROW = st.fixed_dictionaries(
    {
        "f": st.none() | st.floats(),
        "t": st.none() | TEXTS.filter(lambda text: len(text) <= 20),
        "i": st.none() | st.integers(-(2**31), 2**31 - 1),
        "b": st.none() | st.integers(-(2**63), 2**63 - 1),
        "at": st.none()
        | st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC), allow_imaginary=False).map(
            lambda at: at.replace(fold=0)
        ),
        "long": st.none() | TEXTS,
    }
)
NULLS: dict[str, object] = dict.fromkeys(TYPES)
EXTREMES: list[dict[str, object]] = [
    {"f": -0.0, "t": "", "i": 2**31 - 1, "b": 2**63 - 1, "at": datetime(1970, 1, 1, tzinfo=UTC), "long": "\\N"},
    {"f": 5e-324, "t": "x" * 20, "i": -(2**31), "b": -(2**63), "at": datetime(2000, 1, 1, tzinfo=UTC), "long": '"\n\t'},
    {
        "f": float("nan"),
        "t": "é" * 20,
        "i": 0,
        "b": 0,
        "at": datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC),
        "long": "",
    },
    {
        "f": float("inf"),
        "t": "𝔘, 漢\u200d",
        "i": -1,
        "b": -1,
        "at": datetime(2026, 8, 3, tzinfo=UTC),
        "long": "x" * 2_000,
    },
    {
        "f": 1.7976931348623157e308,
        "t": "\ufffd",
        "i": 1,
        "b": 1,
        "at": datetime(2026, 8, 3, tzinfo=UTC),
        "long": "\r\n",
    },
]


@pytest.fixture(scope="module")
def cursor(postgres_server: ServerInfo) -> Iterator[extensions.cursor]:
    dsn = postgres_server.dsn("postgres", "postgres")
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE t (n SERIAL, {', '.join(f'{name} {kind}' for name, kind in TYPES.items())})")
        connection.commit()
        yield cursor


def stored(cursor: extensions.cursor, batch: pa.RecordBatch) -> list[dict[str, object]]:
    """What the table holds after a COPY, in the order of the rows."""
    names, message = encode(batch, TYPES)
    cursor.connection.rollback()
    cursor.copy_expert(f"COPY t ({', '.join(names)}) FROM STDIN (FORMAT binary)", BytesIO(message))
    cursor.execute(f"SELECT {', '.join(batch.schema.names)} FROM t ORDER BY n")
    return [
        {
            name: value.astimezone(UTC) if isinstance(value, datetime) else value
            for name, value in zip(batch.schema.names, row, strict=True)
        }
        for row in cursor.fetchall()
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=8))
@example(rows=[NULLS])
@example(rows=EXTREMES)
@example(rows=[NULLS, *EXTREMES, NULLS])
def test_rows_come_back_as_they_were(cursor: extensions.cursor, rows: list[dict[str, object]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    # repr tells -0.0 from 0.0, and NaN is itself
    assert repr(stored(cursor, batch)) == repr([{name: row[name] for name in TYPES} for row in rows])


def test_a_slice_gives_its_own_rows(cursor: extensions.cursor) -> None:
    batch = pa.RecordBatch.from_pylist([EXTREMES[0], *EXTREMES, NULLS], SCHEMA)
    assert [row["b"] for row in stored(cursor, batch.slice(2, 3))] == [-(2**63), 0, -1]


def test_a_column_that_is_null_throughout_may_have_no_type(cursor: extensions.cursor) -> None:
    batch = pa.RecordBatch.from_pydict({name: pa.nulls(2) for name in TYPES})
    assert stored(cursor, batch) == [NULLS, NULLS]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("i", pa.array([1, 2**31]), "i does not fit into INT"),
        ("i", pa.array([-(2**31) - 1, None]), "i does not fit into INT"),
        ("b", pa.array([2**63], pa.uint64()), "b does not fit into BIGINT"),
        ("b", pa.array([1.5]), "b does not fit into BIGINT"),
        ("f", pa.array([2**53 + 1]), "f does not fit into FLOAT"),
    ],
)
def test_numbers_beyond_their_type_are_refused(name: str, values: pa.Array, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        encode(pa.RecordBatch.from_pydict({name: values}), TYPES)


@pytest.mark.parametrize(
    ("value", "error"), [("x" * 21, errors.StringDataRightTruncation), ("a\0b", errors.CharacterNotInRepertoire)]
)
def test_postgres_itself_refuses_texts_beyond_their_type(
    cursor: extensions.cursor, value: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        stored(cursor, pa.RecordBatch.from_pylist([{**NULLS, "t": value}], SCHEMA))
