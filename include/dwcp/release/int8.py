"""Is the int8 network worth shipping (seed §4.3)? Held beside the float form on the test rows, by the gate's measures.

It is no fourth form: a bundle would carry it only if it paid, and this says whether it does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURES
from dwcp.decision import decide
from dwcp.export.int8 import build_int8_tflite
from dwcp.export.model import Floats32
from dwcp.export.tflite_runtime import TfliteModel
from dwcp.release import metrics
from dwcp.release.baselines import inputs_of
from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, Dataset
from dwcp.training.ensemble import Ensemble

WORTH = 0.1
"""Share of the file's size or of a decision's time that a variant must save to be worth a file of its own."""
DECISIONS = 3_000
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class Variant:
    """One TFLite file on the test rows: regret of what would run, agreement with the float file's labels.

    Latencies are CPU time of the deciding thread.
    """

    name: str
    accuracy: float
    mean_regret: float
    agreement: float
    size_bytes: int
    latency_p50_ms: float
    latency_p99_ms: float


@dataclass(frozen=True, slots=True)
class Int8Comparison:
    """The float form and the variant with its network in int8."""

    float32: Variant
    int8: Variant
    reasons: tuple[str, ...]
    """Why it does not ship; empty if it is worth it."""


def compare_int8(float32: bytes, dataset: Dataset, ensemble: Ensemble, settings: Settings) -> Int8Comparison:
    """Build the int8 variant of ``ensemble`` and hold it beside ``float32``, its TFLite form, on the test rows.

    The activations' ranges come from the training rows of ``dataset`` alone. Raises ``ValueError`` without test rows.
    """
    test = dataset.only(TEST)
    if not test.rows:
        raise ValueError("no test rows: nothing can be said of the int8 network")
    representative = inputs_of(dataset.only(TRAIN), ensemble.feature_names)
    model = TfliteModel(float32)
    quantised = build_int8_tflite(ensemble, representative, version=model.version)
    files = {"float32": (float32, model), "network in int8": (quantised, TfliteModel(quantised))}
    rows = inputs_of(test, ensemble.feature_names)
    took_ms = _decision_ms([loaded for _, loaded in files.values()], rows)
    float_labels = model.predict(rows)[1]
    variants = []
    for (name, (content, loaded)), latencies in zip(files.items(), took_ms, strict=True):
        probabilities, labels = loaded.predict(rows)
        every = inputs_of(test, tuple(feature.name for feature in FEATURES))
        executed = decide(every, probabilities, labels, loaded.rule).executed
        p50, p99 = np.quantile(latencies, [0.5, 0.99]).tolist()
        variants.append(
            Variant(
                name,
                float((labels == test.labels).mean()),
                float(metrics.regret(test.costs_ms, executed).mean()),
                float((labels == float_labels).mean()),
                len(content),
                p50,
                p99,
            )
        )
    before, after = variants
    return Int8Comparison(before, after, tuple(verdict(before, after, settings)))


def verdict(before: Variant, after: Variant, settings: Settings) -> list[str]:
    """Why ``after`` does not ship: what it loses beyond the gate's tolerances, and that it saves too little."""
    reasons = []
    if after.mean_regret > max(before.mean_regret, settings.gate_regret):
        reasons.append(f"its regret of {after.mean_regret:.3%} is beyond the gate's {settings.gate_regret:.3%}")
    if before.accuracy - after.accuracy > settings.gate_champion_tolerance:
        reasons.append(f"it loses {100 * (before.accuracy - after.accuracy):.2f} points of accuracy")
    smaller = 1 - after.size_bytes / before.size_bytes
    faster = 1 - after.latency_p50_ms / before.latency_p50_ms
    if max(smaller, faster) < WORTH:
        reasons.append(f"it saves {smaller:.1%} of the file and {faster:.1%} of a decision, less than {WORTH:.0%}")
    return reasons


def _decision_ms(models: list[TfliteModel], rows: Floats32) -> NDArray[np.float64]:
    """Time of ``DECISIONS`` decisions of each model, (models, decisions), taken in turns.

    So what else the machine does falls on all of them alike.
    """
    took_ns = np.empty((len(models), WARM_UP + DECISIONS))
    for number in range(WARM_UP + DECISIONS):
        row = rows[number % len(rows)]
        for place, model in enumerate(models):
            began_ns = time.thread_time_ns()
            model.decide(row)
            took_ns[place, number] = time.thread_time_ns() - began_ns
    return took_ns[:, WARM_UP:] / 1e6
