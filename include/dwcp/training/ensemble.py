"""The model that ships: XGBoost and the network, blended (seed §4.1.3), with everything that inference needs.

``predict_proba`` is the reference that every export is held against. All of it is float32, as exports compute::

    z = (log(1 + max(x, 0)) - mean) / scale                 the network's inputs; the trees take x itself
    h = relu(z @ K0 + b0);  h = gamma (h - mean) / sqrt(variance + epsilon) + beta      twice, then relu, then softmax
    p = w · softmax(trees(x)) + (1 - w) · softmax(network(z))

The logarithm is there because sizes, bandwidths, memory and ratios spread over decades: standardised as they are, most
rows sit at one point. Every feature of the contract is ≥ 0, codes and shares change little, and one rule for all inputs
is one rule to export; trees do not care.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.decision import Rule

BATCH_NORM_EPSILON = 1e-3
"""Keras' default; 1e-5, which other libraries use, costs 4 % of agreement."""
NORM_PARTS = ("gamma", "beta", "mean", "variance")

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class ModelError(ValueError):
    """Bytes are no model, or the parts of a model do not fit one another."""


def log_inputs(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """``log(1 + max(x, 0))`` in float32, written as exports write it."""
    logged: NDArray[np.float32] = np.log(np.maximum(features, np.float32(0)) + np.float32(1))
    return logged


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    """Row-wise softmax, rounded to float32 at the end."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The seed's network with its standardiser.

    ``weights`` maps ``dense_<n>/kernel`` (inputs, units), ``dense_<n>/bias`` and, behind a layer's ReLU,
    ``norm_<n>/gamma|beta|mean|variance`` to float32 arrays. ``mean`` and ``scale`` standardise the logged inputs.
    Raises ``ModelError`` if they do not fit one another.
    """

    feature_names: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        inputs = len(self.feature_names)
        if self.mean.shape != (inputs,) or self.scale.shape != (inputs,):
            raise ModelError(f"the standardiser does not fit {inputs} features")
        units = (inputs, *(self.weights[f"dense_{layer}/kernel"].shape[-1] for layer in range(self.layers)))
        expected = network_shapes(units, [n for n in range(self.layers) if f"norm_{n}/gamma" in self.weights])
        found = {name: value.shape for name, value in self.weights.items()}
        if self.layers == 0 or found != expected:
            raise ModelError(f"the network's weights are {found}, expected {expected}")
        arrays = {"mean": self.mean, "scale": self.scale, **self.weights}
        for name, value in arrays.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise ModelError(f"{name} must be finite float32")

    @property
    def layers(self) -> int:
        """Dense layers, the last one included."""
        return sum(name.startswith("dense_") and name.endswith("/kernel") for name in self.weights)

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the classes, shape (rows, classes).

        In float64 from the logged inputs on: the reference must not add a rounding error of its own to the exports'.
        """
        weights = {name: value.astype(np.float64) for name, value in self.weights.items()}
        value = (log_inputs(features).astype(np.float64) - self.mean) / self.scale
        for layer in range(self.layers):
            value = value @ weights[f"dense_{layer}/kernel"] + weights[f"dense_{layer}/bias"]
            if layer < self.layers - 1:
                value = np.maximum(value, 0.0)
            if f"norm_{layer}/gamma" in weights:
                gamma, beta, mean, variance = (weights[f"norm_{layer}/{part}"] for part in NORM_PARTS)
                value = gamma * (value - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) + beta
        return softmax(value)

    def to_bytes(self) -> bytes:
        """Canonical: equal networks give equal bytes."""
        arrays = {"mean": self.mean, "scale": self.scale, **self.weights}
        return _pack({"feature_names": list(self.feature_names)}, {}, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Network:
        """Raises ``ModelError`` if ``data`` is no network."""
        fields, _, arrays = _unpack(data)
        return _network_of(fields, arrays)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """XGBoost and network over the same inputs.

    ``booster`` is XGBoost's JSON, cut to the best iteration; ``xgboost_weight`` its share (seed: 0.7); ``network``,
    ``mean`` and ``scale`` are the ``Network``'s; ``rule`` says when its choice runs. A row of inputs is
    float32 in ``feature_names`` order; probabilities are in ``classes`` order.
    """

    booster: bytes
    network: Mapping[str, NDArray[np.float32]]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    xgboost_weight: float
    feature_names: tuple[str, ...]
    classes: tuple[str, ...] = CANDIDATES
    rule: Rule = field(default_factory=Rule)

    @cached_property
    def network_part(self) -> Network:
        """The network with its standardiser."""
        return Network(self.feature_names, self.mean, self.scale, self.network)

    def xgboost_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """XGBoost alone, shape (rows, 3)."""
        return booster_proba(self.booster, _checked(features, len(self.feature_names)))

    def network_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network alone, shape (rows, 3)."""
        return self.network_part.predict_proba(_checked(features, len(self.feature_names)))

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of ``classes``, float32, shape (rows, 3).

        Raises ``ValueError`` unless ``features`` is finite float32 of shape (rows, ``len(feature_names)``).
        """
        weight = np.float32(self.xgboost_weight)
        rest = np.float32(1.0 - self.xgboost_weight)
        blended: NDArray[np.float32] = weight * self.xgboost_proba(features) + rest * self.network_proba(features)
        return blended

    def to_bytes(self) -> bytes:
        """Canonical and without pickle: equal models give equal bytes, whenever and wherever they are written."""
        fields = {
            "feature_names": list(self.feature_names),
            "classes": list(self.classes),
            "xgboost_weight": self.xgboost_weight,
            "rule": self.rule.to_json(),
        }
        arrays = {"mean": self.mean, "scale": self.scale, **self.network}
        return _pack(fields, {"booster.json": self.booster}, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ensemble:
        """Raises ``ModelError`` if ``data`` is no ensemble."""
        fields, files, arrays = _unpack(data)
        try:
            booster, weight, classes = files["booster.json"], float(fields["xgboost_weight"]), tuple(fields["classes"])
            rule = Rule.from_json(fields["rule"])
        except KeyError as missing:
            raise ModelError(f"these bytes are no ensemble: {missing} is missing") from None
        part = _network_of(fields, arrays)
        return cls(booster, part.weights, part.mean, part.scale, weight, part.feature_names, classes, rule)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ``to_bytes()``, hexadecimal: names the weights and nothing that was measured or dated."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def assemble(booster: bytes, network: bytes, *, xgboost_weight: float, rule: Rule | None = None) -> Ensemble:
    """Blend what ``train_xgboost`` and ``train_network`` returned for one dataset, under ``decision.fit_rule``'s rule.

    Raises ``ModelError`` if either is no model or they take different numbers of features.
    """
    part = Network.from_bytes(network)
    try:
        inputs = int(json.loads(booster)["learner"]["learner_model_param"]["num_feature"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"these bytes are no XGBoost JSON ({error}): rerun the task that trained it") from None
    if inputs != len(part.feature_names):
        raise ModelError(f"XGBoost takes {inputs} features and the network {len(part.feature_names)}: train both again")
    fields = booster, part.weights, part.mean, part.scale, xgboost_weight, part.feature_names
    return Ensemble(*fields, rule=rule or Rule())


def booster_proba(booster: bytes, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities, shape (rows, 3), of XGBoost's JSON."""
    import xgboost

    model = xgboost.Booster(model_file=bytearray(booster))
    probabilities: NDArray[np.float32] = model.inplace_predict(features)
    return probabilities.astype(np.float32, copy=False)


def network_shapes(units: tuple[int, ...], normalised: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a network whose inputs and layers have ``units``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(pairwise(units)):
        shapes[f"dense_{layer}/kernel"], shapes[f"dense_{layer}/bias"] = (before, after), (after,)
        if layer in normalised:
            shapes |= {f"norm_{layer}/{part}": (after,) for part in NORM_PARTS}
    return shapes


def _checked(features: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    if features.ndim != 2 or features.shape[1] != inputs or features.dtype != np.float32:
        raise ValueError(f"the model takes float32 of shape (rows, {inputs}), got {features.dtype} {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("a feature is NaN or infinite: the contract forbids it, and no answer would be right")
    return features


def _pack(fields: Mapping[str, Any], files: Mapping[str, bytes], arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A zip whose bytes depend on its content alone: sorted, uncompressed, one fixed date."""
    content = {"model.json": json.dumps(fields, sort_keys=True).encode(), **files}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
        content[f"{name}.npy"] = buffer.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.create_system = 3  # else the platform would enter the digest
            archive.writestr(entry, content[name])
    return packed.getvalue()


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes], dict[str, NDArray[np.float32]]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        fields = json.loads(content.pop("model.json"))
        arrays = {
            name.removesuffix(".npy"): np.load(io.BytesIO(content.pop(name)), allow_pickle=False)
            for name in list(content)
            if name.endswith(".npy")
        }
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ModelError(f"these bytes are no model ({error}): rerun the training task that wrote them") from None
    return fields, content, arrays


def _network_of(fields: Mapping[str, Any], arrays: dict[str, NDArray[np.float32]]) -> Network:
    try:
        mean, scale = arrays.pop("mean"), arrays.pop("scale")
        return Network(tuple(fields["feature_names"]), mean, scale, arrays)
    except KeyError as missing:
        raise ModelError(f"these bytes are no network: {missing} is missing") from None
