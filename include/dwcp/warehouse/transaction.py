"""One transaction on the warehouse, and the error that says what undid it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
from psycopg2 import extensions


class LoadError(RuntimeError):
    """Windows were not changed; what was there before stays. The message says why and what to do."""


@contextmanager
def change(dsn: str, doing: str) -> Iterator[extensions.cursor]:
    """A cursor in one UTC transaction, committed if the block ends well. ``doing`` completes "while ...".

    Any error undoes everything; Postgres' own become ``LoadError``, others pass through.
    """
    try:
        with closing(psycopg2.connect(dsn)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL TIME ZONE 'UTC'")
                yield cursor
            connection.commit()
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise LoadError(f"Postgres went away while {doing}; the old rows stay, run it again: {_text(error)}") from error
    except psycopg2.Error as error:
        raise LoadError(f"Postgres refused while {doing}; the old rows stay: {_text(error)}") from error


def _text(error: psycopg2.Error) -> str:
    return " ".join(str(error).split())
