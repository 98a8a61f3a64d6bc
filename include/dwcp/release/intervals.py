"""Intervals by bootstrap over objects.

Transfers of one object resemble one another, so rows are no independent draws: whole objects are drawn (cluster
bootstrap; Field and Welsh, 2007). Every figure with an interval is a ratio of two sums over rows, so one object
contributes two numbers, a round is a weighting of objects, and all rounds are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
MIN_OBJECTS = 10
"""Fewer objects behind a figure give no interval: a bootstrap over them is far too narrow."""
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Σ ``numerator`` ÷ Σ ``denominator`` + ``offset``; both (rows,)."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its 95 % interval.

    ``estimate`` is None where nothing was counted (a precision without predictions); the bounds are None too where
    fewer than ``MIN_OBJECTS`` objects stand behind it.
    """

    estimate: float | None
    lower: float | None = None
    upper: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the distance between the bounds."""
        return None if self.lower is None or self.upper is None else (self.upper - self.lower) / 2


def bootstrap(
    ratios: Mapping[str, Ratio], objects: NDArray[np.int64], *, rounds: int, seed: int, level: float = LEVEL
) -> dict[str, Interval]:
    """Percentile intervals of all ``ratios`` under the same draws of objects, so that their differences are paired.

    ``objects`` (rows,) are codes from 0. The same arguments give the same intervals.
    """
    count = int(objects.max()) + 1 if len(objects) else 0
    if not ratios or not count:
        return {name: Interval(None) for name in ratios}
    numerators, denominators = (
        np.column_stack([np.bincount(objects, part, minlength=count) for part in parts])
        for parts in ([r.numerator for r in ratios.values()], [r.denominator for r in ratios.values()])
    )
    offsets = np.array([ratio.offset for ratio in ratios.values()])
    replicates = np.concatenate(
        [_ratio(w @ numerators, w @ denominators) + offsets for w in _weights(count, rounds, seed)]
    )
    estimates = _ratio(numerators.sum(axis=0), denominators.sum(axis=0)) + offsets
    behind = np.count_nonzero(denominators, axis=0)
    tail = (1 - level) / 2
    intervals = {}
    for column, name in enumerate(ratios):
        drawn = replicates[:, column]
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(estimates[column]):
            intervals[name] = Interval(None)
        elif behind[column] < MIN_OBJECTS or not drawn.size:
            intervals[name] = Interval(float(estimates[column]))
        else:
            lower, upper = np.quantile(drawn, [tail, 1 - tail])
            intervals[name] = Interval(float(estimates[column]), float(lower), float(upper))
    return intervals


def _weights(count: int, rounds: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each object is drawn in each round, (rounds, count) cut into parts."""
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // count)
    shares = np.full(count, 1 / count)
    for done in range(0, rounds, step):
        yield rng.multinomial(count, shares, size=min(step, rounds - done)).astype(np.float64)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = numerator / denominator
    return ratio
