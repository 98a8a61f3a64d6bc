"""A TFLite file, put together tensor by tensor and operator by operator, without TensorFlow and its converter.

The converter may quantise what must stay exact (``Optimize.DEFAULT`` rounds the tables that trees are gathered from,
and agreement falls to 40 % with no error), and its bytes differ with its version. Here a file has the operators that
were asked for, and equal graphs give equal bytes. The format is the schema that the runtime's own package brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SIGNATURE = "serving_default"
"""The name under which TensorFlow's tools look for a model's signature."""
SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
ALIGNMENT = 16
"""Bytes on which the schema lets a buffer begin, so that it is read where it lies."""
RELU = schema.ActivationFunctionType.RELU

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.bool_): schema.TensorType.BOOL,
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """What an integer tensor's numbers mean: ``scale · (number - zero_point)``; one scale, or one a row."""

    scale: NDArray[np.float32]
    zero_point: int = 0


class TfliteGraph:
    """Tensors and operators in the order in which they are added. Shapes are those of one row; the first axis grows."""

    def __init__(self) -> None:
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._buffers: list[schema.BufferT] = [schema.BufferT()]  # by the format, buffer 0 is empty

    def constant(
        self, name: str, value: NDArray[np.generic] | np.generic, quantization: Quantization | None = None
    ) -> int:
        """The tensor that holds ``value``."""
        array = np.asarray(value)
        return self._tensor(name, array.shape, array.dtype, quantization, self._buffer(array.tobytes()))

    def tensor(
        self,
        name: str,
        columns: int | None,
        dtype: type[np.generic],
        quantization: Quantization | None = None,
        *,
        between: int = 0,
    ) -> int:
        """A tensor of shape (n, columns), or (n,), that an operator or the caller fills; ``between`` axes of 1."""
        shape = (1,) if columns is None else (1, *[1] * between, columns)
        number = self._tensor(name, shape, np.dtype(dtype), quantization, 0)
        self._tensors[number].shapeSignature = [-1, *shape[1:]]
        return number

    def operator(self, kind: str, inputs: Sequence[int], output: int, *, version: int = 1, **options: object) -> int:
        """Append builtin operator ``kind`` (``GATHER``) with the fields of its options; return ``output``."""
        code = getattr(schema.BuiltinOperator, kind)
        place = self._codes.setdefault((code, version), len(self._codes))
        operator = schema.OperatorT(opcodeIndex=place, inputs=list(inputs), outputs=[output])
        if options:
            name = _OPTIONS[kind]
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = getattr(schema, f"{name}T")(**options)
        self._operators.append(operator)
        return output

    def serialise(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], *, description: str, metadata: Mapping[str, bytes]
    ) -> bytes:
        """The file, with one signature of named ``inputs`` and ``outputs``."""
        model = schema.ModelT(version=SCHEMA_VERSION, description=description)
        model.operatorCodes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), version=version, builtinCode=code)
            for code, version in self._codes
        ]
        model.subgraphs = [
            schema.SubGraphT(
                tensors=self._tensors,
                inputs=list(inputs.values()),
                outputs=list(outputs.values()),
                operators=self._operators,
                name="main",
            )
        ]
        model.signatureDefs = [
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(name, number) for name, number in inputs.items()],
                outputs=[schema.TensorMapT(name, number) for name, number in outputs.items()],
                signatureKey=SIGNATURE,
            )
        ]
        model.metadata = [schema.MetadataT(name, self._buffer(data)) for name, data in metadata.items()]
        model.buffers = self._buffers
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _buffer(self, data: bytes) -> int:
        self._buffers.append(_AlignedBuffer(data))
        return len(self._buffers) - 1

    def _tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype[np.generic],
        quantization: Quantization | None,
        buffer: int,
    ) -> int:
        tensor = schema.TensorT(shape=list(shape), type=_TYPES[dtype], buffer=buffer, name=name, hasRank=True)
        if quantization is not None:
            scale = quantization.scale.tolist()
            tensor.quantization = schema.QuantizationParametersT(
                scale=scale, zeroPoint=[quantization.zero_point] * len(scale)
            )
        self._tensors.append(tensor)
        return len(self._tensors) - 1


_OPTIONS = {
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "CAST": "CastOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "SOFTMAX": "SoftmaxOptions",
}


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer written with the schema's alignment, which the generated code does not know."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        size = len(self._content)
        builder.StartVector(1, size, ALIGNMENT)
        builder.head = builder.Head() - size
        builder.Bytes[builder.Head() : builder.Head() + size] = self._content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))
