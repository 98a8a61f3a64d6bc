"""Both DAGs through the four real components, over the REST API, on a real Postgres and emulated transfers."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.airflow_client import AirflowClient, AirflowError
from dwcp.airflow_services import USER, AirflowSite, local_site
from dwcp.settings import Settings
from fixtures_airflow import REPOSITORY

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]
WEEKLY, BACKFILL = "dwcp_weekly_retraining", "dwcp_manual_backfill"
WEEK = {"start": "2026-08-03", "end": "2026-08-10"}
TRANSFERS = 2_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    from dwcp.fleet.run import run_fleet
    from dwcp.warehouse import server

    home = tmp_path_factory.mktemp("site")
    run_fleet(Settings(home=home), weeks=1, transfers_per_week=TRANSFERS)
    # So few transfers can never be enough for the real thresholds: the gate will not pass this model.
    yield local_site(Settings(home=home, bootstrap_rounds=50, training_threads=1), REPOSITORY)
    server.stop(home)


@pytest.fixture(scope="module")
def airflow(site: AirflowSite) -> Iterator[AirflowClient]:
    with site.running() as client:
        yield client
    with contextlib.closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", site.port)) != 0, "the web server outlived its site"
    assert _processes_of(site) == []


@pytest.fixture(scope="module")
def weekly(airflow: AirflowClient) -> tuple[str, str]:
    """Id and state of one weekly run over a chosen window."""
    run_id = airflow.trigger(WEEKLY, WEEK)
    return run_id, airflow.wait(WEEKLY, run_id, timeout_s=600)


def test_the_components_are_healthy_and_have_read_both_dags(airflow: AirflowClient) -> None:
    assert {name: state for name, state in airflow.health().items() if state != "healthy"} == {}
    assert airflow.dag_ids() == [BACKFILL, WEEKLY]
    assert airflow.import_errors() == []


def test_a_week_that_the_gate_does_not_pass_is_green_and_unpublished(airflow: AirflowClient, weekly) -> None:
    run_id, state = weekly
    states = airflow.task_states(WEEKLY, run_id)
    not_done = {task: value for task, value in states.items() if value != "success"}
    assert not_done == {"publish_model": "skipped", "verify_published": "skipped"}, _why(airflow, run_id, not_done)
    assert state == "success"
    assert sum(task.startswith("load_day[") for task in states) == 7
    counts = airflow.xcom(WEEKLY, run_id, "reconcile")
    assert counts["read"] == counts["loaded"] + counts["quarantined"] + counts["duplicate"]
    assert counts["loaded"] > TRANSFERS / 2


def test_the_reason_for_not_publishing_is_where_people_look(airflow: AirflowClient, weekly) -> None:
    run_id, _ = weekly
    gate = airflow.xcom(WEEKLY, run_id, "apply_gate")
    assert gate["verdict"] in ("FAIL", "INCONCLUSIVE")
    reason = airflow.xcom(WEEKLY, run_id, "publish_model", "skipped_because")
    assert reason == f"not published: the gate says {gate['verdict']}: {'; '.join(gate['reasons'])}"
    assert reason in airflow.log(WEEKLY, run_id, "publish_model")


def test_the_reports_open_from_the_run_and_only_with_a_login(airflow: AirflowClient, weekly) -> None:
    run_id, _ = weekly
    for task in ("validate", "evaluate_model"):
        link = airflow.link(WEEKLY, run_id, task, "Report")
        assert link
        status, page = airflow.page(link)
        assert status == 200
        assert "<html" in page
        assert airflow.page(link, signed_in=False)[0] == 401


def test_what_passes_between_tasks_is_small_and_holds_no_secret(airflow: AirflowClient, site, weekly) -> None:
    run_id, _ = weekly
    tasks = ("plan_window", "validate", "build_dataset", "train_xgboost", "evaluate_model", "watch_field")
    for task in tasks:
        text = json.dumps(airflow.xcom(WEEKLY, run_id, task, map_index=0 if task == "train_xgboost" else -1))
        assert len(text) < 4_000, task
        assert "postgresql://" not in text
    assert _loader_password(site) not in airflow.log(WEEKLY, run_id, "load_day", map_index=0)


def test_a_backfill_is_dry_and_says_what_would_change(airflow: AirflowClient, weekly) -> None:
    run_id = airflow.trigger(BACKFILL, {"start": "2026-08-04", "end": "2026-08-06", "oracle": "seed_3_2"})
    assert airflow.wait(BACKFILL, run_id, timeout_s=300) == "success"
    text = airflow.xcom(BACKFILL, run_id, "summarise_backfill")
    assert text.startswith("DRY RUN")
    for day in range(2):
        done = airflow.xcom(BACKFILL, run_id, "backfill_day", map_index=day)
        assert done["rows_now"] == done["rows_after"] > 0
        assert sum(done["label_flips"].values()) > 0


@pytest.mark.parametrize(
    "wrong",
    [{"source": "prometheus"}, {"regions": ["mars"]}, {"start": "yesterday"}, {"end": None}, {"dry_run": "maybe"}],
)
def test_a_form_with_a_wrong_value_is_refused_before_a_run_exists(
    airflow: AirflowClient, wrong: dict[str, Any]
) -> None:
    with pytest.raises(AirflowError) as refused:
        airflow.trigger(BACKFILL, {"start": "2026-08-04", "end": "2026-08-06", **wrong})
    assert refused.value.status == 400
    assert next(iter(wrong)) in str(refused.value)


def test_a_window_that_cannot_be_done_is_refused_by_the_plan_alone(airflow: AirflowClient) -> None:
    run_id = airflow.trigger(BACKFILL, {"start": "2020-01-01", "end": "2020-01-03", "dry_run": False})
    assert airflow.wait(BACKFILL, run_id, timeout_s=300) == "failed"
    states = airflow.task_states(BACKFILL, run_id)
    assert states.pop("plan_backfill") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    assert "holds no transfer" in airflow.log(BACKFILL, run_id, "plan_backfill")


def test_a_wrong_password_gets_nothing(airflow: AirflowClient) -> None:
    with pytest.raises(AirflowError) as refused:
        AirflowClient(airflow.url, USER, "guess").dag_ids()
    assert refused.value.status == 401


def _why(airflow: AirflowClient, run_id: str, states: dict[str, str]) -> str:
    red = [task for task, state in states.items() if state == "failed"]
    return "\n".join(f"--- {task}\n{airflow.log(WEEKLY, run_id, task)[-3_000:]}" for task in red if "[" not in task)


def _loader_password(site: AirflowSite) -> str:
    return site.settings.loader_dsn.get_secret_value().split(":")[2].split("@")[0]


def _processes_of(site: AirflowSite) -> list[str]:
    """Command lines of processes that still run in the site's environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"AIRFLOW_HOME={site.home}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
