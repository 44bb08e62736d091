"""LiteRT's FULLY_CONNECTED: one rounding of a float64 product, reproduced in integers.

Since version 2 its reference kernel computes ``round(double(sum) · s_input · s_weight / s_output)``. That is a monotone
function of an integer with at most 256 values, so it is known by the sums where it steps. A 31-bit multiplier with one
rounding has the same steps if it lies in an interval that each step bounds; one from the intersection is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.arithmetic import split_multiplier
from lab.compiler.graph import Shape
from lab.compiler.operators.weights import PACKED_INPUT_OFFSET, PACKED_LAYOUT, folded_bias, pack_weights, padded_inputs
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedOperator

FAR = 1 << 32
"""Beyond every int32 sum."""


@dataclass(frozen=True)
class QuantizedFullyConnected(QuantizedOperator):
    """Fully connected in int8 with one rounding.

    Attributes:
        weight: int8 (outputs, inputs).
        bias: int32 (outputs,), without the input's zero point.
        multiplier, shift: per output, ``(sum · multiplier + 2^(shift − 1)) >> shift``.
        input, output: quantisations.
        bounds: clamp of the output.
    """

    kind: ClassVar[str] = "linear"
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    shift: npt.NDArray[np.uint8]
    input: Affine
    output: Affine
    bounds: tuple[int, int]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # float64 holds these sums exactly: they stay below 2^31.
        centred = (inputs[0] - self.input.zero_point).to(torch.float64)
        sums = (centred @ torch.from_numpy(self.weight.astype(np.float64)).T).to(torch.int64)
        sums = sums + torch.from_numpy(self.bias.astype(np.int64))
        shift = torch.from_numpy(self.shift.astype(np.int64))
        half = torch.bitwise_left_shift(torch.ones_like(shift), shift - 1)
        scaled = torch.bitwise_right_shift(sums * torch.from_numpy(self.multiplier.astype(np.int64)) + half, shift)
        return (scaled + self.output.zero_point).clamp(*self.bounds)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        folded = folded_bias(self.weight, self.bias, self.input.zero_point + PACKED_INPUT_OFFSET)
        constants = (
            Constant("weights", pack_weights(self.weight), PACKED_LAYOUT),
            Constant("bias", folded, "with the input's zero point plus 128 folded in"),
            Constant("multiplier", self.multiplier, "of the sums"),
            Constant("shift", self.shift, "right shift of the product"),
        )
        fields = (
            ("inputs", inputs[0][0]),
            ("outputs", output[0]),
            ("output_zero_point", self.output.zero_point),
            ("output_minimum", self.bounds[0]),
            ("output_maximum", self.bounds[1]),
        )
        return KernelCall("lab_fully_connected", constants, fields, takes_scratch=True)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        return self.weight.size

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        # The input as int16.
        return 2 * padded_inputs(inputs[0][0])


def round_half_away(x: float) -> int:
    """C's ``round``."""
    whole = math.floor(abs(x))
    return int(math.copysign(whole + (abs(x) - whole >= 0.5), x))


def first_sum(value: int, real: float) -> int:
    """The smallest sum whose product with ``real``, in float64, rounds to ``value`` or more; at most ±2^32."""
    estimate = (value - 0.5) / real
    if abs(estimate) > FAR:
        # No int32 sum reaches it, and float64 may hold no neighbours of it to search.
        return int(math.copysign(FAR, estimate))
    total = math.ceil(estimate)
    while round_half_away((total - 1) * real) >= value:
        total -= 1
    while round_half_away(total * real) < value:
        total += 1
    return total


def exact_multiplier(real: float, values: tuple[int, int], reach: int) -> tuple[int, int]:
    """Multiplier and shift that round once to what ``round(double(sum) · real)`` yields.

    Args:
        real: the float64 multiplier.
        values: least and greatest value of interest, before the zero point; what is beyond is clamped.
        reach: sums lie in ``[−reach, reach]``.

    Raises:
        ValueError: no 31-bit multiplier does.
    """
    near, right = split_multiplier(real)
    shift = 31 + right
    low, high = 0, (1 << 31) - 1
    for value in range(values[0] + 1, values[1] + 1):
        step = first_sum(value, real)
        # The rounded product reaches `value` where sum · multiplier ≥ threshold.
        threshold = (2 * value - 1) << (shift - 1)
        least, greatest = max(step, -reach), min(step - 1, reach)
        if least <= reach:
            low, high = at_least(least, threshold, low, high)
        if greatest >= -reach:
            low, high = below(greatest, threshold, low, high)
    if low > high:
        raise ValueError(f"no 31-bit multiplier rounds like {real!r} for all sums up to {reach}")
    return min(max(near, low), high), shift


def at_least(total: int, threshold: int, low: int, high: int) -> tuple[int, int]:
    """Multipliers in ``[low, high]`` with ``total · multiplier ≥ threshold``."""
    if total > 0:
        return max(low, -(-threshold // total)), high
    if total < 0:
        return low, min(high, threshold // total)
    return (low, high) if threshold <= 0 else (1, 0)


def below(total: int, threshold: int, low: int, high: int) -> tuple[int, int]:
    """Multipliers in ``[low, high]`` with ``total · multiplier < threshold``."""
    if total > 0:
        return low, min(high, -(-threshold // total) - 1)
    if total < 0:
        return max(low, threshold // total + 1), high
    return (low, high) if threshold > 0 else (1, 0)
