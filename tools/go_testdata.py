"""Write ``go/testdata/model.dwcp``, a model small enough for the repository: ``python tools/go_testdata.py``.

Trees that learned the rules on random features, and a network of random weights: no good model, but a whole one. The Go
tests refuse it once the contract or the layout has changed; then it is time to run this again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xgboost

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.decision import Rule
from dwcp.export.go_bundle import build_go_bundle
from dwcp.rules import choose_by_rules
from dwcp.training.ensemble import Ensemble, log_inputs, network_shapes

TARGET = Path(__file__).parent.parent / "go" / "testdata" / "model.dwcp"
ROWS, ROUNDS, DEPTH = 4_000, 6, 5
UNITS = (len(FEATURES), 16, 12, len(CANDIDATES))


def tiny_ensemble() -> Ensemble:
    """The model; the same one every time."""
    rng = np.random.default_rng(0)
    low, high = np.array([(max(feature.minimum, 1e-3), min(feature.maximum, 1e9)) for feature in FEATURES]).T
    features = np.exp(rng.uniform(np.log(low), np.log(high), (ROWS, len(FEATURES)))).astype(np.float32)
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": len(CANDIDATES), "max_depth": DEPTH, "nthread": 1},
        xgboost.DMatrix(features, label=choose_by_rules(features)),
        ROUNDS,
    )
    logged = log_inputs(features)
    shapes = network_shapes(UNITS, normalised=(0, 1))
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {name: np.abs(value) + 1 for name, value in weights.items() if name.endswith(("gamma", "variance"))}
    return Ensemble(
        booster=bytes(booster.save_raw("json")),
        network=weights,
        mean=logged.mean(axis=0),
        scale=logged.std(axis=0),
        xgboost_weight=0.7,
        feature_names=tuple(feature.name for feature in FEATURES),
        rule=Rule(gain_margins=(0.3, 0.2, 0.1)),
    )


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(build_go_bundle(tiny_ensemble(), "testdata"))
