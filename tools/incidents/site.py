"""The installation that incidents happen to: made once with a trained champion, and copied for each of them."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
from pydantic import SecretStr

from dwcp.fleet.run import run_fleet
from dwcp.fleet.simulate import WORLD_START
from dwcp.pipeline.site import dsn
from dwcp.pipeline.weekly import run_weekly
from dwcp.release.registry import champions, code_digest
from dwcp.settings import Settings
from dwcp.warehouse import server
from dwcp.warehouse.migrate import migrate
from fixtures_webhook import Sink, running_sink
from incidents.nodes import Nodes, build, running_nodes

WEEKS = 4
"""Of the fleet's past, decided by the rules: what the champion learned from."""
END = WORLD_START + timedelta(weeks=WEEKS)
"""Here the past ends and incidents begin."""
HERE = "eu-west"
"""The region that is looked at."""
BASE = "incident_base"
GATE = {"gate_accuracy": 0.96, "gate_accuracy_half_width": 0.02, "gate_precision": 0.9, "gate_recall": 0.9}
GATE |= {"gate_f1": 0.9, "gate_regret": 0.02, "gate_slower_slices": 100}
"""Half the demo's transfers teach a champion that is good, and not 98 % surely."""
_KEPT = ("bundles", "keys", "channel", "store")


@dataclass(frozen=True)
class Site:
    """One incident's own installation. ``champion`` serves every region; ``sink`` is where notices go."""

    settings: Settings
    database: server.ServerInfo
    champion: str
    sink: Sink
    nodes: Nodes

    @property
    def said(self) -> tuple[str, ...]:
        """The lines that arrived at the webhook."""
        return tuple(body["text"] for body in self.sink.bodies)

    def rows(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """What the owner sees."""
        with closing(psycopg2.connect(dsn(self.settings, "owner"))) as db, db.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()


@dataclass(frozen=True)
class Ground:
    """What all incidents start from. ``made_s`` is what making it took."""

    root: Path
    database: server.ServerInfo
    champion: str
    accuracy: float
    made_s: float
    program: Path

    @contextmanager
    def site(self, number: int) -> Iterator[Site]:
        """A copy for one incident, with nodes that follow it."""
        home, name = self.root / f"incident-{number}", f"incident_{number}"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        for part in _KEPT:
            if (self.root / "base" / part).exists():
                shutil.copytree(self.root / "base" / part, home / part)
        server.drop_database(self.database, name)
        _empty(self.database)
        server.create_database(self.database, name, template=BASE)
        try:
            with running_sink() as sink, running_nodes(self.program, home, home / "nodes") as nodes:
                settings = _settings(home, self.database, name).model_copy(
                    update={"notify_webhook": SecretStr(sink.url)}
                )
                yield Site(settings, self.database, self.champion, sink, nodes)
        finally:
            server.drop_database(server.ensure_running(self.root), name)
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def ground(root: Path, make: Callable[[Settings], None] | None = None) -> Iterator[Ground]:
    """Make it below ``root``, or take what lies there if it was made by the same code; Postgres stops at the end.

    ``make`` puts one version in full everywhere; the default emulates, loads and learns four weeks.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"other incidents happen in {root} already: wait for their end") from None
        yield from _ground(root, make)


def _ground(root: Path, make: Callable[[Settings], None] | None) -> Iterator[Ground]:
    program = build(root)
    database = server.ensure_running(root)
    try:
        _fast(database)
        record = root / "base.json"
        known = json.loads(record.read_text()) if record.exists() else {}
        if known.get("code") != code_digest():
            record.unlink(missing_ok=True)
            known = _make(root, database, make or learn)
            record.write_text(json.dumps(known))
        yield Ground(root, database, known["champion"], known["accuracy"], known["made_s"], program)
    finally:
        server.stop(root)


def learn(settings: Settings) -> None:
    """Four weeks of the fleet, loaded, validated, learned from, and published everywhere."""
    run_fleet(settings, weeks=WEEKS)
    done = run_weekly(settings, run_id="before", start=WORLD_START.isoformat(), end=END.isoformat())
    if done["published"] is None:
        raise RuntimeError(f"the champion did not pass its own gate: {done['gate']}")


def _make(root: Path, database: server.ServerInfo, make: Callable[[Settings], None]) -> dict[str, Any]:
    began = time.monotonic()
    shutil.rmtree(root / "base", ignore_errors=True)
    server.drop_database(database, BASE)
    server.create_database(database, BASE)
    migrate(database.dsn("dwcp_owner", BASE))
    settings = _settings(root / "base", database, BASE).model_copy(update={"rollout_immediate": True, **GATE})
    make(settings)
    (champion,) = set(champions(settings).values())
    db = psycopg2.connect(database.dsn("dwcp_owner", BASE))
    with db, db.cursor() as cursor:
        cursor.execute("SELECT accuracy FROM model_versions WHERE version = %s", (champion,))
        (accuracy,) = cursor.fetchone() or (None,)
    db.close()
    made_s = time.monotonic() - began
    return {"code": code_digest(), "champion": champion, "accuracy": accuracy, "made_s": made_s}


def _settings(home: Path, database: server.ServerInfo, name: str) -> Settings:
    dsns = {
        f"{role}_dsn": SecretStr(database.dsn(f"dwcp_{role}", name))
        for role in ("owner", "loader", "reader", "registry")
    }
    return Settings(home=home, training_threads=1, bootstrap_rounds=200, notify_webhook=None, **dsns)


def _fast(database: server.ServerInfo) -> None:
    """No power cut is among the incidents, and copies of databases wait for the disk."""
    _as_superuser(database, ("ALTER SYSTEM SET fsync = off", ()), ("SELECT pg_reload_conf()", ()))


def _empty(database: server.ServerInfo) -> None:
    """A database is copied only while nobody is in it, and autovacuum or a pool of this process may be."""
    _as_superuser(database, ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (BASE,)))


def _as_superuser(database: server.ServerInfo, *statements: tuple[str, tuple[str, ...]]) -> None:
    with closing(psycopg2.connect(database.dsn(server.SUPERUSER, "postgres"))) as db:
        db.autocommit = True
        with db.cursor() as cursor:
            for statement, given in statements:
                cursor.execute(statement, given)
