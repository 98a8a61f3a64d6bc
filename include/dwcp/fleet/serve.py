"""Let a published bundle decide in the emulated fleet, through onnxruntime, as a node would."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES, ROLLOUT_BUCKETS
from dwcp.decision import decide
from dwcp.export.runtime import ModelError, OnnxModel
from dwcp.fleet.policy import Choices
from dwcp.rules import choose_by_rules

_TIMED_DECISIONS = 500


class BundlePolicy:
    """The model of a bundle decides a share of the rollout buckets; beyond it the model is logged and rules act.

    Arm ``champion`` with the whole share, ``canary`` with a part of it, ``shadow`` beyond. Zstd runs
    where the model's choice is not surely better, see ``dwcp.decision``.
    """

    def __init__(self, bundle: Path, *, share: float = 1.0) -> None:
        """Load ``bundle`` (``manifest.json``, ``model.onnx``).

        Raises ``ModelError`` if it is incomplete, its model is damaged, or it follows other features or classes.
        """
        if not 0 <= share <= 1:
            raise ModelError(f"a share of {share} is none: give 0 to 1")
        try:
            manifest = json.loads((bundle / "manifest.json").read_text())
            self._model = OnnxModel((bundle / "model.onnx").read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f"{bundle} is no bundle that can be served: {error}") from None
        if self._model.feature_set_digest != FEATURE_SET_DIGEST:
            raise ModelError(
                f"{bundle} was trained on feature set {self._model.feature_set_digest}, not {FEATURE_SET_DIGEST}"
            )
        names = [feature.name for feature in FEATURES]
        missing = sorted(set(self._model.feature_names) - set(names))
        if missing or self._model.classes != CANDIDATES:
            raise ModelError(f"{bundle} takes unknown features {missing} or decides other classes than {CANDIDATES}")
        self.model_version: str | None = str(manifest["version"])
        self._columns = [names.index(name) for name in self._model.feature_names]
        self._buckets = round(share * ROLLOUT_BUCKETS)

    def choose(self, features: NDArray[np.float32], bucket: NDArray[np.int64], /) -> Choices:
        """The model's choice where the bucket lies within the share, the rules' beyond it; predictions everywhere."""
        probabilities, predicted = self._model.predict(features[:, self._columns])
        confidence = probabilities[np.arange(len(predicted)), predicted]
        acts = bucket < self._buckets
        decided = decide(features, probabilities, predicted, self._model.rule)
        acting_arm = "champion" if self._buckets == ROLLOUT_BUCKETS else "canary"
        return Choices(
            executed=np.where(acts, decided.executed, choose_by_rules(features)),
            predicted=predicted,
            confidence=confidence,
            reason=np.where(acts, decided.reason, "rules"),
            arm=np.where(acts, acting_arm, "shadow"),
        )

    def decision_us(self, features: NDArray[np.float32], /) -> NDArray[np.float64]:
        """Real single decisions, timed on this machine and dealt to the rows; the only column that no seed repeats."""
        timed = np.empty(min(_TIMED_DECISIONS, len(features)))
        for place in range(len(timed)):
            began_ns = time.perf_counter_ns()
            self._model.decide(features[place, self._columns])
            timed[place] = (time.perf_counter_ns() - began_ns) / 1e3
        return np.resize(timed, len(features))
