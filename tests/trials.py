"""Rollouts by the hundred on one emulated region: who is canary is drawn anew each time, what happened is not.

Two models decide all transfers of an emulated fleet, one that serves and one on trial, so that each transfer's time is
known under both. A rollout draws the rollout buckets of the canary and takes their rows from the model on trial, the
others' from the one that serves: the rows that the fleet would have logged, but for the few features that an object
takes from others of its type. Looks and judgements are the watch's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log1p
from statistics import NormalDist

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dwcp.contract import ROLLOUT_BUCKETS
from dwcp.fleet.library import RECORDED, load_library
from dwcp.fleet.mix import DEFAULT_MIX, load_mix
from dwcp.fleet.simulate import simulate
from dwcp.settings import Settings
from dwcp.watch.decide import BY_QUANTITY, Judgement, judge
from dwcp.watch.experiment import compare, known_before
from dwcp.watch.measure import GAINS, Figure, Measurement, gain_figures, served_features, whole_ms
from dwcp.watch.sequential import Estimate
from fields import CostPolicy

NS_PER_HOUR = 3_600_000_000_000
HARM = 0.2
"""In which share of an object's versions the model on trial takes the dearest choice, where it is worse at all."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Transfers in time order; ``hour`` counts from the first. Times (2, rows) and what was known (2, rows, 5) under
    the model that serves and the one on trial."""

    hour: NDArray[np.int64]
    buckets: NDArray[np.int64]
    time_ms: Floats
    known: Floats

    @property
    def objects(self) -> int:
        """How many buckets have a row."""
        return len(np.unique(self.buckets))

    @property
    def gain(self) -> float:
        """What the typical transfer really gains by the model on trial."""
        return float(np.expm1(np.mean(np.log(self.time_ms[0] / self.time_ms[1]))))


@dataclass(frozen=True)
class Look:
    """What one hourly look at the canary found. ``estimates`` are logarithms of canary's throughput over control's."""

    hour: int
    estimates: dict[str, Estimate | None]
    figures: dict[str, Figure]
    judgements: dict[str, Judgement]

    @property
    def rolls_back(self) -> bool:
        """Whether the policy takes the model back."""
        return any(found.status == "FAIL" for found in self.judgements.values())

    def excludes(self, gain: float, quantity: str) -> bool:
        """Whether the always-valid interval excludes ``gain``."""
        figure = self.figures[quantity]
        return figure.lower is not None and figure.upper is not None and not figure.lower <= gain <= figure.upper

    def usual_excludes(self, quantity: str, alpha: float) -> bool:
        """Whether the usual interval, which is meant for a single look, excludes no gain."""
        found = self.estimates[quantity]
        if found is None or found.variance is None:
            return False
        return abs(found.value) > NormalDist().inv_cdf(1 - alpha / 2) * found.variance**0.5


def make_region(*, worlds: int, transfers_per_week: int, seed: int) -> Region:
    """A week of ``worlds`` fleets of 24 nodes and about 900 moved objects each, taken together as one region."""
    profiles, mix = load_library(RECORDED)[0], load_mix(DEFAULT_MIX)
    parts = []
    for number in range(worlds):
        logs = [
            next(
                simulate(
                    profiles,
                    mix,
                    seed=1_000 * seed + number,
                    weeks=1,
                    transfers_per_week=transfers_per_week // worlds,
                    policy=policy,
                    defects=False,
                )
            )
            for policy in (CostPolicy("serving"), CostPolicy("on trial", harm=HARM))
        ]
        # Objects of another world are other objects, with buckets of their own.
        parts.append(_region(logs, 7_919 * number))
    order = np.argsort(np.concatenate([part.hour for part in parts]), kind="stable")
    return Region(
        *(np.concatenate([getattr(part, name) for part in parts])[order] for name in ("hour", "buckets")),
        *(np.concatenate([getattr(part, name) for part in parts], axis=1)[:, order] for name in ("time_ms", "known")),
    )


def as_good(region: Region) -> Region:
    """The model on trial is the one that serves."""
    return replace(region, time_ms=region.time_ms[[0, 0]], known=region.known[[0, 0]])


def slower_everywhere(region: Region, loss: float) -> Region:
    """The model on trial decides as the one that serves, and each transfer is slower by ``loss``."""
    return replace(as_good(region), time_ms=np.stack([region.time_ms[0], region.time_ms[0] / (1 - loss)]))


def worse_for_some(region: Region, loss: float, rng: np.random.Generator) -> Region:
    """The model on trial chooses badly, for as many objects as it takes for the typical transfer to lose ``loss``."""
    lost = np.log(region.time_ms[1] / region.time_ms[0])
    per_bucket = np.bincount(region.buckets, lost, ROLLOUT_BUCKETS)
    order = rng.permutation(ROLLOUT_BUCKETS)
    enough = np.flatnonzero(per_bucket[order].cumsum() / len(lost) >= -log1p(-loss))
    if not len(enough):
        raise ValueError(f"the model on trial loses {-region.gain:.1%} for all objects: less than {loss:.1%}")
    harmed = np.isin(region.buckets, order[: enough[0] + 1])
    return Region(
        region.hour,
        region.buckets,
        np.stack([region.time_ms[0], np.where(harmed, region.time_ms[1], region.time_ms[0])]),
        np.stack([region.known[0], np.where(harmed[:, None], region.known[1], region.known[0])]),
    )


def roll_out(
    region: Region, settings: Settings, *, hours: Sequence[int], seed: int, share: float = 0.05
) -> Iterator[Look]:
    """A look after each of ``hours``, at all that happened since the canary of this ``share`` began."""
    drawn = np.random.default_rng(seed).permutation(ROLLOUT_BUCKETS)[: round(share * ROLLOUT_BUCKETS)]
    is_canary = np.isin(region.buckets, drawn)
    time_ms = np.where(is_canary, region.time_ms[1], region.time_ms[0])
    known = np.where(is_canary[:, None], region.known[1], region.known[0])
    for until in hours:
        rows = int(np.searchsorted(region.hour, until))
        compared = compare(time_ms[:rows], known[:rows], is_canary[:rows], region.hour[:rows], region.buckets[:rows])
        figures = gain_figures(compared, settings.watch_alpha)
        measured = Measurement("on trial", "canary", rows, 0, 0, None, None, figures)
        judged = {name: judge(BY_QUANTITY[name], measured, settings) for name in GAINS}
        yield Look(until, dict(zip(GAINS, (compared.typical, compared.bulk), strict=True)), figures, judged)


def _region(logs: Sequence[pa.Table], shift: int) -> Region:
    at = np.asarray(logs[0]["timestamp_ns"])
    return Region(
        (at - at[0] // NS_PER_HOUR * NS_PER_HOUR) // NS_PER_HOUR,
        (np.asarray(logs[0]["rollout_bucket"]).astype(np.int64) + shift) % ROLLOUT_BUCKETS,
        np.stack([whole_ms(log) for log in logs]),
        np.stack([known_before(served_features(log)) for log in logs]),
    )
