"""Airflow's four components on this machine: on loopback, with a login, stopped cleanly.

State lives under ``<DWCP_HOME>/airflow``; the metadata database is one of the embedded Postgres' with a role of its
own, which may not enter the warehouse. ``airflow standalone`` is not used: it opens log servers on every interface and
leaves its children behind when it is stopped.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from dwcp import supervisor
from dwcp.airflow_client import AirflowClient
from dwcp.pipeline.site import local_settings
from dwcp.settings import Settings
from dwcp.warehouse import server

USER = "dwcp"
DATABASE = "airflow"
POOLS = {
    "dwcp_light": (8, "planning, counting, gate, publish: seconds, little memory"),
    "dwcp_load": (2, "days being loaded, validated or read: each holds one batch and one Postgres session"),
    "dwcp_backfill": (1, "days being done again by hand: one at a time, beside a weekly run and never before it"),
    "dwcp_urgent": (2, "rollbacks by hand: seconds, and never behind anything else"),
    "dwcp_train": (2, "models being fitted, exported or measured: each wants CPU and about 1 GB"),
}
"""Slots and meaning. Size them in the UI to the machine; the DAGs only name them."""
BY_CONNECTION = frozenset(
    {
        *("owner_dsn", "loader_dsn", "reader_dsn", "registry_dsn", "influx_url", "influx_token", "influx_org"),
        *("notify_webhook", "notify_routing_key"),
    }
)
"""Settings that tasks get from Airflow connections, or, as the owner's, not at all."""
COMPONENTS = ("scheduler", "dag-processor", "triggerer")
HEALTHY_WITHIN_S = 120.0


class ServicesError(RuntimeError):
    """Airflow could not be prepared, started or kept running. The message says why and where its logs are."""


@dataclass(frozen=True, slots=True)
class AirflowSite:
    """One Airflow: whose settings it runs with, where it listens, and its metadata database (a libpq URI)."""

    settings: Settings
    port: int
    dsn: str
    repository: Path

    @property
    def home(self) -> Path:
        """``AIRFLOW_HOME``."""
        return self.settings.home.resolve() / "airflow"

    @property
    def url(self) -> str:
        """The web server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """The password of ``USER``, generated once."""
        return _secrets(self.home)["password"]

    def client(self) -> AirflowClient:
        """A REST client that signs in as ``USER``."""
        return AirflowClient(self.url, USER, self.password)

    def environment(self) -> dict[str, str]:
        """The environment of the four components and of any ``airflow`` command on this site.

        Every setting that was chosen goes along. The warehouse is reached through Airflow connections alone: no DSN of
        ours stays in it, and the owner's is in none of them. Unless ``DWCP_WEEKLY_CRON`` and ``DWCP_ROLLOUT_CRON`` say
        otherwise, their DAGs run by hand only: on a fresh site a schedule would start a run over a week that holds
        nothing.
        """
        kept = _secrets(self.home)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("DWCP_")}
        # Tasks call the web server on loopback: never through a proxy.
        bypass = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1,localhost"]))
        chosen = self.settings.model_dump(mode="json", include=self.settings.model_fields_set - BY_CONNECTION)
        # As pydantic-settings reads them back: text as it is, all else as JSON.
        written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
        ours = {f"DWCP_{name.upper()}": text for name, text in written.items() if chosen[name] is not None}
        cron = ours.get("DWCP_WEEKLY_CRON", "")
        return {
            **inherited,
            "NO_PROXY": bypass,
            "no_proxy": bypass,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.repository / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.repository / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(bool(cron)),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__FERNET_KEY": kept["fernet_key"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.dsn.replace("postgresql://", "postgresql+psycopg2://", 1),
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": kept["secret_key"],
            "AIRFLOW__API_AUTH__JWT_SECRET": kept["jwt_secret"],
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **ours,
            "DWCP_HOME": str(self.settings.home.resolve()),
            "DWCP_WEEKLY_CRON": cron,
            "DWCP_ROLLOUT_CRON": ours.get("DWCP_ROLLOUT_CRON", ""),
            "DWCP_WATCH_CRON": ours.get("DWCP_WATCH_CRON", ""),
            "GX_ANALYTICS_ENABLED": "false",
            **_connections(self.settings),
        }

    def prepare(self) -> None:
        """Make or migrate the metadata database. Raises ``ServicesError``."""
        log = self.home / "components" / "migrate.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            done = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"], env=self.environment(), stdout=output, stderr=output
            )
        if done.returncode != 0:
            raise ServicesError(f"`airflow db migrate` failed: see {log}")

    @contextmanager
    def running(self) -> Iterator[AirflowClient]:
        """Start the four components, wait until they are healthy, and stop them all at the end, come what may."""
        _require_free(self.port)
        self.prepare()
        running = supervisor.start(
            self._commands(),
            logs=self.home / "components",
            environment=self.environment(),
            directory=self.repository,
        )
        try:
            client = self.client()
            self._wait_healthy(client, running)
            # The API that tasks call is built on its first request, in seconds: now, not while a task waits.
            client.page("/execution/health", signed_in=False)
            for name, (slots, description) in POOLS.items():
                client.ensure_pool(name, slots, description)
            yield client
        finally:
            supervisor.stop(running)

    def serve(self) -> None:
        """Run until Ctrl-C or SIGTERM, after printing where to look and how to get in."""
        _stop_on_sigterm()
        print(f"Starting Airflow on {self.url} …", flush=True)
        try:
            with self.running() as client:
                print(f"\n  Airflow   {self.url}\n  user      {USER}\n  password  {self.password}", flush=True)
                print(f"  logs      {self.home / 'components'}\n\nCtrl-C stops it.", flush=True)
                self._watch(client)
        except KeyboardInterrupt:
            print("Airflow has stopped.", flush=True)

    def _watch(self, client: AirflowClient) -> None:
        """Return never: raise ``ServicesError`` once Airflow does not answer, ``KeyboardInterrupt`` on Ctrl-C."""
        misses = 0
        try:
            while misses < 30:
                misses = 0 if client.health() else misses + 1
                time.sleep(1.0)
        except KeyboardInterrupt:
            print("\nStopping Airflow …", flush=True)
            raise
        raise ServicesError(f"Airflow stopped answering: see {self.home / 'components'}")

    def _commands(self) -> dict[str, list[str]]:
        """How each component is started."""
        components: dict[str, Sequence[str]] = {
            "api-server": ("api-server", "--host", "127.0.0.1", "--port", str(self.port)),
            "scheduler": ("scheduler", "--skip-serve-logs"),
            "dag-processor": ("dag-processor",),
            "triggerer": ("triggerer", "--skip-serve-logs"),
        }
        return {name: [sys.executable, "-m", "airflow", *arguments] for name, arguments in components.items()}

    def _wait_healthy(self, client: AirflowClient, running: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        wanted = {"metadatabase", *(name.replace("-", "_") for name in COMPONENTS)}
        while True:
            health = client.health()
            if all(health.get(name) == "healthy" for name in wanted) and client.dag_ids():
                return
            if running.poll() is not None:
                raise ServicesError(f"one of Airflow's components ended while starting: see {self.home / 'components'}")
            if time.monotonic() > deadline:
                late = sorted(name for name in wanted if health.get(name) != "healthy") or ["the DAGs"]
                raise ServicesError(
                    f"not ready within {HEALTHY_WITHIN_S:.0f} s: {', '.join(late)}; see {self.home / 'components'}"
                )
            time.sleep(0.5)


def local_site(settings: Settings, repository: Path, *, port: int | None = None) -> AirflowSite:
    """The site of this installation: the embedded Postgres started, Airflow's database made, a port chosen."""
    filled = local_settings(settings)
    info = server.ensure_running(settings.home)
    home = settings.home.resolve() / "airflow"
    return AirflowSite(filled, port or free_port(), _metadata_database(info, home), repository.resolve())


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int) -> None:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ServicesError(
                f"port {port} is in use: is Airflow running already? Else choose another port"
            ) from None


def _metadata_database(info: server.ServerInfo, home: Path) -> str:
    """Airflow's own database and role on the embedded server, made if missing; its URI."""
    password = _secrets(home)["database_password"]
    with closing(psycopg2.connect(info.dsn(server.SUPERUSER, "postgres"), connect_timeout=10)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            # One at a time: two sites starting at once must not both find the role missing.
            cursor.execute("SELECT pg_advisory_lock(hashtext('dwcp airflow database'))")
            role = sql.Identifier(DATABASE)
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (DATABASE,))
            if not cursor.fetchone():
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD %s").format(role), (password,))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if not cursor.fetchone():
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
                cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))
    return f"postgresql://{DATABASE}:{password}@127.0.0.1:{info.port}/{DATABASE}"


def _connections(settings: Settings) -> dict[str, str]:
    """Airflow connections as environment variables, the form that needs no database row."""
    found = {
        f"AIRFLOW_CONN_DWCP_{role.upper()}": dsn.get_secret_value()
        for role in ("loader", "reader", "registry")
        if (dsn := getattr(settings, f"{role}_dsn")) is not None
    }
    influx = urlsplit(settings.influx_url)
    found["AIRFLOW_CONN_DWCP_INFLUXDB"] = json.dumps(
        {
            "conn_type": "http",
            "schema": influx.scheme,
            "host": influx.hostname,
            "port": influx.port or (443 if influx.scheme == "https" else 80),
            "password": settings.influx_token.get_secret_value(),
            "extra": {"org": settings.influx_org},
        }
    )
    if settings.notify_webhook is not None:
        key = settings.notify_routing_key
        found["AIRFLOW_CONN_DWCP_WEBHOOK"] = json.dumps(
            {
                "conn_type": "http",
                "password": settings.notify_webhook.get_secret_value(),
                "extra": {"routing_key": key.get_secret_value()} if key else {},
            }
        )
    return found


def _secrets(home: Path) -> dict[str, str]:
    """What was generated once for this site, in files that only its owner reads."""
    path = home / "secrets.json"
    if not path.exists():
        from cryptography.fernet import Fernet

        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = {name: secrets.token_urlsafe(32) for name in ("secret_key", "jwt_secret", "database_password")}
        made |= {"password": secrets.token_urlsafe(12), "fernet_key": Fernet.generate_key().decode()}
        _write_once(path, made)
    kept: dict[str, str] = json.loads(path.read_text())
    _write_once(home / "passwords.json", {USER: kept["password"]})
    return kept


def _write_once(path: Path, content: dict[str, str]) -> None:
    """Write JSON that was never readable by others, unless it is there: of two that write at once, the first stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(content) + "\n")
    with suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()


def _stop_on_sigterm() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
