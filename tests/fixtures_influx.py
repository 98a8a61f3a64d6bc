"""A real InfluxDB 2 on loopback for the tests that need one."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dwcp import contract
from dwcp.settings import Settings

BUILD = Path(__file__).parents[1] / "tools" / "influxd" / "build.sh"
ORG = "dwcp"
START_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Influxd:
    """A running server, set up with one organisation and an operator token."""

    url: str
    token: str
    org: str
    org_id: str

    def call(self, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
        """One request to the API with the operator token; the JSON of the answer."""
        return _call(method, self.url + path, body, self.token)


@dataclass(frozen=True, slots=True)
class InfluxBucket:
    """A bucket of its own for one test, and the settings that reach it."""

    server: Influxd
    url: str
    token: str
    org: str
    bucket: str
    bucket_id: str
    settings: Settings


@pytest.fixture(scope="session")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """The InfluxDB that ``make influxd`` built. Skips with the reason when the binary is not there."""
    try:
        with running_influxd(tmp_path_factory.mktemp("influxd")) as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@contextmanager
def running_influxd(home: Path) -> Iterator[Influxd]:
    """InfluxDB on a free loopback port with its data in ``home``. Raises ``FileNotFoundError`` if it was not built."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with influxd_process(home, port) as url:
        yield set_up(url)


def set_up(url: str) -> Influxd:
    """A new server, with one organisation and an operator token."""
    token = secrets.token_urlsafe(32)
    setup = _call(
        "POST",
        f"{url}/api/v2/setup",
        {
            "username": "tests",
            "password": secrets.token_urlsafe(16),
            "token": token,
            "org": ORG,
            "bucket": "unused",
        },
    )
    organisation = setup["org"]
    assert isinstance(organisation, dict)
    return Influxd(url, token, ORG, organisation["id"])


@contextmanager
def influxd_process(home: Path, port: int) -> Iterator[str]:
    """The server's address while it runs. Started again on the same ``home`` and ``port``, it is the same server."""
    path = subprocess.run([BUILD, "--path"], check=True, capture_output=True, text=True).stdout.strip()
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"no InfluxDB at {path}: run `make influxd` (it needs Go, cargo and gcc)")
    url = f"http://127.0.0.1:{port}"
    log = home / "influxd.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                path,
                f"--http-bind-address=127.0.0.1:{port}",
                f"--bolt-path={home / 'influxd.bolt'}",
                f"--sqlite-path={home / 'influxd.sqlite'}",
                f"--engine-path={home / 'engine'}",
                "--reporting-disabled",
                "--log-level=error",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
        )
    try:
        _await_health(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def influx_bucket(influxd: Influxd) -> Iterator[InfluxBucket]:
    """A fresh, empty bucket; deleted after the test."""
    name = f"{contract.BUCKET}_{secrets.token_hex(6)}"
    made = influxd.call("POST", "/api/v2/buckets", {"name": name, "orgID": influxd.org_id, "retentionRules": []})
    settings = Settings(influx_url=influxd.url, influx_token=influxd.token, influx_org=ORG, influx_bucket=name)
    yield InfluxBucket(influxd, influxd.url, influxd.token, ORG, name, str(made["id"]), settings)
    influxd.call("DELETE", f"/api/v2/buckets/{made['id']}")


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"influxd stopped with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if _call("GET", f"{url}/health").get("status") == "pass":
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.05)
    raise RuntimeError(f"influxd at {url} was not healthy within {START_DEADLINE_S:.0f} s:\n{log.read_text()[-2000:]}")


def _call(method: str, url: str, body: dict[str, object] | None = None, token: str = "") -> dict[str, object]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Token {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else {}
