"""Content-addressed artifacts on a file system: written whole, named by their digest, never changed.

Tasks pass references (``sha256:<hex>/<name>``) through XCom, never data. With a distributed executor the directory must
be shared between workers. Putting the same content twice, or at the same time, leaves one copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

_REFERENCE = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})/(?P<name>[A-Za-z0-9_-][A-Za-z0-9._-]*)")


class StoreError(RuntimeError):
    """An artifact is missing or its bytes are not those that its reference names."""


def digest_of(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """Artifacts below ``root``."""

    root: Path

    def put(self, name: str, data: bytes) -> str:
        """Keep ``data`` and return its reference. Durable (fsync) before it is visible; a damaged copy is replaced."""
        digest = digest_of(data)
        reference = f"sha256:{digest}/{name}"
        path = self._path(reference)
        if path.exists() and digest_of(path.read_bytes()) == digest:
            return reference
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        return reference

    def get(self, reference: str) -> bytes:
        """The bytes that ``reference`` names. Raises ``StoreError`` if they are gone or were changed."""
        path = self._path(reference)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"artifact {reference} is not in {self.root}: rerun the task that made it") from None
        if digest_of(data) != reference[7:71]:
            raise StoreError(f"artifact {path} was changed after it was written: delete it and rerun its task")
        return data

    def _path(self, reference: str) -> Path:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise StoreError(f"{reference!r} is no artifact reference: expected sha256:<64 hex digits>/<name>")
        return self.root / match["digest"][:2] / match["digest"] / match["name"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a crash at any moment, sees the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
