from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import trained
from dwcp.export.int8 import Range, activation_ranges, build_int8_tflite
from dwcp.export.onnx_graph import folded_layers
from dwcp.export.tflite_graph import build_tflite
from dwcp.export.tflite_runtime import TfliteModel
from dwcp.training.dataset import TEST, TRAIN
from dwcp.training.ensemble import softmax


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def representative():
    return trained.dataset().only(TRAIN).features


@pytest.fixture(scope="module")
def rows():
    return trained.dataset().only(TEST).features


@pytest.mark.parametrize("values", [[0.0, 6.0], [-3.0, 5.0], [2.0, 3.0], [-2.0, -1.0], [0.0, 0.0]])
def test_a_range_holds_its_ends_and_zero(values):
    quantization = Range.of(np.array(values, np.float32)).quantization
    scale, zero_point = quantization.scale[0], quantization.zero_point
    lowest, highest = scale * (-128 - zero_point), scale * (127 - zero_point)
    assert lowest <= min(0, *values) + scale / 2
    assert highest >= max(0, *values) - scale / 2
    assert -128 <= zero_point <= 127


def test_the_network_is_in_int8_and_the_trees_are_not(ensemble, representative):
    graph = schema.Model.GetRootAs(build_int8_tflite(ensemble, representative, version="v"), 0).Subgraphs(0)
    kinds = {
        graph.Tensors(number).Name().decode(): graph.Tensors(number).Type() for number in range(graph.TensorsLength())
    }
    kernels = [name for name in kinds if name.startswith("dense_") and name.endswith("_kernel")]
    assert len(kernels) == ensemble.network_part.layers
    assert {kinds[name] for name in kernels} == {schema.TensorType.INT8}
    assert {kinds["leaves"], kinds["thresholds_1"]} == {schema.TensorType.FLOAT32}


def test_it_answers_as_the_arithmetic_says(ensemble, representative, rows):
    """The same integers by numpy: inputs rounded to int8, products summed in int32, rounded again a layer."""
    alone = dataclasses.replace(ensemble, xgboost_weight=0.0)
    found = TfliteModel(build_int8_tflite(alone, representative, version="v")).predict(rows)[0]

    inputs, *outputs = (part.quantization for part in activation_ranges(ensemble, representative))
    scaled = (np.log(np.maximum(rows, 0) + np.float32(1)) - ensemble.mean) / ensemble.scale
    value = np.clip(np.round(scaled / inputs.scale) + inputs.zero_point, -128, 127)
    layers = folded_layers(ensemble.network)
    for number, ((kernel, bias), output) in enumerate(zip(layers, outputs, strict=True)):
        weight_scale = np.abs(kernel).max(axis=0) / 127
        sums = (value - inputs.zero_point) @ np.round(kernel / weight_scale)
        real = (sums + np.round(bias / (inputs.scale * weight_scale))) * inputs.scale * weight_scale
        value = np.clip(np.round(real / output.scale) + output.zero_point, -128, 127)
        if number < len(layers) - 1:
            value = np.maximum(value, output.zero_point)
        inputs = output
    expected = softmax((value - inputs.zero_point) * inputs.scale.astype(np.float64))
    # A value that lies between two integers may be rounded either way, and then moves what follows.
    assert np.median(np.abs(found - expected).max(axis=1)) < 1e-3
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98


def test_it_stays_near_the_float_network(ensemble, representative, rows):
    labels = TfliteModel(build_tflite(ensemble, version="v")).predict(rows)[1]
    found = TfliteModel(build_int8_tflite(ensemble, representative, version="v")).predict(rows)[1]
    assert (found == labels).mean() > 0.97


def test_ranges_come_from_the_rows_that_it_was_given(ensemble, representative):
    few = build_int8_tflite(ensemble, representative[:1], version="v")
    assert few != build_int8_tflite(ensemble, representative, version="v")
    assert build_int8_tflite(ensemble, representative, version="v") == build_int8_tflite(
        ensemble, representative, version="v"
    )
    with pytest.raises(ValueError, match="representative"):
        build_int8_tflite(ensemble, representative[:0], version="v")
