"""The network in int8 (seed §4.3): weights and activations in 8 bits, trees and blend as they are.

Post-training quantisation after Jacob et al. (2018), as the TFLite specification has it: weights symmetric with one
scale an output, activations with one scale and zero point a tensor, biases in int32 at the product of both scales. The
activations' ranges are those that representative rows reach; they must be rows of the training split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dwcp.export.model import Floats32
from dwcp.export.onnx_graph import folded_layers
from dwcp.export.tflite_file import RELU, Quantization, TfliteGraph
from dwcp.export.tflite_graph import INPUT, blended, softmax, standardised, tree_probabilities
from dwcp.training.ensemble import Ensemble, log_inputs

FULLY_CONNECTED_PER_OUTPUT = 12
"""The version of FULLY_CONNECTED that knows one weight scale an output."""
DEQUANTIZE_INT8 = 2
LOWEST, HIGHEST = -128, 127


@dataclass(frozen=True, slots=True)
class Range:
    """What an activation reaches, widened to hold 0, which int8 then represents exactly."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Floats32) -> Range:
        """The range of ``values``."""
        return cls(min(0.0, float(values.min())), max(0.0, float(values.max())))

    @property
    def quantization(self) -> Quantization:
        """The scale and zero point that spread the range over int8."""
        scale = np.float32(max(self.high - self.low, 1e-6) / (HIGHEST - LOWEST))
        zero_point = round(float(np.clip(LOWEST - self.low / scale, LOWEST, HIGHEST)))
        return Quantization(np.atleast_1d(scale), zero_point)


def activation_ranges(ensemble: Ensemble, representative: Floats32) -> list[Range]:
    """Ranges of the network's standardised inputs and of each layer's output on ``representative`` rows (n, f)."""
    return [Range.of(values) for values in _activations(ensemble, representative)]


def _activations(ensemble: Ensemble, rows: Floats32) -> Iterator[Floats32]:
    value: Floats32 = (log_inputs(rows) - ensemble.mean) / ensemble.scale
    yield value
    layers = folded_layers(ensemble.network)
    for number, (kernel, bias) in enumerate(layers):
        value = value @ kernel + bias
        if number < len(layers) - 1:
            value = np.maximum(value, np.float32(0))
        yield value


def build_int8_tflite(ensemble: Ensemble, representative: Floats32, *, version: str) -> bytes:
    """The TFLite form with its network in int8, its ranges from ``representative`` rows (n, f) of the training split.

    Signature and metadata are those of ``build_tflite``. Raises ``ExportError`` as that does, and ``ValueError``
    without rows.
    """
    if not len(representative):
        raise ValueError("no representative rows: give some of the training split")
    graph = TfliteGraph()
    features = graph.tensor(INPUT, len(ensemble.feature_names), np.float32)
    by_trees = tree_probabilities(graph, ensemble, features)
    value = standardised(graph, ensemble, features)
    inputs, *outputs = (part.quantization for part in activation_ranges(ensemble, representative))
    quantised = graph.tensor("standardised_int8", len(ensemble.feature_names), np.int8, inputs)
    value = graph.operator("QUANTIZE", [value], quantised)
    layers = folded_layers(ensemble.network)
    for number, ((kernel, bias), output) in enumerate(zip(layers, outputs, strict=True)):
        options = {"fusedActivationFunction": RELU} if number < len(layers) - 1 else {}
        weights = np.abs(kernel).max(axis=0).clip(1e-9) / HIGHEST
        operands = [
            value,
            graph.constant(
                f"dense_{number}_kernel",
                np.round(kernel / weights).astype(np.int8).T,
                Quantization(weights.astype(np.float32)),
            ),
            graph.constant(
                f"dense_{number}_bias",
                np.round(bias / (inputs.scale * weights)).astype(np.int32),
                Quantization((inputs.scale * weights).astype(np.float32)),
            ),
        ]
        dense = graph.tensor(f"dense_{number}", kernel.shape[1], np.int8, output)
        value = graph.operator("FULLY_CONNECTED", operands, dense, version=FULLY_CONNECTED_PER_OUTPUT, **options)
        inputs = output
    logits = graph.tensor("logits", len(ensemble.classes), np.float32)
    value = graph.operator("DEQUANTIZE", [value], logits, version=DEQUANTIZE_INT8)
    by_network = softmax(graph, "network_probabilities", value, len(ensemble.classes))
    return blended(graph, ensemble, features, by_trees, by_network, version)
