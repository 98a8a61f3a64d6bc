"""The whole ensemble as one TFLite file: the same function as :mod:`dwcp.export.onnx_graph`, from the same parts.

TFLite has no tree operator. Trees are complete tables, evaluated level by level: each step gathers every tree's branch,
the feature that it looks at, and turns left or right. 516 trees of depth 8 take 8 steps of 7 operators in all.
"""

from __future__ import annotations

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dwcp import contract
from dwcp.export.level_tables import LevelTables, level_tables
from dwcp.export.onnx_graph import Booster, ExportError, folded_layers, read_booster
from dwcp.export.tflite_file import RELU, TfliteGraph
from dwcp.training.ensemble import Ensemble

INPUT = "features"
METADATA = "dwcp"
"""The metadata entry that holds version, names, classes, digest and rule as JSON."""
BATCH_GATHER = 5
"""The version of GATHER that knows batch dimensions."""

XNNPACK_AXES = 6
"""The most axes of a tensor that XNNPACK takes."""


def build_tflite(ensemble: Ensemble, *, version: str) -> bytes:
    """Serialise ``ensemble`` as one TFLite file; the same ensemble and version give the same bytes.

    Signature ``serving_default``: ``features`` float32 (n, f) in ``ensemble.feature_names`` order to ``probabilities``
    float32 (n, classes) and ``label`` int64 (n,). Raises ``ExportError`` as ``build_onnx`` does, and on trees of more
    than ``MAX_DEPTH`` levels.
    """
    graph = TfliteGraph()
    features = graph.tensor(INPUT, len(ensemble.feature_names), np.float32)
    by_trees = tree_probabilities(graph, ensemble, features)
    by_network = _network(graph, ensemble, standardised(graph, ensemble, features))
    return blended(graph, ensemble, features, by_trees, by_network, version)


def blended(
    graph: TfliteGraph, ensemble: Ensemble, features: int, by_trees: int, by_network: int, version: str
) -> bytes:
    """The file of a graph in which two tensors hold the probabilities of trees and network."""
    classes = len(ensemble.classes)
    shares = []
    for name, tensor, weight in (
        ("xgboost", by_trees, np.float32(ensemble.xgboost_weight)),
        ("network", by_network, np.float32(1.0 - ensemble.xgboost_weight)),
    ):
        share = graph.tensor(f"{name}_share", classes, np.float32)
        shares.append(graph.operator("MUL", [tensor, graph.constant(f"{name}_weight", weight)], share))
    probabilities = graph.operator("ADD", shares, graph.tensor("probabilities", classes, np.float32))
    label = graph.operator(
        "ARG_MAX",
        [probabilities, graph.constant("class_axis", np.int32(1))],
        graph.tensor("label", None, np.int64),
        outputType=schema.TensorType.INT64,
    )
    described = {
        "version": version,
        "feature_names": json.dumps(list(ensemble.feature_names)),
        "classes": json.dumps(list(ensemble.classes)),
        "feature_set_digest": contract.FEATURE_SET_DIGEST,
        "rule": ensemble.rule.to_json(),
    }
    return graph.serialise(
        {INPUT: features},
        {"probabilities": probabilities, "label": label},
        description="dwcp_compression_selector",
        metadata={METADATA: json.dumps(described, sort_keys=True).encode()},
    )


def tree_probabilities(graph: TfliteGraph, ensemble: Ensemble, features: int) -> int:
    """Softmax over the sum of the trees and the base score."""
    booster = read_booster(ensemble)
    leaves = _leaves(graph, level_tables(booster), features, len(booster.trees))
    margins = _dense(graph, "xgboost_margins", leaves, _summing(booster, len(ensemble.classes)), booster.base_score)
    return softmax(graph, "xgboost_probabilities", margins, len(ensemble.classes))


def _leaves(graph: TfliteGraph, tables: LevelTables, features: int, trees: int) -> int:
    """The leaf that each tree reaches, (n, trees)."""

    def gathered(name: str, table: int, at: int, dtype: type[np.generic], **axes: int) -> int:
        version = BATCH_GATHER if axes else 1
        return graph.operator("GATHER", [table, at], graph.tensor(name, trees, dtype), version=version, **axes)

    # Every row begins at the roots: a branch's place in its level is 2·place + turn, the tree's offset included.
    place = None
    for level, (inputs, thresholds) in enumerate(zip(tables.features, tables.thresholds, strict=True)):
        if place is None:
            value = graph.operator(
                "GATHER",
                [features, graph.constant("root_features", inputs.ravel())],
                graph.tensor("root_values", trees, np.float32),
                axis=1,
            )
            threshold = graph.constant("root_thresholds", thresholds.reshape(1, -1))
        else:
            feature = gathered(f"feature_{level}", graph.constant(f"features_{level}", inputs.ravel()), place, np.int32)
            value = gathered(f"value_{level}", features, feature, np.float32, axis=1, batchDims=1)
            tables_of_level = graph.constant(f"thresholds_{level}", thresholds.ravel())
            threshold = gathered(f"threshold_{level}", tables_of_level, place, np.float32)
        right = graph.operator("GREATER_EQUAL", [value, threshold], graph.tensor(f"right_{level}", trees, np.bool_))
        turn = graph.operator(
            "CAST",
            [right],
            graph.tensor(f"turn_{level}", trees, np.int32),
            inDataType=schema.TensorType.BOOL,
            outDataType=schema.TensorType.INT32,
        )
        if place is None:
            doubled = graph.constant("roots", 2 * np.arange(trees, dtype=np.int32).reshape(1, -1))
        else:
            doubled = graph.operator("ADD", [place, place], graph.tensor(f"doubled_{level}", trees, np.int32))
        place = graph.operator("ADD", [doubled, turn], graph.tensor(f"place_{level}", trees, np.int32))
    if place is None:
        raise ExportError("no tree has a branch: train XGBoost for longer")
    return gathered("leaf", graph.constant("leaves", tables.leaves.ravel()), place, np.float32)


def _summing(booster: Booster, classes: int) -> NDArray[np.float32]:
    """Ones where a tree adds to a class, (trees, classes): the product with the leaves is their sum a class."""
    ones: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[np.asarray(booster.targets)]
    return ones


def standardised(graph: TfliteGraph, ensemble: Ensemble, features: int) -> int:
    """The network's inputs: logarithm and standardiser."""
    inputs = len(ensemble.feature_names)

    def step(kind: str, name: str, *operands: int) -> int:
        return graph.operator(kind, operands, graph.tensor(name, inputs, np.float32))

    not_negative = step("RELU", "not_negative", features)
    above_one = step("ADD", "above_one", not_negative, graph.constant("one", np.float32(1)))
    logged = _exact_log(graph, above_one, inputs)
    centred = step("SUB", "centred", logged, graph.constant("mean", ensemble.mean.reshape(1, -1)))
    return step("DIV", "standardised", centred, graph.constant("scale", ensemble.scale.reshape(1, -1)))


def _exact_log(graph: TfliteGraph, value: int, columns: int) -> int:
    """Logarithm by the runtime's own kernel, in a shape of more axes than XNNPACK takes.

    XNNPACK's logarithm, which the runtime prefers, is off by 1e-7 near 0. A standardiser makes that 1e-5 of a
    probability where a feature spreads over as little as packet loss does.
    """
    wide = graph.operator(
        "RESHAPE",
        [value, graph.constant("many_axes", np.array([-1, *[1] * XNNPACK_AXES, columns], np.int32))],
        graph.tensor("above_one_wide", columns, np.float32, between=XNNPACK_AXES),
    )
    logged = graph.operator("LOG", [wide], graph.tensor("logged_wide", columns, np.float32, between=XNNPACK_AXES))
    narrow = graph.constant("two_axes", np.array([-1, columns], np.int32))
    return graph.operator("RESHAPE", [logged, narrow], graph.tensor("logged", columns, np.float32))


def _network(graph: TfliteGraph, ensemble: Ensemble, value: int) -> int:
    """Dense layers with ReLU between them, softmax."""
    layers = folded_layers(ensemble.network)
    if layers[0][0].shape[0] != len(ensemble.feature_names) or layers[-1][0].shape[1] != len(ensemble.classes):
        raise ExportError("the network's first or last layer does not fit the ensemble's features or classes")
    for number, (kernel, bias) in enumerate(layers):
        value = _dense(graph, f"dense_{number}", value, kernel, bias, relu=number < len(layers) - 1)
    return softmax(graph, "network_probabilities", value, len(ensemble.classes))


def softmax(graph: TfliteGraph, name: str, logits: int, classes: int) -> int:
    """Softmax over the classes."""
    return graph.operator("SOFTMAX", [logits], graph.tensor(name, classes, np.float32), beta=1.0)


def _dense(
    graph: TfliteGraph,
    name: str,
    value: int,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    relu: bool = False,
) -> int:
    """``value @ kernel + bias``; TFLite wants the kernel by output."""
    operands = [value, graph.constant(f"{name}_kernel", kernel.T), graph.constant(f"{name}_bias", bias)]
    options = {"fusedActivationFunction": RELU} if relu else {}
    return graph.operator("FULLY_CONNECTED", operands, graph.tensor(name, kernel.shape[1], np.float32), **options)
