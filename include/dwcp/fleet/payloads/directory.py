"""Objects that somebody else made: payloads below a directory ``<type>/<object>/<version>``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dwcp.contract import DATA_TYPES
from dwcp.fleet.payloads.objects import PayloadError, PayloadObject

_LAYOUT = "<type>/<object>/<version>"


def directory_objects(root: Path) -> list[PayloadObject]:
    """Objects below ``root``: ``<type>/<object>/<version>``, versions in natural order of their names.

    Everything is checked before anything is measured. Raises ``PayloadError`` if a directory is missing, empty,
    unreadable or of an unknown type, or if versions of an object are missing, empty or unreadable.
    """
    if not root.is_dir():
        raise PayloadError(f"{root} is no directory: expected {_LAYOUT} below it")
    objects = []
    for type_path in _folders(root):
        if type_path.name not in DATA_TYPES:
            raise PayloadError(f"{type_path} is no data type: use one of {', '.join(DATA_TYPES)}")
        for object_path in _folders(type_path):
            name = f"{type_path.name}-{object_path.name}"
            objects.append(PayloadObject(name, type_path.name, "directory", partial(_read, _versions(object_path))))
    if not objects:
        raise PayloadError(f"{root} holds no objects: expected {_LAYOUT} below it")
    return objects


def _read(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield path.read_bytes()
        except OSError as error:
            raise PayloadError(f"version {path} cannot be read: {error.strerror}") from None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise PayloadError(f"directory {folder} cannot be read: {error.strerror}") from None


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _versions(folder: Path) -> list[Path]:
    """The files of one object in order of their versions, all there and readable."""
    paths = sorted((path for path in _entries(folder) if path.is_file()), key=_natural)
    if not paths:
        raise PayloadError(f"{folder} has no versions: put at least one file in it")
    numbers = [int(path.stem) for path in paths if path.stem.isdigit()]
    gaps = sorted(set(range(min(numbers), max(numbers))) - set(numbers)) if len(numbers) == len(paths) else []
    if gaps:
        raise PayloadError(f"{folder} lacks versions {', '.join(map(str, gaps))}: add them, or renumber")
    empty = [path.name for path in paths if path.stat().st_size == 0]
    if empty:
        raise PayloadError(f"{folder} has empty versions ({', '.join(empty)}): remove them")
    closed = [path.name for path in paths if not os.access(path, os.R_OK)]
    if closed:
        raise PayloadError(f"{folder} has versions that may not be read ({', '.join(closed)}): change their rights")
    return paths


def _natural(path: Path) -> tuple[int, int, str]:
    stem = path.name.split(".")[0]
    return (0, int(stem), path.name) if stem.isdigit() else (1, 0, path.name)
