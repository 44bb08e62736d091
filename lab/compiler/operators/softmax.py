"""Softmax over the last dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.arithmetic import rounding_divide_by_power_of_two, rounding_doubling_high_mul
from lab.compiler.graph import Operator, Shape
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator
from lab.errors import CompileError

INPUT_BITS = 5
"""Integer bits of the scaled differences (Q5.26)."""
SUM_BITS = 12
"""Integer bits of the sum of exponentials (Q12.19)."""
OUTPUT = Affine(1.0 / 256.0, -128)
"""The only output quantisation TFLite's int8 softmax has."""
INT32_MAX = (1 << 31) - 1
MOST_ELEMENTS = 1 << SUM_BITS
"""A row has fewer."""
DIFFERENCES = 256
"""Of two int8 values; with at least as many elements a table of their exponentials pays."""


@dataclass(frozen=True)
class Softmax(Operator):
    """``exp(beta · x) / Σ exp(beta · x)`` over the last dimension."""

    kind: ClassVar[str] = "softmax"
    output_quantization: ClassVar[tuple[float, int] | None] = (OUTPUT.scale, OUTPUT.zero_point)
    beta: float = 1.0

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.softmax(inputs[0] * self.beta, dim=-1)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedSoftmax.of(self.beta, inputs[0].scale)


@dataclass(frozen=True)
class QuantizedSoftmax(QuantizedOperator):
    """TFLite's fixed-point softmax (its reference kernel), in place where the input dies here.

    Attributes:
        multiplier, left_shift: bring a difference of inputs to Q5.26.
        minimum_difference: below it a difference yields zero.
    """

    kind: ClassVar[str] = "softmax"
    in_place: ClassVar[bool] = True
    multiplier: int
    left_shift: int
    minimum_difference: int

    @staticmethod
    def of(beta: float, input_scale: float) -> QuantizedSoftmax:
        """``PreprocessSoftmaxScaling`` and ``CalculateInputRadius`` of TFLite.

        Raises:
            CompileError: an input scale for which TFLite has no arithmetic.
        """
        real = min(beta * input_scale * (1 << (31 - INPUT_BITS)), float(INT32_MAX))
        if not real > 1.0:
            raise CompileError(f"softmax of an input scale {input_scale!r} with beta {beta!r} is not supported")
        fraction, left_shift = math.frexp(real)
        multiplier = math.floor(fraction * (1 << 31) + 0.5)
        if multiplier == 1 << 31:
            multiplier, left_shift = multiplier // 2, left_shift + 1
        radius = math.floor(((1 << INPUT_BITS) - 1) * (1 << (31 - INPUT_BITS)) / (1 << left_shift))
        # With radius 0 only a difference of 0 counts, whatever the shift.
        return QuantizedSoftmax(multiplier, min(left_shift, 30), -radius)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        terms = torch.tensor(_exponentials(self))[x.amax(dim=-1, keepdim=True) - x]
        total = rounding_divide_by_power_of_two(terms, torch.tensor(SUM_BITS)).sum(dim=-1, keepdim=True)
        pairs = [reciprocal(int(value)) for value in total.reshape(-1).tolist()]
        scale = torch.tensor([pair[0] for pair in pairs]).reshape(total.shape)
        shift = torch.tensor([pair[1] for pair in pairs]).reshape(total.shape)
        product = rounding_doubling_high_mul(scale, terms)
        return (rounding_divide_by_power_of_two(product, shift.expand_as(product)) - 128).clamp(-128, 127)

    def exponential(self, difference: int) -> int:
        """``exp`` of a difference ≤ 0 of inputs, Q31."""
        if difference < self.minimum_difference:
            return 0
        return exp_of_negative(multiply(difference << self.left_shift, self.multiplier))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        fields = (
            ("rows", int(np.prod(output[:-1]))),
            ("depth", output[-1]),
            ("multiplier", self.multiplier),
            ("left_shift", self.left_shift),
            ("minimum_difference", self.minimum_difference),
        )
        return KernelCall("lab_softmax", (), fields, takes_scratch=True)

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 4 * DIFFERENCES if np.prod(output) >= DIFFERENCES else 0


@cache
def _exponentials(layer: QuantizedSoftmax) -> tuple[int, ...]:
    """Of the differences 0, −1 … −255: slow in Python, and the same for every row."""
    return tuple(layer.exponential(-difference) for difference in range(DIFFERENCES))


def multiply(a: int, b: int) -> int:
    """``a · b`` in Q31, to nearest."""
    return (a * b + (1 << 30)) >> 31


def halve(x: int, times: int) -> int:
    """``x / 2^times`` to nearest, ties away from zero."""
    return (x + (1 << (times - 1)) - (x < 0)) >> times


def saturate(x: int) -> int:
    """Clamp to int32."""
    return max(-(1 << 31), min(x, INT32_MAX))


def exp_of_negative(a: int) -> int:
    """``exp(a)`` in Q31 for ``a`` ≤ 0 in Q5.26, as gemmlowp's fixed point does it.

    A Taylor expansion around −1/8 for the part below a quarter; every higher bit multiplies with its own factor.
    """
    if a == 0:
        return INT32_MAX
    quarter = 1 << 24
    fraction = (a & (quarter - 1)) - quarter
    x = (fraction << INPUT_BITS) + (1 << 28)
    x2 = multiply(x, x)
    x3 = multiply(x2, x)
    x4_over_4 = halve(multiply(x2, x2), 2)
    higher = halve(multiply(x4_over_4 + x3, round((1 << 31) / 3)) + x2, 1)
    centre = round(math.exp(-1 / 8) * (1 << 31))
    result = centre + multiply(centre, x + higher)
    for bit in range(7):
        if (fraction - a) & (quarter << bit):
            result = multiply(result, round(math.exp(-(2.0 ** (bit - 2))) * (1 << 31)))
    return result


def reciprocal(total: int) -> tuple[int, int]:
    """``1 / total`` for a sum in Q12.19: (Q31 scale, right shift that brings the product with a Q31 term to int8)."""
    headroom = 32 - total.bit_length()
    half = ((total << headroom) - (1 << 31) + INT32_MAX + 1) // 2
    x = round(48 / 17 * (1 << 29)) + multiply(half, round(-32 / 17 * (1 << 29)))
    for _ in range(3):
        error = (1 << 29) - multiply(half, x)
        x += saturate(multiply(x, error) << 2)
    return saturate(x << 1), SUM_BITS - headroom + 31 - 8
