"""Long histories for the console, written by SQL past the triggers: what a fleet leaves in months, made in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from dwcp.console.queries import CHARTED
from dwcp.contract import REGIONS
from dwcp.warehouse.server import SUPERUSER

QUANTITIES = (
    # name, usual value, half width of its interval, limit
    ("accuracy", 0.982, 0.006, 0.95),
    ("accuracy_drop", 0.002, 0.006, 0.03),
    ("mean_regret", 0.0008, 0.0004, None),
    ("throughput_loss", 0.004, 0.002, 0.05),
    ("suboptimal_share", 0.016, 0.005, 0.05),
    ("overhead_of_time", 0.006, 0.001, 0.02),
    ("overhead_of_cpu", 0.011, 0.002, 0.02),
    ("missing_predictions", 0.001, 0.001, 0.05),
    ("latency_p50_ms", 0.11, 0.01, None),
    ("latency_p95_ms", 0.42, 0.05, None),
    ("latency_p99_ms", 1.3, 0.2, 15.0),
    ("feature_psi", 0.09, 0.03, 0.25),
    ("feature_distance", 0.03, 0.01, 0.1),
    ("prediction_drift", 0.04, 0.02, 0.25),
    ("label_drift", 0.05, 0.02, 0.25),
    ("quarantine_rise", 0.001, 0.001, 0.05),
    ("staleness_days", 5.0, None, None),
    ("throughput_gain", 0.012, 0.02, 0.05),
    ("bulk_throughput_gain", 0.02, 0.04, 0.05),
)

_MODELS = """
INSERT INTO model_versions (version, registered_at, evaluated_at, run_id, window_start, window_end, dataset_digest,
    code_digest, lock_digest, settings_digest, weights_digest, feature_set_digest, artifacts, metrics, accuracy,
    throughput_mbps, verdict, reasons, training_profile, bundle_digest)
SELECT format('week%%s', lpad(week::text, 3, '0')), at, at, 'weekly-' || week, at - interval '56 days', at, d, d, d, d,
    d, d, '{}', jsonb_build_object('gate', %(gate)s::jsonb), 0.984, 900, 'PASS', '[]', repeat(' ', 1)::text::jsonb, d
FROM generate_series(0, %(weeks)s) AS week
CROSS JOIN LATERAL (SELECT %(until)s - (%(weeks)s - week) * interval '7 days' - interval '5 days' AS at,
    repeat('a', 64) AS d) AS made
""".replace("repeat(' ', 1)::text::jsonb", "'{}'")
_RELEASES = """
INSERT INTO releases (serial, released_at, action, released_by, reason)
SELECT number, now() - interval '1 year' + number * interval '1 hour', 'advance', 'staged rollout', 'soak over'
FROM generate_series(1, 4 * (%(weeks)s + 1) * 6) AS number
"""
_TRANSITIONS = """
INSERT INTO rollout_transitions (region, number, version, move, from_state, to_state, share_buckets, at, soak_since,
    who, reason, serial)
SELECT region, week * 5 + step, CASE step WHEN 5 THEN format('week%%s', lpad((week - 1)::text, 3, '0'))
        ELSE format('week%%s', lpad(week::text, 3, '0')) END,
    move, origin, target, share, at, at, 'staged rollout', 'the soak is over and nothing speaks against it',
    CASE WHEN step > 1 THEN week * 4 + step END
FROM unnest(%(regions)s) AS region
CROSS JOIN generate_series(0, %(weeks)s) AS week
CROSS JOIN (VALUES (1, 'register', 'none', 'registered', 0, 0), (2, 'start', 'registered', 'shadow', 0, 1),
    (3, 'advance', 'shadow', 'canary', 500, 24), (4, 'advance', 'canary', 'full', 10000, 96),
    (5, 'retire', 'full', 'retired', 0, 96)) AS steps (step, move, origin, target, share, hours)
CROSS JOIN LATERAL (SELECT %(until)s - (%(weeks)s - week) * interval '7 days' - interval '5 days'
    + hours * interval '1 hour' AS at) AS moment
WHERE week > 0 OR step < 5
"""
_FIGURES = """
INSERT INTO field_figures (region, version, hour, quantity, window_start, role, value, lower, upper, rows,
    effective_rows, threshold, verdict, note, detail)
SELECT region, format('week%%s', lpad(served.week::text, 3, '0')), hour, quantity, hour - interval '14 days',
    CASE served.week WHEN full_week THEN 'champion' ELSE 'canary' END, value, value - half, value + half, 5200, 4100,
    threshold, CASE WHEN threshold IS NULL THEN NULL ELSE 'PASS' END, '',
    CASE WHEN quantity = 'feature_psi' THEN '{"rtt_ms@wan": [0.09, 0.02], "cpu_usage@dc": [0.06, 0.01]}'::jsonb
        ELSE '{}' END
FROM unnest(%(regions)s) AS region
CROSS JOIN generate_series(0, 24 * 7 * %(weeks)s) AS number
CROSS JOIN LATERAL (SELECT %(until)s - number * interval '1 hour' AS hour, %(weeks)s - number / 168 AS week) AS clock
CROSS JOIN LATERAL (SELECT week - CASE WHEN (number %% 168) > 23 THEN 1 ELSE 0 END AS full_week) AS serving
CROSS JOIN LATERAL (SELECT full_week AS week
    UNION ALL SELECT week WHERE full_week < week AND number %% 168 < 96) AS served
CROSS JOIN unnest(%(names)s, %(values)s, %(halves)s, %(thresholds)s) AS q (quantity, base, half, threshold)
CROSS JOIN LATERAL (SELECT CASE
    WHEN quantity LIKE '%%throughput_gain' AND served.week = full_week THEN NULL
    ELSE base + coalesce(half, 1) * (0.6 * sin(number / 190.0) + 0.3 * cos(number / 31.0 + length(region))) END AS value
) AS seen
WHERE served.week >= 0 AND (number < 168 OR quantity = ANY (%(charted)s))
"""
_LOOKS = """
INSERT INTO watch_observations (observed_at, window_start, window_end, version, regions, measurement, action, reasons,
    verdict)
SELECT hour, hour - interval '14 days', hour, version, ARRAY[region], '{"rows": 5200}', 'none',
    '["everything judged is within its limits"]', 'PASS'
FROM field_figures WHERE quantity = 'accuracy' ORDER BY hour
"""
_INGESTION = """
INSERT INTO ingestion_windows (day, region, state, rows_read, rows_loaded, rows_quarantined, rows_duplicate,
    oracle_definition, ingestion_run_id, source, loaded_at, validation_run_id, validated_at)
SELECT day, region, 'validated', 20000, 19900, 80, 20, 'seed_3_1', 'run', 'influxdb', day + interval '1 day', 'gate',
    day + interval '1 day'
FROM generate_series((%(until)s)::date - 7 * %(weeks)s, (%(until)s)::date, interval '1 day') AS day
CROSS JOIN unnest(%(regions)s) AS region
"""
_QUARANTINE = """
INSERT INTO quarantined_transfers (ingestion_run_id, day, region, reason, transfer_id, source, raw)
SELECT 'run', day, region, CASE number %% 3 WHEN 0 THEN 'rtt_ms not a finite number: nan'
    ELSE 'packet_loss_rate above the maximum: 1.7; rtt_ms below the minimum: -1' END, 't', 'influxdb', '{}'
FROM ingestion_windows CROSS JOIN generate_series(1, 20) AS number ORDER BY day
"""
GATE: dict[str, Any] = {
    "status": "PASS",
    "lines": [
        {
            **{"name": "strict accuracy", "source": "seed §8.1", "unit": "share", "threshold": 0.98, "at_least": True},
            **{"value": 0.984, "lower": 0.981, "upper": 0.987, "status": "PASS", "reason": "met"},
        },
        {
            **{"name": "latency p99", "source": "seed §8.2", "unit": "ms", "threshold": 10.0, "at_least": False},
            **{"value": 0.61, "lower": None, "upper": None, "status": "PASS", "reason": "met"},
        },
    ],
}


@contextmanager
def _without_indexes(cursor: Any, table: str) -> Iterator[None]:
    """Rows by the million go in faster without them."""
    cursor.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), conname, pg_get_constraintdef(c.oid)"
        " FROM pg_index LEFT JOIN pg_constraint AS c ON conindid = indexrelid AND contype = 'p'"
        " WHERE indrelid = %s::regclass",
        (table,),
    )
    indexes = cursor.fetchall()
    for index, _, constraint, _ in indexes:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {index}" if constraint else f"DROP INDEX {index}")
    yield
    for _, definition, constraint, key in indexes:
        cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {key}" if constraint else definition)


def write_history(warehouse: Any, *, weeks: int) -> None:
    """Weekly models, each led through shadow and canary to full in every region, and hourly looks at them until now.

    Of looks older than a week only the quantities that are charted are there: nothing reads the others.
    """
    from psycopg2.extras import Json

    with closing(psycopg2.connect(warehouse.server.dsn(SUPERUSER, warehouse.database))) as db, db.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # past triggers and foreign keys
        cursor.execute("SELECT date_trunc('hour', now())")
        (until,) = cursor.fetchone() or (None,)
        given = {"weeks": weeks, "until": until, "regions": list(REGIONS), "gate": Json(GATE)}
        for statement in (_MODELS, _RELEASES, _TRANSITIONS):
            cursor.execute(statement, given)
        names, values, halves, thresholds = (list(column) for column in zip(*QUANTITIES, strict=True))
        columns = {
            "names": names,
            "values": values,
            "halves": halves,
            "thresholds": thresholds,
            "charted": list(CHARTED),
        }
        with _without_indexes(cursor, "field_figures"):
            cursor.execute(_FIGURES, {**given, **columns, "charted": list(CHARTED)})
        for statement in (_LOOKS, _INGESTION, _QUARANTINE):
            cursor.execute(statement, given)
        db.commit()
        db.autocommit = True
        cursor.execute("ANALYZE")


def let_harm_happen(warehouse: Any) -> None:
    """Accuracy has fallen in eu-west for a day, us-west decides slowly, ap-south is paused, a day was held back."""
    recent = "hour > now() - interval '30 hours'"
    figures = "UPDATE field_figures SET (value, lower, upper, verdict) = (%s, %s, %s, 'FAIL') WHERE region = %s"
    looks = """
        UPDATE watch_observations SET verdict = %s, action = %s, reasons = jsonb_build_array(%s)
        WHERE regions = ARRAY[%s]::varchar[] AND window_end > now() - interval '30 hours'
    """
    accuracy = "accuracy 93.10% (92.20% to 94.00%, 5,200 rows) is beyond the limit (limit 95.00%)"
    latency = "latency p99 ms 17.2 ms (16.1 ms to 18.3 ms, 5,200 rows) is beyond the limit (limit 15.0 ms)"
    for statement, given in (
        (f"{figures} AND quantity = 'accuracy' AND {recent}", (0.931, 0.922, 0.94, "eu-west")),
        (f"{figures} AND quantity = 'latency_p99_ms' AND {recent}", (17.2, 16.1, 18.3, "us-west")),
        (looks, ("FAIL", "rollback", accuracy, "eu-west")),
        (looks, ("PASS", "alert", latency, "us-west")),
        (
            "INSERT INTO rollout_pauses (region, paused, who, reason) VALUES ('ap-south', TRUE, %s, %s)",
            ("on-call", "works on the link until noon <script>document.title='stolen'</script>"),
        ),
        (
            "UPDATE ingestion_windows SET state = 'failed', failure = %s WHERE region = 'eu-central'"
            " AND day = (SELECT max(day) - 1 FROM ingestion_windows)",
            ("link_type: values are known, observed 1 of 19,900 rows",),
        ),
    ):
        warehouse.execute(statement, given)
