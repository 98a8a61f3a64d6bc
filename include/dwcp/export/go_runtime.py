"""The Go form, read by numpy: what a node computes from the same file, written down a second time.

Where there is Go, parity asks the Go module itself; elsewhere this reader, run as a program of the same habits
(:mod:`dwcp.export.go_program`). A bundle's stored sample is checked by this reader everywhere. The layout stands in
:mod:`dwcp.export.go_bundle`.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.decision import Rule
from dwcp.export.go_program import answer_type
from dwcp.export.model import Floats32, Labels, Model, ModelError

MAGIC = b"DWCPGO\r\n"
FORMAT = 1
MAX_DEPTH = 8
_GAIN_MARGINS = 3


class GoModel(Model):
    """A loaded ``model.dwcp``. Safe to call from several threads."""

    runtime = "numpy"
    BATCH_ROWS = 128

    def __init__(self, model: bytes) -> None:
        """Load the flat file. Raises ``ModelError`` if it is damaged, or was not made by ``build_go_bundle``."""
        reader = _Reader(model)
        if reader.take(len(MAGIC)) != MAGIC:
            raise ModelError("this is no model.dwcp: export it again")
        if (found := reader.number("I")) != FORMAT:
            raise ModelError(f"the file has layout {found}; this program reads {FORMAT}: update it")
        digest = hashlib.sha256(model[: -hashlib.sha256().digest_size]).digest()
        if reader.number("I") != len(model) or not model.endswith(digest):
            raise ModelError("the file was cut off or changed: its length or its digest is another")
        classes, features, depth, layers = (reader.number("H") for _ in range(4))
        trees, samples = reader.number("I"), reader.number("I")
        if not 1 <= depth <= MAX_DEPTH or not layers or not trees:
            raise ModelError(f"the file holds {trees} trees of depth {depth} and {layers} layers: export it again")
        version, feature_set_digest = reader.text(), reader.text()
        names = [reader.text() for _ in range(classes + features)]
        confidence, *margins = reader.array("<f8", 1 + _GAIN_MARGINS).tolist()
        super().__init__(
            {
                "version": version,
                "feature_names": json.dumps(names[classes:]),
                "classes": json.dumps(names[:classes]),
                "feature_set_digest": feature_set_digest,
                "rule": Rule(confidence, tuple(margins)).to_json(),
            }
        )
        self._weights = reader.array("<f4", 2)
        self._trees = _Trees(reader, classes, trees, depth)
        self._mean, self._scale = reader.array("<f4", features), reader.array("<f4", features)
        units = [features, *reader.array("<u2", layers).tolist()]
        self._layers = [
            (reader.array("<f4", after, before), reader.array("<f4", after)) for before, after in pairwise(units)
        ]
        if units[-1] != classes:
            raise ModelError(f"the network answers {units[-1]} classes, the model has {classes}: export it again")
        self.sample = reader.array("<f4", samples, features), reader.array("<f4", samples, classes)
        if len(reader.take(hashlib.sha256().digest_size)) != hashlib.sha256().digest_size or reader.left:
            raise ModelError("the file has other parts than its header says: export it again")
        if max(map(np.max, self._trees.features)) >= features:
            raise ModelError("a tree asks for a feature that the model does not have: export it again")

    def _run(self, features: Floats32) -> tuple[Floats32, Labels]:
        value = (np.log(np.maximum(features, np.float32(0)) + np.float32(1)) - self._mean) / self._scale
        for number, (kernel, bias) in enumerate(self._layers):
            value = value @ kernel.T + bias
            if number < len(self._layers) - 1:
                value = np.maximum(value, np.float32(0))
        by_trees, by_network = self._weights
        probabilities: Floats32 = by_trees * _softmax(self._trees.margins(features)) + by_network * _softmax(value)
        return probabilities, probabilities.argmax(axis=1)


class _Trees:
    """Complete trees, walked level by level: branch n of a level has its children at 2n and 2n + 1 of the next."""

    def __init__(self, reader: _Reader, classes: int, trees: int, depth: int) -> None:
        self.base_score: Floats32 = reader.array("<f4", classes)
        targets = reader.array("u1", trees)
        if targets.max() >= classes:
            raise ModelError("a tree adds to a class that the model does not have: export it again")
        self.of_class: Floats32 = np.eye(classes, dtype=np.float32)[targets]
        thresholds, features = (reader.array(kind, trees, 2**depth - 1) for kind in ("<f4", "<u2"))
        # A level's branches stand behind those of the levels above it; here each level is one flat table.
        levels = [slice(2**level - 1, 2 ** (level + 1) - 1) for level in range(depth)]
        self.thresholds: list[Floats32] = [thresholds[:, level].ravel() for level in levels]
        self.features: list[NDArray[np.int64]] = [features[:, level].ravel().astype(np.int64) for level in levels]
        self.leaves: Floats32 = reader.array("<f4", trees, 2**depth).ravel()

    def margins(self, rows: Floats32) -> Floats32:
        """The sum of the leaves that each of ``rows`` (n, f) reaches, a class each."""
        values, row_at = rows.ravel(), rows.shape[1] * np.arange(len(rows))[:, np.newaxis]
        place = np.tile(np.arange(len(self.of_class)), (len(rows), 1))
        for thresholds, features in zip(self.thresholds, self.features, strict=True):
            value = values.take(features.take(place) + row_at)
            place = 2 * place + (value >= thresholds.take(place))
        leaves = self.leaves.take(place)
        margins: Floats32 = leaves @ self.of_class + self.base_score
        return margins


def _softmax(logits: Floats32) -> Floats32:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats32 = exponent / exponent.sum(axis=1, keepdims=True)
    return shares


class _Reader:
    """Parts of a file in their order; each is checked to be there before it is taken."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._at

    def take(self, size_bytes: int) -> bytes:
        """Raises ``ModelError`` if there are fewer bytes left."""
        if size_bytes > self.left:
            raise ModelError("the file ends before its last part: it was cut off")
        self._at += size_bytes
        return self._data[self._at - size_bytes : self._at]

    def number(self, kind: str) -> int:
        """A number of the struct format ``kind``."""
        (found,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(found)

    def text(self) -> str:
        """A text behind its length."""
        try:
            return self.take(self.number("H")).decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"the file holds a name that is no text ({error}): export it again") from None

    def array(self, kind: str, *shape: int) -> NDArray[Any]:
        """An array of ``kind`` and ``shape``, read-only."""
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).reshape(shape)


def _answer(model: GoModel, given: bytes) -> bytes:
    """The answers to float32 rows as the Go module's parity program writes them."""
    rows = np.frombuffer(given, "<f4").reshape(-1, len(model.feature_names))
    probabilities, labels = model.predict(rows)
    answers = np.empty(len(rows), answer_type(len(model.classes)))
    answers["probabilities"], answers["label"] = probabilities, labels
    return answers.tobytes()


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(_answer(GoModel(Path(sys.argv[1]).read_bytes()), sys.stdin.buffer.read()))
    except ModelError as error:
        sys.exit(str(error))
