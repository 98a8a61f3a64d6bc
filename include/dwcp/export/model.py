"""What the loaded forms of a model have in common: what they say of themselves, and which input they refuse.

Imports nothing of the training side and no runtime, so that a process that serves one form stays as small as a node's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dwcp.decision import Rule

Floats32 = NDArray[np.float32]
Labels = NDArray[np.int64]


class ModelError(ValueError):
    """The bytes are no model of ours, or the input is none that it may judge."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice: ``label`` indexes the model's classes, ``confidence`` is its probability."""

    label: int
    confidence: float
    probabilities: tuple[float, ...]


class Model(ABC):
    """A loaded model, whatever its form."""

    version: str
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    feature_set_digest: str
    rule: Rule

    runtime: ClassVar[str]
    """What runs the file."""
    BATCH_ROWS: ClassVar[int]
    """Rows a call of the runtime: the intermediate arrays stay in cache, and memory does not grow with the input."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        """Read what the file says of itself; names and classes as JSON. Raises ``ModelError`` if a part is missing."""
        try:
            self.version = metadata["version"]
            self.feature_names = tuple(json.loads(metadata["feature_names"]))
            self.classes = tuple(json.loads(metadata["classes"]))
            self.feature_set_digest = metadata["feature_set_digest"]
            self.rule = Rule.from_json(metadata["rule"])
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"the model's metadata lacks or garbles {error}: export it again") from None

    @abstractmethod
    def _run(self, features: Floats32) -> tuple[Floats32, Labels]:
        """Probabilities and labels of finite ``features`` (n, f), n ≤ ``BATCH_ROWS``."""

    def predict(self, features: NDArray[np.floating]) -> tuple[Floats32, Labels]:
        """Probabilities (n, classes) float32 and labels (n,) int64 of ``features`` (n, f) in ``feature_names`` order.

        Raises ``ModelError`` on a wrong shape, or naming the first row and feature that is not a finite float32: the
        graph would answer label 0 with confidence NaN, and no error.
        """
        checked = self._check(features)
        probabilities = np.empty((len(checked), len(self.classes)), np.float32)
        labels = np.empty(len(checked), np.int64)
        for start in range(0, len(checked), self.BATCH_ROWS):
            part = slice(start, start + self.BATCH_ROWS)
            probabilities[part], labels[part] = self._run(checked[part])
        return probabilities, labels

    def decide(self, features: NDArray[np.floating]) -> Decision:
        """The choice for one transfer, ``features`` (f,). Raises as :meth:`predict` does."""
        probabilities, labels = self._run(self._check(np.asarray(features)[np.newaxis]))
        label = int(labels[0])
        row = probabilities[0].tolist()
        return Decision(label, row[label], tuple(row))

    def _check(self, features: NDArray[np.floating]) -> Floats32:
        if features.ndim != 2 or features.shape[1] != len(self.feature_names):
            raise ModelError(f"features have shape {features.shape}; the model takes (n, {len(self.feature_names)})")
        # Thresholds are float32: a float64 beside one would fall on the wrong side of it.
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(features, np.float32)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ModelError(
                f"feature {self.feature_names[column]!r} of row {row} is {features[row, column]}, "
                "not a finite float32: serve its cold-start default instead"
            )
        return values
