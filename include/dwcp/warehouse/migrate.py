"""Numbered SQL migrations: each applied once, in its own transaction, in the order of its number.

A file is named ``NNNN_what_it_does.sql``. What was applied is remembered with its SHA-256 in ``schema_migrations``;
a file that changed afterwards is refused, because the databases that have it would differ from those that get it now.
Rooms number in ranges of their own, so a lower number may come to a database after a higher one.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from dwcp.warehouse.files import SQL_DIR

LOCK_KEY = 0x6477_6370_0001
"""Advisory lock that lets one migrator work at a time."""
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_log = logging.getLogger(__name__)


class MigrationError(RuntimeError):
    """The migrations on disk and in the database contradict each other, or one of them failed. Names the file."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file; ``name`` is without its suffix."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate(owner_dsn: str, directory: Path | None = None) -> list[str]:
    """Apply what the database lacks and return the names applied, in order; nothing is left to do gives an empty list.

    ``owner_dsn`` must be the owner's. Two callers at once wait for one another. If a file fails, it leaves no trace
    and the ones before it stay. Raises ``MigrationError``.
    """
    migrations = read_migrations(directory or SQL_DIR / "migrations")
    with closing(psycopg2.connect(owner_dsn)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))  # until the connection closes
            cursor.execute("SELECT to_regclass('public.schema_migrations')")
            if cursor.fetchone() == (None,):
                cursor.execute(
                    "CREATE TABLE schema_migrations ("
                    "name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
                )
            cursor.execute("SELECT name, sha256 FROM schema_migrations")
            applied = dict(cursor.fetchall())
        _check(migrations, applied)
        pending = [migration for migration in migrations if migration.name not in applied]
        for migration in pending:
            _log.info("applying migration %s", migration.name)
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute(migration.text)
                    cursor.execute(
                        "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)",
                        (migration.name, migration.sha256),
                    )
            except psycopg2.Error as error:
                raise MigrationError(
                    f"migration {migration.name} failed and was undone: {str(error).strip()}"
                ) from error
        return [migration.name for migration in pending]


def read_migrations(directory: Path) -> list[Migration]:
    """The files of ``directory`` in order. Raises ``MigrationError`` if there are none, or a name is wrong."""
    paths = sorted(directory.glob("*.sql"))
    if not paths:
        raise MigrationError(f"no migration in {directory}: run from a checkout or an installed package that has sql/")
    numbers: dict[str, str] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path} is no migration's name: write it like 0007_add_a_view.sql")
        if match[1] in numbers:
            raise MigrationError(f"{path.name} and {numbers[match[1]]} have the same number: renumber the newer one")
        numbers[match[1]] = path.name
    return [Migration(path.stem, path.read_text(encoding="utf-8")) for path in paths]


def _check(migrations: list[Migration], applied: dict[str, str]) -> None:
    on_disk = {migration.name: migration.sha256 for migration in migrations}
    for name, sha256 in applied.items():
        if name not in on_disk:
            raise MigrationError(f"the database has migration {name}, which this checkout lacks: update the checkout")
        if on_disk[name] != sha256:
            raise MigrationError(
                f"migration {name} was changed after it was applied (sha256 {sha256[:12]}, now {on_disk[name][:12]}): "
                "restore the file and put the change into a new migration"
            )
