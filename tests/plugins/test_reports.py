"""The reports' pages: only what lies in the folder, only to those signed in, and no script."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def plugin(load_plugin):
    return load_plugin("dwcp_reports")


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    root = tmp_path / "reports"
    (root / "quality").mkdir(parents=True)
    (root / "quality" / "a<b>.html").write_text("<p>fine</p>")
    (root / "key.pem").write_text("secret")
    (tmp_path / "outside.html").write_text("secret")
    (root / "link.html").symlink_to(tmp_path / "outside.html")
    return root


def test_a_report_is_found(plugin, reports: Path) -> None:
    assert plugin.find_report(reports, "quality/a<b>.html") == (reports / "quality" / "a<b>.html").resolve()


@pytest.mark.parametrize("name", ["../outside.html", "link.html", "key.pem", "quality", "nothing.html", "/etc/passwd"])
def test_anything_else_is_not(plugin, reports: Path, name: str) -> None:
    assert plugin.find_report(reports, name) is None


def test_the_index_lists_reports_and_escapes_their_names(plugin, reports: Path) -> None:
    page = plugin.index_page(reports)
    assert "quality/a&lt;b&gt;.html" in page
    assert "key.pem" not in page


def test_the_index_of_a_fresh_installation_says_so(plugin, tmp_path: Path) -> None:
    assert "No report yet" in plugin.index_page(tmp_path / "none")


def test_without_a_login_nothing_is_served(plugin, reports: Path) -> None:
    from fastapi.testclient import TestClient

    client = TestClient(plugin.build_app(reports))
    for path in ("/", "/quality/a%3Cb%3E.html", "/nothing.html"):
        assert client.get(path).status_code == 401, path


def test_with_a_login_pages_come_without_script_and_only_by_get(plugin, reports: Path) -> None:
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi.testclient import TestClient

    app = plugin.build_app(reports)
    for route in app.router.dependencies:
        app.dependency_overrides[route.dependency] = lambda: None
    app.dependency_overrides[get_user] = lambda: object()
    client = TestClient(app)
    answer = client.get("/quality/a%3Cb%3E.html")
    assert (answer.status_code, answer.text) == (200, "<p>fine</p>")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert answer.headers["content-type"].startswith("text/html")
    assert client.get("/").status_code == 200
    assert client.get("/%2e%2e/outside.html").status_code == 404
    assert client.put("/quality/x.html", content="x").status_code == 405
