from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.testing import assert_allclose

import trained
from dwcp.contract import FEATURES
from dwcp.export import level_tables as tables_module
from dwcp.export.level_tables import level_tables
from dwcp.export.onnx_graph import ExportError, read_booster
from dwcp.export.tflite_file import ALIGNMENT
from dwcp.export.tflite_graph import build_tflite
from dwcp.export.tflite_runtime import TfliteModel
from dwcp.training.dataset import TEST


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def rows():
    return trained.dataset().only(TEST).features


@pytest.fixture(scope="module")
def file(ensemble):
    return build_tflite(ensemble, version="v1")


def test_its_signature_names_inputs_and_outputs(file):
    interpreter = Interpreter(model_content=file)
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["features"], "outputs": ["label", "probabilities"]}
    }
    runner = interpreter.get_signature_runner()
    given, answers = runner.get_input_details(), runner.get_output_details()
    assert given["features"]["shape_signature"].tolist() == [-1, len(FEATURES)]
    assert answers["probabilities"]["dtype"] is np.float32
    assert answers["label"]["dtype"] is np.int64


def test_same_ensemble_gives_the_same_bytes(ensemble, file):
    assert build_tflite(ensemble, version="v1") == file
    assert build_tflite(ensemble, version="v2") != file


def test_nothing_in_it_is_quantised(file):
    model = schema.Model.GetRootAs(file, 0)
    graph = model.Subgraphs(0)
    kinds = {graph.Tensors(number).Type() for number in range(graph.TensorsLength())}
    assert schema.TensorType.INT8 not in kinds
    assert {schema.TensorType.FLOAT32, schema.TensorType.INT32} <= kinds


def test_buffers_are_aligned_for_reading_in_place(file):
    model = schema.Model.GetRootAs(file, 0)
    start = np.frombuffer(file, np.uint8).__array_interface__["data"][0]
    seen = 0
    for number in range(model.BuffersLength()):
        if model.Buffers(number).DataLength():
            at = model.Buffers(number).DataAsNumpy().__array_interface__["data"][0] - start
            assert at % ALIGNMENT == 0
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_each_half_is_what_was_trained_with_and_without_xnnpack(ensemble, rows, share, resolver):
    """The logarithm of the delegate that runtimes prefer is not exact: the file must not let it near."""
    blended = dataclasses.replace(ensemble, xgboost_weight=share)
    file = build_tflite(blended, version="v")
    run = Interpreter(model_content=file, experimental_op_resolver_type=resolver).get_signature_runner()
    small = rows.copy()
    small[:, :4] = np.random.default_rng(0).uniform(0, 1e-5, (len(rows), 4))
    for given in (rows, small):
        found, expected = run(features=given), blended.predict_proba(given)
        assert_allclose(found["probabilities"], expected, atol=1.5e-6)
        assert (found["label"] == found["probabilities"].argmax(axis=1)).all()


def test_tables_lead_every_row_to_xgboosts_leaf(ensemble, rows):
    """An independent walk, down the trees and down the tables."""
    booster = read_booster(ensemble)
    tables = level_tables(booster)
    for number, tree in enumerate(booster.trees):
        for row in rows[:5]:
            node = 0
            while tree["left_children"][node] != -1:
                goes_left = row[tree["split_indices"][node]] < np.float32(tree["split_conditions"][node])
                node = tree["left_children" if goes_left else "right_children"][node]
            place = 0
            for inputs, thresholds in zip(tables.features, tables.thresholds, strict=True):
                place = 2 * place + int(row[inputs[number, place]] >= thresholds[number, place])
            assert tables.leaves[number, place] == np.float32(tree["split_conditions"][node])


def test_trees_too_deep_for_tables_are_refused(ensemble, monkeypatch):
    monkeypatch.setattr(tables_module, "MAX_DEPTH", 2)
    with pytest.raises(ExportError, match="xgboost_max_depth"):
        build_tflite(ensemble, version="v")


def test_trees_of_one_leaf_are_refused(ensemble):
    booster = json.loads(ensemble.booster)
    for tree in booster["learner"]["gradient_booster"]["model"]["trees"]:
        for name in ("left_children", "right_children", "split_indices", "split_conditions", "split_type"):
            tree[name] = tree[name][:1]
        tree["left_children"] = tree["right_children"] = [-1]
    stumps = dataclasses.replace(ensemble, booster=json.dumps(booster).encode())
    with pytest.raises(ExportError, match="no tree has a branch"):
        build_tflite(stumps, version="v")


def test_it_stays_small(file):
    assert len(file) < 10_000_000
    assert TfliteModel(file).version == "v1"
