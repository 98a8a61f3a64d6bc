"""An emulated fleet in which a model decides by the costs that a node estimates, well or badly, with no training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from dwcp.contract import CANDIDATES, FEATURES, REGIONS, ROLLOUT_BUCKETS
from dwcp.fleet.library import RECORDED, load_library
from dwcp.fleet.mix import DEFAULT_MIX, load_mix
from dwcp.fleet.policy import Choices
from dwcp.fleet.simulate import simulate
from dwcp.oracle import label_batch
from dwcp.rules import choose_by_rules
from dwcp.watch.profile import predictions_of, profile_of

NAMES = [feature.name for feature in FEATURES]
HISTORY = [NAMES.index(f"{name}_cost_ratio") for name in ("hde", "amst")]
PROBE = [NAMES.index(f"probe_{name}_cost_ratio") for name in ("hde", "amst")]


@dataclass(frozen=True)
class CostPolicy:
    """Chooses the candidate that looks cheapest, or with ``harm`` the most expensive one in that share of transfers.

    Beyond ``share`` of the buckets the rules act and the model is logged in the shadow.
    """

    model_version: str
    harm: float = 0.0
    share: float = 1.0

    def choose(self, features: np.ndarray, bucket: np.ndarray, /) -> Choices:
        rows = len(features)
        looks = np.sqrt(features[:, HISTORY] * features[:, PROBE])
        costs = np.column_stack([looks, np.ones(rows)])
        harmed = (features[:, NAMES.index("entropy")] * 1e4).astype(int) % 100 < 100 * self.harm
        predicted = np.where(harmed, costs.argmax(axis=1), costs.argmin(axis=1))
        acts = bucket < round(self.share * ROLLOUT_BUCKETS)
        return Choices(
            executed=np.where(acts, predicted, choose_by_rules(features)),
            predicted=predicted,
            confidence=np.full(rows, 0.9, np.float32),
            reason=np.where(acts, "model", "rules"),
            arm=np.where(acts, "champion" if self.share == 1 else "canary", "shadow"),
        )

    def decision_us(self, features: np.ndarray, /) -> np.ndarray:
        return np.full(len(features), 30.0)


def week(policy: CostPolicy, *, number: int = 4, transfers: int = 12_000, seed: int = 5) -> pa.Table:
    """A week of the fleet as its nodes log it, without defects; the weeks before it were decided by the rules."""
    return _simulated(policy, number, transfers, seed)


@cache
def _simulated(policy: CostPolicy, number: int, transfers: int, seed: int) -> pa.Table:
    profiles, mix = _library()
    [table] = simulate(
        profiles,
        mix,
        seed=seed,
        first_week=number,
        weeks=1,
        transfers_per_week=transfers,
        policy=policy,
        defects=False,
    )
    return table


@cache
def training_profile(seed: int = 5) -> dict[str, object]:
    """What the weeks before week 4 looked like, as a version trained on them stores it."""
    profiles, mix = _library()
    tables = [
        table.append_column("optimal_compression", label_batch(table, "seed_3_1")["optimal_compression"])
        for table in simulate(profiles, mix, seed=seed, weeks=4, transfers_per_week=12_000, defects=False)
    ]
    table = pa.concat_tables(tables)
    rows = table.filter(table["optimal_compression"].is_valid())
    features = np.stack([np.asarray(rows[feature.column]) for feature in FEATURES], axis=1).astype(np.float32)
    labels = np.array([CANDIDATES.index(label) for label in rows["optimal_compression"].to_pylist()])
    objects = rows["object_id"].to_pylist()
    predicted = CostPolicy("v1").choose(features, np.zeros(len(features), np.int64)).predicted
    return {
        **profile_of(features, labels=labels, objects=objects),
        "predictions": predictions_of(predicted, features, NAMES, objects),
        "quarantined": dict.fromkeys(REGIONS, 0.0),
    }


@cache
def _library() -> tuple:
    return load_library(RECORDED)[0], load_mix(DEFAULT_MIX)
