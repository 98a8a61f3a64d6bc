"""The staged rollout and the rollback by hand, run by Airflow in this process on a real Postgres and real bundles."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from dwcp.contract import REGIONS
from dwcp.release.publish import publish
from dwcp.release.registry import RegionState, connect, region_states
from dwcp.release.rollout import pause
from dwcp.settings import Settings
from fixtures_airflow import run_dag
from releases import clear, ready, settings_for
from rollouts import NO_SOAK, look

ASKED = {"who": "test", "reason": "a test"}
ROLLOUT, ROLLBACK = "dwcp_staged_rollout", "dwcp_manual_rollback"


@pytest.fixture
def settings(tmp_path: Path, warehouse, monkeypatch: pytest.MonkeyPatch, airflow_home) -> Settings:
    """A site with a champion and two retired versions everywhere; its tasks find it through their environment."""
    clear(warehouse)
    settings = settings_for(tmp_path, warehouse, rollout_immediate=False, **NO_SOAK)
    for role in ("loader", "reader", "registry"):
        monkeypatch.setenv(f"DWCP_{role.upper()}_DSN", getattr(warehouse, f"{role}_dsn"))
    monkeypatch.setenv("DWCP_HOME", str(tmp_path))
    for name in NO_SOAK:
        monkeypatch.setenv(f"DWCP_{name.upper()}", "PT0S")
    return settings


@pytest.fixture
def mature(settings: Settings) -> Settings:
    at_once = settings.model_copy(update={"rollout_immediate": True})
    ready(settings, "v1", "v2", "v3")
    for version in ("v1", "v2", "v3"):
        publish(at_once, version, **ASKED)
    return settings


@pytest.fixture
def dag(settings: Settings) -> Callable[[str], Any]:
    """A DAG as Airflow reads it now."""

    def read(dag_id: str) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        from fixtures_airflow import REPOSITORY

        bag = DagBag(str(REPOSITORY / "dags" / f"{dag_id}.py"))
        assert bag.import_errors == {}
        return MappingProxyType(bag.dags)[dag_id]

    return read


def channel(settings: Settings) -> dict[str, RegionState]:
    with connect(settings) as db:
        return region_states(db)


def challenged(settings: Settings, state: RegionState, **others: RegionState) -> bool:
    return channel(settings) == {**dict.fromkeys(REGIONS, state), **others}


def test_each_region_advances_holds_or_reverts_by_its_own_verdict(mature: Settings, dag, monkeypatch) -> None:
    regions = ("us-east", "us-west", "ap-south")
    monkeypatch.setattr("dwcp.contract.REGIONS", regions)
    ready(mature, "v4")
    publish(mature, "v4", **ASKED)
    pause(mature, ["ap-south"], **ASKED)
    look(mature, "v4", "rollback", regions=["us-west"])
    state, states = run_dag(dag(ROLLOUT))
    assert state == "success"
    assert len(states) == 3 * len(regions)
    assert {states[f"region.approve[{n}]"] for n in range(len(regions))} == {"skipped"}
    assert {states[f"region.move_region[{n}]"] for n in range(len(regions))} == {"success"}
    now = channel(mature)
    canary, away, shadow = RegionState("v3", "v4", 500), RegionState("v3"), RegionState("v3", "v4", 0)
    assert [now[region] for region in regions] == [canary, away, shadow]
    assert now["eu-west"] == shadow, "its region was not among those of the DAG"


@pytest.mark.parametrize(("answer", "state"), [("Approve", RegionState("v3", "v4", 500)), ("Reject", None)])
def test_a_step_that_needs_a_person_waits_for_one(
    mature: Settings, dag, monkeypatch: pytest.MonkeyPatch, answer: str, state: RegionState | None
) -> None:
    monkeypatch.setenv("DWCP_ROLLOUT_APPROVE_CANARY", "true")
    monkeypatch.setattr("dwcp.contract.REGIONS", ("us-east", "us-west"))
    ready(mature, "v4")
    publish(mature, "v4", regions=["us-east"], **ASKED)
    staged = dag(ROLLOUT)
    before = channel(mature)["us-east"]
    with answering(answer, lambda: channel(mature)["us-east"]) as asked:
        ended, states = run_dag(staged)
    assert asked == [before], "one region was asked about, and nothing moved before the answer"
    assert ended == "success"
    assert states["region.approve[0]"] == "success"
    assert states["region.approve[1]"] == "skipped"
    assert channel(mature)["us-east"] == (state or before)
    if state:
        with connect(mature) as db, db.cursor() as cursor:
            cursor.execute("SELECT reason FROM rollout_transitions WHERE to_state = 'canary'")
            assert cursor.fetchone() == ("nothing speaks against it; approved by kim",)


@contextmanager
def answering(answer: str, see: Callable[[], object]) -> Iterator[list[object]]:
    """A person at Airflow's *Required actions*: answers each question, after noting what ``see`` gives then."""
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    person = SimpleNamespace(get_id=lambda: "7", get_name=lambda: "kim")
    asked: list[object] = []
    over = threading.Event()

    def answer_all() -> None:
        while not over.wait(0.2):
            with create_session() as session:
                for ti in session.query(TaskInstance).filter(TaskInstance.state == "awaiting_input"):
                    asked.append(see())
                    update_hitl_detail(
                        dag_id=ti.dag_id,
                        dag_run_id=ti.run_id,
                        task_id=ti.task_id,
                        update_hitl_detail_payload=UpdateHITLDetailPayload(chosen_options=[answer], params_input={}),
                        user=person,
                        session=session,
                        map_index=ti.map_index,
                    )

    thread = threading.Thread(target=answer_all)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def test_a_rollback_by_the_form_is_done_once_however_often_it_is_pressed(mature: Settings, dag) -> None:
    form = {"region": "all", "reason": "throughput fell"}
    assert run_dag(dag(ROLLBACK), **form)[0] == "success"
    assert challenged(mature, RegionState("v2"))
    assert run_dag(dag(ROLLBACK), **form)[0] == "success"
    assert challenged(mature, RegionState("v2"))
    # Further back only by name, and a name pressed twice is one release.
    for _ in range(2):
        assert run_dag(dag(ROLLBACK), region="eu-west", to="v1", reason="still slow")[0] == "success"
    assert challenged(mature, RegionState("v2"), **{"eu-west": RegionState("v1")})
    with connect(mature) as db, db.cursor() as cursor:
        cursor.execute("SELECT max(serial), count(*) FILTER (WHERE action = 'rollback') FROM releases")
        assert cursor.fetchone() == (5, 2)


def test_a_rollback_needs_no_influxdb_and_no_newest_bundle(mature: Settings, dag, monkeypatch) -> None:
    monkeypatch.setenv("DWCP_SOURCE", "influxdb")
    monkeypatch.setenv("DWCP_INFLUX_URL", "http://127.0.0.1:9")
    (mature.bundle_dir / "v3" / "model.onnx").write_bytes(b"rubbish")
    assert run_dag(dag(ROLLBACK), region="all", reason="damaged")[0] == "success"
    assert challenged(mature, RegionState("v2"))


def test_what_cannot_be_done_is_refused_by_the_first_task(mature: Settings, dag, capsys) -> None:
    before = channel(mature)
    state, states = run_dag(dag(ROLLBACK), region="all", to="v9", reason="a typing error")
    assert (state, states) == ("failed", {"plan_rollback": "failed", "roll_back": "upstream_failed"})
    assert "version 'v9' is not in the registry" in capsys.readouterr().out
    assert channel(mature) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "mars"},
        {"region": None},
        {"reason": ""},
        {"reason": "       "},
        {"reason": None},
        {"to": "v1; drop"},
        {"to": ""},
    ],
)
def test_the_form_refuses_what_it_can(settings: Settings, dag, wrong: dict[str, Any]) -> None:
    rollback = dag(ROLLBACK)
    conf = {"region": "all", "reason": "long enough", **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        run_dag(rollback, **{name: value for name, value in conf.items() if value is not None})


def test_the_form_shows_the_versions_one_can_go_back_to(mature: Settings, dag) -> None:
    param = dag(ROLLBACK).params.get_param("to")
    assert param.value == "last-good"
    assert param.schema["examples"] == ["last-good", "rules", "v3", "v2", "v1"]
    assert "| v2 | 2026-07-27 | 98.50% |" in param.schema["description_md"]
    # A hint only: without it, or with it damaged, the form is still there.
    kept = mature.channel_path.with_name("versions.json")
    assert len(json.loads(kept.read_text())) == 3
    for damage in ("", "{}", '[{"version": 1}]', "[1]"):
        kept.write_text(damage)
        assert dag(ROLLBACK).params.get_param("to").schema["examples"] == ["last-good", "rules"]
    kept.unlink()
    assert run_dag(dag(ROLLBACK), region="all", reason="no hint needed")[0] == "success"


def test_an_unanswered_question_approves_nothing_and_lapses_before_the_next_run(settings: Settings, dag) -> None:
    approve = dag(ROLLOUT).get_task("region.approve")
    assert approve.defaults is None
    assert timedelta(0) < approve.response_timeout < timedelta(days=1)
