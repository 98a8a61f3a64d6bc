from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from dwcp.contract import REGIONS
from dwcp.release.publish import publish, rollback
from dwcp.release.registry import (
    RegistryError,
    champions,
    code_digest,
    connect,
    get_version,
    list_versions,
    lock_digest,
    read_log,
    register,
    settings_digest,
    version_of,
)
from dwcp.settings import Settings
from dwcp.window import Window
from releases import MODEL, clear, ready, settings_for

INPUTS = {
    "window": MODEL.window,
    "code_digest": "c",
    "lock_digest": "l",
    "settings_digest": "s",
    "weights_digest": "w",
}


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse)


def test_the_same_inputs_give_the_same_version():
    version = version_of(**INPUTS)
    assert version == version_of(**INPUTS)
    assert len(version) == 16
    int(version, 16)


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_changes_the_version(name: str):
    other = Window(MODEL.window.start, MODEL.window.end + timedelta(days=1)) if name == "window" else "x"
    assert version_of(**{**INPUTS, name: other}) != version_of(**INPUTS)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 1}, False),
        ({"oracle": "seed_3_2"}, False),
        ({"xgboost_weight": 0.5}, False),
        ({"train_share": 0.6}, False),
        ({"home": Path("/elsewhere")}, True),
        ({"registry_dsn": SecretStr("postgresql://u:secret@h/d")}, True),
        ({"influx_token": SecretStr("secret")}, True),
        ({"gate_accuracy": 0.5}, True),
        ({"watch_min_rows": 5}, True),
    ],
)
def test_a_version_follows_the_settings_that_shape_a_model(changes: dict, same: bool):
    assert (settings_digest(Settings(**changes)) == settings_digest(Settings())) is same


def test_code_and_lock_are_digests_of_what_is_there(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert code_digest(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert code_digest(tmp_path) != first
    installed = lock_digest(tmp_path)
    (tmp_path / "uv.lock").write_text("locked")
    assert lock_digest(tmp_path) not in (installed, lock_digest())
    assert len({len(digest) for digest in (first, installed, code_digest(), lock_digest())}) == 1


def test_registered_twice_is_one_row_with_the_newer_figures(settings: Settings):
    assert register(settings, replace(MODEL, verdict="FAIL", reasons=["accuracy 0.91"]))
    assert not register(settings, replace(MODEL, run_id="run-2", accuracy=0.99))
    [row] = list_versions(settings)
    assert (row.run_id, row.verdict, row.reasons, row.accuracy) == ("run-2", "PASS", [], 0.99)
    assert row.state == "registered"
    assert row.window == MODEL.window
    assert row.training_profile == MODEL.training_profile


def test_a_released_version_is_frozen(settings: Settings):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    assert not register(settings, replace(MODEL, accuracy=0.1, verdict="FAIL"))
    assert get_version(settings, "v1").accuracy == MODEL.accuracy
    with connect(settings) as db, db.cursor() as cursor, pytest.raises(psycopg2.Error, match="frozen"):
        cursor.execute("UPDATE model_versions SET metrics = '{}'")


def test_one_version_with_two_contents_is_refused(settings: Settings):
    register(settings, MODEL)
    with pytest.raises(RegistryError, match="version v1 is registered with weights aaaaaaaaaaaa"):
        register(settings, replace(MODEL, weights_digest="b" * 64))


def test_figures_must_be_json(settings: Settings):
    with pytest.raises(ValueError, match="JSON"):
        register(settings, replace(MODEL, metrics={"accuracy": float("nan")}))
    assert list_versions(settings) == []


def test_an_unknown_version_names_the_known_ones(settings: Settings):
    with pytest.raises(RegistryError, match="newest are: none"):
        get_version(settings, "v9")
    register(settings, MODEL)
    with pytest.raises(RegistryError, match="'v9' is not in the registry; the newest are: v1"):
        get_version(settings, "v9")


def test_an_unknown_parent_is_refused(settings: Settings):
    with pytest.raises(psycopg2.Error, match="foreign key"):
        register(settings, replace(MODEL, parent_champion="v0"))


def test_states_follow_the_log(settings: Settings):
    ready(settings, "v1", "v2", "v3", "v4")
    for version in ("v1", "v2", "v3"):
        publish(settings, version, who="test", reason="test")
    rollback(settings, who="test", reason="slow")
    states = {row.version: row.state for row in list_versions(settings)}
    assert states == {"v1": "retired", "v2": "champion", "v3": "rolled_back", "v4": "registered"}
    assert set(champions(settings).values()) == {"v2"}
    rollback(settings, "v3", who="test", reason="it was the network")
    assert get_version(settings, "v3").state == "champion"
    assert get_version(settings, "v2").state == "rolled_back"


def test_the_log_tells_who_what_and_why(settings: Settings):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="weekly", reason="gate passed", regions=["us-east"])
    publish(settings, "v2", who="weekly", reason="gate passed", regions=["us-east"])
    rollback(settings, who="kim", reason="throughput fell")
    newest, _, oldest = read_log(settings)
    assert (newest.serial, newest.action, newest.version, newest.previous) == (3, "rollback", "v1", "v2")
    assert (newest.released_by, newest.reason) == ("kim", "throughput fell")
    assert (oldest.serial, oldest.version, oldest.previous) == (1, "v1", None)


CHANGES = (
    "UPDATE releases SET reason = 'other'",
    "DELETE FROM releases",
    "DELETE FROM rollout_transitions",
    "UPDATE rollout_transitions SET to_state = 'full'",
    "TRUNCATE releases CASCADE",
)


@pytest.mark.parametrize("role", ["registry", "reader", "owner"])
def test_the_log_is_append_only(settings: Settings, warehouse, role: str):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    message = "append-only" if role == "owner" else "permission denied"
    for statement in CHANGES:
        with pytest.raises(psycopg2.Error, match=message):
            execute(getattr(warehouse, f"{role}_dsn"), statement)
    assert len(read_log(settings)) == len(REGIONS)


def execute(dsn: str, statement: str) -> None:
    db = psycopg2.connect(dsn)
    db.set_session(readonly=False)  # the reader's sessions are read-only by default; its rights must not be more
    try:
        with db, db.cursor() as cursor:
            cursor.execute(statement)
    finally:
        db.close()


def test_the_reader_reads_and_writes_nothing(settings: Settings, warehouse):
    register(settings, MODEL)
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute("SELECT version, state FROM model_registry")
        assert cursor.fetchall() == [("v1", "registered")]
    for table in ("model_versions", "releases", "rollout_transitions", "rollout_pauses", "watch_observations"):
        with pytest.raises(psycopg2.Error, match="permission denied"):
            execute(warehouse.reader_dsn, f"INSERT INTO {table} DEFAULT VALUES")


ASKING: dict[str, Callable[[Settings], object]] = {
    "register": lambda settings: register(settings, MODEL),
    "list": list_versions,
    "log": read_log,
}


@pytest.mark.parametrize("name", ASKING)
def test_without_postgres_the_error_says_what_to_do(name: str):
    with pytest.raises(RegistryError, match="set DWCP_REGISTRY_DSN"):
        ASKING[name](Settings(registry_dsn=None))
    gone = SecretStr("postgresql://dwcp_registry:hush@127.0.0.1:9/dwcp")
    with pytest.raises(RegistryError, match="cannot reach Postgres") as caught:
        ASKING[name](Settings(registry_dsn=gone))
    assert "hush" not in str(caught.value)


def test_a_connection_cut_in_the_middle_is_said(settings: Settings, warehouse):
    def ask_after_the_cut() -> None:
        with connect(settings) as db, db.cursor() as cursor:
            # A role may end its own sessions: from here it is as if the server had gone.
            execute(warehouse.registry_dsn, f"SELECT pg_terminate_backend({db.info.backend_pid})")
            cursor.execute("SELECT 1")

    with pytest.raises(RegistryError, match=r"Postgres went away.*again"):
        ask_after_the_cut()
