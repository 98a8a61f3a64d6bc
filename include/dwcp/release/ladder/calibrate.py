"""Does the confidence mean what it says? Temperature scaling fitted on validation rows (Guo et al., 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwcp.release.ladder.found import Calibration
from dwcp.release.metrics import Ints, calibration

TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(4.0), 161))
_LEAST_PROBABILITY = 1e-12


def fit_temperature(probabilities: NDArray[np.float32], labels: Ints) -> float:
    """The temperature, of a grid from 1/4 to 4, with the lowest mean negative log-likelihood."""
    rows = np.arange(len(labels))
    losses = [-np.log(scaled(probabilities, t)[rows, labels] + _LEAST_PROBABILITY).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def scaled(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Probabilities whose logarithms were divided by ``temperature``; the order of classes stays."""
    powered = (probabilities.astype(np.float64) + _LEAST_PROBABILITY) ** (1.0 / temperature)
    shares: NDArray[np.float32] = (powered / powered.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def calibrate(
    validation: tuple[NDArray[np.float32], Ints], probabilities: NDArray[np.float32], labels: Ints
) -> Calibration:
    """Fit on ``validation`` (probabilities, labels), judge on the other rows, of which there must be some."""
    temperature = fit_temperature(*validation)
    said = probabilities.argmax(axis=1)
    before, error_before = calibration(probabilities, said, labels)
    after, error_after = calibration(scaled(probabilities, temperature), said, labels)
    if error_before is None or error_after is None:
        raise ValueError("no rows to judge the confidence on")
    return Calibration(temperature, before, after, error_before, error_after)
