"""Where the SQL files are: beside the package in a wheel, at the top of the repository in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "sql"
_CHECKOUT = Path(__file__).parents[3] / "sql"
SQL_DIR = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
"""Holds ``bootstrap/``, ``migrations/`` and ``queries/``."""
