"""Element-wise product of two activations; one of them may be a vector of channels (squeeze and excitation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.arithmetic import product_multiplier, rescale
from lab.compiler.graph import Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class Multiply(Operator):
    """``a · b``; the smaller one is repeated."""

    kind: ClassVar[str] = "multiply"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return max(inputs, key=math.prod)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return inputs[0] * inputs[1]

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedMultiply((inputs[0], inputs[1]), output)


@dataclass(frozen=True)
class QuantizedMultiply(QuantizedOperator):
    """Product in int8 with TFLite's rounding, in place where an input of the output's size dies here.

    Attributes:
        inputs, output: quantisations.
    """

    kind: ClassVar[str] = "multiply"
    in_place: ClassVar[bool] = True
    inputs: tuple[Affine, Affine]
    output: Affine

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        larger = max(inputs, key=torch.numel)
        flat = [(x - affine.zero_point).reshape(len(x), -1) for x, affine in zip(inputs, self.inputs, strict=True)]
        first, second = (x.repeat(1, larger.numel() // x.numel()) for x in flat)
        multiplier, shift = product_multiplier(self.inputs, self.output)
        scaled = rescale(first * second, torch.tensor(multiplier), torch.tensor(shift))
        return (scaled + self.output.zero_point).clamp(-128, 127).reshape(larger.shape)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        multiplier, shift = product_multiplier(self.inputs, self.output)
        fields = (
            ("size", math.prod(output)),
            ("first_size", math.prod(inputs[0])),
            ("second_size", math.prod(inputs[1])),
            ("first_zero_point", self.inputs[0].zero_point),
            ("second_zero_point", self.inputs[1].zero_point),
            ("multiplier", multiplier),
            ("shift", shift),
            ("output_zero_point", self.output.zero_point),
        )
        return KernelCall("lab_multiply", (), fields)


@captures("aten.mul.Tensor")
def capture_mul(call: Call) -> str:
    """``mul(input, other)`` of two activations of one shape, or of one with (1, C, 1, 1)."""
    first, second = call.value(0), call.value(1, "other")
    shapes = sorted((call.shape(first), call.shape(second)), key=math.prod)
    per_channel = len(shapes[0]) == len(shapes[1]) == 3 and shapes[0] == (1, 1, shapes[1][2])
    if shapes[0] != shapes[1] and not per_channel:
        raise call.refuse(
            f"shapes {shapes[0]} and {shapes[1]} (NHWC) differ",
            "multiply activations of one shape, or by one number per channel (1, C, 1, 1)",
        )
    return call.add(Multiply(), first, second)
