"""Depthwise 2-D convolution: one filter per channel. Captured by :mod:`lab.compiler.operators.conv2d`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp, Float32Array, Operator, Shape, to_nchw, to_nhwc
from lab.compiler.operators.geometry import Window, size_fields
from lab.compiler.operators.weights import (
    QuantizedWeights,
    fake_quantize_weights,
    minimum_output_scale,
    quantize_weights,
)
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator
from lab.errors import CompileError

MAXIMUM_TAPS = 64
"""Size of the pointer table on the kernel's stack (``LAB_DEPTHWISE_TAPS``)."""


@dataclass(frozen=True)
class DepthwiseConv2d(Operator):
    """One filter per channel.

    Attributes:
        weight: (channels, kernel height, kernel width).
        bias: (channels,).
        window: kernel, stride and padding with zeros.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "depthwise_conv2d"
    weight: Float32Array
    bias: Float32Array
    window: Window
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.window.output_size(inputs[0]), self.weight.shape[0])

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        weight = torch.from_numpy(self.weight)[:, None]
        padded = self.window.pad(to_nchw(inputs[0]), 0.0)
        y = torch.conv2d(
            padded, weight, torch.from_numpy(self.bias), stride=self.window.stride, groups=self.weight.shape[0]
        )
        return self.activation.apply(to_nhwc(y)) if self.activation else to_nhwc(y)

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        return minimum_output_scale(self.weight, self.bias, inputs[0])

    def with_fake_quantized_weights(self, inputs: Sequence[Affine]) -> Operator:
        weight, bias = fake_quantize_weights(self.weight, self.bias, inputs[0])
        return replace(self, weight=weight, bias=bias)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        if self.weight[0].size > MAXIMUM_TAPS:
            rows, columns = self.window.kernel
            raise CompileError(
                f"a depthwise kernel of {rows}×{columns}: at most {MAXIMUM_TAPS} weights per channel are supported",
                hint="use a smaller kernel, e.g. 7×7",
            )
        weights = quantize_weights(self.weight, self.bias, self.activation, inputs[0], output)
        return QuantizedDepthwiseConv2d(weights, self.window)


@dataclass(frozen=True)
class QuantizedDepthwiseConv2d(QuantizedOperator):
    """One filter per channel in int8."""

    kind: ClassVar[str] = "depthwise_conv2d"
    weights: QuantizedWeights
    window: Window

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # float64 holds these sums exactly: they stay below 2^31.
        centred = to_nchw((inputs[0] - self.weights.input.zero_point).to(torch.float64))
        weight = torch.from_numpy(self.weights.weight[:, None].astype(np.float64))
        padded = self.window.pad(centred, 0.0)
        sums = torch.conv2d(padded, weight, stride=self.window.stride, groups=weight.shape[0])
        return self.weights.finish(to_nhwc(sums).to(torch.int64))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        weight = np.ascontiguousarray(self.weights.weight.transpose(1, 2, 0))
        constants = self.weights.constants(weight, "row, column, channel")
        fields = (
            *size_fields("input", inputs[0])[:2],
            *size_fields("output", output)[:2],
            ("channels", output[2]),
            *self.window.fields(),
            ("input_zero_point", self.weights.input.zero_point),
            *self.weights.fields(),
        )
        return KernelCall("lab_depthwise_conv2d", constants, fields, takes_scratch=True)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        return output[0] * output[1] * self.weights.weight.size

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        # Columns and weights of four channels, or a pixel of zero points: see lab_depthwise_conv2d.h.
        (rows, columns), (down, across) = self.window.kernel, self.window.stride
        pairs = (rows + 1) // 2
        served = (2 * pairs - rows) // down + 1
        reach = (output[1] - 1) * across + columns
        return max(16 * (pairs * reach + (2 * pairs - 1) * served * columns) + 64, output[2])
