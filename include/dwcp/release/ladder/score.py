"""Figures of selectors on test rows, each with its interval over objects, whole and by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import DATA_TYPES, LINK_TYPES
from dwcp.decision import ZSTD
from dwcp.release import metrics
from dwcp.release.intervals import Interval, Ratio, bootstrap
from dwcp.release.ladder.found import Rung, Slice
from dwcp.release.ladder.rows import Rows
from dwcp.release.ladder.selectors import Selector
from dwcp.release.metrics import Floats, Ints
from dwcp.settings import Settings
from dwcp.training.dataset import Dataset

Mask = NDArray[np.bool_]
SIZES = {
    "under 1 KiB": (0, 1 << 10),
    "1 to 64 KiB": (1 << 10, 1 << 16),
    "64 KiB to 1 MiB": (1 << 16, 1 << 20),
    "1 to 16 MiB": (1 << 20, 1 << 24),
    "16 MiB and over": (1 << 24, 1 << 62),
}
GAPS = {
    "under 1 %": (0.0, 0.01),
    "1 to 5 %": (0.01, 0.05),
    "5 to 20 %": (0.05, 0.2),
    "20 to 100 %": (0.2, 1.0),
    "over 100 %": (1.0, np.inf),
}
LINK, TYPE, LINK_TYPE, SIZE, GAP, AGE = (
    "link",
    "data type",
    "link × data type",
    "size",
    "gap to the runner-up",
    "object",
)


def rungs(selectors: Sequence[Selector], test: Rows, settings: Settings) -> tuple[Rung, ...]:
    """Every selector's figures under the same draws of objects."""
    dataset, look_ms = test.dataset, test.dataset.look_ms
    ratios: dict[str, Ratio] = {}
    for selector in selectors:
        for metric, ratio in _ratios(selector.said, selector.runs, look_ms * selector.looks, dataset).items():
            ratios[f"{selector.name}/{metric}"] = ratio
    got = _bootstrap(ratios, dataset, settings)
    return tuple(
        Rung(
            selector.name,
            selector.kind,
            selector.inputs,
            got[f"{selector.name}/accuracy"],
            got[f"{selector.name}/outside"],
            got[f"{selector.name}/regret"],
            float(np.quantile(metrics.regret(dataset.costs_ms, selector.runs), 0.95)),
            got[f"{selector.name}/gain"],
            got[f"{selector.name}/paid"],
        )
        for selector in selectors
    )


def slices(argmax: Selector, product: Selector, test: Rows, known: set[str], settings: Settings) -> tuple[Slice, ...]:
    """The ensemble's argmax, and what the product runs of it, on every slice of the test rows that has any.

    ``known`` are the objects of the training and validation rows.
    """
    dataset = test.dataset
    masks = {(by, name): mask for by, name, mask in _masks(dataset, known) if mask.any()}
    said = _ratios(argmax.said, argmax.runs, test.dataset.look_ms, dataset)
    ran = _ratios(product.said, product.runs, test.dataset.look_ms, dataset)
    wanted = {
        "accuracy": said["accuracy"],
        "regret": said["regret"],
        "executed": ran["regret"],
        "gain": ran["gain"],
        "paid": ran["paid"],
    }
    got = _bootstrap(
        {f"{where}/{metric}": _where(ratio, mask) for where, mask in masks.items() for metric, ratio in wanted.items()},
        dataset,
        settings,
    )
    return tuple(
        Slice(
            by=where[0],
            name=where[1],
            rows=int(mask.sum()),
            objects=len(np.unique(dataset.object_id[mask])),
            accuracy=got[f"{where}/accuracy"],
            regret=got[f"{where}/regret"],
            executed_regret=got[f"{where}/executed"],
            zstd_share=float((product.runs[mask] == ZSTD).mean()),
            gain_over_zstd=got[f"{where}/gain"],
            gain_paid=got[f"{where}/paid"],
        )
        for where, mask in masks.items()
    )


def accuracy_and_regret(said: Ints, test: Dataset, settings: Settings) -> tuple[Interval, Interval]:
    """Of a selector that runs what it says."""
    parts = _ratios(said, said, np.zeros(test.rows), test)
    got = _bootstrap({name: parts[name] for name in ("accuracy", "regret")}, test, settings)
    return got["accuracy"], got["regret"]


def gain_over_zstd(runs: Ints, test: Dataset, settings: Settings) -> Interval:
    """Σ zstd's time ÷ Σ time, less one."""
    return _bootstrap({"gain": _ratios(runs, runs, np.zeros(test.rows), test)["gain"]}, test, settings)["gain"]


def gap_to_runner_up(costs_ms: Floats) -> Floats:
    """What the second-best candidate costs beyond the best, as a share of the best's cost, (rows,)."""
    ranked = np.sort(costs_ms[:, :3], axis=1)
    gap: Floats = (ranked[:, 1] - ranked[:, 0]) / ranked[:, 0]
    return gap


def _ratios(said: Ints, runs: Ints, look_ms: Floats, test: Dataset) -> dict[str, Ratio]:
    costs, ones = test.costs_ms, np.ones(test.rows)
    right = (said == test.labels).astype(np.float64)
    clear = metrics.outside_ties(costs).astype(np.float64)
    spent = metrics.cost_of(costs, runs)
    return {
        "accuracy": Ratio(right, ones),
        "outside": Ratio(right * clear, clear),
        "regret": Ratio(metrics.regret(costs, runs), ones),
        "gain": Ratio(costs[:, ZSTD], spent, offset=-1.0),
        "paid": Ratio(costs[:, ZSTD], spent + look_ms, offset=-1.0),
    }


def _where(ratio: Ratio, mask: Mask) -> Ratio:
    return Ratio(ratio.numerator * mask, ratio.denominator * mask, ratio.offset)


def _bootstrap(ratios: Mapping[str, Ratio], test: Dataset, settings: Settings) -> dict[str, Interval]:
    codes = np.unique(test.object_id, return_inverse=True)[1].astype(np.int64)
    return bootstrap(ratios, codes, rounds=settings.bootstrap_rounds, seed=settings.seed)


def _masks(test: Dataset, known: set[str]) -> Iterator[tuple[str, str, Mask]]:
    links, kinds, size = test.link_type, test.data_type, test.size_bytes
    gap = gap_to_runner_up(test.costs_ms)
    new = ~np.isin(test.object_id, list(known))
    yield from ((LINK, link, links == link) for link in LINK_TYPES)
    yield from ((TYPE, kind, kinds == kind) for kind in DATA_TYPES)
    yield from (
        (LINK_TYPE, f"{link} {kind}", (links == link) & (kinds == kind)) for link in LINK_TYPES for kind in DATA_TYPES
    )
    yield from ((SIZE, name, (size >= low) & (size < high)) for name, (low, high) in SIZES.items())
    yield from ((GAP, name, (gap >= low) & (gap < high)) for name, (low, high) in GAPS.items())
    yield AGE, "known to training", ~new
    yield AGE, "first seen in the test", new
