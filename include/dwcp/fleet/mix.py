"""The frozen mix of objects, nodes and links: ``mix.toml``, read and checked."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwcp.contract import DATA_TYPES, LINK_TYPES

DEFAULT_MIX = Path(__file__).with_name("mix.toml")


class MixError(ValueError):
    """The mix file is unreadable, names something unknown, or its shares do not sum to one."""


@dataclass(frozen=True)
class Mix:
    """Sections of ``mix.toml`` as tables; ``digest`` names the file's content."""

    library: dict[str, Any]
    types: dict[str, dict[str, Any]]
    world: dict[str, Any]
    nodes: dict[str, Any]
    links: dict[str, dict[str, Any]]
    traffic: dict[str, Any]
    defects: dict[str, float]
    digest: str


def load_mix(path: Path = DEFAULT_MIX) -> Mix:
    """Read and check a mix file. Raises ``MixError`` with what is wrong in it."""
    try:
        data = path.read_bytes()
        sections = tomllib.loads(data.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MixError(f"mix file {path} cannot be read: {error}") from None
    wanted = {"library", "types", "world", "nodes", "links", "traffic", "defects"}
    if set(sections) != wanted:
        raise MixError(f"mix file {path} has sections {sorted(sections)}; expected {sorted(wanted)}")
    for section, known in (("types", DATA_TYPES), ("links", LINK_TYPES)):
        unknown = set(sections[section]) - set(known)
        if unknown:
            raise MixError(f"mix file {path}: {section} names {sorted(unknown)}, which the contract does not know")
        total = sum(entry["share"] for entry in sections[section].values())
        if abs(total - 1) > 1e-9:
            raise MixError(f"mix file {path}: the shares of {section} sum to {total:g}, not to 1")
    return Mix(**sections, digest=hashlib.sha256(data).hexdigest()[:16])
