"""The weekly run on real Postgres, without Airflow: what each step promises, and what it refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg2
import pyarrow as pa
import pytest
from rich.console import Console

from dwcp.contract import REGIONS
from dwcp.pipeline import QualityGateFailed, ReconcileFailed, weekly
from dwcp.settings import SPLITS, Settings
from dwcp.training.dataset import DatasetError
from gates import LENIENT
from transfers import START, archive_transfers, make_transfers, replace

DAYS = 14
WEEK = {"start": (START + timedelta(days=7)).isoformat(), "end": (START + timedelta(days=DAYS)).isoformat()}


def day_of(number: int, **options: object) -> tuple[date, pa.Table]:
    start = START + timedelta(days=number)
    return start.date(), make_transfers(300, start=start, seed=number, **options)


@pytest.fixture
def settings(fresh_warehouse, tmp_path: Path) -> Settings:
    made = Settings(
        home=tmp_path,
        owner_dsn=fresh_warehouse.owner_dsn,
        loader_dsn=fresh_warehouse.loader_dsn,
        reader_dsn=fresh_warehouse.reader_dsn,
        registry_dsn=fresh_warehouse.registry_dsn,
        **LENIENT,
        rollout_immediate=True,
        bootstrap_rounds=50,
        # The real training, cut short: what is tested is what happens to a model.
        training_threads=1,
        xgboost_rounds=25,
        network_epochs=4,
    )
    for number in range(DAYS):
        archive_transfers(made.archive_dir, day_of(number)[1])
    return made


def load(settings: Settings, first: int, last: int, run_id: str = "r") -> list[dict]:
    days = [(START + timedelta(days=n)).date().isoformat() for n in range(first, last)]
    return [weekly.load_day(settings, run_id=run_id, day=day) for day in days]


def rows_of(settings: Settings) -> list[tuple]:
    """Every row without id and ingestion run, in a fixed order."""
    with psycopg2.connect(settings.loader_dsn.get_secret_value()) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT transfer_id, timestamp_ns, optimal_compression, cost_hde_ms, oracle_margin_ms"
            " FROM compression_training_data ORDER BY transfer_id"
        )
        return cursor.fetchall()


def test_plan_cuts_to_whole_days_and_refuses_the_future():
    settings = Settings()
    plan = weekly.plan_window(settings, start="2026-10-26T03:00:00Z", end="2026-11-02T03:00:00Z")
    assert (plan["start"][:10], plan["end"][:10], len(plan["days"])) == ("2026-10-26", "2026-11-02", 7)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(ValueError, match="in the future"):
        weekly.plan_window(settings, start="2026-10-26", end=tomorrow.isoformat())
    with pytest.raises(ValueError, match="no whole day"):
        weekly.plan_window(settings, start="2026-10-26T03:00:00Z", end="2026-10-26T09:00:00Z")
    with pytest.raises(ValueError, match="no date or time"):
        weekly.plan_window(settings, start="last monday", end="2026-10-26")


def test_counts_reconcile_with_bad_rows_and_duplicates(settings: Settings):
    day, table = day_of(3)
    table = replace(table, "rtt_ms", 5, float("nan"))
    table = replace(table, "packet_loss_rate", 6, -0.1)
    table = replace(table, "link_type", 7, "carrier-pigeon")
    table = replace(table, "transfer_id", 9, table["transfer_id"][8].as_py())
    archive_transfers(settings.archive_dir, table)
    loads = load(settings, 3, 4)
    assert loads == [{"day": day.isoformat(), "read": 300, "loaded": 296, "quarantined": 3, "duplicate": 1}]
    span = {"start": START + timedelta(days=3), "end": START + timedelta(days=4)}
    span = {name: bound.isoformat() for name, bound in span.items()}
    assert weekly.reconcile(settings, run_id="r", loads=loads, **span)["read"] == 300
    with pytest.raises(ReconcileFailed, match="days without a load"):
        weekly.reconcile(settings, run_id="r", loads=[], **span)
    with pytest.raises(ReconcileFailed, match="ledger"):
        weekly.reconcile(settings, run_id="r", loads=[{**loads[0], "read": 301}], **span)


def test_a_window_loaded_twice_gives_the_same_rows(settings: Settings):
    load(settings, 0, 2, "first")
    before = rows_of(settings)
    assert len(before) == 600
    load(settings, 0, 2, "second")
    assert rows_of(settings) == before


def test_a_red_quality_gate_hides_the_window_and_keeps_its_page(settings: Settings):
    archive_transfers(
        settings.archive_dir, make_transfers(300, start=START + timedelta(days=7), seed=7, fully_measured=0.0)
    )
    loads = load(settings, 7, 8)
    span = {"start": WEEK["start"], "end": (START + timedelta(days=8)).isoformat()}
    weekly.reconcile(settings, run_id="r", loads=loads, **span)
    with pytest.raises(QualityGateFailed) as refused:
        weekly.validate(settings, run_id="r", **span)
    assert (settings.reports_dir / refused.value.report).stat().st_size > 1_000
    with psycopg2.connect(settings.reader_dsn.get_secret_value()) as db, db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM validated_training_data")
        assert cursor.fetchone() == (0,)


def test_a_window_with_labels_of_two_oracles_is_not_trained_on(settings: Settings):
    """The site's definition was changed, and its older days were not relabelled."""
    other = settings.model_copy(update={"oracle": "seed_3_2"})
    load(settings, 4, 7)
    load(other, 7, 8)
    span = {
        "run_id": "r",
        "start": (START + timedelta(days=4)).isoformat(),
        "end": (START + timedelta(days=8)).isoformat(),
    }
    weekly.validate(settings, **span)
    for site, old in (
        (other, "2026-08-07 to 2026-08-09 by seed_3_1"),
        (settings, "2026-08-10 to 2026-08-10 by seed_3_2"),
    ):
        with pytest.raises(DatasetError, match=f"not all are by the oracle {site.oracle}: .* from {old}; label these"):
            weekly.build_dataset(site, **span)


def test_from_archive_to_published_and_back(settings: Settings):
    """Each of two weeks publishes a model; a rollback takes the second back; what the gate fails is not published."""
    from dwcp.export.forms import FORMS
    from dwcp.pipeline.summary import render_summary
    from dwcp.release.bundle import bundle_path, verify_bundle
    from dwcp.release.publish import rollback
    from dwcp.release.registry import champions, get_version, list_versions
    from dwcp.release.signing import load_signer

    first_week = {"start": START.isoformat(), "end": WEEK["start"]}
    first = weekly.run_weekly(settings, run_id="week-1", **first_week)
    assert first["gate"]["verdict"] == "PASS", first["gate"]["reasons"]
    assert first["published"]["serial"] == 1
    [line] = first["published"]["notices"]
    version, everywhere = first["gate"]["version"], ", ".join(sorted(REGIONS))
    assert line == (
        f"{version}: the gate says PASS → published with serial 1: {everywhere}: it is served by {version}; look at "
        "rollout_transitions"
    )
    assert first["gate"]["notices"] == []
    assert first["field"]["lines"] == ["no model serves: nothing to watch"]
    second = weekly.run_weekly(settings, run_id="week-2", **WEEK)
    assert second["published"]["serial"] == 2
    assert second["gate"]["version"] != first["gate"]["version"]
    assert set(champions(settings).values()) == {second["gate"]["version"]}
    published = bundle_path(settings.bundle_dir, second["gate"]["version"])
    assert verify_bundle(published, load_signer(settings).public_key).forms == FORMS
    assert set(FORMS) < set(get_version(settings, second["gate"]["version"]).artifacts)
    console = Console(record=True, width=160)
    console.print(render_summary(settings))
    said = console.export_text()
    assert all(f"{form} " in said for form in FORMS)
    assert "Parity with what was trained" in said

    rollback(settings, reason="the test says so", who="test")
    assert set(champions(settings).values()) == {first["gate"]["version"]}

    # No ceiling: 99.9 % is more than labels of five runs could show, and the gate would say just that.
    beyond = {"gate_accuracy": 0.999, "gate_label_ceilings": {}}
    strict = settings.model_copy(update=beyond | {"network_epochs": 3})
    refused = weekly.run_weekly(strict, run_id="week-2-strict", **WEEK)
    assert refused["gate"]["verdict"] == "FAIL"
    assert any("accuracy" in reason for reason in refused["gate"]["reasons"])
    assert refused["published"] is None
    [line] = refused["gate"]["notices"]
    assert line.startswith(f"{refused['gate']['version']}: the gate says FAIL: strict accuracy ")
    assert line.endswith(" → not published, what serves stays; look at the report week-2-strict/evaluation.html")
    assert set(champions(settings).values()) == {first["gate"]["version"]}
    assert len(list_versions(settings)) == 3


def test_the_same_window_and_settings_give_the_same_version(settings: Settings, tmp_path: Path):
    loads = load(settings, 0, DAYS)
    span = {"run_id": "r", "start": START.isoformat(), "end": WEEK["end"]}
    weekly.reconcile(settings, loads=loads, **span)
    weekly.validate(settings, **span)
    versions = set()
    for home in ("one", "two"):
        there = settings.model_copy(update={"home": tmp_path / home})
        dataset = weekly.build_dataset(there, **span)["dataset"]
        xgboost = [weekly.train_xgboost(there, dataset=dataset, split=split) for split in SPLITS]
        network = [weekly.train_network(there, dataset=dataset, split=split) for split in SPLITS]
        versions.add(weekly.export_model(there, dataset=dataset, xgboost=xgboost, network=network)["version"])
    assert len(versions) == 1
