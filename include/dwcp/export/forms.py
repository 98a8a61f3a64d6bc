"""The forms in which one trained ensemble ships: each a file, what writes it, and what runs it here.

Writers and runtimes load only when they are used: who serves one form needs no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwcp.export.model import Model
    from dwcp.training.ensemble import Ensemble

ONNX, TFLITE, GO = "model.onnx", "model.tflite", "model.dwcp"
FORMS = (ONNX, TFLITE, GO)
"""File names, in a bundle and in the registry. ONNX is what the evaluation judges; parity shows the others the same."""


def build_forms(ensemble: Ensemble, *, version: str) -> dict[str, bytes]:
    """Every form of ``ensemble`` by its file name. Raises ``ExportError`` on a part that one cannot express."""
    from dwcp.export.go_bundle import build_go_bundle
    from dwcp.export.onnx_graph import build_onnx
    from dwcp.export.tflite_graph import build_tflite

    return {
        ONNX: build_onnx(ensemble, version=version),
        TFLITE: build_tflite(ensemble, version=version),
        GO: build_go_bundle(ensemble, version),
    }


def load_form(name: str, content: bytes) -> Model:
    """The model in the file ``name``, ready to run. Raises ``ModelError`` if it is damaged or none of ours."""
    return _LOADERS[name](content)


def _load_onnx(content: bytes) -> Model:
    from dwcp.export.runtime import OnnxModel

    return OnnxModel(content)


def _load_tflite(content: bytes) -> Model:
    from dwcp.export.tflite_runtime import TfliteModel

    return TfliteModel(content)


def _load_go(content: bytes) -> Model:
    from dwcp.export.go_runtime import GoModel

    return GoModel(content)


_LOADERS: Mapping[str, Callable[[bytes], Model]] = {ONNX: _load_onnx, TFLITE: _load_tflite, GO: _load_go}
