"""How long a decision takes when the libraries that trained the model answer it, or a session is made for each call.

They stand beside the forms in ``dwcp parity``, to show what an export is worth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.training.ensemble import Ensemble

CALLS = {"XGBClassifier.predict_proba": 500, "Keras predict": 30, "an onnxruntime session a call": 60}
"""Decisions timed; they take from a millisecond to a hundred."""
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Naive:
    """A way to decide, and the time that passes in one decision. ``part`` says what of the ensemble it answers."""

    name: str
    part: str
    decisions: int
    latency_p50_ms: float
    latency_p99_ms: float


def time_naive(ensemble: Ensemble, onnx: bytes, features: NDArray[np.float32]) -> list[Naive]:
    """Time each way on single rows of ``features`` (n, f), n ≥ 1, in this process."""
    ways = (
        ("XGBClassifier.predict_proba", "the trees alone", _classifier(ensemble)),
        ("Keras predict", "the network alone", _keras(ensemble)),
        ("an onnxruntime session a call", "the ensemble", _session_a_call(onnx)),
    )
    return [_timed(name, part, decide, features) for name, part, decide in ways]


Decide = Callable[[NDArray[np.float32]], object]


def _timed(name: str, part: str, decide: Decide, features: NDArray[np.float32]) -> Naive:
    for number in range(WARM_UP):
        decide(features[number % len(features)][np.newaxis])
    took_ns = np.empty(CALLS[name])
    for number in range(len(took_ns)):
        row = features[number % len(features)][np.newaxis]
        began = time.perf_counter_ns()
        decide(row)
        took_ns[number] = time.perf_counter_ns() - began
    p50, p99 = np.quantile(took_ns / 1e6, [0.5, 0.99]).tolist()
    return Naive(name, part, len(took_ns), p50, p99)


def _classifier(ensemble: Ensemble) -> Decide:
    import xgboost

    classifier = xgboost.XGBClassifier()
    classifier.load_model(bytearray(ensemble.booster))
    decide: Decide = classifier.predict_proba
    return decide


def _keras(ensemble: Ensemble) -> Decide:
    """The network as Keras runs it, on inputs that are standardised already."""
    import keras

    from dwcp.training.ensemble import BATCH_NORM_EPSILON, NORM_PARTS

    network, layers = ensemble.network, [keras.Input((len(ensemble.feature_names),))]
    depth = ensemble.network_part.layers
    for number in range(depth):
        units = len(network[f"dense_{number}/bias"])
        activation = "relu" if number < depth - 1 else "softmax"
        layers.append(keras.layers.Dense(units, activation, name=f"dense_{number}"))
        if f"norm_{number}/gamma" in network:
            layers.append(keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"norm_{number}"))
    model = keras.Sequential(layers)
    for layer in model.layers:
        kind, _, number = layer.name.partition("_")
        parts = ("kernel", "bias") if kind == "dense" else NORM_PARTS
        layer.set_weights([network[f"{kind}_{number}/{part}"] for part in parts])

    def decide(row: NDArray[np.float32]) -> object:
        return model.predict(row, verbose=0)

    return decide


def _session_a_call(onnx: bytes) -> Decide:
    import onnxruntime

    def decide(row: NDArray[np.float32]) -> object:
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        return session.run(None, {"features": row})

    return decide
