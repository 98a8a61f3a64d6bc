"""The embedded server: made once, started by one, found again after a crash, closed to all without a password."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from dwcp.warehouse import server
from dwcp.warehouse.load import load_day
from dwcp.warehouse.migrate import migrate
from dwcp.warehouse.transaction import LoadError
from fixtures_postgres import Warehouse, checked_batches
from transfers import START, make_transfers

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    server.stop(tmp_path)


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server that tests of this module may kill; each of them leaves it startable."""
    home = tmp_path_factory.mktemp("killed-home")
    yield home
    server.stop(home)


def version_of(dsn: str) -> str:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return cursor.fetchone()[0]


def postmaster_pid(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def kill_postmaster(home: Path) -> None:
    pid = postmaster_pid(home)
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.02)


ENSURE = (
    "import sys, pathlib; from dwcp.warehouse.server import ensure_running;"
    "print(ensure_running(pathlib.Path(sys.argv[1])).port)"
)


def test_two_processes_at_once_start_one_server(home: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", ENSURE, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ports = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert ports == {str(server.ensure_running(home).port)}
    assert server.stop(home)
    assert not server.stop(home)


def test_it_stays_the_same_server(own_home: Path) -> None:
    first = server.ensure_running(own_home)
    pid = postmaster_pid(own_home)
    assert server.ensure_running(own_home) == first
    assert postmaster_pid(own_home) == pid
    assert server.stop(own_home)
    assert server.ensure_running(own_home).port == first.port
    assert {version_of(first.dsn(role)) for role in server.ROLES} == {version_of(first.dsn("postgres"))}


def test_secrets_are_private_and_the_port_is_on_loopback(own_home: Path) -> None:
    info = server.ensure_running(own_home)
    state = own_home / "postgres" / "server.json"
    passwords = json.loads(state.read_text())["passwords"]
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert not (own_home / "postgres" / "superuser.pw").exists()
    logs = "".join((own_home / "postgres" / name).read_text() for name in ("pg_ctl.log", "server.log"))
    assert logs
    assert not [role for role, password in passwords.items() if password in logs + repr(info)]
    with closing(psycopg2.connect(info.dsn("postgres", "postgres"))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')")
        assert cursor.fetchone() == ("127.0.0.1", "")
        cursor.execute("SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin")
        assert cursor.fetchone() == (True,)


def test_a_wrong_password_does_not_get_in(own_home: Path) -> None:
    info = server.ensure_running(own_home)
    for password in ("", "wrong"):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(f"postgresql://dwcp_owner:{password}@127.0.0.1:{info.port}/dwcp")
    with pytest.raises(server.ServerError, match="unknown role"):
        info.dsn("dwcp_admin")


def test_a_kill_in_the_middle_of_a_load_leaves_the_old_rows(own_home: Path) -> None:
    info = server.ensure_running(own_home)
    migrate(info.dsn("dwcp_owner"))
    warehouse = Warehouse(info, server.DATABASE)
    warehouse.load(make_transfers(500), run_id="before")
    before = warehouse.query("SELECT * FROM compression_training_data ORDER BY id")

    def killed() -> object:
        yield from list(checked_batches(make_transfers(200, seed=4)))
        kill_postmaster(own_home)
        yield from checked_batches(make_transfers(200, seed=5))

    with pytest.raises(LoadError, match=r"Postgres went away while loading 2026-08-03.*run it again"):
        load_day(
            warehouse.loader_dsn,
            day=START.date(),
            regions=None,
            run_id="killed",
            source="archive",
            checked=killed(),
            oracle_definition="seed_3_1",
        )
    info = server.ensure_running(own_home)
    assert Warehouse(info, server.DATABASE).query("SELECT * FROM compression_training_data ORDER BY id") == before
    assert Warehouse(info, server.DATABASE).load(make_transfers(200, seed=4)).loaded == 200


def test_a_pid_file_that_names_a_stranger_is_no_server(own_home: Path) -> None:
    info = server.ensure_running(own_home)
    kill_postmaster(own_home)
    pid_file = own_home / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(pid_file.read_text().split()[0], str(os.getpid()), 1))
    assert version_of(server.ensure_running(own_home).dsn("dwcp_owner")) == version_of(info.dsn("dwcp_owner"))


def test_a_taken_port_is_left_to_its_owner(own_home: Path) -> None:
    info = server.ensure_running(own_home)
    server.stop(own_home)
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", info.port))
        other.listen()
        moved = server.ensure_running(own_home)
        assert moved.port != info.port
        assert version_of(moved.dsn("dwcp_reader"))


def test_lost_passwords_are_said_and_the_data_is_kept(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(server.ServerError, match=r"server\.json.*is gone"):
        server.ensure_running(tmp_path)
    assert (tmp_path / "postgres" / "data").exists()


def test_a_crash_in_initdb_is_forgotten(home: Path) -> None:
    half = home / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    assert version_of(server.ensure_running(home).dsn("dwcp_owner"))


@ROOT_ONLY
def test_root_without_user_namespaces_uses_another_uid(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_may_unshare", lambda: False)
    home.chmod(0o700)
    info = server.ensure_running(home)
    assert (home / "postgres" / "data").stat().st_uid == pwd.getpwnam(server.UNPRIVILEGED_USER).pw_uid
    assert Path(f"/proc/{postmaster_pid(home)}").stat().st_uid == pwd.getpwnam(server.UNPRIVILEGED_USER).pw_uid
    kill_postmaster(home)
    assert version_of(server.ensure_running(home).dsn("dwcp_owner")) == version_of(info.dsn("dwcp_owner"))


@ROOT_ONLY
def test_a_user_who_is_not_root_needs_nothing(home: Path) -> None:
    uid = pwd.getpwnam("daemon").pw_uid
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    if subprocess.run([*as_user, sys.executable, "-c", "import dwcp"], capture_output=True, check=False).returncode:
        pytest.skip("this checkout is closed to other users")
    place = Path("/tmp") / f"dwcp-user-{os.getpid()}"
    place.mkdir()
    os.chown(place, uid, uid)
    try:
        subprocess.run([*as_user, sys.executable, "-c", ENSURE, str(place)], check=True, cwd="/")
        assert Path(f"/proc/{postmaster_pid(place)}").stat().st_uid == uid
        stop = "import sys, pathlib; from dwcp.warehouse.server import stop; assert stop(pathlib.Path(sys.argv[1]))"
        subprocess.run([*as_user, sys.executable, "-c", stop, str(place)], check=True, cwd="/")
    finally:
        shutil.rmtree(place)
