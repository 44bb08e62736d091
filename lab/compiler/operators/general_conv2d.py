"""2-D convolution with groups, channel multipliers and dilation; also the int8 layers whose multipliers or sums are too
large for the fast kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.arithmetic import rescale
from lab.compiler.graph import Clamp, Float32Array, Operator, Shape, to_nchw, to_nhwc
from lab.compiler.operators.geometry import Window, size_fields
from lab.compiler.operators.weights import fake_quantize_weights, minimum_output_scale, quantize_weights
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class Lattice:
    """Where a convolution takes its inputs from.

    Attributes:
        window: kernel (taps, not reach), stride and padding.
        dilation: distance of two taps, (height, width).
        groups: groups of channels.
    """

    window: Window
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, shape: Shape) -> tuple[int, int]:
        """Output height and width for an input (H, W, C)."""
        rows = (self.window.kernel[0] - 1) * self.dilation[0] + 1
        columns = (self.window.kernel[1] - 1) * self.dilation[1] + 1
        return replace(self.window, kernel=(rows, columns)).output_size(shape)

    def convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """NHWC input and (O, H, W, I / groups) weights to NHWC sums."""
        padded = self.window.pad(to_nchw(x), 0.0)
        kernel = weight.permute(0, 3, 1, 2)
        stride, dilation = self.window.stride, self.dilation
        return to_nhwc(torch.conv2d(padded, kernel, stride=stride, dilation=dilation, groups=self.groups))


@dataclass(frozen=True)
class GeneralConv2d(Operator):
    """Convolution of any grouping and dilation.

    Attributes:
        weight: (output channels, kernel height, kernel width, input channels / groups).
        bias: (output channels,).
        lattice: where it takes its inputs from.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "general_conv2d"
    weight: Float32Array
    bias: Float32Array
    lattice: Lattice
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.lattice.output_size(inputs[0]), self.weight.shape[0])

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        y = self.lattice.convolve(inputs[0], torch.from_numpy(self.weight)) + torch.from_numpy(self.bias)
        return self.activation.apply(y) if self.activation else y

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        return minimum_output_scale(self.weight, self.bias, inputs[0])

    def with_fake_quantized_weights(self, inputs: Sequence[Affine]) -> Operator:
        weight, bias = fake_quantize_weights(self.weight, self.bias, inputs[0])
        return replace(self, weight=weight, bias=bias)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        weights = quantize_weights(self.weight, self.bias, self.activation, inputs[0], output)
        return QuantizedGeneralConv2d(
            weight=weights.weight,
            bias=weights.bias,
            multiplier=weights.multiplier,
            shift=weights.shift.astype(np.int8),
            lattice=self.lattice,
            input=inputs[0],
            output=output,
            bounds=(weights.minimum, weights.maximum),
        )


@dataclass(frozen=True)
class QuantizedGeneralConv2d(QuantizedOperator):
    """Convolution in int8 without the bounds of the fast kernels.

    Attributes:
        weight: int8 (output channels, kernel height, kernel width, input channels / groups).
        bias: int32 (output channels,).
        multiplier, shift: Q31, and shift to the right (negative: to the left), per output channel.
        lattice: where it takes its inputs from.
        input, output: quantisations.
        bounds: clamp of the output.
    """

    kind: ClassVar[str] = "general_conv2d"
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int8]
    lattice: Lattice
    input: Affine
    output: Affine
    bounds: tuple[int, int]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # A linear layer is the 1×1 case; float64 holds these sums exactly: they stay below 2^31.
        image = inputs[0].reshape(len(inputs[0]), *as_image(tuple(inputs[0].shape[1:])))
        centred = (image - self.input.zero_point).to(torch.float64)
        sums = self.lattice.convolve(centred, torch.from_numpy(self.weight.astype(np.float64))).to(torch.int64)
        biased = sums + torch.from_numpy(self.bias.astype(np.int64))
        multiplier = torch.from_numpy(self.multiplier.astype(np.int64))
        scaled = rescale(biased, multiplier, torch.from_numpy(self.shift.astype(np.int64)))
        result = (scaled + self.output.zero_point).clamp(*self.bounds)
        return result if inputs[0].ndim == 4 else result.reshape(len(result), -1)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        constants = (
            Constant("weights", self.weight.reshape(-1), "output channel, row, column, channel of the group"),
            Constant("bias", self.bias, "one per output channel"),
            Constant("multiplier", self.multiplier, "Q31"),
            Constant("shift", self.shift, "to the right, negative to the left"),
        )
        fields = (
            *size_fields("input", as_image(inputs[0])),
            *size_fields("output", as_image(output)),
            *self.lattice.window.fields(),
            ("dilation_height", self.lattice.dilation[0]),
            ("dilation_width", self.lattice.dilation[1]),
            ("groups", self.lattice.groups),
            ("input_zero_point", self.input.zero_point),
            ("output_zero_point", self.output.zero_point),
            ("output_minimum", self.bounds[0]),
            ("output_maximum", self.bounds[1]),
        )
        return KernelCall("lab_general_conv2d", constants, fields)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        height, width, _ = as_image(output)
        return height * width * self.weight.size


def as_image(shape: Shape) -> Shape:
    """Features as an image of one pixel."""
    return (1, 1, shape[0]) if len(shape) == 1 else shape
