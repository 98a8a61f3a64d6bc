"""What a row of a held-out split says about a choice: right or wrong, its regret, its time, its confidence.

Costs are milliseconds, shape (rows, 4) in :data:`dwcp.contract.ALGORITHMS` order; a choice is an index into it. Labels
and predictions index :data:`dwcp.contract.CANDIDATES`, which are the first three, so that a prediction is a choice too.
Everything that has an interval is a :class:`~dwcp.release.intervals.Ratio` of two sums over rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.decision import ZSTD
from dwcp.release.intervals import Ratio

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TIE_SHARE = 0.01
"""Choices whose costs differ by less are a tie: even labels measured twice disagree there."""
CALIBRATION_BINS = 15


def cost_of(costs_ms: Floats, choice: Ints) -> Floats:
    """The cost of each row's choice, (rows,)."""
    return costs_ms[np.arange(len(choice)), choice]


def oracle_cost(costs_ms: Floats) -> Floats:
    """The cheapest candidate's cost, (rows,); zstd is no candidate."""
    best: Floats = costs_ms[:, : len(CANDIDATES)].min(axis=1)
    return best


def regret(costs_ms: Floats, choice: Ints) -> Floats:
    """What each choice costs beyond the oracle's, as a share of the oracle's cost, (rows,).

    Never negative for a candidate; zstd's is where zstd beats every candidate.
    """
    best = oracle_cost(costs_ms)
    return (cost_of(costs_ms, choice) - best) / best


def outside_ties(costs_ms: Floats) -> NDArray[np.bool_]:
    """Rows whose second-best candidate costs over ``TIE_SHARE`` more than the best, (rows,)."""
    ranked = np.sort(costs_ms[:, : len(CANDIDATES)], axis=1)
    return (ranked[:, 1] - ranked[:, 0]) > TIE_SHARE * ranked[:, 0]


def confusion(labels: Ints, predicted: Ints) -> Ints:
    """Counts (truth, prediction) over CANDIDATES."""
    classes = len(CANDIDATES)
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy_ratios(labels: Ints, predicted: Ints, costs_ms: Floats) -> dict[str, Ratio]:
    """Strict accuracy; accuracy outside ties; precision, recall and F1 of every class (``precision_hde``, ...)."""
    ones = np.ones(len(labels))
    right = (labels == predicted).astype(np.float64)
    clear = outside_ties(costs_ms).astype(np.float64)
    ratios = {"accuracy": Ratio(right, ones), "accuracy_outside_ties": Ratio(right * clear, clear)}
    for number, name in enumerate(CANDIDATES):
        truth, said = (labels == number).astype(np.float64), (predicted == number).astype(np.float64)
        hit = truth * said
        ratios[f"precision_{name}"] = Ratio(hit, said)
        ratios[f"recall_{name}"] = Ratio(hit, truth)
        ratios[f"f1_{name}"] = Ratio(2 * hit, truth + said)
    return ratios


def cost_ratios(
    costs_ms: Floats, choice: Ints, rules_choice: Ints, *, look_ms: Floats, looks: bool = True
) -> dict[str, Ratio]:
    """Mean regret, and throughput gain over always-zstd and over the rules.

    Throughput is Σ bytes ÷ Σ time; on the same rows the bytes cancel, and the gain is Σ time of the other ÷ Σ time of
    the choice, less one. Time is the oracle's cost: under seed §3.1 transfer + compression + decompression. Who
    ``looks`` at payloads before choosing, as the rules do, pays ``look_ms`` (rows,) besides; always-zstd does not.
    """
    spent = cost_of(costs_ms, choice) + (look_ms if looks else 0.0)
    return {
        "mean_regret": Ratio(regret(costs_ms, choice), np.ones(len(choice))),
        "gain_over_zstd": Ratio(costs_ms[:, ZSTD], spent, offset=-1.0),
        "gain_over_rules": Ratio(cost_of(costs_ms, rules_choice) + look_ms, spent, offset=-1.0),
    }


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of the calibration curve: rows, their mean confidence, the share of them that is right."""

    rows: int
    confidence: float
    accuracy: float


def calibration(
    probabilities: NDArray[np.float32], predicted: Ints, labels: Ints, bins: int = CALIBRATION_BINS
) -> tuple[tuple[Bin, ...], float | None]:
    """Non-empty bins of equal width over confidence, and the expected calibration error (Guo et al., 2017).

    The error is Σ rows · |accuracy − confidence| ÷ all rows; None without rows.
    """
    if not len(labels):
        return (), None
    confidence = probabilities.max(axis=1).astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, minlength=bins)
    right = np.bincount(place, (predicted == labels).astype(np.float64), minlength=bins)
    found = tuple(Bin(int(n), float(c / n), float(r / n)) for n, c, r in zip(rows, sums, right, strict=True) if n)
    return found, float(np.abs(right - sums).sum() / len(labels))
