"""The ensemble as the Go module loads it: one flat little-endian file that a node checks before it trusts it.

In this order, without gaps (``u2``, ``u4`` unsigned, ``f4``, ``f8`` IEEE floats; a text is a u2 length and UTF-8)::

    magic                  8 bytes, MAGIC
    format                 u4, FORMAT; another one is another layout
    length                 u4, bytes of the whole file
    classes, features      u2, u2
    depth, layers          u2, u2
    trees, samples         u4, u4
    version, digest        two texts: the model's, and that of the feature set
    class names            a text each, in the order of the probabilities
    feature names          a text each, in the order of the inputs
    fallback confidence    f8, and the three gain margins, f8 each: the rule of dwcp.decision
    weights                f4 of XGBoost's probabilities, f4 of the network's
    base score             f4 a class
    tree classes           u1 a tree
    thresholds             f4 (trees, 2^depth - 1), level after level: branch n leads to 2n of the next level where
    tree features          u2 (trees, 2^depth - 1)   x < threshold, and to 2n + 1 elsewhere
    leaves                 f4 (trees, 2^depth)
    mean, scale            f4 a feature: z = (log(1 + max(x, 0)) - mean) / scale
    units                  u2 a layer
    each layer             f4 (units, inputs), a unit's weights side by side, then f4 (units) of bias; ReLU between
    samples                f4 (samples, features), then f4 (samples, classes): what the trained objects answer there
    SHA-256                32 bytes over all before it

The same ensemble and version give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import FEATURE_SET_DIGEST, FEATURES
from dwcp.export.level_tables import level_tables
from dwcp.export.onnx_graph import Booster, ExportError, folded_layers, read_booster
from dwcp.training.ensemble import Ensemble

MAGIC = b"DWCPGO\r\n"
"""The line end shows a file that was copied as text."""
FORMAT = 1
SAMPLES = 64
"""Rows that a node runs before it lets a model decide."""
MOST_BYTES = 64 * 1024 * 1024
MOST_TREES, MOST_LAYERS, MOST_UNITS, MOST_SAMPLES, MOST_TEXT_BYTES = 4_096, 8, 512, 1_024, 256
"""What a node still loads; beyond it a file is refused before memory is taken for it."""
MOST_THRESHOLDS = 1_023
"""Of one feature, different ones: a node keeps their place, in 10 bits. XGBoost's histograms make up to 255."""
_LENGTH_AT = len(MAGIC) + 4


def build_go_bundle(ensemble: Ensemble, version: str) -> bytes:
    """Serialise ``ensemble`` as ``model.dwcp``.

    Raises ``ExportError`` on what ``build_onnx`` refuses, on trees of more than 8 levels, on numbers that are not
    finite, and on more of anything than a node loads.
    """
    booster, layers = read_booster(ensemble), folded_layers(ensemble.network)
    for what, count, most in (
        ("trees", len(booster.trees), MOST_TREES),
        ("layers", len(layers), MOST_LAYERS),
        ("units in a layer", max(len(bias) for _, bias in layers), MOST_UNITS),
    ):
        if count > most:
            raise ExportError(f"the model has {count} {what}; nodes load {most}: train a smaller one")
    tables = level_tables(booster)
    thresholds, features = np.concatenate(tables.thresholds, axis=1), np.concatenate(tables.features, axis=1)
    for column, name in enumerate(ensemble.feature_names):
        if (count := len(np.unique(thresholds[features == column]))) > MOST_THRESHOLDS:
            raise ExportError(f"the trees have {count} thresholds of {name}; nodes load {MOST_THRESHOLDS}: set max_bin")
    samples = sample_rows(ensemble, booster)
    body = bytearray(MAGIC)
    body += struct.pack("<II", FORMAT, 0)
    body += struct.pack("<HHHH", len(ensemble.classes), len(ensemble.feature_names), len(tables.features), len(layers))
    body += struct.pack("<II", len(booster.trees), len(samples))
    for text in (version, FEATURE_SET_DIGEST, *ensemble.classes, *ensemble.feature_names):
        encoded = text.encode()
        if len(encoded) > MOST_TEXT_BYTES:
            raise ExportError(f"the text {text[:40]!r}... has {len(encoded)} bytes; nodes read {MOST_TEXT_BYTES}")
        body += struct.pack("<H", len(encoded)) + encoded
    body += _floats([ensemble.rule.fallback_confidence, *ensemble.rule.gain_margins], "<f8")
    body += _floats([ensemble.xgboost_weight, 1.0 - ensemble.xgboost_weight])
    body += _floats(booster.base_score)
    body += bytes(booster.targets)
    body += _floats(thresholds)
    body += features.astype("<u2").tobytes()
    body += _floats(tables.leaves)
    body += _floats(ensemble.mean) + _floats(ensemble.scale)
    body += struct.pack(f"<{len(layers)}H", *(len(bias) for _, bias in layers))
    for kernel, bias in layers:
        body += _floats(kernel.T) + _floats(bias)
    body += _floats(samples) + _floats(ensemble.predict_proba(samples))
    return sealed(bytes(body) + bytes(hashlib.sha256().digest_size))


def sealed(bundle: bytes) -> bytes:
    """``bundle`` with its length and its digest set right. Raises ``ExportError`` if no node would load it."""
    if len(bundle) > MOST_BYTES:
        raise ExportError(
            f"the Go bundle would have {len(bundle):,} bytes; nodes load {MOST_BYTES:,}: train fewer trees"
        )
    body = bytearray(bundle[: -hashlib.sha256().digest_size])
    body[_LENGTH_AT : _LENGTH_AT + 4] = struct.pack("<I", len(bundle))
    return bytes(body) + hashlib.sha256(body).digest()


def sample_rows(ensemble: Ensemble, booster: Booster) -> NDArray[np.float32]:
    """``SAMPLES`` rows near what the model was trained on: every feature at one of the trees' thresholds or just below.

    A feature that no tree asks for keeps its cold-start default. Drawn by a fixed seed.
    """
    rng = np.random.default_rng(0)
    defaults = {feature.name: feature.default for feature in FEATURES}
    rows = np.tile(np.array([defaults.get(name, 0.0) for name in ensemble.feature_names], np.float32), (SAMPLES, 1))
    for column, thresholds in enumerate(_thresholds(booster, len(ensemble.feature_names))):
        if len(thresholds):
            drawn = thresholds[rng.integers(len(thresholds), size=SAMPLES)]
            below = np.nextafter(drawn, np.float32(-np.inf))
            rows[:, column] = np.where(rng.random(SAMPLES) < 0.5, drawn, below)
    return rows


def _thresholds(booster: Booster, features: int) -> list[NDArray[np.float32]]:
    """Each feature's thresholds, ascending, one of each."""
    found: list[set[float]] = [set() for _ in range(features)]
    for tree in booster.trees:
        for child, feature, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if child != -1:
                found[feature].add(threshold)
    return [np.array(sorted(values), np.float32) for values in found]


def _floats(values: NDArray[np.float32] | Sequence[float], kind: str = "<f4") -> bytes:
    """Raises ``ExportError`` on what no node would load."""
    array = np.ascontiguousarray(values, kind)
    if not np.isfinite(array).all():
        raise ExportError("the ensemble holds a number that is not finite: train it again")
    return array.tobytes()
