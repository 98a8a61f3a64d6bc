"""Is the exported file the function that was trained? The same vectors go through both, and differences are counted.

The vectors are the held-out rows plus those on which an export goes wrong unseen: every branch of every tree one ulp to
either side of its threshold, the contract's ranges and their ends, the cold-start defaults, and single decisions, which
run through another path of the runtime than batches do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURES
from dwcp.export.runtime import OnnxModel
from dwcp.training.ensemble import Ensemble

Floats32 = NDArray[np.float32]

TOLERANCE = 1e-6
"""|Δp| beyond which a row is counted as an outlier. Two probabilities closer than twice that are a tie, which may fall
either way. 600 leaves summed in float32, in another order, are off by about as much."""
REFUSED = 1e-5
"""|Δp| that no rounding explains: the file computes something else."""
OUTLIER_SHARE = 1e-3
"""Share of outliers in one kind of vectors beyond which they are no accidents of rounding."""
FAR_FACTOR = 100.0
"""What both are multiplied by far outside of what was seen: the network's logits are so large there that float32 holds
no more."""
FAR = "the contract's ranges and ends"
RANDOM_ROWS = 20_000
SINGLE_ROWS = 200
BRANCHES = 60_000
"""Branches that are visited on both sides; beyond it they are drawn by chance."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One kind of vectors: how far the two functions are apart on them."""

    name: str
    rows: int
    max_difference: float
    outliers: int
    """Rows whose |Δp| is over the tolerance of their kind; shown, as rounding alone makes a few."""
    refused: int
    """Rows whose |Δp| no rounding explains."""
    label_differences: int
    """Rows whose labels differ although their two highest probabilities are no tie."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison over all kinds of vectors."""

    agreements: tuple[Agreement, ...]

    @property
    def rows(self) -> int:
        """Vectors compared."""
        return sum(part.rows for part in self.agreements)

    @property
    def max_difference(self) -> float:
        """Largest |Δp| near what was seen; infinite if the file gave a probability that is no number."""
        return max((part.max_difference for part in self.agreements if part.name != FAR), default=0.0)

    @property
    def outliers(self) -> int:
        """Rows whose |Δp| is over the tolerance of their kind."""
        return sum(part.outliers for part in self.agreements)

    @property
    def refused(self) -> int:
        """Rows whose |Δp| no rounding explains."""
        return sum(part.refused for part in self.agreements)

    @property
    def label_differences(self) -> int:
        """Rows with another label, outside ties."""
        return sum(part.label_differences for part in self.agreements)

    @property
    def disagreeing(self) -> int:
        """Rows that show the file to be another function: another label, a large |Δp|, or too many small ones."""
        many = sum(part.outliers for part in self.agreements if part.outliers > OUTLIER_SHARE * part.rows)
        return max(self.label_differences, self.refused, many)

    @property
    def agrees(self) -> bool:
        """Whether the file may stand for what was trained. False if nothing was compared."""
        return self.rows > 0 and self.disagreeing == 0


def check_parity(model: bytes, ensemble: Ensemble, features: Floats32, *, seed: int = 0) -> Parity:
    """Compare the serialised ``model`` with ``ensemble`` on ``features`` (n, f) and on :func:`hard_rows`.

    Raises ``ModelError`` if the model cannot be loaded, or takes other features.
    """
    loaded = OnnxModel(model)
    groups = {"held-out rows": np.asarray(features, np.float32), **hard_rows(ensemble, features, seed=seed)}
    agreements = [_compare(name, ensemble, rows, *loaded.predict(rows)) for name, rows in groups.items() if len(rows)]
    singles = np.concatenate([rows[:SINGLE_ROWS] for name, rows in groups.items() if name != FAR])
    decisions = [loaded.decide(row) for row in singles]
    if decisions:
        probabilities = np.array([decision.probabilities for decision in decisions], np.float32)
        labels = np.array([decision.label for decision in decisions], np.int64)
        agreements.append(_compare("single decisions", ensemble, singles, probabilities, labels))
    return Parity(tuple(agreements))


def _compare(
    name: str, ensemble: Ensemble, rows: Floats32, probabilities: Floats32, labels: NDArray[np.int64]
) -> Agreement:
    reference = np.asarray(ensemble.predict_proba(rows), np.float64)
    difference = np.abs(probabilities - reference).max(axis=1)
    difference[~np.isfinite(difference)] = np.inf
    ranked = np.sort(reference, axis=1)
    factor = FAR_FACTOR if name == FAR else 1.0
    tie = ranked[:, -1] - ranked[:, -2] <= 2 * TOLERANCE * factor
    differs = (labels != reference.argmax(axis=1)) & ~tie
    return Agreement(
        name,
        len(rows),
        float(difference.max()),
        int(np.count_nonzero(difference > TOLERANCE * factor)),
        int(np.count_nonzero(difference > REFUSED * factor)),
        int(np.count_nonzero(differs)),
    )


def hard_rows(ensemble: Ensemble, features: Floats32, *, seed: int = 0) -> dict[str, Floats32]:
    """Vectors on which exports go wrong, by kind; each (rows, f), finite, as float32. ``features`` colour the rest."""
    rng = np.random.default_rng(seed)
    known = {feature.name: feature for feature in FEATURES}
    columns = [known.get(name) for name in ensemble.feature_names]
    seen = features if len(features) else np.zeros((1, len(columns)), np.float32)
    seen_low, seen_high = seen.min(axis=0), seen.max(axis=0)
    low = np.array([c.minimum if c else seen_low[n] for n, c in enumerate(columns)], np.float32)
    high = np.array([c.maximum if c else seen_high[n] for n, c in enumerate(columns)], np.float32)
    cold = np.array([c.default if c else seen_low[n] for n, c in enumerate(columns)], np.float32)
    ends = seen[rng.integers(len(seen), size=2 * len(columns))]
    for column in range(len(columns)):
        ends[2 * column, column], ends[2 * column + 1, column] = low[column], high[column]
    return {
        "branches ± one ulp": _branch_rows(ensemble, seen, rng),
        "random over what was seen": _spread(seen_low, seen_high, rng),
        "cold-start defaults": cold[np.newaxis],
        FAR: np.concatenate([_spread(low, high, rng), ends, [low, high, np.zeros_like(low)]]),
    }


def _spread(low: Floats32, high: Floats32, rng: np.random.Generator) -> Floats32:
    """``RANDOM_ROWS`` vectors between ``low`` and ``high``, half of them even, half by magnitude (six decades)."""
    share = rng.uniform(0, 1, (RANDOM_ROWS, len(low)))
    share[::2] = (np.power(1e6, share[::2]) - 1) / (1e6 - 1)
    return (low + share * (high.astype(np.float64) - low)).astype(np.float32)


def _branch_rows(ensemble: Ensemble, seen: Floats32, rng: np.random.Generator) -> Floats32:
    """For every branch, a row that reaches it with its feature at the threshold, and one with it an ulp below."""
    trees = json.loads(ensemble.booster)["learner"]["gradient_booster"]["model"]["trees"]
    branches = [branch for tree in trees for branch in _branches(tree)]
    if len(branches) > BRANCHES:
        branches = [branches[n] for n in rng.choice(len(branches), BRANCHES, replace=False)]
    rows = seen[rng.integers(len(seen), size=2 * len(branches))]
    for number, (feature, threshold, bounds) in enumerate(branches):
        pair = rows[2 * number : 2 * number + 2]
        for constrained, (low, high) in bounds.items():
            pair[:, constrained] = np.clip(pair[0, constrained], low, np.nextafter(high, low))
        pair[0, feature], pair[1, feature] = threshold, np.nextafter(threshold, np.float32(-np.inf))
    return rows


Bounds = dict[int, tuple[np.float32, np.float32]]


def _branches(tree: dict[str, Any]) -> Iterator[tuple[int, np.float32, Bounds]]:
    """Every branch of an XGBoost tree: its feature, its threshold, and low ≤ x < high of the features on its path."""
    limit = np.float32(np.finfo(np.float32).max)
    waiting: list[tuple[int, Bounds]] = [(0, {})]
    while waiting:
        node, bounds = waiting.pop()
        if tree["left_children"][node] == -1:
            continue
        feature, threshold = int(tree["split_indices"][node]), np.float32(tree["split_conditions"][node])
        yield feature, threshold, bounds
        low, high = bounds.get(feature, (-limit, limit))
        waiting.append((tree["left_children"][node], bounds | {feature: (low, threshold)}))
        waiting.append((tree["right_children"][node], bounds | {feature: (threshold, high)}))
