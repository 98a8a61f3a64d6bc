"""Split a batch into rows that satisfy the contract and rows that go to quarantine, each with every reason.

The rules on one column follow from its entry in the contract; those on several columns are in ``truths``. A reason
reads ``<column> <rule>: <detail>``; several are joined by ``; ``. What stands before the colon holds no value of a row,
so reasons can be counted: ``split_part(regexp_split_to_table(reason, '; '), ':', 1)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwcp.contract import LOGGED, Column, Kind
from dwcp.quality.rows import Explain, Finding, Rows, as_mask, with_unit
from dwcp.quality.truths import truths
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window

REASON_SEPARATOR = "; "
QUARANTINE_SCHEMA = LOGGED_SCHEMA.append(pa.field("reason", pa.string()))
"""The raw row as it was read, and why it was not loaded."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch in two parts. Every row is in exactly one, in its old order: read = good + bad.

    ``good`` has ``LOGGED_SCHEMA``; ``bad`` has ``QUARANTINE_SCHEMA``.
    """

    good: pa.RecordBatch
    bad: pa.RecordBatch


def check_batch(batch: pa.RecordBatch, *, window: Window, now_ns: int, max_clock_ahead_ns: int) -> Checked:
    """Split ``batch`` (in ``LOGGED_SCHEMA``) by the contract, for a read of ``window`` at ``now_ns``.

    Raises ``ValueError`` if the batch has another schema: then the source is broken, not a row.
    """
    if not batch.schema.equals(LOGGED_SCHEMA):
        wrong = set(batch.schema).symmetric_difference(LOGGED_SCHEMA)
        names = ", ".join(sorted({field.name for field in wrong})) or "the order of columns"
        raise ValueError(f"the source yields a batch that is not in the contract's schema; it differs in {names}")
    rows = Rows(batch)
    reasons: dict[int, list[str]] = {}
    for finding in _findings(rows, window, now_ns, max_clock_ahead_ns):
        for row in np.flatnonzero(finding.broken).tolist():
            reasons.setdefault(row, []).append(finding.explain(row))
    return _split(batch, reasons)


def _split(batch: pa.RecordBatch, reasons: dict[int, list[str]]) -> Checked:
    bad_rows = sorted(reasons)
    bad = batch.take(pa.array(bad_rows, pa.int64()))
    texts = pa.array([REASON_SEPARATOR.join(reasons[row]) for row in bad_rows], pa.string())
    keep = np.ones(batch.num_rows, dtype=np.bool_)
    keep[bad_rows] = False
    return Checked(
        good=batch.filter(pa.array(keep)) if bad_rows else batch,
        bad=pa.RecordBatch.from_arrays([*bad.columns, texts], schema=QUARANTINE_SCHEMA),
    )


def _findings(rows: Rows, window: Window, now_ns: int, max_clock_ahead_ns: int) -> Iterator[Finding]:
    for column in LOGGED:
        yield from _column_findings(rows, column)
    yield from truths(rows, window, now_ns, max_clock_ahead_ns)


def _column_findings(rows: Rows, column: Column) -> Iterator[Finding]:
    present = rows.present(column.name)
    found = list(_text_rules(rows, column) if column.kind is Kind.STRING else _number_rules(rows, column))
    if not column.nullable and not present.all():
        found.append(Finding(~present, lambda _: f"{column.name} is missing: the contract demands a value"))
    sound = present.copy()
    for finding in found:
        sound &= ~finding.broken
    rows.mark_sound(column.name, sound)
    yield from (finding for finding in found if finding.broken.any())


def _number_rules(rows: Rows, column: Column) -> Iterator[Finding]:
    name, values = column.name, rows.numbers(column.name)
    present = rows.present(name)
    legal = present
    if column.kind is Kind.FLOAT:
        legal = present & np.isfinite(values)
        yield Finding(present & ~legal, lambda row: f"{name} is not finite: {rows.show(name, row)}")
    for bound, broken, words in (
        (column.minimum, np.less, "is below the minimum"),
        (column.maximum, np.greater, "is above the maximum"),
    ):
        if bound is not None:
            limit = int(bound) if column.kind is Kind.INTEGER else bound
            yield Finding(legal & broken(values, limit), _beyond(rows, column, words, limit))


def _beyond(rows: Rows, column: Column, words: str, limit: float) -> Explain:
    name, shown = column.name, with_unit(float(limit), column.unit)
    return lambda row: f"{name} {words}: {rows.show(name, row)}, limit {shown}"


def _text_rules(rows: Rows, column: Column) -> Iterator[Finding]:
    name, array = column.name, rows.array(column.name)
    length = pc.utf8_length(array)
    yield Finding(as_mask(pc.equal(length, 0)), lambda _: f"{name} is empty: a text of no characters says nothing")
    # Postgres keeps no NUL character in a text; loading it would fail the whole window.
    yield Finding(as_mask(pc.match_substring(array, "\0")), lambda row: f"{name} holds a NUL: {rows.show(name, row)}")
    if column.max_length is not None:
        yield Finding(
            as_mask(pc.greater(length, column.max_length)),
            lambda row: f"{name} is too long: {length[row]} characters, limit {column.max_length}",
        )
    if column.values is not None:
        known = pa.array(column.values, pa.string())
        unknown = rows.present(name) & ~as_mask(pc.is_in(array, value_set=known)) & ~as_mask(pc.equal(length, 0))
        yield Finding(
            unknown, lambda row: f"{name} is unknown: {rows.show(name, row)}, expected {', '.join(column.values or ())}"
        )
