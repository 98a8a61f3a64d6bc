"""What training looked like, stored with the version, so that the field is compared with it and not with yesterday.

A profile is JSON. Format 2 knows groups, one a region and link (``eu-west/wan``), since regions differ from one another
for ever without that being drift: ``{"format": 2, "groups": {group: {"rows", "objects", "features": {name: {"edges",
"shares"}}, "labels": {...}}}, "predictions": {group: {"rows", "objects", "shares"}}, "quarantined": {region: share}}``.
Profiles of older versions are ``{name: {"edges", "shares"}}`` over everything; they are read as one group, ``ALL``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES, LINK_TYPES, REGIONS

FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
ALL = "all"
"""The group of an old profile, and the one that a region and link without rows in training is compared with."""
BINS = 10
CODES = {feature.name: len(feature.codes) for feature in FEATURES if feature.codes}
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Bins:
    """Bin edges (a value belongs right of an edge that it equals) and the share of rows in each bin.

    ``shares`` has one entry more than ``edges``: the outer bins hold what training never saw.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each candidate was the label, or was predicted; ``objects`` are what is independent among ``rows``."""

    rows: int
    objects: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Training's rows of one region and link. ``objects`` are what is independent among them, 0 if unknown."""

    rows: int
    objects: int
    features: Mapping[str, Bins]
    labels: Shares | None


@dataclass(frozen=True, slots=True)
class Profile:
    """A parsed profile. ``quarantined``: share of rows by region that broke the contract."""

    groups: Mapping[str, Group]
    predictions: Mapping[str, Shares]
    quarantined: Mapping[str, float]


def profile_of(
    features: NDArray[np.float32],
    names: Sequence[str] = FEATURE_NAMES,
    *,
    labels: NDArray[np.int64] | None = None,
    objects: Sequence[str] | NDArray[np.str_] | None = None,
) -> dict[str, object]:
    """The profile of training rows as JSON; ``features`` (n, f) are columns ``names``, ``labels`` index CANDIDATES.

    Ten bins of equal population for numbers, one bin a code for enums. Raises ``ValueError`` if there is no row, a
    value is not finite, or the columns are not as many as ``names``.
    """
    if features.ndim != 2 or features.shape[1] != len(names) or len(features) == 0:
        raise ValueError(f"features have shape {features.shape}: expected rows and {len(names)} columns")
    if not np.isfinite(features).all():
        raise ValueError("a training feature is not finite: the contract check lets none through")
    found: dict[str, object] = {}
    for group, chosen in _members(groups_of(features, names)).items():
        part = features[chosen].astype(np.float64)
        found[group] = {
            "rows": int(chosen.sum()),
            "objects": _distinct(objects, chosen),
            "features": {name: _bins(name, column) for name, column in zip(names, part.T, strict=True)},
            **({} if labels is None else {"labels": class_shares(labels[chosen])}),
        }
    return {"format": 2, "groups": found}


def predictions_of(
    predicted: NDArray[np.int64],
    features: NDArray[np.float32],
    names: Sequence[str],
    objects: Sequence[str] | NDArray[np.str_],
) -> dict[str, object]:
    """What the model said of rows that it did not learn from, by group, for a profile's ``predictions``."""
    return {
        group: {
            "rows": int(chosen.sum()),
            "objects": _distinct(objects, chosen),
            "shares": class_shares(predicted[chosen]),
        }
        for group, chosen in _members(groups_of(features, names)).items()
    }


def groups_of(features: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.str_]:
    """Each row's group by its features ``region`` and ``link_type``; ``ALL`` where one is missing or unknown."""
    if not {"region", "link_type"} <= set(names):
        return np.full(len(features), ALL)
    region, link = (
        np.clip(features[:, list(names).index(name)], 0, len(known)).astype(np.int64)
        for name, known in (("region", REGIONS), ("link_type", LINK_TYPES))
    )
    known = np.char.add(np.char.add(np.array(("", *REGIONS))[region], "/"), np.array(("", *LINK_TYPES))[link])
    return np.where((region >= 1) & (link >= 1), known, ALL)


def class_shares(classes: NDArray[np.int64]) -> list[float]:
    """Share of each candidate."""
    counts = np.bincount(classes, minlength=len(CANDIDATES))
    return [round(float(value), _DIGITS) for value in counts / max(1, counts.sum())]


def shares_in(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of ``values`` in each bin."""
    place = np.searchsorted(edges, values, side="right")
    shares: NDArray[np.float64] = np.bincount(place, minlength=len(edges) + 1) / len(values)
    return shares


def parse_profile(profile: Mapping[str, object]) -> Profile:
    """Any profile that a version was ever stored with. Raises ``ValueError`` on what is none."""
    if "format" not in profile:
        return Profile({ALL: Group(0, 0, _features(profile), None)}, {}, {})
    groups = {name: _group(entry) for name, entry in _object(profile["groups"], "groups").items()}
    predictions = {
        name: _shares(entry) for name, entry in _object(profile.get("predictions", {}), "predictions").items()
    }
    quarantined = _object(profile.get("quarantined", {}), "quarantined")
    return Profile(groups, predictions, {region: float(str(share)) for region, share in quarantined.items()})


def _members(groups: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """Which rows belong to each group; to ``ALL`` belong all."""
    found = {str(name): groups == name for name in np.unique(groups)}
    return {**found, ALL: np.ones(len(groups), np.bool_)}


def _distinct(objects: Sequence[str] | NDArray[np.str_] | None, chosen: NDArray[np.bool_]) -> int:
    return 0 if objects is None else len(np.unique(np.asarray(objects)[chosen]))


def _bins(name: str, values: NDArray[np.float64]) -> dict[str, list[float]]:
    if name in CODES:
        edges: NDArray[np.float64] = np.arange(CODES[name] + 1, dtype=np.float64) + 0.5
    else:
        inner = np.quantile(values, np.linspace(0, 1, BINS + 1)[:-1])
        # The last edge lies just above the maximum, so that values above all of training have a bin of their own.
        edges = np.unique(np.append(inner, math.nextafter(values.max(), math.inf)))
    return {"edges": edges.tolist(), "shares": [round(share, _DIGITS) for share in shares_in(values, edges).tolist()]}


def _group(entry: object) -> Group:
    found = _object(entry, "a group")
    labels = None
    if "labels" in found:
        labels = _shares({"rows": found["rows"], "objects": found["objects"], "shares": found["labels"]})
    features = _features(_object(found["features"], "features"))
    return Group(int(str(found["rows"])), int(str(found["objects"])), features, labels)


def _features(entries: Mapping[str, object]) -> dict[str, Bins]:
    parsed: dict[str, Bins] = {}
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"the training profile of feature {name!r} is no object with edges and shares")
        parsed[name] = Bins(tuple(entry["edges"]), tuple(entry["shares"]))
    return parsed


def _shares(entry: object) -> Shares:
    found = _object(entry, "shares")
    shares = found["shares"]
    if not isinstance(shares, Sequence):
        raise ValueError("the training profile's shares are no list")
    return Shares(int(str(found["rows"])), int(str(found["objects"])), tuple(shares))


def _object(entry: object, what: str) -> Mapping[str, object]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"the training profile's {what} are no object")
    return entry
