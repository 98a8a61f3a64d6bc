"""The console's page from a real Postgres, as the reader, and through Airflow's own login and permissions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors
from pydantic import SecretStr

import histories
from dwcp.console import page, queries
from dwcp.console.page import FORMS, console_page
from dwcp.contract import REGIONS
from dwcp.settings import Settings

EVIL = "<script>document.title='stolen'</script>"
WEEKS = 52
ROWS_TOUCHED = 10_000
"""The console touches fewer rows of any one table than this, whatever its size."""


def settings_of(warehouse: object, tmp_path: Path) -> Settings:
    """Nothing but the reader's connection."""
    return Settings(home=tmp_path, reader_dsn=SecretStr(warehouse.reader_dsn))


@pytest.fixture(scope="module")
def year(warehouse: object) -> object:
    """A warehouse with a year of weekly releases and hourly looks in six regions."""
    histories.write_history(warehouse, weeks=WEEKS)
    return warehouse


def test_a_fresh_installation_says_what_is_not_there_yet(fresh_warehouse, tmp_path: Path) -> None:
    status, html = console_page(settings_of(fresh_warehouse, tmp_path))
    text = html.decode()
    assert status == 200
    assert "Nothing is wrong: no model decides anywhere" in text
    assert text.count("no model yet") == len(REGIONS)
    for missing in ("nothing measured yet", "Nothing measured yet", "No model was judged yet", "Nothing loaded yet"):
        assert missing in text, missing


def test_without_postgres_the_page_says_so_in_one_line_and_keeps_its_secrets(tmp_path: Path) -> None:
    away = Settings(home=tmp_path, reader_dsn=SecretStr("postgresql://dwcp_reader:hush@127.0.0.1:1/dwcp"))
    status, html = console_page(away, may_start={FORMS[0].dag_id})
    text = html.decode()
    assert status == 503
    assert "The console knows nothing now: cannot reach Postgres as the reader role" in text
    assert "is it running?" in text
    assert f"dags/{FORMS[0].dag_id}" in text
    assert "hush" not in text


def test_a_database_that_is_older_than_the_page_is_named_as_such(fresh_warehouse, tmp_path: Path) -> None:
    fresh_warehouse.execute("DROP TABLE field_figures CASCADE")
    status, html = console_page(settings_of(fresh_warehouse, tmp_path))
    assert status == 503
    assert "run `dwcp migrate`" in html.decode()


def test_the_page_reads_as_a_role_that_cannot_write(fresh_warehouse, tmp_path: Path) -> None:
    """Neither by its session nor, should somebody lift that, by its privileges."""
    pause = "INSERT INTO rollout_pauses (region, paused, who, reason) VALUES ('us-east', TRUE, 'x', 'y')"
    with page.connect(settings_of(fresh_warehouse, tmp_path), "reader") as db, db.cursor() as cursor:
        queries.begin(db)
        with pytest.raises(errors.ReadOnlySqlTransaction):
            cursor.execute(pause)
    for write in (pause, "DELETE FROM releases", "UPDATE model_versions SET verdict = 'PASS'"):
        with closing(psycopg2.connect(fresh_warehouse.reader_dsn)) as db, db.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ WRITE")
            with pytest.raises(errors.InsufficientPrivilege):
                cursor.execute(write)


def test_a_year_is_shown_with_all_its_sections_and_what_people_typed_is_escaped(year, tmp_path: Path) -> None:
    year.execute(
        "INSERT INTO rollout_pauses (region, paused, who, reason) VALUES ('us-west', TRUE, %s, %s)", ("on-call", EVIL)
    )
    status, html = console_page(settings_of(year, tmp_path), region="eu-west", days=365)
    text = html.decode()
    assert status == 200
    assert text.count("<svg") == len(page.PLOTS)
    for wanted in (f"week{WEEKS:03}", "strict accuracy", "rtt_ms not a finite number", "canary → full", "rtt_ms@wan"):
        assert wanted in text, wanted
    assert EVIL not in text
    assert "&lt;script&gt;document" in text


@pytest.mark.parametrize(("region", "days"), [("mars'; DROP TABLE releases; --", 30), ("eu-west", -4)])
def test_a_region_or_span_that_there_is_not_gives_the_usual_page(year, tmp_path: Path, region: str, days: int) -> None:
    status, html = console_page(settings_of(year, tmp_path), region=region, days=days)
    assert (status, html.count(b'aria-current="true"')) == (200, 2)
    assert region.encode() not in html or region in REGIONS


@pytest.mark.parametrize("days", page.RANGES)
def test_a_page_costs_no_more_for_a_year_behind_it(year, tmp_path: Path, days: int) -> None:
    """Judged by the rows that Postgres touched for each statement; the time is printed, as it is the machine's."""
    ((figures,),) = year.query("SELECT count(*) FROM field_figures")
    assert figures > 500_000
    settings = settings_of(year, tmp_path)
    console_page(settings, region="eu-west", days=days)
    started, cpu = time.perf_counter(), time.process_time()
    console_page(settings, region="eu-west", days=days)
    spent_ms, cpu_ms = 1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - cpu)
    touched, executed_ms = {}, 0.0
    with page.connect(settings, "reader") as db, db.cursor() as cursor:
        queries.begin(db)
        until = queries.read_history(db, "eu-west", days).until
        span = {"region": "eu-west", "until": until, "width": timedelta(days=days) / queries.POINTS}
        for name, statement in queries.STATEMENTS.items():
            given = queries.parameters(**span, marked=["full", "rolled_back"])
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", given)
            ((plans,),) = cursor.fetchall()
            executed_ms += plans[0]["Execution Time"]
            for kind, table, rows in scans(plans[0]["Plan"]):
                touched[name, table] = touched.get((name, table), 0.0) + rows
                assert (kind, table) != ("Seq Scan", "field_figures"), name
    print(f"{days} days, {figures:,} figures kept: {spent_ms:.0f} ms (CPU of ours {cpu_ms:.0f}, SQL {executed_ms:.0f})")
    assert ("history", "field_figures") in touched
    assert {place: rows for place, rows in touched.items() if rows > ROWS_TOUCHED} == {}


def scans(plan: dict[str, object]) -> Iterator[tuple[str, str, float]]:
    """Each scan of a table in a plan: its kind, the table, the rows it touched, also those that it then dropped."""
    if "Relation Name" in plan:
        rows = plan["Actual Rows"] + sum(plan.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
        yield plan["Node Type"], plan["Relation Name"], rows * plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from scans(part)


@pytest.fixture
def client_as(load_plugin, fresh_warehouse, tmp_path: Path):
    """A client of the console's app, signed in with a role of Airflow's simple auth manager; None is nobody."""
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi.testclient import TestClient

    create_auth_manager()
    plugin = load_plugin("dwcp_console")

    def client(role: str | None, *, signed_in: bool = True) -> TestClient:
        app = plugin.build_app(settings_of(fresh_warehouse, tmp_path))
        if signed_in:
            app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="someone", role=role)
        return TestClient(app)

    return client


def test_without_a_login_nothing_is_served(client_as) -> None:
    assert client_as(None, signed_in=False).get("/").status_code == 401


def test_a_login_without_permission_is_refused(client_as) -> None:
    assert client_as(None).get("/").status_code == 403


def test_a_viewer_sees_the_page_and_no_way_to_act(client_as) -> None:
    answer = client_as("VIEWER").get("/")
    assert answer.status_code == 200
    assert "data-leave href" not in answer.text
    assert answer.text.count("you may not start") == len(FORMS)


def test_who_may_start_runs_is_led_to_their_forms(client_as) -> None:
    answer = client_as("USER").get("/")
    assert [f'href="../../dags/{form.dag_id}"' in answer.text for form in FORMS] == [True] * len(FORMS)


def test_the_answer_lets_no_script_in_and_nothing_out(client_as) -> None:
    client = client_as("VIEWER")
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "http" not in policy
    assert client.post("/").status_code == 405
    assert client.get("/", params={"days": "many"}).status_code == 422


def test_the_forms_are_those_of_dags_that_exist(dags) -> None:
    assert {form.dag_id for form in FORMS} <= set(dags)
