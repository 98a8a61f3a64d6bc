"""Trees of real files, as disks and container layers hold them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from dwcp.fleet import corpus

TREES = {
    "code": ("source", "bytecode"),
    "system": ("binary", "text", "source"),
    "documents": ("text", "media", "json"),
    "web": ("media", "source", "json", "text"),
    "packages": ("archive", "package", "bytecode"),
    "settings": ("json", "package", "source"),
}
"""Kinds of files (``corpus.KINDS``) that each tree holds."""


def tree(name: str, most: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """New files for ever, of the kinds that the tree holds; none larger than ``most`` bytes."""
    most = max(512, most)
    sources = [corpus.pieces(kind, rng) for kind in TREES[name]]
    number = 0
    while True:
        path, data = next(sources[number % len(sources)])
        yield f"{number:05d}-{path.name}"[:60], data[:most]
        number += 1
