"""The one view that a validation run reads: a window's rows, and beside them what must be true of each row.

The truths across columns are written once more here, in SQL, against what the warehouse holds: a second look by other
code at what ``truths`` let through. Like everything else they follow from the contract.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from dwcp.contract import ALGORITHMS, CANDIDATES, COLUMNS, FULLY_MEASURED, OUTCOMES
from dwcp.quality.truths import RATIO_COLUMNS
from dwcp.window import Window

SCHEMA = "quality_runs"
TABLE = "compression_training_data"
_log = logging.getLogger(__name__)


def truth_columns() -> dict[str, sql.Composable]:
    """Derived columns of the view by name, as SQL over a row ``t``.

    ``is_*`` must be true, ``error_*`` are relative errors, ``share_*`` are 0 or 1 where a label exists, ``day`` is UTC.
    """
    fully = sql.SQL("t.measured_candidates = {}").format(sql.Literal(FULLY_MEASURED))
    costs = [sql.Identifier("t", f"cost_{algorithm}_ms") for algorithm in ALGORITHMS]
    oracle = [*costs, *(sql.Identifier("t", name) for name in ("oracle_definition", "oracle_margin_ms"))]
    prediction = [sql.Identifier("t", name) for name in ("predicted_compression", "confidence", "model_version")]
    columns: dict[str, sql.Composable] = {
        "is_time_exact": sql.SQL(
            "t.timestamp = 'epoch'::TIMESTAMPTZ + (t.timestamp_ns / 1000) * INTERVAL '1 microsecond'"
        ),
        "is_choice_measured": sql.SQL("t.current_compression = ANY (string_to_array(t.measured_candidates, ','))"),
        "is_prediction_whole": sql.SQL("num_nonnulls({}) IN (0, {})").format(
            sql.SQL(", ").join(prediction), sql.Literal(len(prediction))
        ),
        "is_labelled_if_measured": sql.SQL(
            "({fully}) = (t.optimal_compression IS NOT NULL) AND num_nonnulls({oracle}) = CASE WHEN {fully} THEN {n} "
            "ELSE 0 END"
        ).format(fully=fully, oracle=sql.SQL(", ").join(oracle), n=sql.Literal(len(oracle))),
        "is_label_cheapest": sql.SQL(
            "t.optimal_compression IS NULL OR CASE t.optimal_compression {} END <= LEAST({})"
        ).format(
            sql.SQL(" ").join(
                sql.SQL("WHEN {} THEN {}").format(sql.Literal(name), sql.Identifier("t", f"cost_{name}_ms"))
                for name in CANDIDATES
            ),
            sql.SQL(", ").join(costs[: len(CANDIDATES)]),
        ),
    }
    for algorithm, names in OUTCOMES.items():
        if names:
            columns[f"is_{algorithm}_whole"] = sql.SQL(
                "num_nonnulls({outcomes}) = CASE WHEN {algorithm} = ANY (string_to_array(t.measured_candidates, ',')) "
                "THEN {n} ELSE 0 END"
            ).format(
                outcomes=sql.SQL(", ").join(sql.Identifier("t", name) for name in names),
                algorithm=sql.Literal(algorithm),
                n=sql.Literal(len(names)),
            )
    columns = {name: sql.SQL("COALESCE({}, FALSE)").format(truth) for name, truth in columns.items()}
    for ratio, size in RATIO_COLUMNS.items():
        columns[f"error_{ratio}"] = sql.SQL("abs({}::FLOAT8 * {} / t.data_size_bytes - 1)").format(
            sql.Identifier("t", ratio), sql.Identifier("t", size)
        )
    for label in CANDIDATES:
        columns[f"share_{label}"] = sql.SQL(
            "CASE WHEN t.optimal_compression IS NOT NULL THEN (t.optimal_compression = {})::INT::FLOAT8 END"
        ).format(sql.Literal(label))
    columns["fully_measured_runs"] = sql.SQL("CASE WHEN {} THEN t.measured_runs END").format(fully)
    columns["day"] = sql.SQL("(t.timestamp AT TIME ZONE 'UTC')::DATE")
    return columns


@contextmanager
def run_view(dsn: str, window: Window, run_id: str) -> Iterator[str]:
    """Make this run's view of ``window`` in schema ``quality_runs``, yield its name, and drop it whatever happens.

    ``dsn`` is the loader's. A session lock is held while the view is in use: a view whose lock is free belongs to a run
    that was killed, and the next run drops it. Needs CREATE on the schema and SELECT on the training table.
    """
    name = f"run_{hashlib.sha256(run_id.encode()).hexdigest()[:12]}_{secrets.token_hex(6)}"
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        drop_orphans(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (_lock_name(name),))
            cursor.execute(_create(name, window))
        try:
            yield name
        finally:
            try:
                _drop(connection, name)
            except psycopg2.Error as error:
                # The server went away, and that is what the caller must hear of; the next run drops the view.
                _log.warning("view %s.%s stays behind: %s", SCHEMA, name, str(error).strip())


def drop_orphans(connection: psycopg2.extensions.connection) -> list[str]:
    """Drop the views that killed runs left behind and return their names; those of living runs stay."""
    dropped = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT viewname FROM pg_views WHERE schemaname = %s AND viewname LIKE 'run\\_%%'", (SCHEMA,))
        for (name,) in cursor.fetchall():
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (_lock_name(name),))
            if cursor.fetchone() != (True,):
                continue
            _drop(connection, name)
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (_lock_name(name),))
            _log.warning("dropped view %s.%s, which a killed validation left behind", SCHEMA, name)
            dropped.append(name)
    return dropped


def _create(name: str, window: Window) -> sql.Composed:
    listed: list[sql.Composable] = [sql.Identifier("t", column.name) for column in COLUMNS]
    listed += [sql.SQL("{} AS {}").format(truth, sql.Identifier(name)) for name, truth in truth_columns().items()]
    return sql.SQL("CREATE VIEW {} AS SELECT {} FROM {} AS t WHERE t.timestamp >= {} AND t.timestamp < {}").format(
        sql.Identifier(SCHEMA, name),
        sql.SQL(", ").join(listed),
        sql.Identifier("public", TABLE),
        sql.Literal(window.start),
        sql.Literal(window.end),
    )


def _drop(connection: psycopg2.extensions.connection, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(SCHEMA, name)))


def _lock_name(view: str) -> str:
    return f"{SCHEMA}.{view}"
