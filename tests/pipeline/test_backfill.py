"""A backfill on real Postgres: refused early, dry by default, the same rows however often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from dwcp.pipeline import backfill
from dwcp.pipeline.options import BackfillOptions
from dwcp.settings import Settings
from transfers import START, archive_transfers, make_transfers

SPAN = {"start": START.isoformat(), "end": (START + timedelta(days=2)).isoformat()}

LOAD = BackfillOptions(dry_run=False)


@pytest.fixture
def settings(fresh_warehouse, tmp_path: Path) -> Settings:
    made = Settings(
        home=tmp_path,
        loader_dsn=fresh_warehouse.loader_dsn,
        reader_dsn=fresh_warehouse.reader_dsn,
        registry_dsn=fresh_warehouse.registry_dsn,
    )
    for number in range(2):
        start = START + timedelta(days=number)
        archive_transfers(made.archive_dir, make_transfers(400, start=start, seed=number))
    return made


def count(settings: Settings) -> int:
    with psycopg2.connect(settings.loader_dsn.get_secret_value()) as db, db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM compression_training_data")
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": (START + timedelta(days=200)).isoformat()}, "(more than a backfill may take|in the future)"),
        ({"start": "2026-01-01", "end": "2026-08-03"}, "more than a backfill may take"),
        ({"end": (datetime.now(UTC) + timedelta(days=3)).isoformat()}, "in the future"),
        ({"end": SPAN["start"]}, "ends .* before it starts"),
        ({"start": "2026-01-05", "end": "2026-01-06"}, "holds no transfer"),
        ({"regions": ["atlantis"]}, "unknown region atlantis"),
        ({"oracle": "delphi"}, "unknown oracle"),
        ({"source": "prometheus"}, "unknown source"),
        ({"relabel_only": True}, "nothing was ever loaded"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_touched(settings: Settings, change: dict, message: str):
    span = {bound: change.get(bound, SPAN[bound]) for bound in SPAN}
    with pytest.raises((ValueError, RuntimeError), match=message):
        backfill.plan_backfill(settings, **span, options=BackfillOptions.among(change))
    assert count(settings) == 0


def test_dry_run_shows_and_changes_nothing(settings: Settings):
    text = backfill.run_backfill(settings, run_id="dry", options=BackfillOptions(), **SPAN)
    assert text.startswith("DRY RUN, nothing was changed: 2 days")
    assert text.splitlines()[-1].split() == ["all", "0", "800", "0"]
    assert count(settings) == 0


def test_backfill_of_one_region_leaves_the_others(settings: Settings):
    done = backfill.run_backfill(
        settings, run_id="one", options=BackfillOptions(dry_run=False, regions=("us-east",)), **SPAN
    )
    assert "regions us-east" in done
    partly = count(settings)
    assert 0 < partly < 800
    backfill.run_backfill(settings, run_id="all", options=LOAD, **SPAN)
    assert count(settings) == 800


def test_relabel_flips_labels_and_a_second_time_flips_none(settings: Settings):
    backfill.run_backfill(settings, run_id="load", options=LOAD, **SPAN)
    relabel = BackfillOptions(relabel_only=True, oracle="seed_3_2")
    dry = backfill.run_backfill(settings, run_id="dry", options=relabel, **SPAN)
    relabel = replace(relabel, dry_run=False)
    done = backfill.run_backfill(settings, run_id="relabel", options=relabel, **SPAN)
    assert dry.splitlines()[1:] == done.splitlines()[1:]
    assert int(done.splitlines()[4].split()[-1]) > 0
    again = backfill.run_backfill(settings, run_id="again", options=relabel, **SPAN)
    assert int(again.splitlines()[4].split()[-1]) == 0
    back = backfill.run_backfill(settings, run_id="back", options=BackfillOptions(oracle="seed_3_1"), **SPAN)
    assert back.splitlines()[4].split() == done.splitlines()[4].split(), "loading again would flip them back"
