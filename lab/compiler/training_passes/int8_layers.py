"""Operations without weights as layers of the int8 graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lab.compiler.calibrate import affine_of_range
from lab.compiler.graph import Clamp, Float32Array, Operator, Shape
from lab.compiler.operations.elementwise import Binary, BroadcastBinary
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operations.normalisation import GroupNorm
from lab.compiler.operations.pool import BYTE_PLACES, AvgPool2d, MaxPool2d, MaxPool2dPlaces, Windows
from lab.compiler.operations.reduce import Sum
from lab.compiler.operations.softmax import Softmax
from lab.compiler.operations.unary import Affine as AffineFunction
from lab.compiler.operations.unary import ClampValues, Unary
from lab.compiler.operators.add import Add
from lab.compiler.operators.avg_pool2d import AvgPool2d as AveragePool
from lab.compiler.operators.clamp import Activation
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.layer_norm import LayerNorm
from lab.compiler.operators.max_pool2d import MaxPool2d as MaximumPool
from lab.compiler.operators.multiply import Multiply
from lab.compiler.operators.product import Product
from lab.compiler.operators.softmax import MOST_ELEMENTS
from lab.compiler.operators.softmax import Softmax as SoftmaxOfRows
from lab.compiler.operators.table import table_of
from lab.compiler.program import Operation, Program, Step, Tensor
from lab.compiler.quantized import Affine


@dataclass(frozen=True)
class ClampedSum(Binary):
    """A residual sum with the clamp behind it; exists between the float and the int8 program only."""

    activation: Clamp = UNBOUNDED

    def of(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.activation.apply(a + b)


@dataclass(frozen=True)
class PlainLayer:
    """A layer that reads activations alone; what else it needs is in the operator.

    Attributes:
        operator: the layer.
        inputs, output: shapes as it sees them, (H, W, C) or, where only the size matters, (F,). The step's first inputs
            are these.
        clamp: clamp of its output, whose gradient reads the int8 value.
    """

    operator: Operator
    inputs: tuple[Shape, ...]
    output: Shape
    clamp: Clamp | None = None


def plain_layer(program: Program, step: Step) -> PlainLayer | None:
    """The int8 layer an operation is, ``None`` where there is none."""
    operation = step.operation
    output: Shape = (program.tensors[step.outputs[0]].elements,)
    inputs = tuple(output for name in step.inputs if name)
    if isinstance(operation, ClampedSum):
        return PlainLayer(Add(operation.activation), inputs, output, operation.activation)
    if type(operation) is Binary and operation.function == "sum" and len(inputs) == 2:
        plain = operation.first_scale == operation.second_scale == 1.0
        return PlainLayer(Add(), inputs, output) if plain else None
    if isinstance(operation, Binary) and operation.function == "product":
        return _product(program, step, operation)
    if isinstance(operation, ClampValues):
        clamp = Clamp(operation.low, operation.high)
        return PlainLayer(Activation(clamp), inputs, output, clamp)
    if isinstance(operation, Unary):
        return PlainLayer(table_of(operation), inputs, output)
    return _pool(operation) or (None if program.loss else _of_transformers(program, step))


def _of_transformers(program: Program, step: Step) -> PlainLayer | None:
    """What attention needs besides, for inference alone: nothing of it has a gradient through int8."""
    operation = step.operation
    if isinstance(operation, MatMul):
        if step.inputs[2] or operation.activation != UNBOUNDED:
            return None
        sizes = [program.tensors[name].elements for name in step.inputs[:2]]
        output = (operation.batch, operation.rows, operation.columns)
        return PlainLayer(Product(operation), tuple((size,) for size in sizes), output)
    if isinstance(operation, Softmax):
        plain = operation.inner == 1 and not operation.logarithm and operation.depth < MOST_ELEMENTS
        rows = (operation.outer, operation.depth)
        return PlainLayer(SoftmaxOfRows(), (rows,), rows) if plain else None
    if isinstance(operation, GroupNorm) and operation.sizes.positions == operation.sizes.groups == 1:
        rows = (operation.sizes.batch, operation.sizes.channels)
        weight, bias = (
            _constant(program, name, np.full(rows[1:], default, np.float32))
            for name, default in zip(step.inputs[1:3], (1.0, 0.0), strict=True)
        )
        return PlainLayer(LayerNorm(weight, bias, operation.epsilon), (rows,), rows)
    return None


def _constant(program: Program, name: str, absent: Float32Array) -> Float32Array:
    value = program.tensors[name].value if name else None
    return absent if value is None else np.ascontiguousarray(value, np.float32)


def scales_alone(program: Program, step: Step) -> bool:
    """Whether a step multiplies by a positive number: then the grid changes, and no byte does."""
    operation = step.operation
    return isinstance(operation, AffineFunction) and operation.scale > 0 and not operation.shift and not program.loss


def int8_constant(tensor: Tensor, affine: Affine | None = None) -> Tensor | None:
    """A constant as int8 activations are, on a grid of its own where none is given; None where it is none."""
    if tensor.kind != "constant" or tensor.dtype != "float32" or tensor.value is None:
        return None
    value = tensor.value.astype(np.float64)
    if affine is None:
        affine = affine_of_range(min(0.0, float(value.min())), max(1e-6, float(value.max())))
    steps = np.clip(np.rint(value / affine.scale) + affine.zero_point, -128, 127).astype(np.int8)
    return Tensor(f"{tensor.name}.int8", tensor.shape, "int8", "constant", steps, affine)


def _product(program: Program, step: Step, operation: Binary) -> PlainLayer | None:
    """A product where one operand has the output's size and the other is repeated as a whole."""
    size = program.tensors[step.outputs[0]].elements
    periods = [size, size]
    if isinstance(operation, BroadcastBinary):
        periods = [_period(operation.shape, strides) for strides in (operation.first, operation.second)]
    if max(periods) != size or min(periods) == 0:
        return None
    return PlainLayer(Multiply(), ((periods[0],), (periods[1],)), (size,))


def _period(shape: Shape, strides: Shape) -> int:
    """Elements after which a dense operand starts anew; 0 where it lies in another way."""
    step = 1
    for axis in reversed(range(len(shape))):
        if strides[axis] != step:
            return step if not any(strides[: axis + 1]) else 0
        step *= shape[axis]
    return step


def _pool(operation: Operation) -> PlainLayer | None:
    if isinstance(operation, Sum) and operation.outer == 1 and operation.divisor == operation.reduced:
        size = (operation.reduced, 1)
        return PlainLayer(AveragePool(Window(size, size)), ((*size, operation.inner),), (1, 1, operation.inner))
    if isinstance(operation, AvgPool2d):
        window = window_of(operation.windows)
        padding = operation.windows.padding
        # Sizes that are rounded up, and a divisor of the user's, count other elements than TFLite's layer.
        rounded_up = window.bottom > padding[0] or window.right > padding[1]
        if operation.adaptive or operation.divisor or rounded_up:
            return None
        return PlainLayer(
            AveragePool(window, operation.count_padding), (operation.windows.input,), operation.windows.output
        )
    if isinstance(operation, MaxPool2d):
        windows = operation.windows
        beyond_byte = windows.kernel[0] * windows.kernel[1] > BYTE_PLACES
        if windows.dilation != (1, 1) or (isinstance(operation, MaxPool2dPlaces) and beyond_byte):
            return None
        return PlainLayer(MaximumPool(window_of(windows)), (windows.input,), windows.output)
    return None


def window_of(windows: Windows) -> Window:
    """Windows of a training program as the int8 graph has them, padded at the bottom and right as far as they reach."""
    reach = [
        max((size - 1) * stride + kernel - length - pad, 0)
        for size, stride, kernel, length, pad in zip(
            windows.output[:2], windows.stride, windows.kernel, windows.input[:2], windows.padding, strict=True
        )
    ]
    top, left = windows.padding
    return Window(windows.kernel, windows.stride, top, reach[0], left, reach[1])
