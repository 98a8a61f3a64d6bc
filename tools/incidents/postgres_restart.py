"""5. Postgres goes away in the middle of a rollback, twice: before it is recorded, and after, before nodes are told."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2

from dwcp.pipeline.rollout import plan_rollback, roll_back
from dwcp.pipeline.site import dsn
from dwcp.release.channel import read_channel
from dwcp.release.signing import load_signer
from dwcp.release.transitions import LOCK_KEY
from dwcp.warehouse import server
from incidents.report import Incident, Span
from incidents.site import HERE, Site

ASKED = {"region": HERE, "to": "last-good", "reason": "slow since the release"}


def run(site: Site) -> Incident:
    """Kill the server under a rollback that waits for its lock, then under one that is about to tell the nodes."""
    settings, key = site.settings, load_signer(site.settings).public_key
    before = read_channel(settings.channel_path, key).serial
    plan = plan_rollback(settings, **ASKED)

    def press() -> None:
        roll_back(settings, who="on call", plan=plan)

    with _lock_held(site):
        pressed = _Pressed(press)
        _until(lambda: _waiting(site) > 0)
        began = time.monotonic()
        kill(site)
        first = pressed.error()
        detected_s = time.monotonic() - began
    still = read_channel(settings.channel_path, key).serial
    server.ensure_running(site.database.home)
    nothing = site.rows("SELECT max(serial) FROM releases")[0][0]

    with _channel_kept_busy(site):
        pressed = _Pressed(press)
        _until(lambda: site.rows("SELECT max(serial) FROM releases")[0][0] > before)
        kill(site)
    second = pressed.error()
    again = time.monotonic()
    server.ensure_running(site.database.home)
    recorded = site.rows("SELECT max(serial) FROM releases")[0][0]
    untold = read_channel(settings.channel_path, key).serial

    done = roll_back(settings, who="on call", plan=plan)
    site.nodes.wait(lambda told: told[HERE]["serial"] == recorded and told[HERE]["champion"] == "")
    recovered_s = time.monotonic() - again
    steps = site.rows("SELECT count(*) FROM rollout_transitions WHERE region = %s AND move = 'roll_back'", (HERE,))[0][
        0
    ]
    return Incident(
        number=5,
        name="Postgres restarts in mid-rollback",
        cause=(
            f"On call presses the rollback of {HERE}; the server is killed (SIGKILL) while the rollback waits for its "
            "lock, and again, at the second try, when it is recorded and nodes are not told yet."
        ),
        detected=Span(detected_s, "wall", "from the kill to one line in the failed task"),
        recovered=Span(
            recovered_s, "wall", "start Postgres, press a third time, and the region's node has the document"
        ),
        said=(f"first try: {first}", f"second try: {second}"),
        did=(
            f"after the first kill nothing was recorded: serial {nothing}, was {before}; the document says {still}",
            f"after the second the rollback was recorded as serial {recorded}, the document still said {untold}",
            f"the third try told nodes of serial {done['serial']} and stepped back no further: {steps} step in the log",
        ),
        on_call="bring Postgres back, press again; a task of Airflow tries again by itself",
        nodes=site.nodes.total(),
        open=() if steps == 1 and done["serial"] == recorded else (f"{steps} steps for one rollback",),
    )


def kill(site: Site) -> None:
    """End the postmaster as a crash of the machine would."""
    pid = int((site.database.home / "postgres" / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(pid, signal.SIGKILL)
    _until(lambda: not _answers(site))


class _Pressed:
    """The rollback in a thread, and what it raised."""

    def __init__(self, press: Callable[[], None]) -> None:
        self._error: Exception | None = None

        def work() -> None:
            try:
                press()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def error(self) -> str:
        self._thread.join(60)
        return f"{type(self._error).__name__}: {' '.join(str(self._error).split())}" if self._error else "it succeeded"


@contextmanager
def _lock_held(site: Site) -> Iterator[None]:
    """Somebody else is writing; the session ends with the server."""
    db = psycopg2.connect(dsn(site.settings, "registry"))
    with db.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
    try:
        yield
    finally:
        db.close()


@contextmanager
def _channel_kept_busy(site: Site) -> Iterator[None]:
    """Another writer of the document is at work, so that ours waits between commit and write."""
    path = site.settings.channel_path
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _waiting(site: Site) -> int:
    with closing(psycopg2.connect(site.database.dsn(server.SUPERUSER, "postgres"))) as db, db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return int((cursor.fetchone() or (0,))[0])


def _answers(site: Site) -> bool:
    try:
        psycopg2.connect(site.database.dsn(server.SUPERUSER, "postgres"), connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def _until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"not so after {within_s:.0f} s")
        time.sleep(0.02)
