"""What the site's processes get to see, without starting them."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from dwcp.airflow_client import AirflowError
from dwcp.airflow_services import AirflowSite, ServicesError, free_port, local_site
from dwcp.settings import Settings
from fixtures_airflow import REPOSITORY


@pytest.fixture
def site(tmp_path: Path) -> AirflowSite:
    settings = Settings(
        home=tmp_path,
        owner_dsn="postgresql://owner:ownersecret@db.example/dwcp",
        loader_dsn="postgresql://loader:x@db.example/dwcp",
        influx_url="http://tsdb.example:8086",
        influx_token="tokensecret",
    )
    return AirflowSite(settings, 8080, "postgresql://airflow:y@db.example/airflow", REPOSITORY)


def test_tasks_get_connections_and_never_the_owner(site: AirflowSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWCP_OWNER_DSN", "postgresql://owner:ownersecret@db.example/dwcp")
    monkeypatch.setenv("DWCP_READER_DSN", "postgresql://reader:readersecret@db.example/dwcp")
    environment = site.environment()
    assert environment["AIRFLOW_CONN_DWCP_LOADER"] == "postgresql://loader:x@db.example/dwcp"
    assert json.loads(environment["AIRFLOW_CONN_DWCP_INFLUXDB"])["password"] == "tokensecret"
    assert not any("ownersecret" in value or "readersecret" in value for value in environment.values())


def test_the_site_listens_on_loopback_and_runs_by_hand_unless_scheduled(
    site: AirflowSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DWCP_WEEKLY_CRON", raising=False)
    environment = site.environment()
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert environment["DWCP_WEEKLY_CRON"] == ""
    assert "127.0.0.1" in environment["NO_PROXY"]
    settings = site.settings.model_copy(update={"weekly_cron": "0 4 * * 2", "gate_accuracy": 0.5})
    scheduled = AirflowSite(settings, 8080, site.dsn, REPOSITORY).environment()
    assert scheduled["DWCP_WEEKLY_CRON"] == "0 4 * * 2"
    assert scheduled["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "True"
    assert scheduled["DWCP_GATE_ACCURACY"] == "0.5"


def test_the_webhook_reaches_the_tasks_as_a_connection(site: AirflowSite) -> None:
    chosen = {"notify_webhook": SecretStr("https://hooks.example/T0/x"), "notify_routing_key": SecretStr("r!")}
    environment = AirflowSite(site.settings.model_copy(update=chosen), 8080, site.dsn, REPOSITORY).environment()
    hook = json.loads(environment["AIRFLOW_CONN_DWCP_WEBHOOK"])
    assert (hook["password"], hook["extra"]) == ("https://hooks.example/T0/x", {"routing_key": "r!"})
    assert not any(name.startswith("DWCP_NOTIFY") for name in environment)
    assert environment["DWCP_WATCH_CRON"] == ""


def test_every_setting_that_was_chosen_reaches_the_tasks(site: AirflowSite, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"gate_label_ceilings": {5: 0.9}, "influx_bucket": "b", "gate_accuracy": 0.5, "source": "influxdb"}
    settings = site.settings.model_copy(update={**chosen, "max_clock_ahead": timedelta(minutes=3)})
    for name, value in AirflowSite(settings, 8080, site.dsn, REPOSITORY).environment().items():
        if name.startswith("DWCP_"):
            monkeypatch.setenv(name, value)
    seen = Settings()
    assert {name: getattr(seen, name) for name in chosen} == chosen
    assert seen.max_clock_ahead == timedelta(minutes=3)


def test_secrets_are_made_once_and_private(site: AirflowSite) -> None:
    password, environment = site.password, site.environment()
    assert (site.password, site.environment()) == (password, environment)
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((site.home / name).stat().st_mode) == 0o600
    assert len(password) >= 12


def test_a_server_that_is_not_there_is_said_in_one_line(site: AirflowSite) -> None:
    client = AirflowSite(site.settings, free_port(), site.dsn, REPOSITORY).client()
    assert client.health() == {}
    with pytest.raises(AirflowError, match="does not answer") as refused:
        client.trigger("dwcp_weekly_retraining")
    assert refused.value.status == 0


def test_a_port_in_use_is_said_before_anything_starts(site: AirflowSite) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = AirflowSite(site.settings, other.getsockname()[1], site.dsn, REPOSITORY)
        with pytest.raises(ServicesError, match="in use"), taken.running():
            pass


def test_airflows_role_may_not_enter_the_warehouse(postgres_server, tmp_path: Path) -> None:
    settings = Settings(home=postgres_server.home)
    site = local_site(settings, REPOSITORY, port=free_port())
    assert local_site(settings, REPOSITORY, port=site.port).dsn == site.dsn
    with psycopg2.connect(site.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database()")
        assert cursor.fetchone() == ("airflow", "airflow")
    with pytest.raises(psycopg2.OperationalError, match="permission denied"):
        psycopg2.connect(site.dsn.removesuffix("airflow") + "dwcp")
