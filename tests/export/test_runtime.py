from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper

import trained
from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES
from dwcp.export import footprint, go_program
from dwcp.export.footprint import FootprintError, measure_footprint, measure_go_footprint
from dwcp.export.forms import FORMS, GO, ONNX, TFLITE, build_forms, load_form
from dwcp.export.model import ModelError
from dwcp.export.tflite_file import TfliteGraph
from dwcp.training.dataset import TEST


@pytest.fixture(scope="module")
def forms():
    return build_forms(trained.ensemble(), version="v1")


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def serialised(forms, form):
    return forms[form]


@pytest.fixture(scope="module")
def model(serialised, form):
    return load_form(form, serialised)


@pytest.fixture(scope="module")
def rows():
    return trained.dataset().only(TEST).features


def test_single_and_batch_give_the_same_choice(model, rows):
    probabilities, labels = model.predict(rows[:300])
    for row, expected, label in zip(rows[:300], probabilities, labels, strict=True):
        decision = model.decide(row)
        np.testing.assert_allclose(decision.probabilities, expected, atol=1e-6)
        assert decision.label == label
        assert decision.confidence == max(decision.probabilities)


def test_a_batch_larger_than_one_call_is_whole(model, rows):
    many = np.tile(rows, (model.BATCH_ROWS * 2 // len(rows) + 1, 1))
    probabilities, labels = model.predict(many)
    np.testing.assert_array_equal(labels, np.tile(model.predict(rows)[1], len(many) // len(rows)))
    assert probabilities.shape == (len(many), 3)


def test_no_rows_give_no_answers(model, rows):
    probabilities, labels = model.predict(rows[:0])
    assert probabilities.shape == (0, 3)
    assert labels.shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_input_is_refused_by_name(model, rows, value):
    bad = rows[:5].copy()
    bad[3, 2] = value
    with pytest.raises(ModelError, match=r"'bandwidth_mbps' of row 3 is .*cold-start default"):
        model.predict(bad)
    with pytest.raises(ModelError, match="bandwidth_mbps"):
        model.decide(bad[3])


def test_a_float64_beyond_float32_is_refused(model, rows):
    bad = rows[:1].astype(np.float64)
    bad[0, 6] = 1e300
    with pytest.raises(ModelError, match="not a finite float32"):
        model.predict(bad)


def test_float64_input_is_judged_as_the_float32_that_it_rounds_to(model, rows):
    np.testing.assert_array_equal(model.predict(rows.astype(np.float64))[0], model.predict(rows)[0])


@pytest.mark.parametrize("shape", [(22,), (3, 21), (1, 2, 22)])
def test_a_wrong_shape_is_refused(model, shape):
    with pytest.raises(ModelError, match="takes"):
        model.predict(np.zeros(shape, np.float32))


def test_damaged_bytes_are_refused(serialised, form):
    for damaged in (b"", b"no model", serialised[: len(serialised) // 2], serialised[:-1]):
        with pytest.raises(ModelError):
            load_form(form, damaged)


def test_each_form_says_what_it_is(model):
    assert model.version == "v1"
    assert model.feature_names == tuple(feature.name for feature in FEATURES)
    assert model.classes == CANDIDATES
    assert model.feature_set_digest == FEATURE_SET_DIGEST
    assert model.rule == trained.ensemble().rule


def test_a_model_of_others_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(ModelError, match="metadata"):
        load_form(ONNX, other.SerializeToString())


def test_a_tflite_file_of_others_is_refused():
    graph = TfliteGraph()
    given = graph.tensor("features", 4, np.float32)
    made = graph.operator("RELU", [given], graph.tensor("y", 4, np.float32))
    other = graph.serialise({"features": given}, {"y": made}, description="other", metadata={})
    with pytest.raises(ModelError, match="metadata is missing"):
        load_form(TFLITE, other)


def test_every_flipped_byte_of_the_go_form_is_seen(forms):
    rng = np.random.default_rng(0)
    for place in rng.integers(len(forms[GO]), size=50):
        flipped = bytearray(forms[GO])
        flipped[place] ^= 1
        with pytest.raises(ModelError):
            load_form(GO, bytes(flipped))


def test_threads_may_share_a_model(model, rows):
    expected = model.predict(rows)[0]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(rows)[0], range(12)):
            np.testing.assert_array_equal(found, expected)


def test_footprint_is_that_of_the_model_and_not_of_its_trainer(serialised, form, rows):
    held = np.ones(40_000_000)  # 320 MB that a child must not be charged with
    found = measure_footprint(serialised, rows, form=form)
    assert held.sum() == len(held)
    assert 0 < found.latency_p50_ms <= found.latency_p95_ms <= found.latency_p99_ms
    assert found.load_ms > 0
    assert 20_000_000 < found.peak_memory_bytes < 200_000_000
    assert found.decisions == footprint.DECISIONS


def test_footprint_of_the_go_form_is_that_of_a_go_process(forms, rows):
    if go_program.built_program("footprint") is None:
        pytest.skip("there is no Go on this machine, or its module does not build")
    found = measure_go_footprint(forms[GO], rows)
    assert 0 < found.latency_p50_ms <= found.latency_p95_ms <= found.latency_p99_ms
    assert 2_000_000 < found.peak_memory_bytes < 100_000_000
    assert found.decisions == footprint.DECISIONS
    with pytest.raises(FootprintError, match="measuring process failed"):
        measure_go_footprint(b"no model", rows)


def test_without_go_its_form_has_no_footprint(forms, rows, monkeypatch):
    monkeypatch.setattr(footprint, "built_program", lambda name: None)
    assert measure_go_footprint(forms[GO], rows) is None


def test_footprint_says_why_it_could_not_measure(rows, forms):
    with pytest.raises(FootprintError, match="cannot load the model"):
        measure_footprint(b"no model", rows)
    with pytest.raises(ValueError, match="at least one"):
        measure_footprint(forms[ONNX], rows[:0])
