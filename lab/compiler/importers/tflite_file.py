"""A ``.tflite`` file as plain data.

Format: TensorFlow Lite's FlatBuffers schema, version 3. A FlatBuffer holds offsets that nothing checks: everything is
read here, with bounds on every count, so that a damaged file ends in one error and nothing behind this module meets it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tflite

from lab.compiler.importers.assembly import MAXIMUM_CONSTANT_BYTES, MAXIMUM_OPERATORS
from lab.errors import CompileError

DAMAGE = (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError, KeyError, MemoryError)
"""What the FlatBuffers package raises on offsets that lead nowhere."""
MAXIMUM_TENSORS = 8192
MAXIMUM_DIMENSIONS = 8
MAXIMUM_NAME = 2000
TYPES = {0: "float32", 2: "int32", 3: "uint8", 4: "int64", 9: "int8"}
OPTIONS = {
    "CONV_2D": (
        tflite.Conv2DOptions,
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        tflite.DepthwiseConv2DOptions,
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "FULLY_CONNECTED": (tflite.FullyConnectedOptions, ("FusedActivationFunction", "WeightsFormat")),
    "AVERAGE_POOL_2D": (
        tflite.Pool2DOptions,
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "MAX_POOL_2D": (
        tflite.Pool2DOptions,
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
    "SOFTMAX": (tflite.SoftmaxOptions, ("Beta",)),
}
NAMES = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}


@dataclass(frozen=True)
class TensorData:
    """A tensor of the file.

    Attributes:
        index, name: number and name in the file.
        dtype: numpy's name, or ``type N`` where the lab reads none of that kind.
        shape: with batch.
        scales, zero_points, axis: quantisation; empty where there is none.
        constant: its value where the file holds one.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int
    constant: npt.NDArray[np.generic] | None


@dataclass(frozen=True)
class OperatorData:
    """An operator of the file: number, TFLite's name, tensor numbers (−1: left out) and options."""

    index: int
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, float]


@dataclass(frozen=True)
class ModelData:
    """The only subgraph of a file."""

    tensors: tuple[TensorData, ...]
    operators: tuple[OperatorData, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_model(data: bytes, path: str) -> ModelData:
    """Read the file.

    Raises:
        CompileError: no TFLite file, another version, damaged, or beyond the lab's limits.
    """
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise CompileError(f"{path} is no TensorFlow Lite model: the file identifier TFL3 is missing")
    try:
        return read_subgraph(tflite.Model.GetRootAs(data, 0), path)
    except DAMAGE as error:
        raise CompileError(
            f"{path} is damaged: its tables point outside the file or hold impossible values ({error})",
            hint="get the file again, or write it again with the converter",
        ) from error


def bounded(count: int, limit: int, what: str) -> range:
    """``range(count)``, refused where the count is beyond the limit."""
    if not 0 <= count <= limit:
        raise ValueError(f"{count} {what}, at most {limit} are read")
    return range(count)


def read_subgraph(model: tflite.Model, path: str) -> ModelData:
    """Tensors and operators of the only subgraph."""
    if model.Version() != 3:
        raise CompileError(f"{path} has schema version {model.Version()}; version 3 is read")
    if model.SubgraphsLength() != 1:
        raise CompileError(f"{path} has {model.SubgraphsLength()} subgraphs; models with one are read")
    graph = model.Subgraphs(0)
    budget = [MAXIMUM_CONSTANT_BYTES]
    tensors = tuple(
        read_tensor(model, graph.Tensors(index), index, budget)
        for index in bounded(graph.TensorsLength(), MAXIMUM_TENSORS, "tensors")
    )
    operators = tuple(
        read_operator(model, graph.Operators(index), index, len(tensors))
        for index in bounded(graph.OperatorsLength(), MAXIMUM_OPERATORS, "operators")
    )
    inputs = tuple(graph.Inputs(index) for index in bounded(graph.InputsLength(), 64, "inputs"))
    outputs = tuple(graph.Outputs(index) for index in bounded(graph.OutputsLength(), 64, "outputs"))
    check_numbers((*inputs, *outputs), len(tensors), 0)
    return ModelData(tensors, operators, inputs, outputs)


def check_numbers(numbers: tuple[int, ...], tensors: int, lowest: int) -> None:
    """Refuse tensor numbers that name no tensor."""
    for number in numbers:
        if not lowest <= number < tensors:
            raise ValueError(f"tensor number {number}, there are {tensors}")


def read_tensor(model: tflite.Model, tensor: tflite.Tensor, index: int, budget: list[int]) -> TensorData:
    """One tensor; ``budget`` is what all constants together may still take."""
    name = (tensor.Name() or b"").decode(errors="replace")[:MAXIMUM_NAME]
    shape = tuple(int(tensor.Shape(i)) for i in bounded(tensor.ShapeLength(), MAXIMUM_DIMENSIONS, "dimensions"))
    dtype = TYPES.get(tensor.Type(), f"type {tensor.Type()}")
    quantization = tensor.Quantization()
    scales, zeros, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    if quantization is not None:
        bounded(quantization.ScaleLength(), 1 << 16, "scales")
        bounded(quantization.ZeroPointLength(), 1 << 16, "zero points")
        scales = np.array(quantization.ScaleAsNumpy() if quantization.ScaleLength() else [], np.float32)
        zeros = np.array(quantization.ZeroPointAsNumpy() if quantization.ZeroPointLength() else [], np.int64)
        axis = int(quantization.QuantizedDimension())
    constant = read_constant(model, tensor, dtype, shape, budget)
    return TensorData(index, name, dtype, shape, scales, zeros, axis, constant)


def read_constant(
    model: tflite.Model, tensor: tflite.Tensor, dtype: str, shape: tuple[int, ...], budget: list[int]
) -> npt.NDArray[np.generic] | None:
    """The tensor's buffer as an array; ``None`` where it is empty."""
    number = tensor.Buffer()
    if not 0 <= number < model.BuffersLength():
        raise ValueError(f"buffer {number}, there are {model.BuffersLength()}")
    buffer = model.Buffers(number)
    length = buffer.DataLength()
    if length == 0 or dtype not in TYPES.values():
        return None
    bounded(length, budget[0], "bytes of constants")
    budget[0] -= length
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if min(shape, default=1) < 0 or length != expected:
        raise ValueError(f"a buffer of {length} bytes for {dtype} of shape {shape}")
    return np.frombuffer(buffer.DataAsNumpy().tobytes(), np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def read_operator(model: tflite.Model, operator: tflite.Operator, index: int, tensors: int) -> OperatorData:
    """One operator."""
    number = operator.OpcodeIndex()
    if not 0 <= number < model.OperatorCodesLength():
        raise ValueError(f"operator code {number}, there are {model.OperatorCodesLength()}")
    opcode = model.OperatorCodes(number)
    # Codes above 126 do not fit the older field, which then holds a placeholder.
    code = NAMES.get(max(opcode.BuiltinCode(), opcode.DeprecatedBuiltinCode()), "unknown")
    if code == "CUSTOM":
        code = f"CUSTOM {(opcode.CustomCode() or b'').decode(errors='replace')[:80]}"
    inputs = tuple(operator.Inputs(i) for i in bounded(operator.InputsLength(), 64, "inputs of an operator"))
    outputs = tuple(operator.Outputs(i) for i in bounded(operator.OutputsLength(), 64, "outputs of an operator"))
    check_numbers(inputs, tensors, -1)
    check_numbers(outputs, tensors, 0)
    return OperatorData(index, code, inputs, outputs, read_options(operator, code))


def read_options(operator: tflite.Operator, code: str) -> Mapping[str, float]:
    """The options the lab needs."""
    if code not in OPTIONS:
        return {}
    kind, fields = OPTIONS[code]
    table = operator.BuiltinOptions()
    if table is None:
        raise ValueError(f"{code} without options")
    options = kind()
    options.Init(table.Bytes, table.Pos)
    return {field: getattr(options, field)() for field in fields}
