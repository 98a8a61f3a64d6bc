from __future__ import annotations

import dataclasses
import json

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper

import trained
from dwcp.export import go_program, onnx_graph, parity
from dwcp.export.forms import FORMS, GO, ONNX, TFLITE, build_forms
from dwcp.export.go_program import GoProgramError
from dwcp.export.onnx_graph import build_onnx
from dwcp.export.parity import check_parity, hard_rows
from dwcp.training.dataset import TEST


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def rows():
    return trained.dataset().only(TEST).features


@pytest.fixture(scope="module")
def forms(ensemble):
    return build_forms(ensemble, version="v1")


@pytest.fixture(scope="module")
def model(forms):
    return forms[ONNX]


@pytest.fixture(params=["Go", "numpy"])
def runtime_of_go(request, monkeypatch):
    """What runs the Go form: the Go module, where there is Go, and its reader in numpy, as on machines without."""
    if request.param == "numpy":
        monkeypatch.setattr(go_program, "built_program", lambda name: None)
    elif go_program.built_program("parity") is None:
        pytest.skip("there is no Go on this machine, or its module does not build")
    return request.param


@pytest.fixture(scope="module", autouse=True)
def fewer_random_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "RANDOM_ROWS", 2_000)
        yield


def test_a_sound_export_agrees(forms, ensemble, rows, runtime_of_go):
    found = check_parity(forms, ensemble, rows)
    assert found.agrees
    assert found.forms == FORMS
    assert found.of(GO).runtimes == (runtime_of_go,)
    assert found.rows > 3_000
    for form in (ONNX, TFLITE):
        compared = found.of(form)
        assert 0 < compared.max_difference <= 1e-6
        assert {part.name for part in compared.agreements} >= {
            "held-out rows",
            "branches ± one ulp",
            "single decisions",
        }


def test_one_form_alone_is_no_agreement(forms, ensemble, rows):
    found = check_parity({ONNX: forms[ONNX]}, ensemble, rows)
    assert found.disagreeing == 0
    assert found.rows == 0
    assert not found.agrees


def test_agreement_needs_something_to_compare(monkeypatch):
    assert not parity.Parity(()).agrees


def test_it_works_without_held_out_rows(forms, ensemble, rows):
    assert check_parity(forms, ensemble, rows[:0]).agrees


def test_every_branch_is_reached_on_both_sides(ensemble, rows):
    """An independent walk: the hard rows visit every branch of every tree, and go both ways at it."""
    vectors = hard_rows(ensemble, rows)["branches ± one ulp"]
    trees = json.loads(ensemble.booster)["learner"]["gradient_booster"]["model"]["trees"]
    taken, branches = set(), 0
    for number, tree in enumerate(trees):
        branches += sum(child != -1 for child in tree["left_children"])
        waiting = [(0, np.arange(len(vectors)))]
        while waiting:
            node, here = waiting.pop()
            if tree["left_children"][node] == -1 or not len(here):
                continue
            left = vectors[here, tree["split_indices"][node]] < np.float32(tree["split_conditions"][node])
            for side, child in ((True, tree["left_children"][node]), (False, tree["right_children"][node])):
                if (left == side).any():
                    taken.add((number, node, side))
                waiting.append((child, here[left == side]))
    assert branches > 500
    assert len(taken) == 2 * branches


def edited(ensemble, change):
    """The ensemble after ``change(its trees, their classes, its network's weights)``."""
    booster = json.loads(ensemble.booster)
    model = booster["learner"]["gradient_booster"]["model"]
    network = {name: value.copy() for name, value in ensemble.network.items()}
    change(model["trees"], model["tree_info"], network)
    return dataclasses.replace(ensemble, booster=json.dumps(booster).encode(), network=network)


def a_threshold_by_one_ulp(trees, classes, network):
    tree = trees[len(trees) // 2]
    node = next(node for node, child in enumerate(tree["left_children"]) if node and child != -1)
    moved = np.nextafter(np.float32(tree["split_conditions"][node]), np.float32(np.inf))
    tree["split_conditions"][node] = float(moved)


def a_leaf(trees, classes, network):
    node = trees[0]["left_children"].index(-1)
    trees[0]["split_conditions"][node] += 0.001


def a_weight(trees, classes, network):
    network["dense_1/kernel"][0, 0] += 0.5


def two_trees_labels(trees, classes, network):
    classes[0], classes[1] = classes[1], classes[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [a_threshold_by_one_ulp, a_leaf, a_weight, two_trees_labels])
def test_a_form_that_is_off_by_one_number_is_caught(forms, ensemble, rows, form, change):
    """One number of the exported file is another, and its file is sound in every other respect."""
    mutant = build_forms(edited(ensemble, change), version="v1")[form]
    assert mutant != forms[form]
    found = check_parity(forms | {form: mutant}, ensemble, rows)
    assert not found.agrees
    assert found.of(form).disagreeing
    assert not any(found.of(other).disagreeing for other in FORMS if other != form)


def test_a_swapped_label_of_the_tflite_form_is_caught(forms, ensemble, rows):
    """The signature hands out the network's probabilities as the model's: a slip of names, not of numbers."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(forms[TFLITE], 0))
    (signature,), (graph,) = model.signatureDefs, model.subgraphs
    names = [tensor.name for tensor in graph.tensors]
    slipped = names.index(b"network_probabilities")
    next(part for part in signature.outputs if part.name == b"probabilities").tensorIndex = slipped
    graph.outputs = [slipped, *graph.outputs.tolist()[1:]]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    assert check_parity(forms, ensemble, rows).agrees
    assert check_parity(forms | {TFLITE: bytes(builder.Output())}, ensemble, rows).of(TFLITE).disagreeing


def mutated(model: bytes, change) -> bytes:
    graph = onnx.load_from_string(model)
    change(graph.graph)
    return graph.SerializeToString()


def trees_of(graph):
    return [node for node in graph.node if node.op_type == "TreeEnsemble"]


def set_attribute(node, name, value):
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def one_threshold_by_one_ulp(graph):
    node = trees_of(graph)[3]
    splits = numpy_helper.to_array(helper.get_node_attr_value(node, "nodes_splits")).copy()
    splits[len(splits) // 2] = np.nextafter(splits[len(splits) // 2], np.float32(np.inf))
    set_attribute(node, "nodes_splits", numpy_helper.from_array(splits))


def less_or_equal_for_less(graph):
    for node in trees_of(graph):
        modes = numpy_helper.to_array(helper.get_node_attr_value(node, "nodes_modes"))
        set_attribute(node, "nodes_modes", numpy_helper.from_array(np.zeros_like(modes)))


def one_leaf(graph):
    node = trees_of(graph)[0]
    weights = numpy_helper.to_array(helper.get_node_attr_value(node, "leaf_weights")).copy()
    weights[5] += 0.001
    set_attribute(node, "leaf_weights", numpy_helper.from_array(weights))


def two_classes_of_one_node_swapped(graph):
    node = trees_of(graph)[1]
    targets = helper.get_node_attr_value(node, "leaf_targetids")
    set_attribute(node, "leaf_targetids", [{0: 1, 1: 0}.get(target, target) for target in targets])


def constant(graph, name):
    return next(part for part in graph.initializer if part.name == name)


def one_weight_of_the_network(graph):
    kernel = constant(graph, "kernel_0")
    value = numpy_helper.to_array(kernel).copy()
    value[0, :] += 0.01
    kernel.CopyFrom(numpy_helper.from_array(value, "kernel_0"))


def no_base_score(graph):
    score = constant(graph, "base_score")
    score.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(score)), "base_score"))


def label_of_the_network_alone(graph):
    next(node for node in graph.node if node.op_type == "ArgMax").input[0] = "network_probabilities"


def not_a_number(graph):
    mean = constant(graph, "mean")
    mean.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(mean), np.nan), "mean"))


@pytest.mark.parametrize(
    "change",
    [
        one_threshold_by_one_ulp,
        less_or_equal_for_less,
        one_leaf,
        two_classes_of_one_node_swapped,
        one_weight_of_the_network,
        no_base_score,
        label_of_the_network_alone,
        not_a_number,
    ],
)
def test_a_mutated_artifact_is_caught(model, ensemble, rows, change):
    assert check_parity({ONNX: mutated(model, change)}, ensemble, rows).disagreeing


def test_a_wrong_epsilon_is_caught(ensemble, rows, monkeypatch):
    monkeypatch.setattr(onnx_graph, "BATCH_NORM_EPSILON", 1e-5)
    assert check_parity({ONNX: build_onnx(ensemble, version="v")}, ensemble, rows).disagreeing


def test_what_runs_the_go_form_says_why_it_cannot(forms, ensemble, rows, runtime_of_go):
    features, classes = len(ensemble.feature_names), len(ensemble.classes)
    with (
        go_program.go_program(b"no model", features=features, classes=classes) as program,
        pytest.raises(GoProgramError, match=rf"{runtime_of_go} cannot run model\.dwcp: .+"),
    ):
        program.predict(rows)
    with (
        go_program.go_program(forms[GO], features=features, classes=classes) as program,
        pytest.raises(GoProgramError, match="the model takes"),
    ):
        program.predict(rows[:, 1:])


def test_where_go_fails_to_build_the_form_is_read_by_numpy(monkeypatch, tmp_path, caplog):
    (tmp_path / "go.mod").write_text("module broken\n")
    monkeypatch.setattr(go_program, "SOURCES", tmp_path)
    monkeypatch.setattr(go_program.shutil, "which", lambda name: "/bin/false")
    go_program._built.cache_clear()
    try:
        assert go_program.built_program("parity") is None
    finally:
        go_program._built.cache_clear()
    assert "read by numpy" in caplog.text
