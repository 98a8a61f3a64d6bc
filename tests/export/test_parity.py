from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import trained
from dwcp.export import onnx_graph, parity
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
def model(ensemble):
    return build_onnx(ensemble, version="v1")


@pytest.fixture(scope="module", autouse=True)
def fewer_random_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "RANDOM_ROWS", 2_000)
        yield


def test_a_sound_export_agrees(model, ensemble, rows):
    found = check_parity(model, ensemble, rows)
    assert found.agrees
    assert 0 < found.max_difference <= 1e-6
    assert {part.name for part in found.agreements} >= {"held-out rows", "branches ± one ulp", "single decisions"}
    assert found.rows > 3_000


def test_agreement_needs_something_to_compare(monkeypatch):
    assert not parity.Parity(()).agrees


def test_it_works_without_held_out_rows(model, ensemble, rows):
    assert check_parity(model, ensemble, rows[:0]).agrees


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
    assert not check_parity(mutated(model, change), ensemble, rows).agrees


def test_a_wrong_epsilon_is_caught(ensemble, rows, monkeypatch):
    monkeypatch.setattr(onnx_graph, "BATCH_NORM_EPSILON", 1e-5)
    assert not check_parity(build_onnx(ensemble, version="v"), ensemble, rows).agrees
