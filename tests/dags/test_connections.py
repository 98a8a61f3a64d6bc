"""Whose servers a task talks to."""

from __future__ import annotations

import json

import pytest


def test_connections_come_from_airflow_and_else_from_the_environment(
    airflow_home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connections import settings_from_connections

    monkeypatch.setenv("AIRFLOW_CONN_DWCP_LOADER", "postgresql://loader:p%40ss%2Fword@db.example:6000/dwcp")
    monkeypatch.setenv("DWCP_LOADER_DSN", "postgresql://not@this/one")
    monkeypatch.setenv("DWCP_READER_DSN", "postgresql://reader@db.example/dwcp")
    influx = {"conn_type": "http", "schema": "https", "host": "tsdb.example", "port": 8087, "password": "token!"}
    monkeypatch.setenv("AIRFLOW_CONN_DWCP_INFLUXDB", json.dumps({**influx, "extra": {"org": "o"}}))
    hook = {"conn_type": "http", "password": "https://hooks.example/T0/B0/x", "extra": {"routing_key": "r!"}}
    monkeypatch.setenv("AIRFLOW_CONN_DWCP_WEBHOOK", json.dumps(hook))
    settings = settings_from_connections()
    assert settings.notify_webhook.get_secret_value() == "https://hooks.example/T0/B0/x"
    assert settings.notify_routing_key.get_secret_value() == "r!"
    assert settings.loader_dsn.get_secret_value() == "postgresql://loader:p%40ss%2Fword@db.example:6000/dwcp"
    assert settings.reader_dsn.get_secret_value() == "postgresql://reader@db.example/dwcp"
    assert settings.registry_dsn is None
    assert (settings.influx_url, settings.influx_org) == ("https://tsdb.example:8087", "o")
    assert settings.influx_token.get_secret_value() == "token!"
    assert "token!" not in repr(settings)
