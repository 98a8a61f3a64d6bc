from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import trained
from dwcp.export.tflite_graph import build_tflite
from dwcp.release import int8
from dwcp.release.int8 import Variant, compare_int8, verdict
from dwcp.training.dataset import TEST, TRAIN

SETTINGS = trained.SETTINGS
FLOAT = Variant("float32", 0.99, 0.0005, 1.0, 1_000_000, 0.08, 0.2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size_bytes": 500_000}, None),
        ({"latency_p50_ms": 0.04}, None),
        ({"size_bytes": 500_000, "mean_regret": 0.0009}, None),
        ({"size_bytes": 500_000, "mean_regret": 0.0011}, "regret of 0.110% is beyond"),
        ({"size_bytes": 500_000, "accuracy": 0.987}, "loses 0.30 points of accuracy"),
        ({"size_bytes": 980_000, "latency_p50_ms": 0.079}, "saves 2.0% of the file and 1.2% of a decision"),
    ],
)
def test_it_must_lose_little_and_save_much(changes, reason):
    reasons = verdict(FLOAT, dataclasses.replace(FLOAT, name="int8", **changes), SETTINGS)
    assert reasons == [] if reason is None else reason in reasons[0]


def test_it_is_built_from_training_rows_alone(monkeypatch):
    monkeypatch.setattr(int8, "DECISIONS", 50)
    ensemble, dataset = trained.ensemble(), trained.dataset()
    float32 = build_tflite(ensemble, version="v")
    found = compare_int8(float32, dataset, ensemble, SETTINGS)
    assert found.float32.agreement == 1.0
    assert 0.9 < found.int8.agreement <= 1.0
    assert found.int8.size_bytes < found.float32.size_bytes
    assert found.float32.size_bytes == len(float32)

    given = []
    real = int8.build_int8_tflite
    monkeypatch.setattr(
        int8, "build_int8_tflite", lambda *arguments, **names: given.append(arguments[1]) or real(*arguments, **names)
    )
    compare_int8(float32, dataset, ensemble, SETTINGS)
    np.testing.assert_array_equal(given[0], dataset.only(TRAIN).features)
    with pytest.raises(ValueError, match="no test rows"):
        compare_int8(float32, dataset.take(dataset.split != TEST), ensemble, SETTINGS)
