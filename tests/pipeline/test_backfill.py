"""A backfill on real Postgres: refused early, dry by default, the same rows however often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from dwcp.pipeline import backfill
from dwcp.pipeline.options import BackfillOptions
from dwcp.pipeline.site import dsn
from dwcp.settings import Settings
from dwcp.window import Window
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
        ({"oracle": "seed_3_2", "dry_run": False}, "in a dry run only, as this site trains on seed_3_1"),
        ({"retrain": True, "source": "influxdb"}, "loads 2026-07-29 to 2026-08-05 again from archive"),
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
    # To store them, the site has to train on them.
    other = settings.model_copy(update={"oracle": "seed_3_2"})
    relabel = replace(relabel, dry_run=False)
    done = backfill.run_backfill(other, run_id="relabel", options=relabel, **SPAN)
    assert dry.splitlines()[1:] == done.splitlines()[1:]
    assert int(done.splitlines()[4].split()[-1]) > 0
    again = backfill.run_backfill(other, run_id="again", options=relabel, **SPAN)
    assert int(again.splitlines()[4].split()[-1]) == 0
    back = backfill.run_backfill(settings, run_id="back", options=BackfillOptions(oracle="seed_3_1"), **SPAN)
    assert back.splitlines()[4].split() == done.splitlines()[4].split(), "loading again would flip them back"


def test_the_watch_overlooks_labels_of_another_oracle_than_the_sites(settings: Settings):
    from dwcp.warehouse.reads import stream

    backfill.run_backfill(settings, run_id="load", options=LOAD, **SPAN)

    def labels(oracle: str | None) -> int:
        columns = ["transfer_id", "optimal_compression"]
        window = Window.parse(SPAN["start"], SPAN["end"])
        batches = stream(dsn(settings, "loader"), window, columns=columns, validated=False, oracle=oracle)
        return sum(batch.num_rows - batch["optimal_compression"].null_count for batch in batches)

    assert labels("seed_3_1") == labels(None) > 0
    assert labels("seed_3_2") == 0


def test_retraining_takes_the_seven_days_up_to_the_newest_and_is_named_after_the_backfill(settings: Settings):
    options = BackfillOptions(dry_run=False, retrain=True)
    before = {"start": SPAN["start"], "end": (START + timedelta(days=1)).isoformat()}
    backfill.run_backfill(settings, run_id="all", options=LOAD, **SPAN)
    plan = backfill.plan_backfill(settings, options=options, **before)
    assert plan["retrain"] is True
    assert backfill.plan_retraining(settings, run_id="manual__1", plan=plan) == {
        "run_id": "after__manual__1",
        "start": "2026-07-29",
        "end": "2026-08-05",
    }


def test_retraining_that_would_learn_nothing_of_it_is_refused(settings: Settings):
    for weeks in (-12, -8):
        start = START + timedelta(weeks=weeks)
        archive_transfers(settings.archive_dir, make_transfers(50, start=start, seed=9))
    backfill.run_backfill(settings, run_id="all", options=LOAD, **SPAN)
    retrain = BackfillOptions(dry_run=False, retrain=True)
    old = START - timedelta(weeks=12)
    span = {"start": old.isoformat(), "end": (old + timedelta(days=1)).isoformat()}
    with pytest.raises(ValueError, match="training takes the 8 weeks from 2026-06-10, and nothing of this window"):
        backfill.plan_backfill(settings, options=retrain, **span)
    young = START - timedelta(weeks=8)
    span = {"start": young.isoformat(), "end": (START - timedelta(weeks=7)).isoformat()}
    assert backfill.plan_backfill(settings, options=retrain, **span)["retrain"]
    dry = backfill.run_backfill(settings, run_id="dry", options=replace(retrain, dry_run=True), **span)
    assert dry.endswith("not a dry run, it would retrain afterwards")
