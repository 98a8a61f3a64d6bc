"""What a node runs once the model has spoken: never worse than zstd by what the node knows (seed §7.2).

The model's choice runs where its gain over zstd is positive for as many transfers as ``LEVEL`` says, among those whose
gain is estimated alike; everywhere else zstd runs, and the reason says whether the model was unsure or the gain too
small. A low confidence alone does not call for zstd: most such rows lie between two candidates that both beat it by
far, and zstd would then cost more than the wrong one of them.

The estimate is the cost structure's: by the object's own past where the node has one, else by probe. It learns from no
row, so its margins are fitted on all labelled rows before the test's, one for each source of history: the estimated
gain from which on ``LEVEL`` of the transfers did gain. One quantile of all errors would not do: the error grows with
the gain, and what keeps large gains safe would send every small one to zstd.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, BASELINE, CANDIDATES, FEATURES

LEVEL = 0.8
"""Share of transfers at a margin whose gain must be positive. A higher level sends more transfers to zstd that would
have gained than it saves from being worse than it."""
ZSTD = ALGORITHMS.index(BASELINE)
FEWEST_ROWS = 30
"""A margin fitted on fewer rows than this says nothing: zstd runs."""
ALWAYS_ZSTD = 1e9
_AT = {feature.name: position for position, feature in enumerate(FEATURES)}
_BY_PAST = tuple(_AT[f"{name}_cost_ratio"] for name in ("hde", "amst", "zstd"))
_BY_PROBE = tuple(_AT[f"probe_{name}_cost_ratio"] for name in ("hde", "amst", "zstd"))
_SOURCES = 3
_OWN_PAST = 2
_LEAST_RATIO = 1e-6


@dataclass(frozen=True, slots=True)
class Rule:
    """When the model's choice runs.

    ``gain_margins`` are by ``history_source`` (none, the data type's, the object's): what the estimated logarithm of
    zstd's cost over the choice's must exceed. ``fallback_confidence`` is the seed's 0.6.
    """

    fallback_confidence: float = 0.6
    gain_margins: tuple[float, ...] = (0.0,) * _SOURCES

    def __post_init__(self) -> None:
        if len(self.gain_margins) != _SOURCES or not all(margin >= 0 for margin in self.gain_margins):
            raise ValueError(f"a rule has {_SOURCES} margins of 0 or more, not {self.gain_margins}")

    def to_json(self) -> str:
        """For a model's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """The inverse. Raises ``ValueError`` if ``text`` is no rule."""
        try:
            fields = json.loads(text)
            return cls(float(fields["fallback_confidence"]), tuple(map(float, fields["gain_margins"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no rule of decision: {error}") from None


@dataclass(frozen=True, slots=True)
class Decisions:
    """``executed`` indexes ``ALGORITHMS``; ``reason`` is a word of the contract. Both of shape (rows,)."""

    executed: NDArray[np.int64]
    reason: NDArray[np.str_]


def estimated_log_costs(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of each algorithm's estimated cost over that of sending uncompressed; (rows, 4) in ALGORITHMS order.

    ``features`` has shape (rows, ``len(FEATURES)``) in contract order.
    """
    own = features[:, _AT["history_source"]] >= _OWN_PAST
    ratios = np.where(own[:, None], features[:, _BY_PAST], features[:, _BY_PROBE]).astype(np.float64)
    hde, amst, zstd = np.log(np.maximum(ratios, _LEAST_RATIO)).T
    by_name = {"hde": hde, "amst": amst, "none": np.zeros(len(features)), "zstd": zstd}
    return np.column_stack([by_name[name] for name in ALGORITHMS])


def decide(
    features: NDArray[np.float32], probabilities: NDArray[np.float32], labels: NDArray[np.int64], rule: Rule
) -> Decisions:
    """What runs for the model's ``labels`` (rows,), indices into CANDIDATES, and ``probabilities`` (rows, 3)."""
    costs = estimated_log_costs(features)
    gain = costs[:, ZSTD] - costs[np.arange(len(labels)), labels]
    worth = gain > np.asarray(rule.gain_margins)[_source(features)]
    sure = probabilities.max(axis=1) >= rule.fallback_confidence
    return Decisions(
        executed=np.where(worth, labels, ZSTD),
        reason=np.where(worth, "model", np.where(sure, "not_worth_it", "low_confidence")),
    )


def fit_rule(
    features: NDArray[np.float32], costs_ms: NDArray[np.float64], *, fallback_confidence: float, level: float = LEVEL
) -> Rule:
    """Margins from labelled rows before the test's: ``costs_ms`` (rows, 4) in ALGORITHMS order.

    The share of gains is an isotonic regression on the estimated gain of the choice that the estimate itself prefers,
    where it is most likely too good.
    """
    from sklearn.isotonic import isotonic_regression

    estimated, true = estimated_log_costs(features), np.log(costs_ms)
    choice = estimated[:, : len(CANDIDATES)].argmin(axis=1)
    rows, source = np.arange(len(choice)), _source(features)
    gain = estimated[:, ZSTD] - estimated[rows, choice]
    gained = true[:, ZSTD] > true[rows, choice]
    margins = []
    for number in range(_SOURCES):
        order = np.flatnonzero(source == number)
        order = order[np.argsort(gain[order], kind="stable")]
        share = isotonic_regression(gained[order].astype(np.float64)) if len(order) >= FEWEST_ROWS else np.empty(0)
        enough = order[share >= level] if len(share) else order[:0]
        margins.append(max(0.0, float(gain[enough[0]])) if len(enough) else ALWAYS_ZSTD)
    return Rule(fallback_confidence, tuple(margins))


def _source(features: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.clip(features[:, _AT["history_source"]], 0, _SOURCES - 1).astype(np.int64)
