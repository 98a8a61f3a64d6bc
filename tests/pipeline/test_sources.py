"""A day read from a real InfluxDB ends as the same rows as from the archive, and is archived while it is read."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from dwcp.contract import COLUMNS
from dwcp.pipeline import weekly
from dwcp.settings import Settings
from dwcp.sources import SourceError
from dwcp.sources.influx import write_points
from transfers import START, archive_transfers, make_transfers

DAY = START.date().isoformat()
SAME = ", ".join(column.name for column in COLUMNS if column.name != "ingestion_run_id")

pytestmark = pytest.mark.influxdb


@pytest.fixture
def settings(fresh_warehouse, influx_bucket, tmp_path: Path) -> Settings:
    return influx_bucket.settings.model_copy(
        update={"home": tmp_path, "loader_dsn": Settings(loader_dsn=fresh_warehouse.loader_dsn).loader_dsn}
    )


def rows_of(settings: Settings) -> list[tuple]:
    with psycopg2.connect(settings.loader_dsn.get_secret_value()) as db, db.cursor() as cursor:
        cursor.execute(f"SELECT {SAME} FROM compression_training_data ORDER BY transfer_id")
        return cursor.fetchall()


def test_influxdb_and_archive_give_the_same_rows(settings: Settings, tmp_path: Path):
    transfers = make_transfers(2_000)
    write_points(settings, transfers)
    counts = weekly.load_day(settings, run_id="influx", day=DAY, source="influxdb")
    assert counts == {"day": DAY, "read": 2_000, "loaded": 2_000, "quarantined": 0, "duplicate": 0}
    from_influxdb = rows_of(settings)

    # Read again from what the first load archived, then from an archive that never saw InfluxDB.
    assert weekly.load_day(settings, run_id="archived", day=DAY, source="archive")["read"] == 2_000
    assert rows_of(settings) == from_influxdb
    elsewhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    archive_transfers(elsewhere.archive_dir, transfers)
    weekly.load_day(elsewhere, run_id="archive", day=DAY, source="archive")
    assert rows_of(settings) == from_influxdb


def test_a_source_that_fails_leaves_the_old_rows(settings: Settings):
    write_points(settings, make_transfers(500))
    weekly.load_day(settings, run_id="good", day=DAY, source="influxdb")
    before = rows_of(settings)
    down = settings.model_copy(update={"influx_url": "http://127.0.0.1:9", "influx_retries": 0})
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9"):
        weekly.load_day(down, run_id="bad", day=DAY, source="influxdb")
    assert rows_of(settings) == before
    assert len(before) == 500
