"""The hourly watch run by Airflow in this process, on a real Postgres, an emulated fleet and a local webhook."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dwcp.fleet.simulate import WORLD_START
from dwcp.fleet.write import write_to_archive
from dwcp.pipeline.ingest import load_day
from dwcp.release.publish import publish
from dwcp.release.registry import champions
from dwcp.settings import Settings
from fields import CostPolicy, training_profile, week
from fixtures_airflow import run_dag
from releases import clear, ready, settings_for

WATCH = "dwcp_drift_watch"
END = WORLD_START + timedelta(weeks=5)
SERVED = ("eu-west", "us-east")
ASKED = {"who": "test", "reason": "a test"}


@pytest.fixture
def settings(tmp_path: Path, warehouse, sink, monkeypatch: pytest.MonkeyPatch, airflow_home) -> Settings:
    """A champion everywhere and an older version to go back to; tasks find the site through their environment."""
    clear(warehouse)
    made = settings_for(tmp_path, warehouse)
    for version in ("v1", "v2"):
        ready(made, version, training_profile=training_profile(), accuracy=0.975)
        publish(made, version, regions=SERVED, **ASKED)
    for role in ("loader", "reader", "registry"):
        monkeypatch.setenv(f"DWCP_{role.upper()}_DSN", getattr(warehouse, f"{role}_dsn"))
    monkeypatch.setenv("DWCP_HOME", str(tmp_path))
    hook = {"conn_type": "http", "password": sink.url}
    monkeypatch.setenv("AIRFLOW_CONN_DWCP_WEBHOOK", json.dumps(hook))
    return made


def test_harm_is_taken_back_and_one_line_says_so(settings: Settings, dags, sink, caplog) -> None:
    write_to_archive(settings.archive_dir, [week(CostPolicy("v2", harm=0.5))])
    for days in range(2, 8):
        load_day(settings, run_id="before", day=(END - timedelta(days=days)).date().isoformat())
    with caplog.at_level(logging.DEBUG):
        state, states = run_dag(dags[WATCH], until=END.isoformat())
    assert state == "success"
    assert {states[f"{task}[{n}]"] for task in ("look_at_region", "act_in_region") for n in range(len(SERVED))} == {
        "success"
    }
    back = {region for region in SERVED if champions(settings).get(region) == "v1"}
    assert "eu-west" in back
    lines = [body["text"] for body in sink.bodies]
    taken_back = [line for line in lines if "→ rolled back with serial" in line]
    assert {line.split(":")[0] for line in taken_back} == back
    assert all("look at field_verdicts, v2" in line and "\n" not in line for line in lines)
    assert set(sink.paths) == {sink.path}
    assert sink.secret not in caplog.text


def test_a_source_that_is_down_is_said_and_nothing_is_looked_at(
    settings: Settings, dags, sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SOURCE": "influxdb", "INFLUX_URL": "http://127.0.0.1:9", "INFLUX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"DWCP_{name}", value)
    state, states = run_dag(dags[WATCH], until=END.isoformat())
    assert state == "success"
    assert states["refresh_rows"] == "success"
    assert {states[f"look_at_region[{n}]"] for n in range(len(SERVED))} == {"skipped"}
    assert states["retrain"] == "skipped"
    [body] = sink.bodies
    assert body["text"].startswith("the watch is blind for the hour to 2026-09-07 00:00 UTC: ")
    assert champions(settings) == dict.fromkeys(SERVED, "v2")


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch, dags) -> SimpleNamespace:
    """Steps in which one of two regions asks for retraining, and the other fails if ``trouble`` is set."""
    import wiring

    def act_in_region(_: Settings, *, looked: dict[str, Any]) -> dict[str, Any]:
        if steps.trouble and looked["region"] == "us-west":
            raise ValueError("no such thing")
        return {"lines": [], "notices": [], "retrain": looked["region"] == "us-east"}

    from dwcp.pipeline.watch import plan_retraining

    steps = SimpleNamespace(
        trouble=False,
        plan_look=lambda _, until: {"until": END.isoformat(), "regions": ["us-east", "us-west"]},
        refresh_rows=lambda _, **given: {"fresh": True, "until": given["until"], "notices": []},
        look_at_region=lambda _, **given: {"region": given["region"]},
        act_in_region=act_in_region,
        plan_retraining=plan_retraining,
    )
    monkeypatch.setattr(wiring, "import_module", lambda name: steps)
    return steps


def test_a_region_that_asks_starts_one_training_run_even_if_another_is_in_trouble(
    settings: Settings, dags, asking, sink, weekly_runs
) -> None:
    """For real: Airflow has the run, in its queue, and a second look in that week adds none."""
    asking.trouble = True
    _, states = run_dag(dags[WATCH])
    assert sorted(states[f"act_in_region[{n}]"] for n in range(2)) == ["failed", "success"]
    assert states["retrain"] == "success"
    assert weekly_runs() == [("watch__2026-W37", {"start": "2026-08-31", "end": "2026-09-07"}, "queued")]
    [body] = sink.bodies
    assert body["text"].startswith("dwcp_drift_watch: act_in_region[1] failed: no such thing → what follows it waits;")
    asking.trouble = False
    state, states = run_dag(dags[WATCH])
    assert (state, states["retrain"]) == ("success", "skipped")
    assert len(weekly_runs()) == 1


def test_behind_a_weekly_run_in_progress_it_waits_for_its_turn(settings: Settings, dags, asking, weekly_runs) -> None:
    """What Airflow's scheduler would start next is asked of Airflow."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    run_dag(dags[WATCH])
    [(run_id, _, _)] = weekly_runs()
    with create_session() as session:
        mine = session.query(DagRun).filter(DagRun.run_id == run_id).one()
        # SQLite's clock has whole seconds: a run that was due just now is not due yet.
        mine.run_after = datetime.now(UTC) - timedelta(hours=1)
        other = DagRun(dag_id=mine.dag_id, run_id="in-progress", run_type="manual", run_after=mine.run_after)
        session.add(other)
        for state, waits in (("running", True), ("success", False)):
            other.state = state
            session.flush()
            started = {found.run_id for found in DagRun.get_queued_dag_runs_to_set_running(session)}
            assert (run_id not in started) == waits, state
        session.delete(other)


def test_a_training_dag_that_is_paused_is_a_failure_that_people_are_told_of(
    settings: Settings, dags, asking, sink, weekly_runs
) -> None:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    def pause(paused: bool) -> None:
        with create_session() as session:
            session.query(DagModel).filter(DagModel.dag_id == "dwcp_weekly_retraining").update({"is_paused": paused})

    dags[WATCH].get_task("retrain").retries = 0
    pause(True)
    try:
        state, states = run_dag(dags[WATCH])
    finally:
        pause(False)
    assert (state, states["retrain"]) == ("failed", "failed")
    assert weekly_runs() == []
    [body] = sink.bodies
    assert body["text"].startswith("dwcp_drift_watch: retrain failed: Dag dwcp_weekly_retraining is paused")


def test_the_watch_runs_hourly_and_takes_back_ahead_of_everything(dags) -> None:
    watch = dags[WATCH]
    assert watch.timetable.expression == "10 * * * *"
    assert watch.get_task("act_in_region").pool == "dwcp_urgent"
    assert watch.get_task("refresh_rows").pool == "dwcp_load"
    assert watch.get_task("retrain").skip_when_already_exists
    assert watch.get_task("retrain").trigger_dag_id in dags
