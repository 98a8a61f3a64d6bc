"""Real bytes that lie on this machine: files of the Python environment and of the system's shared data, by kind."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

KINDS = {
    "text": (".txt", ".rst", ".md", ".html", ".po", ".xml", ".csv"),
    "source": (".py", ".pyi", ".h", ".pl", ".js", ".css", ".cmake"),
    "binary": (".so",),
    "bytecode": (".pyc",),
    "json": (".json",),
    "media": (".png", ".jpg", ".jpeg", ".gif", ".ogg", ".wav", ".svg", ".ttf", ".woff2"),
    "archive": (".gz", ".xz", ".bz2", ".zip", ".whl"),
    "package": ("METADATA", "RECORD"),
}
_MOST_FILES = 4_000
_MOST_BYTES = 4 << 20


def roots() -> list[Path]:
    """Where files are looked for: the standard library, the installed packages, the system's shared data."""
    paths = sysconfig.get_paths()
    candidates = [paths["stdlib"], paths["purelib"], "/usr/share"]
    return [Path(p) for p in dict.fromkeys(candidates) if Path(p).is_dir()]


@cache
def files(kind: str) -> tuple[Path, ...]:
    """Up to 4,000 files of a kind, in a stable order. Raises ``RuntimeError`` if this machine has none."""
    return _all()[kind]


@cache
def _all() -> dict[str, tuple[Path, ...]]:
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for root in roots():
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                for kind, ends in KINDS.items():
                    if name.endswith(ends):
                        found[kind].append(Path(folder, name))
                        break
    chosen = {}
    for kind, paths in found.items():
        random.Random(0).shuffle(paths)  # noqa: S311
        chosen[kind] = tuple(p for p in paths[: 2 * _MOST_FILES] if _usable(p))[:_MOST_FILES]
    return chosen


def _usable(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and 0 < path.stat().st_size <= _MOST_BYTES
    except OSError:
        return False


def pieces(kind: str, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    """Whole files of a kind in random order, for ever. Raises ``RuntimeError`` if this machine has none."""
    paths = files(kind)
    if not paths:
        raise RuntimeError(f"this machine has no {kind} files ({', '.join(KINDS[kind])}) below {roots()}")
    while True:
        path = paths[rng.randrange(len(paths))]
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if data:
            yield path, data


def take(kind: str, size: int, rng: random.Random) -> bytes:
    """``size`` bytes: whole files one after another, cut where the size is reached."""
    parts: list[bytes] = []
    have = 0
    for _, data in pieces(kind, rng):
        parts.append(data)
        have += len(data)
        if have >= size:
            break
    return b"".join(parts)[:size]
