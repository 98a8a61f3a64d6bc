"""Class weights, the same for both heads of the ensemble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.training.dataset import DatasetError


def row_weights(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows / (classes · rows of the row's class): each class weighs the same, and the mean weight is 1.

    Raises ``DatasetError`` if a class does not occur: a model cannot learn a choice that it never saw.
    """
    counts = np.bincount(labels, minlength=len(CANDIDATES))
    if (counts == 0).any():
        absent = ", ".join(CANDIDATES[n] for n in np.flatnonzero(counts == 0))
        raise DatasetError(f"no training transfer is labelled {absent}: widen the training window")
    return (len(labels) / (len(CANDIDATES) * counts[labels])).astype(np.float32)
