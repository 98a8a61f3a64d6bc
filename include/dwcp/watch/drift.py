"""Drift of features, predictions, labels and data quality against the profile that was stored with the version.

Two measures a feature and link: the population stability index over the profile's bins, and a distance through scipy:
Wasserstein's over the bins' ranks (0 to 1, whatever the unit) for numbers, Jensen and Shannon's for codes. These are
Evidently's choices for large samples; Evidently itself is not used: it wants both samples, and a profile is what is
kept of training, and it brings plotting and text libraries of several times this package's weight.

Neither measure is zero without drift. ``lower`` is what is left after the noise of so few objects: χ² quantiles for the
index (Yurdakul and Naranjo, 2020), the inequality of Dvoretzky, Kiefer and Wolfowitz for Wasserstein. What is
independent among rows are objects, so objects are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.watch.measure import Figure, buckets, served_features
from dwcp.watch.profile import ALL, CODES, Bins, Profile, Shares, class_shares, groups_of, shares_in

SHARE_FLOOR = 1e-4
"""Shares below it count as it, so that an empty bin gives a large index and no infinite one."""
SHOWN = 10
"""How many of the features that moved most are named in a figure's detail."""
_NAMES = tuple(feature.name for feature in FEATURES)
_NOT_TRAFFIC = ("region", "link_type", "rtt_bin")
"""What a group is made of cannot drift within it."""
Floats = NDArray[np.float64]


def drift(recent: pa.Table, version: str, profile: Profile, alpha: float) -> dict[str, Figure]:
    """How far the region's ``recent`` rows have moved from training; a figure has the largest move as its value.

    Features and labels are those of all rows, whoever decided; predictions are ``version``'s own.
    """
    features, units = served_features(recent), buckets(recent)
    labels = _classes(recent, "optimal_compression")
    own = np.asarray(pc.fill_null(pc.equal(recent["model_version"], version), False))
    predicted = np.where(own, _classes(recent, "predicted_compression"), -1)
    label_profiles = {name: group.labels for name, group in profile.groups.items() if group.labels}
    return {
        **_features(features, units, profile, alpha),
        "prediction_drift": _classes_drift(predicted, features, units, profile.predictions, alpha),
        "label_drift": _classes_drift(labels, features, units, label_profiles, alpha),
    }


def quarantine_rise(read: int, quarantined: int, then: float | None, alpha: float) -> Figure:
    """By how much the share of rows that break the contract has risen since training."""
    if read == 0 or then is None:
        return Figure(None, rows=read)
    from scipy.stats import beta

    # Clopper and Pearson's exact bounds: a share near zero is the normal case.
    lower = float(beta.ppf(alpha / 2, quarantined, read - quarantined + 1)) if quarantined else 0.0
    upper = float(beta.ppf(1 - alpha / 2, quarantined + 1, read - quarantined)) if quarantined < read else 1.0
    return Figure(quarantined / read - then, lower - then, upper - then, read, float(read), {"then": then})


def psi(then: Sequence[float] | Floats, now: Sequence[float] | Floats, objects: tuple[int, int] | None = None) -> float:
    """Population stability index Σ (now − then) · ln(now ÷ then); below 0.1 is usually called stable.

    An empty bin of so many ``objects`` (then, now) counts as half a one, so that what few objects leave empty is not
    taken for what never happens.
    """
    floors = (max(SHARE_FLOOR, 0.5 / max(1, count)) for count in objects or (0.5 / SHARE_FLOOR,) * 2)
    a, b = (np.maximum(shares, floor) for shares, floor in zip((then, now), floors, strict=True))
    return float(np.sum((b - a) * np.log(b / a)))


def distance(then: Sequence[float] | Floats, now: Sequence[float] | Floats, *, codes: bool) -> float:
    """How far the shares of bins lie apart, 0 to 1: Jensen and Shannon's distance for codes, else Wasserstein's."""
    if codes:
        from scipy.spatial.distance import jensenshannon

        return float(jensenshannon(np.maximum(then, SHARE_FLOOR), np.maximum(now, SHARE_FLOOR), base=2))
    from scipy.stats import wasserstein_distance

    places = np.arange(len(then))
    return float(wasserstein_distance(places, places, then, now)) / max(1, len(then) - 1)


def noise(bins: int, objects_then: int, objects_now: int, alpha: float, *, codes: bool) -> tuple[float, float]:
    """What index and distance reach with a chance of ``alpha`` though nothing drifted."""
    from scipy.stats import chi2

    spread = 1 / max(1, objects_now) + (1 / objects_then if objects_then else 0.0)
    quantile = float(chi2.ppf(1 - alpha, max(1, bins - 1)))
    wasserstein = float(np.sqrt(np.log(2 / alpha) / 2 * spread))
    return spread * quantile, float(np.sqrt(spread * quantile / (8 * np.log(2)))) if codes else wasserstein


def _features(
    features: NDArray[np.float32], units: NDArray[np.int64], profile: Profile, alpha: float
) -> dict[str, Figure]:
    moved: dict[str, dict[str, tuple[float, float, float, int]]] = {"feature_psi": {}, "feature_distance": {}}
    groups = groups_of(features, _NAMES)
    for group in np.unique(groups):
        chosen = groups == group
        reference = profile.groups.get(str(group), profile.groups[ALL])
        objects = len(np.unique(units[chosen]))
        then = reference.objects or reference.rows
        each = alpha / (2 * len(reference.features))
        for name, bins in reference.features.items():
            if name in _NOT_TRAFFIC or name not in _NAMES:
                continue
            values = features[chosen, _NAMES.index(name)].astype(np.float64)
            index, apart, index_noise, apart_noise = _moved(name, bins, values, then, objects, each)
            key = f"{name}@{str(group).partition('/')[2] or ALL}"
            moved["feature_psi"][key] = (index, index - index_noise, index, int(chosen.sum()))
            moved["feature_distance"][key] = (apart, apart - apart_noise, apart, int(chosen.sum()))
    return {quantity: _largest(found, len(features)) for quantity, found in moved.items()}


def _moved(
    name: str, bins: Bins, values: Floats, objects_then: int, objects_now: int, alpha: float
) -> tuple[float, float, float, float]:
    codes = name in CODES
    now = shares_in(values, np.asarray(bins.edges))
    filled = int(np.count_nonzero(np.maximum(bins.shares, now)))
    limits = noise(filled, objects_then, objects_now, alpha, codes=codes)
    return psi(bins.shares, now, (objects_then, objects_now)), distance(bins.shares, now, codes=codes), *limits


def _classes_drift(
    classes: NDArray[np.int64],
    features: NDArray[np.float32],
    units: NDArray[np.int64],
    then: Mapping[str, Shares],
    alpha: float,
) -> Figure:
    """Index over the candidates' shares, group by group; rows with class -1 have none."""
    found: dict[str, tuple[float, float, float, int]] = {}
    groups = groups_of(features, _NAMES)
    for group in np.unique(groups):
        chosen = (groups == group) & (classes >= 0)
        reference = then.get(str(group))
        if reference is None or not chosen.any():
            continue
        objects = len(np.unique(units[chosen]))
        index = psi(reference.shares, class_shares(classes[chosen]), (reference.objects or reference.rows, objects))
        index_noise, _ = noise(len(CANDIDATES), reference.objects or reference.rows, objects, alpha / 3, codes=True)
        key = str(group).partition("/")[2] or ALL
        found[key] = (index, index - index_noise, index, int(chosen.sum()))
    return _largest(found, sum(rows for *_, rows in found.values()))


def _largest(found: Mapping[str, tuple[float, float, float, int]], rows: int) -> Figure:
    """The one whose lower bound is highest: what has surely moved farthest."""
    if not found:
        return Figure(None, rows=rows)
    ranked = sorted(found.items(), key=lambda item: -item[1][1])
    value, lower, upper, behind = ranked[0][1]
    detail = {name: [round(value, 4), round(lower, 4)] for name, (value, lower, _, _) in ranked[:SHOWN]}
    return Figure(value, lower, upper, behind, float(behind), detail)


def _classes(rows: pa.Table, column: str) -> NDArray[np.int64]:
    found = pc.index_in(rows[column].cast(pa.string()), pa.array(CANDIDATES))
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)
