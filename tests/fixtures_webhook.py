"""A webhook on loopback, for tests that send a line somewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest


@dataclass
class Sink:
    """What was sent, and with which ``status`` it is answered. The address holds a secret, as Slack's does."""

    port: int
    secret: str = "T000-B000-a-long-secret"
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/services/{self.secret}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A webhook that keeps what it is sent."""
    with running_sink() as told:
        yield told


@contextmanager
def running_sink() -> Iterator[Sink]:
    """A webhook on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.paths.append(self.path)
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(told.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    told = Sink(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()
