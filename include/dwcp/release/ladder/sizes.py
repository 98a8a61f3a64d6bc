"""Accuracy, regret, latency and bytes for each size of model, so that a knee can be chosen rather than the extreme.

All run as ONNX on one thread of onnxruntime, one row at a time. Regressors are timed without the formula behind them,
which takes a few dozen operations.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.export.onnx_graph import INPUT, IR_VERSION, ML_OPSET, OPSET, build_onnx, tree_attributes
from dwcp.release import metrics
from dwcp.release.ladder.found import ModelSize
from dwcp.release.ladder.regress import PREDICTED_RATIOS, labels_of, predicted_costs_ms, truncated
from dwcp.release.ladder.selectors import Models
from dwcp.release.metrics import Ints
from dwcp.settings import Settings
from dwcp.training.dataset import TEST, VALIDATION, Dataset
from dwcp.training.ensemble import Ensemble, booster_proba

ROUNDS = (10, 25, 50, 100)
"""Rounds that a trained booster is cut to; a model with all of its rounds is always among the sizes."""
DECISIONS = 1_000
KNEE_ACCURACY = 0.001
"""Validation accuracy that a smaller model may lose to the best."""
MOST_BYTES = 10_000_000


def sizes_of(models: Models, dataset: Dataset, settings: Settings) -> tuple[ModelSize, ...]:
    """Every size of every kind. The knee is the fastest within ``KNEE_ACCURACY`` of the best, on validation rows."""
    found = [
        *_trees(models.booster, dataset),
        *_ensembles(models.ensemble, dataset, "all features"),
        *_ensembles(models.small, dataset, "the best features"),
        *_regressors(models, dataset, settings),
        _stacked(models),
    ]
    best = max(size.validation_accuracy for size in found)
    good = [s for s in found if s.validation_accuracy >= best - KNEE_ACCURACY and s.size_bytes <= MOST_BYTES]
    knee = min(good, key=lambda size: size.latency_us, default=None)
    return tuple(dataclasses.replace(size, knee=size is knee) for size in found)


def _trees(booster: bytes, dataset: Dataset) -> Iterator[ModelSize]:
    for rounds in _rounds(booster):
        cut = truncated(booster, rounds)
        said = [booster_proba(cut, dataset.only(split).features).argmax(axis=1) for split in (VALIDATION, TEST)]
        yield _size("XGBoost alone", f"{rounds} rounds", trees_onnx([cut], len(dataset.feature_names)), dataset, said)


def _ensembles(ensemble: Ensemble, dataset: Dataset, features: str) -> Iterator[ModelSize]:
    own = dataset.select(ensemble.feature_names)
    for rounds in _rounds(ensemble.booster):
        cut = dataclasses.replace(ensemble, booster=truncated(ensemble.booster, rounds))
        said = [cut.predict_proba(own.only(split).features).argmax(axis=1) for split in (VALIDATION, TEST)]
        yield _size(f"ensemble, {features}", f"{rounds} rounds", build_onnx(cut, version="size"), own, said)


def _regressors(models: Models, dataset: Dataset, settings: Settings) -> Iterator[ModelSize]:
    regressors = models.regressors
    for rounds in (*(n for n in ROUNDS if n < regressors.rounds), regressors.rounds):
        said = [
            labels_of(predicted_costs_ms(part, regressors.predict(part, rounds), settings.oracle))
            for part in (dataset.only(VALIDATION), dataset.only(TEST))
        ]
        cut = [truncated(booster, rounds) for booster in regressors.boosters.values()]
        yield _size(
            "regressors, argmin", f"{rounds} rounds", trees_onnx(cut, len(dataset.feature_names)), dataset, said
        )


def _stacked(models: Models) -> ModelSize:
    whole, ensemble = models.stacked_dataset, models.stacked
    own = whole.select(ensemble.feature_names)
    said = [ensemble.predict_proba(own.only(split).features).argmax(axis=1) for split in (VALIDATION, TEST)]
    second = _size("ensemble on predicted ratios", "all rounds", build_onnx(ensemble, version="size"), own, said)
    # Its regressors take the features that the contract has.
    known = whole.features[:, : -len(PREDICTED_RATIOS)]
    first = trees_onnx(list(models.regressors.boosters.values()), known.shape[1])
    return dataclasses.replace(
        second,
        size_bytes=second.size_bytes + len(first),
        latency_us=second.latency_us + latency_us(first, known),
    )


def _size(kind: str, name: str, model: bytes, dataset: Dataset, said: Sequence[Ints]) -> ModelSize:
    """``said`` on the validation and on the test rows."""
    figures = []
    for part, labels in zip((VALIDATION, TEST), said, strict=True):
        rows = dataset.only(part)
        figures += [float((labels == rows.labels).mean()), float(metrics.regret(rows.costs_ms, labels).mean())]
    return ModelSize(
        kind=kind,
        name=name,
        inputs=len(dataset.feature_names),
        size_bytes=len(model),
        latency_us=latency_us(model, dataset.only(TEST).features),
        validation_accuracy=figures[0],
        validation_regret=figures[1],
        accuracy=figures[2],
        mean_regret=figures[3],
        knee=False,
    )


def trees_onnx(boosters: Sequence[bytes], inputs: int) -> bytes:
    """The trees of boosters as one ONNX graph, each booster's sums (a class each) among its outputs."""
    trees, targets, outputs = [], [], 0
    for booster in boosters:
        model = json.loads(booster)["learner"]["gradient_booster"]["model"]
        trees += model["trees"]
        targets += [outputs + group for group in model["tree_info"]]
        outputs += max(model["tree_info"]) + 1
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(
        "TreeEnsemble", [INPUT], ["sums"], domain="ai.onnx.ml", n_targets=outputs, **tree_attributes(trees, targets)
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info(INPUT, numbers, ["n", inputs])],
        [helper.make_tensor_value_info("sums", numbers, ["n", outputs])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    serialised: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return serialised


def latency_us(model: bytes, features: NDArray[np.float32]) -> float:
    """Median CPU time of a single decision."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    spent_ns = np.empty(DECISIONS)
    for number in range(DECISIONS):
        row = np.ascontiguousarray(features[number % len(features)][np.newaxis])
        began = time.thread_time_ns()
        session.run(None, {INPUT: row})
        spent_ns[number] = time.thread_time_ns() - began
    return float(np.median(spent_ns)) / 1e3


def _rounds(booster: bytes) -> tuple[int, ...]:
    trees = json.loads(booster)["learner"]["gradient_booster"]["model"]["tree_info"]
    whole = len(trees) // len(CANDIDATES)
    return (*(rounds for rounds in ROUNDS if rounds < whole), whole)
