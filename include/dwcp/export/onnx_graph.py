"""The whole ensemble as one ONNX graph: XGBoost's trees, the standardised network, their blend and the label.

Built with ``onnx.helper`` straight from XGBoost's JSON and the network's weights, so that no converter stands between
what was trained and what ships. What each line guards against was measured; :mod:`dwcp.export.parity` checks it all:

- XGBoost branches on ``x < threshold`` in float32. ``<=`` loses 15 % agreement, a float64 threshold 0.6 %.
- ``base_score`` is one value a class, in margin space (XGBoost 3.1 and later).
- one large tree node makes a process peak at 108-131 MB; the trees are split over nodes that are summed (77-82 MB).
- Keras' batch normalisation uses epsilon 1e-3; it is folded into the layer that follows, in float64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from dwcp import contract
from dwcp.training.ensemble import BATCH_NORM_EPSILON, NORM_PARTS, Ensemble

OPSET = 21
ML_OPSET = 5
IR_VERSION = 10
TREE_NODES = 6
BRANCH_LT = 1
"""``nodes_modes`` of ai.onnx.ml 5: 0 is <=, 1 is <."""
AGGREGATE_SUM = 1
INPUT = "features"
OUTPUTS = ("probabilities", "label")


class ExportError(ValueError):
    """The ensemble has a part that the graph cannot express."""


def build_onnx(ensemble: Ensemble, *, version: str) -> bytes:
    """Serialise ``ensemble`` as one checked ONNX model; the same ensemble and version give the same bytes.

    Input ``features`` float32 (n, f) in ``ensemble.feature_names`` order; outputs ``probabilities`` float32
    (n, classes) and ``label`` int64 (n,). Metadata: version, feature names, classes, the digest of the feature set, the
    rule of decision. Raises ``ExportError`` on categorical splits, other boosters, or parts whose shapes do not fit one
    another.
    """
    graph = _Graph()
    _trees(graph, ensemble)
    _network(graph, ensemble)
    graph.constant("xgboost_weight", np.float32(ensemble.xgboost_weight))
    graph.constant("network_weight", np.float32(1.0 - ensemble.xgboost_weight))
    graph.node("Mul", ["xgboost_probabilities", "xgboost_weight"], "xgboost_share")
    graph.node("Mul", ["network_probabilities", "network_weight"], "network_share")
    graph.node("Add", ["xgboost_share", "network_share"], "probabilities")
    graph.node("ArgMax", ["probabilities"], "label", axis=1, keepdims=0)
    return _serialise(graph, ensemble, version)


class _Graph:
    """Nodes and constants in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[np.float32] | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        node = helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output


def _serialise(graph: _Graph, ensemble: Ensemble, version: str) -> bytes:
    features, classes = len(ensemble.feature_names), len(ensemble.classes)
    model: ModelProto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "dwcp_compression_selector",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", features])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes]),
                helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        ir_version=IR_VERSION,
        producer_name="dwcp",
    )
    helper.set_model_props(
        model,
        {
            "version": version,
            "feature_names": json.dumps(list(ensemble.feature_names)),
            "classes": json.dumps(list(ensemble.classes)),
            "feature_set_digest": contract.FEATURE_SET_DIGEST,
            "rule": ensemble.rule.to_json(),
        },
    )
    checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


# -- XGBoost --


def _trees(graph: _Graph, ensemble: Ensemble) -> None:
    """Softmax over the sum of the trees and the base score."""
    booster = read_booster(ensemble)
    parts = [graph.constant("base_score", booster.base_score.reshape(1, -1))]
    trees, targets = booster.trees, booster.targets
    for part, chosen in enumerate(np.array_split(np.arange(len(trees)), min(TREE_NODES, len(trees)))):
        attributes = tree_attributes([trees[n] for n in chosen], [targets[n] for n in chosen])
        classes = len(ensemble.classes)
        parts.append(
            graph.node("TreeEnsemble", [INPUT], f"trees_{part}", domain="ai.onnx.ml", n_targets=classes, **attributes)
        )
    graph.node("Sum", parts, "xgboost_margins")
    graph.node("Softmax", ["xgboost_margins"], "xgboost_probabilities", axis=1)


@dataclass(frozen=True, slots=True)
class Booster:
    """XGBoost's JSON as far as an export needs it.

    Tree i of ``trees`` adds to class ``targets[i]``; ``base_score`` float32 (classes,) is where margins start.
    """

    trees: Sequence[Mapping[str, Any]]
    targets: Sequence[int]
    base_score: NDArray[np.float32]


def read_booster(ensemble: Ensemble) -> Booster:
    """The booster of ``ensemble``. Raises ``ExportError`` on other boosters and shapes, and on categorical splits."""
    learner = json.loads(ensemble.booster)["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise ExportError(f"cannot export a {booster['name']} booster: train with gbtree")
    trees, targets = booster["model"]["trees"], booster["model"]["tree_info"]
    if not trees:
        raise ExportError("the booster has no trees: train it for at least one round")
    if any(any(tree["split_type"]) for tree in trees):
        raise ExportError("the booster has categorical splits: pass every feature as a number")
    classes = len(ensemble.classes)
    if int(learner["learner_model_param"]["num_class"]) != classes:
        raise ExportError(f"the booster has {learner['learner_model_param']['num_class']} classes, not {classes}")
    if int(learner["learner_model_param"]["num_feature"]) != len(ensemble.feature_names):
        raise ExportError(f"the booster does not take the {len(ensemble.feature_names)} features of the ensemble")
    return Booster(trees, targets, _base_score(learner, classes))


def _base_score(learner: Mapping[str, Any], classes: int) -> NDArray[np.float32]:
    """The boosting's start: one margin a class; older XGBoost writes one number for all."""
    text = learner["learner_model_param"]["base_score"]
    score = np.atleast_1d(np.asarray(json.loads(text), np.float32))
    if score.size not in (1, classes):
        raise ExportError(f"base_score {text} has neither one value nor one a class")
    return np.broadcast_to(score, (classes,))


def tree_attributes(trees: Sequence[Mapping[str, Any]], targets: Sequence[int]) -> dict[str, Any]:
    """The attributes of an ai.onnx.ml 5 ``TreeEnsemble`` of XGBoost's JSON ``trees``; tree i adds to ``targets[i]``."""
    features: list[int] = []
    splits: list[float] = []
    missing_true: list[int] = []
    branch: dict[bool, list[int]] = {True: [], False: []}
    is_leaf: dict[bool, list[int]] = {True: [], False: []}
    roots: list[int] = []
    leaf_targets: list[int] = []
    leaf_weights: list[float] = []

    for tree, target in zip(trees, targets, strict=True):
        left, right = tree["left_children"], tree["right_children"]
        inner = [node for node, child in enumerate(left) if child != -1]
        # XGBoost keeps a leaf's weight where a branch keeps its threshold.
        leaf_at: dict[int, int] = {}
        for node, child in enumerate(left):
            if child == -1:
                leaf_at[node] = len(leaf_weights)
                leaf_targets.append(target)
                leaf_weights.append(tree["split_conditions"][node])
        node_at = {node: len(features) + place for place, node in enumerate(inner)}
        roots.append(len(features))
        if not inner:  # a tree of one leaf: a branch whose two ends are that leaf, as a root must be a branch
            features.append(0)
            splits.append(0.0)
            missing_true.append(0)
            for side in (True, False):
                branch[side].append(leaf_at[0])
                is_leaf[side].append(1)
        for node in inner:
            features.append(tree["split_indices"][node])
            splits.append(tree["split_conditions"][node])
            missing_true.append(tree["default_left"][node])
            for side, child in ((True, left[node]), (False, right[node])):
                branch[side].append(leaf_at[child] if child in leaf_at else node_at[child])
                is_leaf[side].append(int(child in leaf_at))

    return {
        "aggregate_function": AGGREGATE_SUM,
        "post_transform": 0,
        "tree_roots": roots,
        "nodes_featureids": features,
        "nodes_modes": numpy_helper.from_array(np.full(len(features), BRANCH_LT, np.uint8)),
        "nodes_splits": numpy_helper.from_array(np.asarray(splits, np.float32)),
        "nodes_missing_value_tracks_true": missing_true,
        "nodes_truenodeids": branch[True],
        "nodes_trueleafs": is_leaf[True],
        "nodes_falsenodeids": branch[False],
        "nodes_falseleafs": is_leaf[False],
        "leaf_targetids": leaf_targets,
        "leaf_weights": numpy_helper.from_array(np.asarray(leaf_weights, np.float32)),
    }


# -- network --


def _network(graph: _Graph, ensemble: Ensemble) -> None:
    """Logarithm, standardiser, dense layers with ReLU between them, softmax."""
    graph.constant("one", np.float32(1))
    graph.constant("mean", ensemble.mean.reshape(1, -1))
    graph.constant("scale", ensemble.scale.reshape(1, -1))
    graph.node("Relu", [INPUT], "not_negative")
    graph.node("Add", ["not_negative", "one"], "above_one")
    graph.node("Log", ["above_one"], "logged")
    graph.node("Sub", ["logged", "mean"], "centred")
    value = graph.node("Div", ["centred", "scale"], "standardised")
    layers = folded_layers(ensemble.network)
    if layers[0][0].shape[0] != len(ensemble.feature_names) or layers[-1][0].shape[1] != len(ensemble.classes):
        raise ExportError("the network's first or last layer does not fit the ensemble's features or classes")
    for number, (kernel, bias) in enumerate(layers):
        names = [value, graph.constant(f"kernel_{number}", kernel), graph.constant(f"bias_{number}", bias)]
        value = graph.node("Gemm", names, f"dense_{number}")
        if number < len(layers) - 1:
            value = graph.node("Relu", [value], f"relu_{number}")
    graph.node("Softmax", [value], "network_probabilities", axis=1)


def folded_layers(network: Mapping[str, NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernel and bias of every dense layer, each batch normalisation folded into the layer that follows it.

    Normalisation stands behind the ReLU, so it is affine in the next layer's input:
    ``(a·g + s) @ K + b = a @ (g[:, None]·K) + (s @ K + b)``. Folded in float64 and rounded once.
    """
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    gain: NDArray[np.float64] | None = None
    shift: NDArray[np.float64] | None = None
    number = 0
    while f"dense_{number}/kernel" in network:
        kernel = network[f"dense_{number}/kernel"].astype(np.float64)
        bias = network[f"dense_{number}/bias"].astype(np.float64)
        if gain is not None and shift is not None:
            bias = shift @ kernel + bias
            kernel = gain[:, None] * kernel
        layers.append((kernel.astype(np.float32), bias.astype(np.float32)))
        gain = shift = None
        if f"norm_{number}/gamma" in network:
            part = {name: network[f"norm_{number}/{name}"].astype(np.float64) for name in NORM_PARTS}
            gain = part["gamma"] / np.sqrt(part["variance"] + BATCH_NORM_EPSILON)
            shift = part["beta"] - part["mean"] * gain
        number += 1
    if not layers or gain is not None:
        raise ExportError("the network must begin and end with a dense layer")
    return layers
