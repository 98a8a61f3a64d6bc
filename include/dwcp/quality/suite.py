"""The quality gate: judge what a window holds in the warehouse, before anyone may train on it or query it.

Great Expectations runs the suite of ``expectations`` over one view (``view``); labels are recomputed on a sample by the
oracle itself. Nothing is written but the view, which is dropped at the end: marking the window is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
import pyarrow as pa
from psycopg2 import sql

from dwcp.contract import BY_NAME, COLUMNS, Column
from dwcp.oracle import ORACLE_COLUMNS, label_batch
from dwcp.quality.check import REASON_SEPARATOR
from dwcp.quality.result import CheckResult, Example, Severity, ValidationResult
from dwcp.quality.view import SCHEMA, run_view
from dwcp.sources.schema import ARROW_TYPES, LOGGED_SCHEMA
from dwcp.warehouse.load import Counts
from dwcp.window import Window

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.core import ExpectationValidationResult

EXAMPLES = 5
"""Failing rows shown for each expectation: asking for all of them can take minutes."""
LABEL_SAMPLE = 2_000
EARLIER_WINDOWS = 4
COST_TOLERANCE = 1e-9
"""Relative error between a stored cost and the oracle's: both are the same float64 arithmetic."""
_SAMPLE_SCHEMA = pa.schema(
    [*LOGGED_SCHEMA, *(pa.field(name, ARROW_TYPES[BY_NAME[name].kind]) for name in ORACLE_COLUMNS)]
)
_log = logging.getLogger(__name__)


def validate_window(
    dsn: str, window: Window, run_id: str, *, now: datetime | None = None, columns: Sequence[Column] = COLUMNS
) -> ValidationResult:
    """Validate the whole UTC days that ``window`` touches, as loads replace whole days.

    ``dsn`` is the loader's libpq URI. Safe to run twice, or twice at once. A window that is empty, or has no fully
    measured row, gives a failing result. Raises ``psycopg2.Error`` if Postgres is unreachable or goes away.
    """
    from dwcp.quality.expectations import Surroundings, build_suite

    days = window.days()
    span = Window(Window.of_day(days[0]).start, Window.of_day(days[-1]).end)
    with run_view(dsn, span, run_id) as name, closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        view = _View(connection, name)
        rows, labels = view.rows(), view.labels()
        counts = _counts(connection, days)
        suite = build_suite(
            Surroundings(
                window=window,
                now=now or datetime.now(UTC),
                rows=rows,
                labelled=sum(count for _, count in labels),
                ledger_loaded=counts.loaded,
                earlier_rows=_earlier_rows(connection, days),
            ),
            columns,
        )
        _log.info("%d expectations over %s.%s", len(suite.expectations), SCHEMA, name)
        checks = [_judge(view, outcome, rows) for outcome in _run(dsn, name, suite)]
        if labels:
            checks.append(_recompute_labels(view))
        result = ValidationResult(window, run_id, counts, labels, _quarantine(connection, days), tuple(checks))
    _log.log(logging.INFO if result.passed else logging.ERROR, "%s", result.summary())
    return result


@dataclass(frozen=True, slots=True)
class _View:
    """Small reads of this run's view."""

    connection: psycopg2.extensions.connection
    name: str

    def fetch(self, text: str, parameters: Sequence[object] = (), **names: sql.Composable) -> list[tuple[Any, ...]]:
        query = sql.SQL(text).format(view=sql.Identifier(SCHEMA, self.name), **names)
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return list(cursor.fetchall())

    def rows(self) -> int:
        return int(self.fetch("SELECT count(*) FROM {view}")[0][0])

    def labels(self) -> tuple[tuple[str, int], ...]:
        return tuple(
            self.fetch(
                "SELECT optimal_compression, count(*) FROM {view} WHERE optimal_compression IS NOT NULL "
                "GROUP BY 1 ORDER BY 2 DESC, 1"
            )
        )

    def examples(self, column: str, values: list[object] | None) -> tuple[Example, ...]:
        """Rows whose ``column`` is one of ``values``, or NULL if None; at most ``EXAMPLES``."""
        condition = sql.SQL("{} IS NULL" if values is None else "{} = ANY (%s)").format(sql.Identifier(column))
        found = self.fetch(
            "SELECT transfer_id, {column}::TEXT FROM {view} WHERE {condition} LIMIT {limit}",
            () if values is None else (values,),
            column=sql.Identifier(column),
            condition=condition,
            limit=sql.Literal(EXAMPLES),
        )
        shown = {None: "NULL", "": "(empty text)"}
        return tuple(Example(transfer, shown.get(value, value)) for transfer, value in found)


def _run(dsn: str, view: str, suite: gx.ExpectationSuite) -> list[ExpectationValidationResult]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    # SQLAlchemy takes a bare postgresql:// for another driver.
    url = dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
    source = context.data_sources.add_postgres("warehouse", connection_string=url)
    try:
        asset = source.add_table_asset("window", table_name=view, schema_name=SCHEMA)
        batch = asset.add_batch_definition_whole_table("all").get_batch()
        # One aggregate query says which expectations hold; only the others are asked for values, a scan each.
        verdicts = batch.validate(suite, result_format="BOOLEAN_ONLY").results
        settled = [outcome for outcome in verdicts if outcome.success and _is_about_rows(outcome)]
        open_ids = {outcome.expectation_config.meta["id"] for outcome in verdicts} - {
            outcome.expectation_config.meta["id"] for outcome in settled
        }
        rest = gx.ExpectationSuite(
            name=f"{suite.name}_rest", expectations=[e for e in suite.expectations if e.meta["id"] in open_ids]
        )
        told = batch.validate(rest, result_format={"result_format": "BASIC", "partial_unexpected_count": EXAMPLES})
        return sorted([*settled, *told.results], key=lambda outcome: int(outcome.expectation_config.meta["id"]))
    finally:
        source.get_execution_engine().close()


def _is_about_rows(outcome: ExpectationValidationResult) -> bool:
    return str(outcome.expectation_config.type).startswith(("expect_column_values_", "expect_compound_columns_"))


def _judge(view: _View, outcome: ExpectationValidationResult, rows: int) -> CheckResult:
    """One result of Great Expectations in our words, with examples if it failed."""
    config = outcome.expectation_config
    meta, result = config.meta, outcome.result or {}
    passed = bool(outcome.success)
    examples: tuple[Example, ...] = ()
    if not passed and result.get("unexpected_count") and "column" in config.kwargs:
        missing = config.type == "expect_column_values_to_not_be_null"
        examples = view.examples(config.kwargs["column"], None if missing else result["partial_unexpected_list"])
    return CheckResult(
        title=meta["title"],
        column=meta["column"],
        severity=Severity(meta["severity"]),
        passed=passed,
        expected=meta["expected"],
        observed=f"all {rows:,} rows" if passed and _is_about_rows(outcome) else _observed(outcome),
        unexpected=int(result.get("unexpected_count") or 0),
        examples=examples,
    )


def _observed(outcome: ExpectationValidationResult) -> str:
    config, result = outcome.expectation_config, outcome.result or {}
    if "unexpected_count" in result:
        return f"{result['unexpected_count']:,} of {result['element_count']:,} rows break it"
    if "partial_missing_list" in result:
        lacking = sorted(map(str, result["partial_missing_list"]))
        return f"none on {', '.join(lacking)}" if lacking else "rows on every day"
    value = result.get("observed_value")
    if value is None:
        return _error(outcome.exception_info) or "nothing: there is no value to judge"
    if config.type == "expect_column_max_to_be_between":
        return f"{datetime.fromtimestamp(value / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _error(exception_info: dict[str, Any] | None) -> str:
    """The message of an exception that Great Expectations caught, or an empty text."""
    infos = exception_info.values() if exception_info and "raised_exception" not in exception_info else [exception_info]
    messages = [info["exception_message"] for info in infos if isinstance(info, dict) and info.get("raised_exception")]
    return f"could not be judged: {messages[0].splitlines()[0]}" if messages else ""


def _recompute_labels(view: _View) -> CheckResult:
    """Labels and costs of a sample, fixed by the transfers' ids, against the oracle."""
    names = _SAMPLE_SCHEMA.names
    rows = view.fetch(
        "SELECT {columns} FROM {view} WHERE optimal_compression IS NOT NULL "
        "ORDER BY hashtextextended(transfer_id, 0) LIMIT {limit}",
        columns=sql.SQL(", ").join(map(sql.Identifier, names)),
        limit=sql.Literal(LABEL_SAMPLE),
    )
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=_SAMPLE_SCHEMA)
    wrong: list[Example] = []
    problem = ""
    definitions = table["oracle_definition"].to_pylist()
    for definition in sorted(set(definitions), key=str):
        part = table.filter(pa.array([value == definition for value in definitions]))
        try:
            fresh = label_batch(part.select(LOGGED_SCHEMA.names), str(definition))
        except ValueError as error:
            problem = f"; the oracle refuses {part.num_rows:,}: {error}"
            continue
        wrong += _differences(part, fresh)
    return CheckResult(
        title="labels and costs are the oracle's",
        column="optimal_compression",
        severity=Severity.FAIL,
        passed=not wrong and not problem,
        expected=f"the oracle gives the same for {len(rows):,} sampled rows",
        observed=f"{len(wrong):,} of {len(rows):,} rows differ{problem}",
        unexpected=len(wrong),
        examples=tuple(wrong[:EXAMPLES]),
    )


def _differences(stored: pa.Table, fresh: pa.RecordBatch) -> list[Example]:
    """One example for each row whose stored label or costs are not the fresh ones."""
    wrong = []
    keep = stored.select([*ORACLE_COLUMNS]).to_pylist()
    for transfer, old, new in zip(stored["transfer_id"].to_pylist(), keep, fresh.to_pylist(), strict=True):
        differing = [name for name in ORACLE_COLUMNS if not _equal(old[name], new[name])]
        if differing:
            name = differing[0]
            wrong.append(Example(transfer, f"{name} {old[name]}, recomputed {new[name]}"))
    return wrong


def _equal(old: object, new: object) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return abs(old - new) <= COST_TOLERANCE * max(1.0, abs(new))
    return old == new


def _counts(connection: psycopg2.extensions.connection, days: Sequence[date]) -> Counts:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COALESCE(sum(rows_read), 0), COALESCE(sum(rows_loaded), 0), COALESCE(sum(rows_quarantined), 0), "
            "COALESCE(sum(rows_duplicate), 0) FROM ingestion_windows WHERE day BETWEEN %s AND %s",
            (days[0], days[-1]),
        )
        (counts,) = cursor.fetchall()
    return Counts(*map(int, counts))


def _earlier_rows(connection: psycopg2.extensions.connection, days: Sequence[date]) -> tuple[int, ...]:
    """Rows loaded in each of the windows of equal length before, the nearest first; only those loaded on every day."""
    length = len(days)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(rows_loaded) FROM ingestion_windows WHERE day >= %s AND day < %s "
            "GROUP BY (%s - 1 - day) / %s HAVING count(DISTINCT day) = %s AND sum(rows_loaded) > 0 "
            "ORDER BY (%s - 1 - day) / %s",
            (days[0] - timedelta(days=EARLIER_WINDOWS * length), days[0], days[0], length, length, days[0], length),
        )
        return tuple(int(rows) for (rows,) in cursor.fetchall())


def _quarantine(connection: psycopg2.extensions.connection, days: Sequence[date]) -> tuple[tuple[str, int], ...]:
    """Reasons without their values (see ``check``), most frequent first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT split_part(single, ':', 1), count(*) FROM quarantined_transfers, "
            "regexp_split_to_table(reason, %s) AS single WHERE day BETWEEN %s AND %s GROUP BY 1 ORDER BY 2 DESC, 1",
            (REASON_SEPARATOR, days[0], days[-1]),
        )
        return tuple((reason, int(count)) for reason, count in cursor.fetchall())
