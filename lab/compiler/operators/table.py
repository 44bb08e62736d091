"""Functions of one value, element by element: in int8 a table of 256 entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.graph import Operator, Shape
from lab.compiler.operations.unary import (
    Gelu,
    GeluTanh,
    Hardsigmoid,
    Hardswish,
    LeakyRelu,
    Sigmoid,
    Silu,
    Tanh,
    Unary,
)
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedOperator
from lab.errors import CompileError

Float64Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table(Operator):
    """``f(x)``.

    Attributes:
        function: ``f``.
    """

    kind: ClassVar[str] = "table"
    function: Unary

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.function.of(inputs[0])

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        real = np.asarray(self.function.of(torch.from_numpy(grid(inputs[0]))).numpy(), dtype=np.float64)
        if np.isnan(real).any():
            raise CompileError(
                f"{self.function.kind} is not defined on all of its input's int8 range",
                hint="use precision='float32'",
            )
        scaled = real / output.scale
        # Half away from zero, as TFLite rounds its tables.
        rounded = np.trunc(scaled + np.copysign(0.5, scaled)) + output.zero_point
        return QuantizedTable(np.clip(rounded, -128, 127).astype(np.int8))


@dataclass(frozen=True)
class UnitTable(Table):
    """A function with values in [0, 1]: TFLite's output quantisation of a sigmoid."""

    output_quantization: ClassVar[tuple[float, int] | None] = (1.0 / 256.0, -128)


@dataclass(frozen=True)
class SymmetricTable(Table):
    """A function with values in [-1, 1]: TFLite's output quantisation of a hyperbolic tangent."""

    output_quantization: ClassVar[tuple[float, int] | None] = (1.0 / 128.0, 0)


def table_of(function: Unary) -> Table:
    """The operator of a function."""
    if isinstance(function, (Sigmoid, Hardsigmoid)):
        return UnitTable(function)
    return SymmetricTable(function) if isinstance(function, Tanh) else Table(function)


def grid(affine: Affine) -> Float64Array:
    """Real values (256,) of -128 … 127."""
    values: Float64Array = (np.arange(-128, 128, dtype=np.float64) - affine.zero_point) * affine.scale
    return values


@dataclass(frozen=True)
class QuantizedTable(QuantizedOperator):
    """Table in int8, in place where the input dies here.

    Attributes:
        table: int8 (256,), the first entry for -128.
    """

    kind: ClassVar[str] = "table"
    in_place: ClassVar[bool] = True
    table: npt.NDArray[np.int8]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(self.table.astype(np.int64))[inputs[0] + 128]

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        constants = (Constant("table", self.table, "of the input -128 to 127"),)
        return KernelCall("lab_table", constants, (("size", int(np.prod(output))),))


FUNCTIONS: dict[str, Callable[[Call], Unary]] = {
    "aten.hardswish.default": lambda call: Hardswish(),
    "aten.hardsigmoid.default": lambda call: Hardsigmoid(),
    "aten.sigmoid.default": lambda call: Sigmoid(),
    "aten.tanh.default": lambda call: Tanh(),
    "aten.silu.default": lambda call: Silu(),
    "aten.gelu.default": lambda call: GeluTanh() if call.argument(1, "approximate") == "tanh" else Gelu(),
    "aten.leaky_relu.default": lambda call: LeakyRelu(call.number(1, "negative_slope", 0.01)),
}
"""aten operators of one tensor to their functions."""


@captures(*FUNCTIONS)
def capture_table(call: Call) -> str:
    """``f(input)``."""
    return call.add(table_of(FUNCTIONS[call.aten](call)), call.value(0))
