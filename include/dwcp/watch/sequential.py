"""Intervals that hold at every look at once: looking every hour does not inflate false alarms.

A fixed 95 % interval that is looked at every hour of a month excludes the truth at some look far more often than in 5 %
of cases. The interval here comes from the mixture sequential probability ratio test: over all looks together it misses
the truth with probability of at most ``alpha`` (Robbins, 1970; as used for experiments by Johari, Koomen, Pekelis and
Walsh, "Always Valid Inference", Operations Research 70(3), 2022). The variance is estimated, which keeps the guarantee
asymptotically (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences", Annals of Statistics 52(6), 2024); ``tests/watch/test_sequential.py`` counts the false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_UNITS = 20
"""Fewer independent units (rollout buckets) leave a variance that nobody should trust: no interval."""
Floats = NDArray[np.float64]


def half_width(variance: float, effect: float, alpha: float) -> float:
    """Half the always-valid interval's width around an estimate of this ``variance``.

    ``effect`` is the size of deviation that matters, in the estimate's own unit: the interval is tightest when it is
    about to be found. Any ``effect`` is valid.
    """
    if variance <= 0:
        return 0.0
    mixing = effect**2
    evidence = math.log(math.sqrt((variance + mixing) / variance) / alpha)
    return math.sqrt(2 * variance * (variance + mixing) / mixing * evidence)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of two sums: its value, its variance, and what stands behind it.

    ``variance`` is None where fewer than ``MIN_UNITS`` units stand behind it. ``effective_rows`` is Kish's effective
    sample size of the weights.
    """

    value: float
    variance: float | None
    rows: int
    effective_rows: float

    def bounds(self, effect: float, alpha: float) -> tuple[float, float] | None:
        """The always-valid interval, None where there is no variance."""
        if self.variance is None:
            return None
        half = half_width(self.variance, effect, alpha)
        return self.value - half, self.value + half


def ratio(numerator: Floats, denominator: Floats, weights: Floats, units: NDArray[np.int64]) -> Estimate | None:
    """Σ w·numerator ÷ Σ w·denominator over rows; None without rows or with nothing to divide by.

    Rows of one unit (``units`` are whole numbers from 0) resemble one another: the variance (delta method) adds their
    influence up before squaring it.
    """
    below = float(weights @ denominator)
    if len(weights) == 0 or below <= 0:
        return None
    value = float(weights @ numerator) / below
    influence = np.bincount(units, weights * (numerator - value * denominator) / below)
    variance = float(influence @ influence) if len(np.unique(units)) >= MIN_UNITS else None
    return Estimate(value, variance, len(weights), effective_rows(weights))


def share(hits: NDArray[np.bool_], weights: Floats, units: NDArray[np.int64]) -> Estimate | None:
    """The weighted share of rows that are hits.

    Its variance is at least that of a share with two hits and two misses more (Agresti and Coull, 1998), as a run of
    nothing but hits proves no certainty.
    """
    found = ratio(hits.astype(np.float64), np.ones(len(weights)), weights, units)
    if found is None or found.variance is None:
        return found
    rows = found.effective_rows
    smoothed = (found.value * rows + 2) / (rows + 4)
    least = smoothed * (1 - smoothed) / (rows + 4)
    return Estimate(found.value, max(found.variance, least), found.rows, rows)


def effective_rows(weights: Floats) -> float:
    """Kish's effective sample size (Σw)² ÷ Σw²; equal weights give the number of rows exactly."""
    if len(weights) == 0 or weights.max() <= 0:
        return 0.0
    relative = weights / weights.max()
    return float(relative.sum() ** 2 / (relative**2).sum())
