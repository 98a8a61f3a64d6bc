"""The compose file: loopback ports, no secret, images that can be replaced; and its bootstrap on a bare server."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import yaml

from dwcp.warehouse import server
from dwcp.warehouse.files import SQL_DIR
from dwcp.warehouse.migrate import migrate
from fixtures_postgres import Warehouse

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
