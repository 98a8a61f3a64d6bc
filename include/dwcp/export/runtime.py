"""The ONNX form as a caller runs it: onnxruntime, one thread, finite input only."""

from __future__ import annotations

import onnxruntime

from dwcp.export.model import Decision, Floats32, Labels, Model, ModelError

__all__ = ["Decision", "ModelError", "OnnxModel"]

INPUT = "features"
OUTPUTS = ("probabilities", "label")


class OnnxModel(Model):
    """A loaded ONNX file. Safe to call from several threads; a call itself runs on one."""

    runtime = "onnxruntime"
    BATCH_ROWS = 4_096

    def __init__(self, model: bytes) -> None:
        """Load serialised ONNX. Raises ``ModelError`` if it is damaged, or was not made by ``build_onnx``."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # One decision at a time needs no arena that keeps what the largest batch once took.
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each way to be damaged
            raise ModelError(f"onnxruntime cannot load the model ({error}): export it again") from error
        super().__init__(self._session.get_modelmeta().custom_metadata_map)
        found = tuple(output.name for output in self._session.get_outputs())
        inputs = self._session.get_inputs()
        if found != OUTPUTS or [part.name for part in inputs] != [INPUT]:
            raise ModelError(f"the model maps {[part.name for part in inputs]} to {found}, not {INPUT!r} to {OUTPUTS}")
        if inputs[0].shape[1] != len(self.feature_names):
            raise ModelError(f"the model takes {inputs[0].shape[1]} features but names {len(self.feature_names)}")

    def _run(self, features: Floats32) -> tuple[Floats32, Labels]:
        probabilities, labels = self._session.run(OUTPUTS, {INPUT: features})
        return probabilities, labels
