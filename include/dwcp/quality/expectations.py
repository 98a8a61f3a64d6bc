"""The Great Expectations suite as code, derived from the contract. Importing this module imports Great Expectations.

Every expectation carries in its meta: ``severity`` (``fail`` or ``warn``), ``title`` (what it says, for people),
``column``, ``expected`` and ``id`` (its place in the suite).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dwcp.contract import CANDIDATES, COLUMNS, Column, Kind
from dwcp.quality.result import Severity
from dwcp.quality.rows import with_unit
from dwcp.quality.truths import RATIO_TOLERANCE
from dwcp.quality.view import truth_columns
from dwcp.window import Window

# Before the import: otherwise Great Expectations writes hundreds of lines a run, and reports usage to its maker.
logging.getLogger("great_expectations").setLevel(logging.WARNING)
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx  # noqa: E402
import great_expectations.expectations as gxe  # noqa: E402

SQL_TYPES = {"INT": "INTEGER", "FLOAT": "DOUBLE PRECISION", "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
"""SQLAlchemy's names for the contract's Postgres types, where they differ."""
LABEL_SHARE_FAIL = (0.002, 0.98)
"""Outside: a class is as good as absent, and no classifier can be trained or judged on it."""
LABEL_SHARE_WARN = (0.02, 0.90)
"""Outside: legal, but the week is unlike what the models were tuned on."""
VOLUME_FAIL = (0.1, 10.0)
VOLUME_WARN = (0.5, 2.0)
"""Rows of the window, as a multiple of the median of the windows of equal length before it."""
FRESHNESS_FAIL = timedelta(days=1)
FRESHNESS_WARN = timedelta(hours=6)
"""How long before the window's end, or before now if that is earlier, the newest row may be."""
FULL_MEASUREMENT_RUNS = 5
"""Runs behind a full measurement: the minimum of fewer is a noisy label."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the suite must know beside the contract to judge one window."""

    window: Window
    now: datetime
    rows: int
    labelled: int
    ledger_loaded: int
    earlier_rows: tuple[int, ...]
    """Rows of each earlier window of equal length that has any; the nearest first."""


def build_suite(around: Surroundings, columns: Sequence[Column] = COLUMNS) -> gx.ExpectationSuite:
    """The suite for one window. ``columns`` is the contract's; another list gives another suite.

    A window without rows, or without a fully measured one, gets an expectation that says so instead of a dozen that
    stumble over it.
    """
    expectations = [*_volume(around)]
    if around.rows:
        expectations += [*_freshness(around)]
        for column in columns:
            expectations += [*_column(column)]
        expectations += [*_uniqueness(), *_truths(), *_labels(around)]
    for number, expectation in enumerate(expectations):
        expectation.meta["id"] = number
    return gx.ExpectationSuite(name="compression_training_data", expectations=expectations)


def _meta(title: str, column: str, severity: Severity, expected: str) -> dict[str, Any]:
    return {"title": title, "column": column, "severity": severity.value, "expected": expected}


def _column(column: Column) -> Iterator[gxe.Expectation]:
    """Type, completeness, enum, range and length, from the column's entry in the contract."""
    name, fail = column.name, Severity.FAIL
    yield gxe.ExpectColumnValuesToBeOfType(
        column=name,
        type_=SQL_TYPES.get(column.postgres, column.postgres),
        meta=_meta("has the contract's type", name, fail, column.postgres),
    )
    if not column.nullable:
        yield gxe.ExpectColumnValuesToNotBeNull(
            column=name, meta=_meta("is never missing", name, fail, "a value in every row")
        )
    if column.values is not None:
        yield gxe.ExpectColumnValuesToBeInSet(
            column=name,
            value_set=list(column.values),
            meta=_meta("is a known value", name, fail, ", ".join(column.values)),
        )
    elif column.max_length is not None:
        yield gxe.ExpectColumnValueLengthsToBeBetween(
            column=name,
            min_value=1,
            max_value=column.max_length,
            meta=_meta("has a legal length", name, fail, f"1 to {column.max_length} characters"),
        )
    if column.minimum is not None and column.maximum is not None:
        low, high = (int(b) if column.kind is Kind.INTEGER else b for b in (column.minimum, column.maximum))
        shown = [with_unit(float(bound), column.unit) for bound in (low, high)]
        yield gxe.ExpectColumnValuesToBeBetween(
            column=name,
            min_value=low,
            # No BIGINT lies beyond its own type.
            max_value=high if high < 2**63 else None,
            # Postgres sorts NaN and infinity above every number, so that a maximum finds them.
            meta=_meta("lies in its range", name, fail, f"{shown[0]} to {shown[1]}"),
        )


def _volume(around: Surroundings) -> Iterator[gxe.Expectation]:
    yield gxe.ExpectTableRowCountToBeBetween(
        min_value=1, meta=_meta("the window has rows", "", Severity.FAIL, "at least 1 row: is the source empty?")
    )
    yield gxe.ExpectTableRowCountToEqual(
        value=around.ledger_loaded,
        meta=_meta(
            "the table holds what the ledger says was loaded", "", Severity.FAIL, f"{around.ledger_loaded:,} rows"
        ),
    )
    if not around.earlier_rows:
        return
    median = sorted(around.earlier_rows)[len(around.earlier_rows) // 2]
    for severity, (low, high) in ((Severity.FAIL, VOLUME_FAIL), (Severity.WARN, VOLUME_WARN)):
        bounds = int(low * median), int(high * median)
        yield gxe.ExpectTableRowCountToBeBetween(
            min_value=bounds[0],
            max_value=bounds[1],
            meta=_meta(
                "volume is like that of earlier windows",
                "",
                severity,
                f"{bounds[0]:,} to {bounds[1]:,} rows: {low:g} to {high:g} times {median:,}, "
                f"the median of {len(around.earlier_rows)}",
            ),
        )


def _freshness(around: Surroundings) -> Iterator[gxe.Expectation]:
    end = min(around.window.end, around.now)
    for severity, age in ((Severity.FAIL, FRESHNESS_FAIL), (Severity.WARN, FRESHNESS_WARN)):
        oldest = max(end - age, around.window.start)
        yield gxe.ExpectColumnMaxToBeBetween(
            column="timestamp_ns",
            min_value=int(oldest.timestamp()) * 1_000_000_000,
            meta=_meta(
                "the newest row is recent", "timestamp_ns", severity, f"a row after {oldest:%Y-%m-%d %H:%M} UTC"
            ),
        )
    days = around.window.days()
    yield gxe.ExpectColumnDistinctValuesToContainSet(
        column="day",
        value_set=days,
        meta=_meta("every day of the window has rows", "day", Severity.WARN, f"{len(days)} days"),
    )


def _uniqueness() -> Iterator[gxe.Expectation]:
    yield gxe.ExpectColumnValuesToBeUnique(
        column="transfer_id", meta=_meta("names one transfer", "transfer_id", Severity.FAIL, "no value twice")
    )
    yield gxe.ExpectCompoundColumnsToBeUnique(
        column_list=["node_id", "timestamp_ns"],
        meta=_meta(
            "a node decides once in a nanosecond", "node_id, timestamp_ns", Severity.WARN, "strictly increasing times"
        ),
    )


_TITLES = {
    "is_time_exact": "timestamp is timestamp_ns cut to µs",
    "is_choice_measured": "the executed choice was measured",
    "is_prediction_whole": "prediction, confidence and model version come together",
    "is_labelled_if_measured": "labelled and costed if and only if fully measured",
    "is_label_cheapest": "the label is the cheapest candidate",
}


def _truths() -> Iterator[gxe.Expectation]:
    """Truths across columns, as the view computes them."""
    for name in truth_columns():
        if name.startswith("is_"):
            algorithm = name.removeprefix("is_").removesuffix("_whole")
            title = _TITLES.get(name, f"{algorithm}'s outcomes are all there if it was measured, none otherwise")
            yield gxe.ExpectColumnValuesToBeInSet(
                column=name, value_set=[True], meta=_meta(title, name, Severity.FAIL, "true in every row")
            )
        elif name.startswith("error_"):
            ratio = name.removeprefix("error_")
            yield gxe.ExpectColumnValuesToBeBetween(
                column=name,
                min_value=-RATIO_TOLERANCE,
                max_value=RATIO_TOLERANCE,
                meta=_meta(
                    "compressed size × ratio is the size", ratio, Severity.FAIL, f"within ±{RATIO_TOLERANCE:.0%}"
                ),
            )


def _labels(around: Surroundings) -> Iterator[gxe.Expectation]:
    yield gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column="optimal_compression",
        min_value=0.0 if around.labelled else 1 / around.rows,
        meta=_meta(
            "some rows were fully measured",
            "optimal_compression",
            Severity.FAIL,
            "at least 1 row with every candidate measured: otherwise the window teaches nothing",
        ),
    )
    if not around.labelled:
        return
    for label in CANDIDATES:
        for severity, (low, high) in ((Severity.FAIL, LABEL_SHARE_FAIL), (Severity.WARN, LABEL_SHARE_WARN)):
            yield gxe.ExpectColumnMeanToBeBetween(
                column=f"share_{label}",
                min_value=low,
                max_value=high,
                meta=_meta(
                    f"{label} is the best choice often enough, and not always",
                    "optimal_compression",
                    severity,
                    f"{low:.1%} to {high:.0%} of labelled rows",
                ),
            )
    yield gxe.ExpectColumnValuesToBeBetween(
        column="fully_measured_runs",
        min_value=FULL_MEASUREMENT_RUNS,
        meta=_meta(
            "full measurements repeat their runs", "measured_runs", Severity.WARN, f"at least {FULL_MEASUREMENT_RUNS}"
        ),
    )
