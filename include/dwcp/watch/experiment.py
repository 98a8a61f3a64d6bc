"""Canary against control: a randomised experiment, since an object's rollout bucket decides its arm.

Compared are transfers of the same hours and the same region. An hour gives each arm the same weight, canary rows times
control rows over all rows (overlap weights; Li, Morgan and Zaslavsky, 2018): hours without one of the arms count
nothing, and a share that grew from stage to stage does not mix up good hours with a large canary. What each arm would
have needed for all of these transfers is estimated by a regression of its own on what a node knew before it chose
(Lin, 2013; the idea of Deng et al., "CUPED", 2013): sizes and links differ a thousandfold, and the effect is some
percent. Whether the regression fits well decides the width of the interval, not whether it is right.

Two gains are compared, as a model may help most transfers and harm the few large ones: that of the *typical transfer*
(geometric mean of throughput), and that in *bulk* (Σ bytes ÷ Σ time, as the gate has it). Looking is part of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.rules import choose_by_rules
from dwcp.watch.sequential import Estimate, effective_rows

Floats = NDArray[np.float64]
_PLACE = {feature.name: place for place, feature in enumerate(FEATURES)}
_SMALLEST = 1e-6
_MIN_OBJECTS = 30
"""Fewer buckets in an arm leave a variance that nobody should trust: no interval."""
_MIN_BULK_OBJECTS = 100
"""A few large objects are most of the bytes: with fewer effective ones intervals missed the truth in one of four
rollouts of a model against itself (``tests/trials.py``). ``throughput_loss`` needs no control group."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Logarithms of canary's throughput over control's, as estimates; the rows of each arm that count.

    An estimate is None where an arm has no row in an hour of the other.
    """

    typical: Estimate | None
    bulk: Estimate | None
    canary_rows: int
    control_rows: int


def compare(
    time_ms: Floats,
    known: Floats,
    is_canary: NDArray[np.bool_],
    hour: NDArray[np.int64],
    units: NDArray[np.int64],
) -> Comparison:
    """Compare arms; every array is (rows,), ``known`` what ``known_before`` gives.

    ``hour`` numbers the hours, ``units`` the rollout buckets.
    """
    weights = overlap_weights(is_canary, hour)
    counts = weights > 0
    arms = counts & ~is_canary, counts & is_canary
    control_rows, canary_rows = (int(arm.sum()) for arm in arms)
    if not canary_rows:
        return Comparison(None, None, canary_rows, control_rows)
    log_ms = np.log(np.maximum(time_ms, _SMALLEST))
    everybody = np.where(counts, (1 - weights) * weights, 0.0)
    everybody /= everybody.sum()
    objects = [len(np.unique(units[arm])) for arm in arms]
    typical, bulk, typical_influence, bulk_influence = [], [], np.zeros(len(time_ms)), np.zeros(len(time_ms))
    bulk_objects = []
    for arm, sign, behind in zip(arms, (1.0, -1.0), objects, strict=True):
        mass = np.where(arm, weights, 0.0) / weights[arm].sum()
        expected = known @ _fit(known[arm], log_ms[arm], mass[arm])
        # Residuals of a fit are smaller than the errors: one in so many objects went into each coefficient.
        too_small = np.sqrt(behind / max(1, behind - known.shape[1]))
        typical.append(float(everybody @ expected))
        typical_influence += sign * too_small * mass * (log_ms - expected)
        expected_ms = np.exp(expected)
        scale = (mass @ time_ms) / (mass @ expected_ms)
        bulk.append(float(np.log(scale * (everybody @ expected_ms))))
        bulk_influence += sign * too_small * mass * (time_ms - scale * expected_ms) / (mass @ time_ms)
        bulk_objects.append(effective_rows(np.asarray(np.bincount(units, mass * expected_ms), np.float64)))
    enough = min(objects) >= _MIN_OBJECTS
    rows = min(control_rows, canary_rows)
    return Comparison(
        Estimate(typical[0] - typical[1], _variance(typical_influence, units, enough), rows, float(rows)),
        Estimate(
            bulk[0] - bulk[1],
            _variance(bulk_influence, units, enough and min(bulk_objects) >= _MIN_BULK_OBJECTS),
            rows,
            min(bulk_objects),
        ),
        canary_rows,
        control_rows,
    )


def known_before(features: NDArray[np.float32]) -> Floats:
    """What explains most of a transfer's time, (rows, 5) logarithms; ``features`` (rows, ``len(FEATURES)``) as served.

    Sending it uncompressed, and what the cheapest choice and that of the rules would save by history and probe.
    """

    def log(values: NDArray[np.float32] | Floats) -> Floats:
        found: Floats = np.log(np.maximum(values.astype(np.float64), _SMALLEST))
        return found

    def of(name: str) -> NDArray[np.float32]:
        return features[:, _PLACE[name]]

    uncompressed_ms = of("size_bytes") / (of("bandwidth_mbps") * (1 - of("packet_loss_rate")) * 125)
    costs = np.zeros((len(features), len(CANDIDATES)))
    for place, algorithm in enumerate(CANDIDATES):
        if algorithm != "none":
            costs[:, place] = (log(of(f"{algorithm}_cost_ratio")) + log(of(f"probe_{algorithm}_cost_ratio"))) / 2
    chosen = costs[np.arange(len(costs)), choose_by_rules(features)]
    return np.stack(
        [np.ones(len(features)), log(uncompressed_ms), log(of("rtt_ms")), costs.min(axis=1), chosen], axis=1
    )


def overlap_weights(is_canary: NDArray[np.bool_], hour: NDArray[np.int64]) -> Floats:
    """A canary row weighs as its hour's share of control rows, a control row as that of canary rows."""
    _, place = np.unique(hour, return_inverse=True)
    rows = np.bincount(place)
    canary = np.bincount(place, is_canary)
    share = (canary / np.maximum(rows, 1))[place]
    weights: Floats = np.where(is_canary, 1 - share, share)
    return weights


def _fit(known: Floats, log_ms: Floats, mass: Floats) -> Floats:
    """Weighted least squares."""
    root = np.sqrt(mass)
    return np.asarray(np.linalg.lstsq(known * root[:, None], log_ms * root, rcond=None)[0], np.float64)


def _variance(influence: Floats, units: NDArray[np.int64], enough: bool) -> float | None:
    if not enough:
        return None
    summed = np.bincount(units, influence)
    return float(summed @ summed)
