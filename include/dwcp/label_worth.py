"""What labels are worth: how often two measurements of one transfer, of so many runs each, agree on the optimum.

A predictor that knew all but the noise would score about that, so a threshold above it cannot be judged: gate and watch
then say that they cannot tell. The ceilings are those that ``dwcp fleet measure`` found for labels of one, three and
five runs (its manifest's ``repeatability.by_runs``); a node logs how many runs it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ceiling_of(measured_runs: NDArray[Any], ceilings: Mapping[int, float]) -> float | None:
    """Mean ceiling of rows whose labels took ``measured_runs`` (rows,); None without rows.

    A row counts as one of the largest number of runs in ``ceilings`` that it reaches, of the smallest if it reaches
    none.
    """
    if len(measured_runs) == 0 or not ceilings:
        return None
    steps = np.array(sorted(ceilings))
    place = np.maximum(np.searchsorted(steps, measured_runs, side="right") - 1, 0)
    return float(np.array([ceilings[int(step)] for step in steps])[place].mean())
