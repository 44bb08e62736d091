"""Batch norm by statistics of the sample itself, held to the source's (:mod:`lab.compiler.sample_norm`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.arithmetic import rescale, rounding_doubling_high_mul, split_multiplier
from lab.compiler.graph import Clamp, Float32Array, Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.operators.softmax import exp_of_negative
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedOperator
from lab.compiler.square_root import square_root
from lab.errors import CompileError

Int32Array: TypeAlias = npt.NDArray[np.int32]
Float64Array: TypeAlias = npt.NDArray[np.float64]

# As in firmware/runtime/lab_sample_norm.c.
MEAN_BITS, VARIANCE_BITS, DISTANCE_BITS, LINE_BITS = 12, 16, 20, 16
SLOPE_BITS = 20
MOST_MEAN, MOST_VARIANCE, MOST_SLOPE, MOST_OFFSET = 1 << 28, (1 << 30) - 1, 1 << 22, 1 << 30
FAR, NOTHING_LEFT = 6 << 16, 31 << 26
MOST_PIXELS = 1 << 16
INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True)
class SampleNorm(Operator):
    """``weight · (x − mean) / sqrt(variance) + bias`` per channel, by statistics between the source's and the sample's.

    Attributes:
        mean, variance: of the source, (channels,).
        weight, bias: (channels,).
        tau: share of the source's statistics.
        balance: the most that the distance from the source gives back to it.
        eps: added to the variance.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "sample_norm"
    mean: Float32Array
    variance: Float32Array
    weight: Float32Array
    bias: Float32Array
    tau: float
    balance: float
    eps: float
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        mean, variance, weight, bias = map(torch.from_numpy, (self.mean, self.variance, self.weight, self.bias))
        own = x.mean((1, 2), keepdim=True)
        spread = x.var((1, 2), correction=0, keepdim=True)
        moved = (1 - self.tau) * (own - mean)
        share = self.balance * (1 - torch.exp(-(moved**2 / variance).sum(-1, keepdim=True)))
        used = mean + (1 - share) * moved
        spread = variance + (1 - share) * (1 - self.tau) * (spread - variance)
        y = weight * (x - used) / square_root(spread + self.eps) + bias
        return self.activation.apply(y) if self.activation else y

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        if not float(self.variance.min()) > 0:
            raise CompileError(
                "a channel of the source has the variance 0, from which nothing has a distance",
                hint="train on data in which every channel varies, or leave this norm to be folded",
            )
        step, variance = inputs[0].scale, self.variance.astype(np.float64)
        deviation = np.sqrt(variance) / step
        slopes = self.weight.astype(np.float64) / output.scale
        pairs = [_slope(float(slope)) for slope in slopes]
        offset = self.bias.astype(np.float64) / output.scale + output.zero_point + 0.5
        return QuantizedSampleNorm(
            mean=_fixed(self.mean.astype(np.float64) / step + inputs[0].zero_point, MEAN_BITS, MOST_MEAN),
            variance=_fixed(variance / step**2, VARIANCE_BITS, MOST_VARIANCE),
            floor=_fixed((variance + self.eps) / step**2, VARIANCE_BITS, MOST_VARIANCE),
            distance=_fixed((1 - self.tau) / deviation, DISTANCE_BITS, MOST_OFFSET),
            multiplier=np.array([pair[0] for pair in pairs], np.int32),
            shift=np.array([pair[1] for pair in pairs], np.int8),
            offset=_fixed(offset, LINE_BITS, MOST_OFFSET),
            share=_q31(1 - self.tau),
            balance=_q31(self.balance),
            bounds=output.bounds(self.activation),
        )


def _fixed(real: Float64Array, bits: int, most: int) -> Int32Array:
    """Fixed point with so many bits behind the point, saturated."""
    return np.clip(np.rint(real * (1 << bits)), -most, most).astype(np.int32)


def _q31(real: float) -> int:
    return min(round(real * (1 << 31)), INT32_MAX)


def _slope(real: float) -> tuple[int, int]:
    """Signed multiplier and shift to the right of a channel's slope per standard deviation."""
    if real == 0:
        return 0, 0
    if not abs(real) < 1 << SLOPE_BITS:
        raise CompileError(
            f"a channel is scaled by {real:.3g} output steps per standard deviation; below 2^{SLOPE_BITS} is allowed",
            hint="calibrate with inputs that reach the network's whole range",
        )
    multiplier, shift = split_multiplier(abs(real) / (1 << SLOPE_BITS))
    return (multiplier if real > 0 else -multiplier), shift


@dataclass(frozen=True)
class QuantizedSampleNorm(QuantizedOperator):
    """The same in integers, to the bit as ``firmware/runtime/lab_sample_norm.h``; in place where the input dies here.

    Attributes:
        mean: of the source, in steps of the input, zero point included, Q12.
        variance, floor: of the source, without and with epsilon, squared steps, Q16.
        distance: (1 − tau) / standard deviation, Q20.
        multiplier, shift: of the slope, Q31 with the slope's sign, and to the right.
        offset: Q16.
        share, balance: 1 − tau and λ, Q31.
        bounds: clamp of the output.
    """

    kind: ClassVar[str] = "sample_norm"
    in_place: ClassVar[bool] = True
    mean: Int32Array
    variance: Int32Array
    floor: Int32Array
    distance: Int32Array
    multiplier: Int32Array
    shift: npt.NDArray[np.int8]
    offset: Int32Array
    share: int
    balance: int
    bounds: tuple[int, int]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        pixels = x.shape[1] * x.shape[2]
        total, squares = x.sum((1, 2)), (x * x).sum((1, 2))
        own = torch.div(total << MEAN_BITS, pixels, rounding_mode="trunc")
        spread = ((squares * pixels - total * total) << VARIANCE_BITS) // pixels**2
        mean, variance, floor = _wide(self.mean), _wide(self.variance), _wide(self.floor)
        share = self.share_of_sample(own - mean)
        used = mean + rounding_doubling_high_mul(own - mean, share)
        spread = (floor + rounding_doubling_high_mul(spread - variance, share)).clamp(1, MOST_VARIANCE)
        slope = self.slopes(spread)
        offset = (_wide(self.offset) - ((slope * used) >> MEAN_BITS)).clamp(-MOST_OFFSET, MOST_OFFSET)
        return ((x * slope[:, None, None] + offset[:, None, None]) >> LINE_BITS).clamp(*self.bounds)

    def share_of_sample(self, moved: torch.Tensor) -> torch.Tensor:
        """How much of the sample's statistics takes the source's place, Q31 (n, 1), of Q12 means' distances (n, C)."""
        off = ((moved * _wide(self.distance)) >> 16).clamp(-FAR, FAR)
        exponents = ((off * off).sum(1) >> 6).clamp(max=NOTHING_LEFT)
        near = torch.tensor([exp_of_negative(-int(one)) for one in exponents])
        kept = rounding_doubling_high_mul(INT32_MAX - near, torch.tensor(self.balance))
        return rounding_doubling_high_mul(INT32_MAX - kept, torch.tensor(self.share))[:, None]

    def slopes(self, variance: torch.Tensor) -> torch.Tensor:
        """Output steps per input step, Q16 (n, C), of variances, Q16."""
        doublings = sum((variance < 1 << bits).to(torch.int64) for bits in range(2, 29, 2))
        root = reciprocal_root(variance << (2 * doublings))
        found = rescale(root, _wide(self.multiplier), _wide(self.shift) - doublings)
        return found.clamp(-MOST_SLOPE, MOST_SLOPE)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        pixels = output[0] * output[1]
        if pixels > MOST_PIXELS:
            raise CompileError(
                f"a norm by its own statistics over {pixels} pixels; at most {MOST_PIXELS} are allowed",
                hint="use precision='float32'",
            )
        constants = (
            Constant("mean", self.mean, "of the source, steps of the input, Q12"),
            Constant("variance", self.variance, "of the source, squared steps, Q16"),
            Constant("floor", self.floor, "variance and epsilon, Q16"),
            Constant("distance", self.distance, "per step that a mean has moved, Q20"),
            Constant("multiplier", self.multiplier, "Q31"),
            Constant("shift", self.shift, "to the right"),
            Constant("offset", self.offset, "Q16"),
        )
        fields = (
            ("pixels", pixels),
            ("channels", output[2]),
            ("share", self.share),
            ("balance", self.balance),
            ("output_minimum", self.bounds[0]),
            ("output_maximum", self.bounds[1]),
        )
        return KernelCall("lab_sample_norm", constants, fields, takes_scratch=True)

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 8 * output[2]


def _wide(values: npt.NDArray[np.int32] | npt.NDArray[np.int8]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))


def reciprocal_root(value: torch.Tensor) -> torch.Tensor:
    """``2^29 / sqrt(value / 2^30)`` for values in [2^28, 2^30): four steps of Newton's method."""
    x = 1181116006 - ((value * 697932186) >> 30)
    for _ in range(4):
        product = (((x * x) >> 29) * value) >> 30
        x = (x * ((3 << 29) - product)) >> 30
    return x


@captures("lab.sample_norm.default")
def capture_sample_norm(call: Call) -> str:
    """``sample_norm(x, mean, variance, weight, bias, tau, balance, eps)``."""
    value = call.value(0, "x")
    if len(call.shape(value)) != 3:
        raise call.refuse("there is no space to take statistics over", "normalise (1, C, H, W)")
    mean, variance = call.parameter(1, "mean"), call.parameter(2, "variance")
    weight, bias = call.parameter(3, "weight"), call.parameter(4, "bias")
    tau, balance, eps = (call.number(place, name, 0.0) for place, name in enumerate(("tau", "balance", "eps"), 5))
    return call.add(SampleNorm(mean, variance, weight, bias, tau, balance, eps), value)
