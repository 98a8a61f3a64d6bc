"""The TFLite form as a caller runs it: LiteRT's interpreter, one thread, finite input only."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from dwcp.export.model import Floats32, Labels, Model, ModelError

INPUT = "features"
OUTPUTS = {"probabilities", "label"}
METADATA = b"dwcp"
SIGNATURE = "serving_default"


class TfliteModel(Model):
    """A loaded TFLite file. Threads take turns: an interpreter has one set of tensors."""

    runtime = "LiteRT"
    BATCH_ROWS = 256

    def __init__(self, model: bytes) -> None:
        """Load a serialised file. Raises ``ModelError`` if it is damaged, or was not made by ``build_tflite``."""
        if not model:
            raise ModelError("an empty file is no TFLite model: export it again")
        try:
            interpreter = Interpreter(model_content=model, num_threads=1)
            # Outputs by their names: by their numbers they come in alphabetical order.
            self._runner = interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot load the model ({error}): export it again") from error
        super().__init__(_metadata(model))
        self._turn = threading.Lock()
        inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
        if set(inputs) != {INPUT} or set(outputs) != OUTPUTS:
            raise ModelError(
                f"the model maps {sorted(inputs)} to {sorted(outputs)}, not {INPUT!r} to {sorted(OUTPUTS)}"
            )
        if inputs[INPUT]["shape"][1] != len(self.feature_names):
            raise ModelError(
                f"the model takes {inputs[INPUT]['shape'][1]} features but names {len(self.feature_names)}"
            )

    def _run(self, features: Floats32) -> tuple[Floats32, Labels]:
        with self._turn:
            found = self._runner(features=features)
        return found["probabilities"], found["label"]


def _metadata(model: bytes) -> Mapping[str, str]:
    """The entry of ours; the interpreter has checked that offsets stay within the file."""
    parsed = schema.Model.GetRootAs(model, 0)
    entries = [parsed.Metadata(number) for number in range(parsed.MetadataLength())]
    for entry in entries:
        if entry.Name() == METADATA:
            try:
                found: Mapping[str, str] = json.loads(parsed.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            except (ValueError, AttributeError) as error:
                raise ModelError(f"the model's metadata cannot be read ({error}): export it again") from None
            return found
    raise ModelError("the model's metadata is missing: export it with build_tflite")
