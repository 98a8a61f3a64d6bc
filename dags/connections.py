"""Whose servers a task talks to: the settings of its process, completed by the connections that Airflow knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

if TYPE_CHECKING:
    from dwcp.settings import Settings


def settings_from_connections() -> Settings:
    """The process's settings with the connections that Airflow knows.

    Postgres from ``dwcp_loader``, ``dwcp_reader`` and ``dwcp_registry``; InfluxDB from the HTTP connection
    ``dwcp_influxdb`` (password: token; extra ``org``), the webhook from ``dwcp_webhook`` (password: its whole address,
    which is a secret; extra ``routing_key`` for PagerDuty). What Airflow does not know comes from ``DWCP_*``.
    """
    from dwcp.settings import Settings

    return Settings(**_postgres(), **_influxdb(), **_webhook())


def _postgres() -> dict[str, Any]:
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    known: dict[str, Any] = {}
    for role in ("loader", "reader", "registry"):
        try:
            url = PostgresHook(postgres_conn_id=f"dwcp_{role}").sqlalchemy_url
        except AirflowNotFoundException:
            continue
        # The hook names SQLAlchemy's driver; libpq knows none.
        known[f"{role}_dsn"] = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return known


def _influxdb() -> dict[str, Any]:
    from airflow.sdk import Connection

    try:
        known = Connection.get("dwcp_influxdb")
    except AirflowNotFoundException:
        return {}
    return {
        "influx_url": f"{known.schema or 'http'}://{known.host}:{known.port or 8086}",
        "influx_token": known.password or "",
        "influx_org": known.extra_dejson.get("org", "dwcp"),
    }


def _webhook() -> dict[str, Any]:
    from airflow.sdk import Connection

    try:
        known = Connection.get("dwcp_webhook")
    except AirflowNotFoundException:
        return {}
    key = known.extra_dejson.get("routing_key")
    return {"notify_webhook": known.password, **({"notify_routing_key": key} if key else {})}
