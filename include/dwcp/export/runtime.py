"""The exported model as a caller runs it: onnxruntime, one thread, finite input only.

Imports nothing of the training side, so that its process stays as small as a node's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dwcp.decision import Rule

INPUT = "features"
OUTPUTS = ("probabilities", "label")
BATCH_ROWS = 4_096
"""Rows a call of the runtime: the intermediate arrays stay in cache, and memory does not grow with the input."""


class ModelError(ValueError):
    """The bytes are no model of ours, or the input is none that it may judge."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice: ``label`` indexes the model's classes, ``confidence`` is its probability."""

    label: int
    confidence: float
    probabilities: tuple[float, ...]


class OnnxModel:
    """A loaded model. Safe to call from several threads; a call itself runs on one."""

    version: str
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    feature_set_digest: str
    rule: Rule

    def __init__(self, model: bytes) -> None:
        """Load serialised ONNX. Raises ``ModelError`` if it is damaged, or was not made by ``build_onnx``."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # One decision at a time needs no arena that keeps what the largest batch once took.
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each way to be damaged
            raise ModelError(f"onnxruntime cannot load the model ({error}): export it again") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        found = tuple(output.name for output in self._session.get_outputs())
        inputs = self._session.get_inputs()
        try:
            self.version = metadata["version"]
            self.feature_names = tuple(json.loads(metadata["feature_names"]))
            self.classes = tuple(json.loads(metadata["classes"]))
            self.feature_set_digest = metadata["feature_set_digest"]
            self.rule = Rule.from_json(metadata["rule"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"the model's metadata lacks or garbles {error}: export it with build_onnx") from None
        if found != OUTPUTS or [part.name for part in inputs] != [INPUT]:
            raise ModelError(f"the model maps {[part.name for part in inputs]} to {found}, not {INPUT!r} to {OUTPUTS}")
        if inputs[0].shape[1] != len(self.feature_names):
            raise ModelError(f"the model takes {inputs[0].shape[1]} features but names {len(self.feature_names)}")

    def predict(self, features: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Probabilities (n, classes) float32 and labels (n,) int64 of ``features`` (n, f) in ``feature_names`` order.

        Raises ``ModelError`` on a wrong shape, or naming the first row and feature that is not a finite float32: the
        graph would answer label 0 with confidence NaN, and no error.
        """
        checked = self._check(features)
        probabilities = np.empty((len(checked), len(self.classes)), np.float32)
        labels = np.empty(len(checked), np.int64)
        for start in range(0, len(checked), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            probabilities[part], labels[part] = self._session.run(OUTPUTS, {INPUT: checked[part]})
        return probabilities, labels

    def decide(self, features: NDArray[np.floating]) -> Decision:
        """The choice for one transfer, ``features`` (f,). Raises as :meth:`predict` does."""
        probabilities, labels = self._session.run(OUTPUTS, {INPUT: self._check(np.asarray(features)[np.newaxis])})
        label = int(labels[0])
        row = probabilities[0].tolist()
        return Decision(label, row[label], tuple(row))

    def _check(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
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
