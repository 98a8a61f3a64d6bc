"""Feature drift as population stability index against the profile that was stored when the model was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURES

FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
BINS = 10
SHARE_FLOOR = 1e-4
"""Shares below it count as it, so that an empty bin gives a large index and no infinite one."""
_CODES = {feature.name: len(feature.codes) for feature in FEATURES if feature.codes}


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """Bin edges (a value belongs right of an edge that it equals) and the share of training rows in each bin.

    ``shares`` has one entry more than ``edges``: the outer bins hold what training never saw.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]


def profile_of(features: NDArray[np.float32], names: Sequence[str] = FEATURE_NAMES) -> dict[str, object]:
    """The profile of training features (n, f), as JSON: ``{name: {"edges": [...], "shares": [...]}}``.

    Ten bins of equal population for numbers, one bin a code for enums. Raises ``ValueError`` if there is no row, a
    value is not finite, or the columns are not as many as ``names``.
    """
    if features.ndim != 2 or features.shape[1] != len(names) or len(features) == 0:
        raise ValueError(f"features have shape {features.shape}: expected rows and {len(names)} columns")
    if not np.isfinite(features).all():
        raise ValueError("a training feature is not finite: the contract check lets none through")
    profile: dict[str, object] = {}
    for name, column in zip(names, features.T, strict=True):
        values = column.astype(np.float64)
        edges = _edges(name, values)
        profile[name] = {"edges": edges.tolist(), "shares": _shares(values, edges).tolist()}
    return profile


def psi_of(profile: Mapping[str, object], features: NDArray[np.float32], names: Sequence[str]) -> dict[str, float]:
    """Population stability index of each feature in ``profile``: Σ (now − then) · ln(now ÷ then) over its bins.

    ``features`` (n, f) are columns ``names``; finite. Below 0.1 is usually called stable, from 0.25 on shifted.
    Without rows there is nothing to compare: the answer is empty.
    """
    if len(features) == 0:
        return {}
    known = _parse(profile)
    found: dict[str, float] = {}
    for name, column in zip(names, features.T, strict=True):
        if name in known:
            then = np.maximum(known[name].shares, SHARE_FLOOR)
            now = np.maximum(_shares(column.astype(np.float64), np.asarray(known[name].edges)), SHARE_FLOOR)
            found[name] = float(np.sum((now - then) * np.log(now / then)))
    return found


def _edges(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if name in _CODES:
        return np.arange(_CODES[name] + 1, dtype=np.float64) + 0.5
    inner = np.quantile(values, np.linspace(0, 1, BINS + 1)[:-1])
    # The last edge lies just above the maximum, so that values above all of training have a bin of their own.
    edges: NDArray[np.float64] = np.unique(np.append(inner, math.nextafter(values.max(), math.inf)))
    return edges


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    place = np.searchsorted(edges, values, side="right")
    shares: NDArray[np.float64] = np.bincount(place, minlength=len(edges) + 1) / len(values)
    return shares


def _parse(profile: Mapping[str, object]) -> dict[str, FeatureProfile]:
    parsed: dict[str, FeatureProfile] = {}
    for name, entry in profile.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"the training profile of feature {name!r} is no object with edges and shares")
        parsed[name] = FeatureProfile(tuple(entry["edges"]), tuple(entry["shares"]))
    return parsed
