from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose

import trained
from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES
from dwcp.export import onnx_graph
from dwcp.export.onnx_graph import ExportError, build_onnx, folded_layers
from dwcp.export.runtime import OnnxModel
from dwcp.training.dataset import TEST


def edited(ensemble, change):
    """The ensemble with its booster's JSON changed in place by ``change(learner)``."""
    booster = json.loads(ensemble.booster)
    change(booster["learner"])
    return dataclasses.replace(ensemble, booster=json.dumps(booster).encode())


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def rows():
    return trained.dataset().only(TEST).features


def test_graph_is_valid_and_says_what_it_is(ensemble):
    model = onnx.load_from_string(build_onnx(ensemble, version="v1"))
    onnx.checker.check_model(model, full_check=True)
    assert {part.domain: part.version for part in model.opset_import} == {"": 21, "ai.onnx.ml": 5}
    metadata = {part.key: part.value for part in model.metadata_props}
    assert metadata == {
        "version": "v1",
        "feature_names": json.dumps([feature.name for feature in FEATURES]),
        "classes": json.dumps(list(CANDIDATES)),
        "feature_set_digest": FEATURE_SET_DIGEST,
        "rule": ensemble.rule.to_json(),
    }


def test_trees_are_split_so_that_memory_stays_low(ensemble):
    model = onnx.load_from_string(build_onnx(ensemble, version="v1"))
    trees = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    assert 4 <= len(trees) <= 8
    written = len(json.loads(ensemble.booster)["learner"]["gradient_booster"]["model"]["trees"])
    assert sum(len(onnx.helper.get_node_attr_value(node, "tree_roots")) for node in trees) == written


def test_same_ensemble_gives_the_same_bytes(ensemble):
    assert build_onnx(ensemble, version="v1") == build_onnx(ensemble, version="v1")
    assert build_onnx(ensemble, version="v1") != build_onnx(ensemble, version="v2")


def test_every_weight_of_the_blend_is_that_of_the_ensemble(ensemble, rows):
    for weight in (0.0, 0.35, 1.0):
        blended = dataclasses.replace(ensemble, xgboost_weight=weight)
        probabilities, labels = OnnxModel(build_onnx(blended, version="v")).predict(rows)
        assert_allclose(probabilities, blended.predict_proba(rows), atol=1e-6)
        assert (labels == blended.predict_proba(rows).argmax(axis=1)).mean() > 0.999


def test_base_score_is_a_margin_of_each_class(ensemble, rows):
    def change(learner):
        learner["learner_model_param"]["base_score"] = "[2E0,-1E0,5E-1]"

    shifted = edited(ensemble, change)
    assert np.abs(shifted.predict_proba(rows) - ensemble.predict_proba(rows)).max() > 0.1
    assert_allclose(
        OnnxModel(build_onnx(shifted, version="v")).predict(rows)[0], shifted.predict_proba(rows), atol=1e-6
    )


def test_a_tree_of_one_leaf_is_exported(ensemble, rows):
    def change(learner):
        tree = learner["gradient_booster"]["model"]["trees"][0]
        for name in ("left_children", "right_children", "split_indices", "split_conditions", "default_left"):
            tree[name] = tree[name][:1]
        for name in ("split_type", "base_weights", "loss_changes", "parents", "sum_hessian"):
            tree[name] = tree[name][:1]
        tree["left_children"], tree["right_children"], tree["split_conditions"] = [-1], [-1], [0.75]
        tree["tree_param"]["num_nodes"] = "1"

    stump = edited(ensemble, change)
    assert np.abs(stump.predict_proba(rows) - ensemble.predict_proba(rows)).max() > 1e-3
    assert_allclose(OnnxModel(build_onnx(stump, version="v")).predict(rows)[0], stump.predict_proba(rows), atol=1e-6)


def test_batch_normalisation_is_folded_exactly():
    rng = np.random.default_rng(3)
    weights = {
        "dense_0/kernel": rng.normal(size=(4, 5)),
        "dense_0/bias": rng.normal(size=5),
        "norm_0/gamma": rng.uniform(0.5, 2, 5),
        "norm_0/beta": rng.normal(size=5),
        "norm_0/mean": rng.normal(size=5),
        "norm_0/variance": rng.uniform(1e-4, 1e-2, 5),
        "dense_1/kernel": rng.normal(size=(5, 3)),
        "dense_1/bias": rng.normal(size=3),
    }
    inputs = rng.normal(size=(50, 4))
    hidden = np.maximum(inputs @ weights["dense_0/kernel"] + weights["dense_0/bias"], 0)
    normal = weights["norm_0/gamma"] * (hidden - weights["norm_0/mean"]) / np.sqrt(weights["norm_0/variance"] + 1e-3)
    expected = (normal + weights["norm_0/beta"]) @ weights["dense_1/kernel"] + weights["dense_1/bias"]
    (first, first_bias), (second, second_bias) = folded_layers(weights)
    assert_allclose(np.maximum(inputs @ first + first_bias, 0) @ second + second_bias, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda learner: learner["gradient_booster"].update(name="dart"), "dart"),
        (lambda learner: learner["gradient_booster"]["model"].update(trees=[], tree_info=[]), "no trees"),
        (lambda learner: learner["learner_model_param"].update(num_class="4"), "4 classes"),
        (
            lambda learner: learner["learner_model_param"].update(num_feature="5"),
            f"does not take the {len(FEATURES)} features",
        ),
        (lambda learner: learner["learner_model_param"].update(base_score="[1E0,2E0]"), "base_score"),
        (
            lambda learner: learner["gradient_booster"]["model"]["trees"][0].update(split_type=[1]),
            "categorical",
        ),
    ],
)
def test_what_the_graph_cannot_express_is_refused(ensemble, change, message):
    with pytest.raises(ExportError, match=message):
        build_onnx(edited(ensemble, change), version="v")


def test_network_that_ends_in_a_normalisation_is_refused(ensemble):
    weights = {name: value for name, value in ensemble.network.items() if not name.startswith(("dense_1", "dense_2"))}
    with pytest.raises(ExportError, match="dense layer"):
        onnx_graph.folded_layers(weights)
