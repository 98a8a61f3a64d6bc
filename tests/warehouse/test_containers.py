"""The compose file: loopback ports, no secret, images that can be replaced; its bootstrap on a bare server; and, where
Docker, Compose and both images are at hand, the whole of it booted."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import yaml

from dwcp.settings import Settings
from dwcp.sources.influx import InfluxSource, write_points
from dwcp.warehouse import server
from dwcp.warehouse.files import SQL_DIR
from dwcp.warehouse.migrate import migrate
from dwcp.window import Window
from fixtures_postgres import Warehouse
from transfers import START, make_transfers

COMPOSE = SQL_DIR.parent / "docker-compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_private_and_watched(name: str) -> None:
    service = SERVICES[name]
    image = service["image"]
    assert image.startswith("${DWCP_")
    assert "latest" not in image
    assert ":" in image.partition(":-")[2]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["healthcheck"]["test"]
    secrets = {key: value for key, value in service["environment"].items() if key.endswith(("PASSWORD", "TOKEN"))}
    assert secrets
    assert all(value.startswith("${DWCP_") and ":?" in value for value in secrets.values())


def test_the_images_bootstrap_makes_a_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_bootstrap", lambda info: None)
    try:
        info = server.ensure_running(tmp_path)
        superuser = psycopg2.extensions.parse_dsn(info.dsn("postgres"))
        passwords = {
            f"DWCP_{role.upper()}_PASSWORD": f"it's {role}" for role in ("owner", "loader", "reader", "registry")
        }
        subprocess.run(
            ["sh", str(SQL_DIR / "bootstrap" / "roles.sh")],
            env={
                **os.environ,
                **passwords,
                "PATH": f"{server._binaries()}:{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(info.port),
                "PGPASSWORD": superuser["password"],
                "POSTGRES_USER": "postgres",
            },
            check=True,
        )
        own = server.ServerInfo(
            tmp_path,
            info.port,
            {f"dwcp_{role}": f"it%27s%20{role}" for role in ("owner", "loader", "reader", "registry")},
        )
        warehouse = Warehouse(own, "dwcp")
        assert migrate(warehouse.owner_dsn)
        with closing(psycopg2.connect(warehouse.reader_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM transfers")
            assert cursor.fetchone() == (0,)
        assert "it's" not in (tmp_path / "postgres" / "server.log").read_text()
    finally:
        server.stop(tmp_path)


@dataclass(frozen=True, slots=True)
class Project:
    """The compose file under a name, volumes and ports of its own."""

    name: str
    environment: dict[str, str]
    secrets: dict[str, str]

    def compose(self, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
        """``docker compose ...``, with one variable left out if named; an .env file of the checkout has no say."""
        own = {name: value for name, value in self.environment.items() if name != without}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DWCP_")}
        return subprocess.run(
            ["docker", "compose", "--env-file", os.devnull, "-f", COMPOSE, "-p", self.name, *arguments],
            env=inherited | own,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def start(self) -> None:
        """Start both services and wait until they are healthy."""
        started = self.compose("up", "--wait", "--pull", "never")
        assert started.returncode == 0, started.stderr + self.compose("logs").stdout[-4000:]

    def address(self, service: str, port: int) -> str:
        """``host:port`` under which the host reaches it; Docker chooses another after every start."""
        return self.compose("port", service, str(port)).stdout.strip()

    def dsn(self, role: str) -> str:
        """How a role gets in."""
        password = self.environment[f"DWCP_{role.upper()}_PASSWORD"]
        return f"postgresql://dwcp_{role}:{password}@{self.address('postgres', 5432)}/dwcp"


@pytest.fixture
def project() -> Iterator[Project]:
    """Both images, not yet started; nothing of it is left behind. Skips with the reason where it cannot be booted."""
    images = {}
    for service in SERVICES.values():
        variable, _, default = service["image"].removeprefix("${").removesuffix("}").partition(":-")
        images[variable] = os.environ.get(variable, default)
    for command in ("compose version", *(f"image inspect {image}" for image in images.values())):
        try:
            subprocess.run(["docker", *command.split()], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the containers are not booted, `docker {command}` failed: {error}")
    secret = {name: secrets.token_hex(12) for name in re.findall(r"\$\{(\w+):\?", COMPOSE.read_text())}
    made = Project(
        f"dwcp-test-{secrets.token_hex(4)}",
        images | secret | {"DWCP_POSTGRES_PORT": "0", "DWCP_INFLUX_PORT": "0"},
        secret,
    )
    try:
        yield made
    finally:
        made.compose("down", "--volumes")


def test_the_containers_refuse_a_missing_secret_and_keep_what_was_written(project: Project) -> None:
    assert len(project.secrets) == 7
    for name in project.secrets:
        refused = project.compose("up", "--wait", without=name)
        assert refused.returncode
        assert f"{name} is missing a value: set the " in refused.stderr

    project.start()
    assert migrate(project.dsn("owner"))
    settings = Settings(
        influx_url=f"http://{project.address('influxdb', 8086)}",
        influx_token=project.environment["DWCP_INFLUX_ADMIN_TOKEN"],
    )
    assert write_points(settings, make_transfers(50).to_batches()) == 50
    assert project.address("postgres", 5432).startswith("127.0.0.1:")
    assert project.address("influxdb", 8086).startswith("127.0.0.1:")
    logged = project.compose("logs").stdout
    assert "roles.sh" in logged
    assert not [name for name, value in project.secrets.items() if value in logged]

    assert project.compose("down").returncode == 0
    project.start()
    assert migrate(project.dsn("owner")) == []
    with closing(psycopg2.connect(project.dsn("reader"))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM transfers")
        assert cursor.fetchone() == (0,)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.execute("CREATE TABLE mine (a INT)")
    settings = settings.model_copy(update={"influx_url": f"http://{project.address('influxdb', 8086)}"})
    window = Window.of_day(START.date())
    assert sum(batch.num_rows for batch in InfluxSource(settings).read(window)) == 50
