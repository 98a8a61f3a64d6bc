"""A real Postgres for tests: one server a session, and databases copied from one that was migrated once.

``warehouse`` is shared by the tests of a module, ``fresh_warehouse`` belongs to one test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dwcp.warehouse import server
from dwcp.warehouse.migrate import migrate

_TEMPLATE = "template_warehouse"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Warehouse:
    """A migrated database that nobody else uses, and how each role gets in (libpq URIs)."""

    server: server.ServerInfo
    database: str

    @property
    def owner_dsn(self) -> str:
        return self.server.dsn("dwcp_owner", self.database)

    @property
    def loader_dsn(self) -> str:
        return self.server.dsn("dwcp_loader", self.database)

    @property
    def reader_dsn(self) -> str:
        return self.server.dsn("dwcp_reader", self.database)

    @property
    def registry_dsn(self) -> str:
        return self.server.dsn("dwcp_registry", self.database)

    @property
    def superuser_dsn(self) -> str:
        return self.server.dsn(server.SUPERUSER, self.database)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.ServerInfo]:
    """The session's own embedded server, in a temporary directory; stopped at the end."""
    home: Path = tmp_path_factory.mktemp("postgres-home")
    try:
        yield server.ensure_running(home)
    finally:
        server.stop(home)


@pytest.fixture(scope="session")
def _template(postgres_server: server.ServerInfo) -> str:
    server.create_database(postgres_server, _TEMPLATE)
    migrate(postgres_server.dsn("dwcp_owner", _TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="module")
def warehouse(postgres_server: server.ServerInfo, _template: str) -> Iterator[Warehouse]:
    """A migrated, empty warehouse for the tests of one module."""
    with _copy(postgres_server, _template) as copy:
        yield copy


@pytest.fixture
def fresh_warehouse(postgres_server: server.ServerInfo, _template: str) -> Iterator[Warehouse]:
    """A migrated, empty warehouse for one test."""
    with _copy(postgres_server, _template) as copy:
        yield copy


@contextmanager
def _copy(info: server.ServerInfo, template: str) -> Iterator[Warehouse]:
    name = f"warehouse_{next(_numbers)}"
    server.create_database(info, name, template=template)
    try:
        yield Warehouse(info, name)
    finally:
        server.drop_database(info, name)
