"""The console for on-call, in Airflow's web server: behind its login and permissions, read with the reader role alone.

Every task process loads this file and only the web server serves it, so all else is imported at the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from dwcp.console.web import HEADERS, LazyApp

if TYPE_CHECKING:
    from dwcp.settings import Settings

PREFIX = "/dwcp/console"
SEEN_WITH = "dwcp_weekly_retraining"
"""Whoever may read this DAG may read the console."""


def build_app(settings: Settings) -> Any:
    """A FastAPI app that serves the console with ``settings``, of which it uses the reader's connection only."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import get_user, requires_access_dag, requires_access_view
    from fastapi import Depends, FastAPI
    from fastapi.responses import Response

    from dwcp.console.page import FORMS, POLICY, console_page

    # Annotations below are builtin names only: FastAPI cannot resolve those of this function's imports.
    may_see = [
        Depends(requires_access_view(AccessView.WEBSITE)),
        Depends(requires_access_dag("GET", param_dag_id=SEEN_WITH)),
    ]
    app = FastAPI(title="DWCP console", dependencies=may_see, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_model=None)
    def console(region: str | None = None, days: int = 30, user: object = Depends(get_user)) -> object:
        manager = get_auth_manager()
        may_start = {
            form.dag_id
            for form in FORMS
            if manager.is_authorized_dag(
                method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=form.dag_id), user=user
            )
        }
        status, page = console_page(settings, region=region, days=days, may_start=may_start)
        headers = {**HEADERS, "Content-Security-Policy": POLICY}
        return Response(page, status, headers, media_type="text/html; charset=utf-8")

    return app


def reader_settings() -> Settings:
    """The process's settings; the reader's connection is Airflow's ``dwcp_reader`` where it knows one."""
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models.connection import Connection

    from dwcp.settings import Settings

    try:
        known = Connection.get_connection_from_secrets("dwcp_reader")
    except AirflowNotFoundException:
        return Settings()
    return Settings(reader_dsn=known.get_uri())


class DwcpConsole(AirflowPlugin):  # type: ignore[misc]
    """Mounts the console under ``/dwcp/console/`` and puts it into the navigation."""

    name = "dwcp_console"
    fastapi_apps = [  # noqa: RUF012
        {"app": LazyApp(lambda: build_app(reader_settings())), "url_prefix": PREFIX, "name": "DWCP console"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "DWCP console",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "dwcp-console",
        }
    ]
