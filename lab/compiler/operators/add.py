"""Element-wise sum of two activations of one shape (residual connections)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.arithmetic import quantize_multiplier, requantize
from lab.compiler.graph import Clamp, Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator

LEFT_SHIFT = 20
"""Headroom of the inputs before they are brought to a common scale, as in TFLite's int8 ADD."""


@dataclass(frozen=True)
class Add(Operator):
    """``a + b``, then an optional fused clamp."""

    kind: ClassVar[str] = "add"
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        y = inputs[0] + inputs[1]
        return self.activation.apply(y) if self.activation else y

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        return 2.0 * max(affine.scale for affine in inputs) / 2.0 ** (LEFT_SHIFT - 1)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedAdd:
        common = 2.0 * max(affine.scale for affine in inputs)
        return QuantizedAdd(
            inputs=(inputs[0], inputs[1]),
            output=output,
            multipliers=(
                quantize_multiplier(inputs[0].scale / common),
                quantize_multiplier(inputs[1].scale / common),
                quantize_multiplier(common / ((1 << LEFT_SHIFT) * output.scale)),
            ),
            bounds=output.bounds(self.activation),
        )


@dataclass(frozen=True)
class QuantizedAdd(QuantizedOperator):
    """Sum in int8, in place where an input dies here.

    Attributes:
        inputs, output: quantisations.
        multipliers: (Q31, right shift) of the first input, the second input and the output.
        bounds: clamp of the output.
    """

    kind: ClassVar[str] = "add"
    in_place: ClassVar[bool] = True
    inputs: tuple[Affine, Affine]
    output: Affine
    multipliers: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    bounds: tuple[int, int]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros_like(inputs[0])
        for x, affine, (multiplier, shift) in zip(inputs, self.inputs, self.multipliers[:2], strict=True):
            raised = (x - affine.zero_point) << LEFT_SHIFT
            total = total + requantize(raised, torch.tensor(multiplier), torch.tensor(shift))
        multiplier, shift = self.multipliers[2]
        scaled = requantize(total, torch.tensor(multiplier), torch.tensor(shift)) + self.output.zero_point
        return scaled.clamp(*self.bounds)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        fields: list[tuple[str, int]] = [("size", int(np.prod(output)))]
        names = ("first", "second", "output")
        zeros = (self.inputs[0].zero_point, self.inputs[1].zero_point, self.output.zero_point)
        for name, zero, (multiplier, shift) in zip(names, zeros, self.multipliers, strict=True):
            fields += [(f"{name}_zero_point", zero), (f"{name}_multiplier", multiplier), (f"{name}_shift", shift)]
        fields += [("output_minimum", self.bounds[0]), ("output_maximum", self.bounds[1])]
        return KernelCall("lab_add", (), tuple(fields))


@captures("aten.add.Tensor")
def capture_add(call: Call) -> str:
    """``add(input, other, alpha=1)`` of two activations of the same shape."""
    first, second = call.value(0), call.value(1, "other")
    if call.shape(first) != call.shape(second):
        raise call.refuse(
            f"shapes {call.shape(first)} and {call.shape(second)} (NHWC) differ; broadcasting is not supported",
            "add activations of the same shape",
        )
    if call.number(2, "alpha", 1.0) != 1.0:
        raise call.refuse("alpha other than 1 is not supported", "scale the weights of the layer before")
    return call.add(Add(), first, second)
