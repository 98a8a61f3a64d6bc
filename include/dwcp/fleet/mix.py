"""The frozen mix of objects, nodes and links: ``mix.toml``, read and checked."""

from __future__ import annotations

import hashlib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwcp.contract import DATA_TYPES, LINK_TYPES

DEFAULT_MIX = Path(__file__).with_name("mix.toml")


class MixError(ValueError):
    """The mix file is unreadable, or a key of it is missing, unknown, out of order or out of range."""


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

    def versions_of(self, size: int) -> int:
        """How many versions an object of ``size`` bytes has: fewer, the larger it is."""
        fewer = [step["versions"] for step in self.library["fewer_versions"] if size >= step["from_bytes"]]
        return min(int(versions) for versions in (self.library["versions"], *fewer))


def load_mix(path: Path = DEFAULT_MIX) -> Mix:
    """Read and check a mix file. Raises ``MixError`` with what is wrong in it."""
    try:
        data = path.read_bytes()
        sections = tomllib.loads(data.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MixError(f"mix file {path} cannot be read: {error}") from None
    try:
        _check(sections)
    except MixError as error:
        raise MixError(f"mix file {path}: {error}") from None
    return Mix(**sections, digest=hashlib.sha256(data).hexdigest()[:16])


_KEYS = {
    "library": {"seed", "versions", "fewer_versions"},
    "world": {
        "weeks",
        "first_share",
        "min_life_weeks",
        "max_life_weeks",
        "popularity_sigma",
        "transfers_per_week",
        "measured_share",
        "explore_share",
    },
    "nodes": {
        "per_zone",
        "zones",
        "speed_sigma",
        "cores",
        "memory_mb_per_core",
        "mean_load",
        "day_amplitude",
        "load_sigma",
    },
    "traffic": {"mean_utilisation", "day_amplitude", "utilisation_sigma", "realised_sigma", "jitter_share"},
    "defects": {"not_a_number", "missing", "unknown_enum", "wrong_unit", "duplicate"},
}
_TYPE_KEYS = {"share", "median_bytes", "sigma", "min_bytes", "max_bytes", "min_dirty", "max_dirty"}
_TAIL_KEYS = {"tail_share", "tail_min_bytes", "tail_max_bytes"}
_LINK_KEYS = {"share", "capacity_mbps", "rtt_ms", "loss"}


def _check(sections: dict[str, Any]) -> None:
    """Raise ``MixError`` naming the key that is missing, unknown, out of order or out of range."""
    _keys("", sections, {*_KEYS, "types", "links"})
    for name, wanted in _KEYS.items():
        _keys(name, sections[name], wanted)
    for number, step in enumerate(sections["library"]["fewer_versions"]):
        _keys(f"library.fewer_versions[{number}]", step, {"from_bytes", "versions"})
        _positive(f"library.fewer_versions[{number}]", step)
    _positive("library", {"versions": sections["library"]["versions"]})
    _ordered("world", sections["world"], "min_life_weeks", "max_life_weeks")
    unknown = set(sections["types"]) - set(DATA_TYPES)
    if unknown:
        raise MixError(
            f"types names {', '.join(sorted(unknown))}, which the contract does not know: use {', '.join(DATA_TYPES)}"
        )
    _keys("links", sections["links"], set(LINK_TYPES))
    for name, entry in sections["types"].items():
        where = f"types.{name}"
        with_tail = isinstance(entry, dict) and bool(_TAIL_KEYS & set(entry))
        _keys(where, entry, _TYPE_KEYS | _TAIL_KEYS if with_tail else _TYPE_KEYS)
        _positive(where, entry)
        _ordered(where, entry, "min_bytes", "median_bytes")
        _ordered(where, entry, "median_bytes", "max_bytes")
        _ordered(where, entry, "min_dirty", "max_dirty")
        if with_tail:
            _ordered(where, entry, "tail_min_bytes", "tail_max_bytes")
        for key in ("max_dirty", "tail_share"):
            if entry.get(key, 0) > 1:
                raise MixError(f"{where}.{key} is {entry[key]:g}: a share is at most 1")
    for name, entry in sections["links"].items():
        where = f"links.{name}"
        _keys(where, entry, _LINK_KEYS)
        _positive(where, {"share": entry["share"]})
        for key in ("rtt_ms", "loss"):
            low, high = entry[key]
            if not 0 < low <= high:
                raise MixError(
                    f"{where}.{key} is [{low:g}, {high:g}]: the least must be positive and not above the most"
                )
    for section in ("types", "links"):
        total = sum(entry["share"] for entry in sections[section].values())
        if abs(total - 1) > 1e-9:
            raise MixError(f"the shares of {section} ({section}.*.share) sum to {total:g}, not to 1")


def _keys(where: str, table: object, wanted: set[str]) -> None:
    label = where or "the file"
    if not isinstance(table, dict):
        raise MixError(f"{label} must be a table with the keys {', '.join(sorted(wanted))}")
    prefix = f"{where}." if where else ""
    missing, unknown = sorted(wanted - set(table)), sorted(set(table) - wanted)
    if missing:
        raise MixError(f"{', '.join(prefix + key for key in missing)} is missing")
    if unknown:
        raise MixError(
            f"{', '.join(prefix + key for key in unknown)} is unknown: {label} has {', '.join(sorted(wanted))}"
        )


def _positive(where: str, table: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or math.isinf(value):
            raise MixError(f"{where}.{key} is {value!r}: it must be a positive number")


def _ordered(where: str, table: dict[str, Any], low: str, high: str) -> None:
    if table[low] > table[high]:
        raise MixError(f"{where}.{low} ({table[low]:g}) is larger than {where}.{high} ({table[high]:g})")
