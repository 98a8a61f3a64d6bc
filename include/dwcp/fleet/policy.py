"""Who decides the fleet's transfers: the interface of a policy, and the rules as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dwcp.rules import choose_by_rules


@dataclass(frozen=True, slots=True)
class Choices:
    """What a policy decides; arrays of shape (rows,).

    ``executed`` indexes ``ALGORITHMS``. ``predicted`` indexes ``CANDIDATES``; it is -1, and ``confidence`` NaN, where
    no model was asked. ``reason`` and ``arm`` are words of the contract. ``version`` is the model that was asked, where
    that differs from row to row; None means the policy's.
    """

    executed: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    reason: NDArray[np.str_]
    arm: NDArray[np.str_]
    version: NDArray[np.str_] | None = None


class Policy(Protocol):
    """Decides transfers, each by its own features alone. ``model_version`` is None where no model is asked."""

    model_version: str | None

    def choose(self, features: NDArray[np.float32], bucket: NDArray[np.int64], /) -> Choices:
        """Choices for features (rows, ``len(FEATURES)``) and rollout buckets (rows,)."""
        ...

    def decision_us(self, features: NDArray[np.float32], /) -> NDArray[np.float64] | None:
        """How long each decision took, in µs, shape (rows,); None if nothing was timed and the fleet may emulate it."""
        ...


class RulesPolicy:
    """No model: the rules decide."""

    model_version: str | None = None

    def choose(self, features: NDArray[np.float32], _bucket: NDArray[np.int64], /) -> Choices:
        """The rules' choice for every row."""
        rows = len(features)
        return Choices(
            executed=choose_by_rules(features),
            predicted=np.full(rows, -1),
            confidence=np.full(rows, np.nan, np.float32),
            reason=np.full(rows, "rules"),
            arm=np.full(rows, "rules"),
        )

    def decision_us(self, _features: NDArray[np.float32], /) -> None:
        """Not timed."""
