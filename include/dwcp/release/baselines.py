"""What stands beside the model: choices that cost nothing to make, and the model's two halves alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.decision import ZSTD
from dwcp.release.metrics import Ints
from dwcp.rules import choose_by_rules
from dwcp.training.dataset import Dataset
from dwcp.training.ensemble import Ensemble

BLIND = ("majority class", "always zstd")
"""Those that choose without a look at the payload."""


def baseline_choices(test: Dataset, training_labels: Ints, ensemble: Ensemble) -> dict[str, Ints]:
    """Each baseline's choice for every row of ``test``, as an index into ALGORITHMS.

    The majority class is that of the training rows. Raises ``ValueError`` if ``test`` lacks a feature.
    """
    majority = int(np.bincount(training_labels, minlength=len(CANDIDATES)).argmax())
    own = inputs_of(test, ensemble.feature_names)
    return {
        "majority class": np.full(test.rows, majority, np.int64),
        "always zstd": np.full(test.rows, ZSTD, np.int64),
        "rules": choose_by_rules(inputs_of(test, tuple(feature.name for feature in FEATURES))),
        # XGBoost answers no rows with an array of one dimension.
        "XGBoost alone": ensemble.xgboost_proba(own).reshape(-1, len(CANDIDATES)).argmax(axis=1),
        "network alone": ensemble.network_proba(own).argmax(axis=1),
    }


def inputs_of(dataset: Dataset, feature_names: tuple[str, ...]) -> NDArray[np.float32]:
    """The named features of every row, (rows, names). Raises ``ValueError`` naming those that are not there."""
    missing = [name for name in feature_names if name not in dataset.feature_names]
    if missing:
        raise ValueError(f"the dataset has no feature {', '.join(missing)}: build it from the current contract")
    return dataset.select(feature_names).features
