"""Are the exported files the function that was trained? The same vectors go through all, and differences are counted.

The vectors are the held-out rows plus those on which an export goes wrong unseen: every branch of every tree one ulp to
either side of its threshold, the contract's ranges and their ends, the cold-start defaults, and single decisions, which
run through another path of the runtimes than batches do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURES
from dwcp.export.forms import FORMS, GO, ONNX, load_form
from dwcp.export.go_program import GoProgram, go_program
from dwcp.export.model import Floats32, Labels, Model
from dwcp.training.ensemble import Ensemble

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
HELD_OUT = "held-out rows"
SINGLE = "single decisions"


@dataclass(frozen=True, slots=True)
class Agreement:
    """One kind of vectors in one form: how far the two functions are apart on them."""

    name: str
    rows: int
    max_difference: float
    outliers: int
    """Rows whose |Δp| is over the tolerance of their kind; shown, as rounding alone makes a few."""
    refused: int
    """Rows whose |Δp| no rounding explains."""
    label_differences: int
    """Rows whose labels differ although their two highest probabilities are no tie."""
    form: str = ONNX
    runtime: str = "onnxruntime"
    """What ran the form's file."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison over all forms and kinds of vectors."""

    agreements: tuple[Agreement, ...]

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that were compared."""
        return tuple(dict.fromkeys(part.form for part in self.agreements))

    def of(self, form: str) -> Parity:
        """The comparison of one form."""
        return Parity(tuple(part for part in self.agreements if part.form == form))

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What ran the files."""
        return tuple(dict.fromkeys(part.runtime for part in self.agreements))

    @property
    def rows(self) -> int:
        """Vectors that every form was given; 0 if one that ships was left out."""
        return min(self.of(form).compared for form in {*FORMS, *self.forms})

    @property
    def compared(self) -> int:
        """Comparisons made, over all forms."""
        return sum(part.rows for part in self.agreements)

    @property
    def max_difference(self) -> float:
        """Largest |Δp| near what was seen; infinite if a file gave a probability that is no number."""
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
        """Rows that show a file to be another function: another label, a large |Δp|, or too many small ones."""
        many = sum(part.outliers for part in self.agreements if part.outliers > OUTLIER_SHARE * part.rows)
        return max(self.label_differences, self.refused, many)

    @property
    def agrees(self) -> bool:
        """Whether every form may stand for what was trained. False if one was not compared."""
        return self.rows > 0 and self.disagreeing == 0


def check_parity(forms: Mapping[str, bytes], ensemble: Ensemble, features: Floats32, *, seed: int = 0) -> Parity:
    """Compare ``forms``, the files by their names, with ``ensemble`` on ``features`` (n, f) and on :func:`hard_rows`.

    The Go form is run by the Go module where there is Go, else by its reader in numpy. Raises ``ModelError`` if a form
    cannot be loaded, or takes other features, and ``GoProgramError`` if what runs the Go form refuses it.
    """
    groups = {HELD_OUT: np.asarray(features, np.float32), **hard_rows(ensemble, features, seed=seed)}
    groups = {name: rows for name, rows in groups.items() if len(rows)}
    singles = {SINGLE: np.concatenate([rows[:SINGLE_ROWS] for name, rows in groups.items() if name != FAR])}
    loaded: dict[str, Model | GoProgram] = {form: load_form(form, content) for form, content in forms.items()}
    # The runtimes leave Python while they compute, so they run side by side.
    with ExitStack() as stack:
        if GO in forms:
            inputs, classes = len(ensemble.feature_names), len(ensemble.classes)
            loaded[GO] = stack.enter_context(go_program(forms[GO], features=inputs, classes=classes))
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        answers: dict[tuple[str, str], Future[tuple[Floats32, Labels]]] = {}
        for form, model in loaded.items():
            for name, rows in groups.items():
                answers[form, name] = pool.submit(model.predict, rows)
            if isinstance(model, Model):
                answers[form, SINGLE] = pool.submit(_one_by_one, model, singles[SINGLE])
        expected = {name: ensemble.predict_proba(rows) for name, rows in {**groups, **singles}.items()}
        return Parity(
            tuple(
                _compare(name, form, loaded[form].runtime, expected[name], *found.result())
                for (form, name), found in answers.items()
            )
        )


def _one_by_one(model: Model, rows: Floats32) -> tuple[Floats32, Labels]:
    decisions = [model.decide(row) for row in rows]
    probabilities = np.array([decision.probabilities for decision in decisions], np.float32)
    return probabilities, np.array([decision.label for decision in decisions], np.int64)


def _compare(
    name: str, form: str, runtime: str, expected: Floats32, probabilities: Floats32, labels: Labels
) -> Agreement:
    reference = np.asarray(expected, np.float64)
    difference = np.abs(probabilities - reference).max(axis=1)
    difference[~np.isfinite(difference)] = np.inf
    ranked = np.sort(reference, axis=1)
    factor = FAR_FACTOR if name == FAR else 1.0
    tie = ranked[:, -1] - ranked[:, -2] <= 2 * TOLERANCE * factor
    differs = (labels != reference.argmax(axis=1)) & ~tie
    return Agreement(
        name,
        len(reference),
        float(difference.max()),
        int(np.count_nonzero(difference > TOLERANCE * factor)),
        int(np.count_nonzero(difference > REFUSED * factor)),
        int(np.count_nonzero(differs)),
        form,
        runtime,
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
    found = [_branches(tree, seen.shape[1]) for tree in trees]
    features, thresholds, low, high = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(features) > BRANCHES:
        drawn = rng.choice(len(features), BRANCHES, replace=False)
        features, thresholds, low, high = features[drawn], thresholds[drawn], low[drawn], high[drawn]
    rows = seen[rng.integers(len(seen), size=len(features))]
    rows = np.repeat(np.clip(rows, low, np.nextafter(high, low)), 2, axis=0)
    branch = np.arange(len(features))
    rows[2 * branch, features] = thresholds
    rows[2 * branch + 1, features] = np.nextafter(thresholds, np.float32(-np.inf))
    return rows


def _branches(tree: Mapping[str, Any], features: int) -> tuple[NDArray[np.int64], Floats32, Floats32, Floats32]:
    """Of every branch its feature and threshold, and low ≤ x < high (branches, features) of the rows that reach it."""
    left, right = tree["left_children"], tree["right_children"]
    asked, thresholds = np.array(tree["split_indices"]), np.array(tree["split_conditions"], np.float32)
    limit = np.finfo(np.float32).max
    low, high = (np.full((len(left), features), bound, np.float32) for bound in (-limit, limit))
    branches = [node for node, child in enumerate(left) if child != -1]
    for node in branches:  # XGBoost numbers a node before its children
        for child in (left[node], right[node]):
            low[child], high[child] = low[node], high[node]
        high[left[node], asked[node]] = low[right[node], asked[node]] = thresholds[node]
    return asked[branches].astype(np.int64), thresholds[branches], low[branches], high[branches]
