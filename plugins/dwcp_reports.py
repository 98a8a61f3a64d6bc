"""The reports of runs (quality, evaluation) in Airflow's web server, behind its login and read-only.

Every task process loads this file, and only the web server ever needs what it serves: so FastAPI and all else is
imported at the first request.
"""

from __future__ import annotations

import html
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from dwcp.console.web import HEADERS, LazyApp

PREFIX = "/dwcp/reports"
KINDS = {".html": "text/html", ".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json"}
# A report is data: no script in it ever runs, and it reaches nothing outside itself. Its links may open other pages.
REPORT_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; "
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox allow-same-origin",
}
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884 }
td:last-child { white-space: nowrap; font-variant-numeric: tabular-nums }
"""


def find_report(root: Path, name: str) -> Path | None:
    """The report ``name`` below ``root``, or None if there is none, it lies outside, or it is no kind we serve."""
    path = (root / name).resolve()
    inside = path.is_relative_to(root.resolve())
    return path if inside and path.suffix in KINDS and path.is_file() else None


def index_page(root: Path) -> str:
    """All HTML reports below ``root``, the newest first."""
    found = sorted(root.rglob("*.html"), key=lambda path: path.stat().st_mtime, reverse=True) if root.is_dir() else []
    rows = "".join(
        f'<tr><td><a href="{html.escape(str(path.relative_to(root)))}">'
        f"{html.escape(str(path.relative_to(root)))}</a></td>"
        f"<td>{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC</td></tr>"
        for path in found
    )
    table = f"<table><tr><th>Report</th><th>Written</th></tr>{rows}</table>"
    empty = "<p>No report yet: the first weekly run writes them.</p>"
    head = f'<meta charset="utf-8"><title>DWCP reports</title><style>{STYLE}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body><h1>Reports of runs</h1>{table if found else empty}'
    )


def build_app(reports_dir: Path) -> Any:
    """A FastAPI app that serves ``reports_dir`` to whoever may see Airflow's pages."""
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
    from airflow.api_fastapi.core_api.security import requires_access_view
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import FileResponse, HTMLResponse

    # Annotations below are builtin names only: FastAPI cannot resolve those of this function's imports.
    may_see = [Depends(requires_access_view(AccessView.WEBSITE))]
    app = FastAPI(title="DWCP reports", dependencies=may_see, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_model=None)
    def index() -> object:
        return HTMLResponse(index_page(reports_dir), headers=REPORT_HEADERS)

    @app.get("/{name:path}", response_model=None)
    def report(name: str) -> object:
        path = find_report(reports_dir, name)
        if path is None:
            raise HTTPException(404, f"no report {name}: its run may not have come so far, or it was cleaned away")
        return FileResponse(path, media_type=KINDS[path.suffix], headers=REPORT_HEADERS)

    return app


def _of_this_installation() -> Any:
    from dwcp.settings import Settings

    return build_app(Settings().reports_dir)


class DwcpReports(AirflowPlugin):  # type: ignore[misc]
    """Mounts the reports under ``/dwcp/reports/`` and puts their index into the navigation."""

    name = "dwcp_reports"
    fastapi_apps = [  # noqa: RUF012
        {"app": LazyApp(_of_this_installation), "url_prefix": PREFIX, "name": "DWCP reports"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "DWCP reports",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "dwcp-reports",
        }
    ]
