"""2-D convolution; also captures depthwise convolution, which has an operator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp, Float32Array, Operator, Shape, to_nchw, to_nhwc
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.geometry import Window, size_fields
from lab.compiler.operators.registry import Call, captures
from lab.compiler.operators.weights import (
    QuantizedWeights,
    fake_quantize_weights,
    minimum_output_scale,
    padded_inputs,
    quantize_weights,
)
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class Conv2d(Operator):
    """Convolution over all input channels.

    Attributes:
        weight: (output channels, kernel height, kernel width, input channels).
        bias: (output channels,).
        window: kernel, stride and padding with zeros.
        activation: fused clamp.
    """

    kind: ClassVar[str] = "conv2d"
    weight: Float32Array
    bias: Float32Array
    window: Window
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.window.output_size(inputs[0]), self.weight.shape[0])

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        weight = torch.from_numpy(np.ascontiguousarray(self.weight.transpose(0, 3, 1, 2)))
        padded = self.window.pad(to_nchw(inputs[0]), 0.0)
        y = to_nhwc(torch.conv2d(padded, weight, torch.from_numpy(self.bias), stride=self.window.stride))
        return self.activation.apply(y) if self.activation else y

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        return minimum_output_scale(self.weight, self.bias, inputs[0])

    def with_fake_quantized_weights(self, inputs: Sequence[Affine]) -> Operator:
        weight, bias = fake_quantize_weights(self.weight, self.bias, inputs[0])
        return replace(self, weight=weight, bias=bias)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        weights = quantize_weights(self.weight, self.bias, self.activation, inputs[0], output)
        return QuantizedConv2d(weights, self.window)


@dataclass(frozen=True)
class QuantizedConv2d(QuantizedOperator):
    """Convolution in int8; 1×1 without padding has a kernel of its own."""

    kind: ClassVar[str] = "conv2d"
    weights: QuantizedWeights
    window: Window

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # float64 holds these sums exactly: they stay below 2^31.
        centred = to_nchw((inputs[0] - self.weights.input.zero_point).to(torch.float64))
        weight = torch.from_numpy(self.weights.weight.transpose(0, 3, 1, 2).astype(np.float64))
        sums = torch.conv2d(self.window.pad(centred, 0.0), weight, stride=self.window.stride)
        return self.weights.finish(to_nhwc(sums).to(torch.int64))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        constants = self.weights.packed_constants()
        sizes = (*size_fields("input", inputs[0]), *size_fields("output", output))
        if self.window.pointwise:
            strides = (("stride_height", self.window.stride[0]), ("stride_width", self.window.stride[1]))
            fields = (*sizes, *strides, *self.weights.fields())
            return KernelCall("lab_pointwise_conv2d", constants, fields, takes_scratch=True)
        zero = (("input_zero_point", self.weights.input.zero_point),)
        fields = (*sizes, *self.window.fields(), *zero, *self.weights.fields())
        return KernelCall("lab_conv2d", constants, fields, takes_scratch=True)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        return output[0] * output[1] * self.weights.weight.size

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        # Four receptive fields as int16, and a pixel of zero points, or the four as int8: see lab_conv2d.h.
        channels = inputs[0][2]
        padded = padded_inputs(self.weights.weight[0].size)
        if self.window.pointwise:
            return 8 * padded
        return 12 * padded if channels % 4 else 8 * padded + channels


@captures("aten.conv2d.default", "aten.conv2d.padding", "aten.convolution.default")
def capture_conv2d(call: Call) -> str:
    """``conv2d(input, weight, bias, stride, padding, dilation, groups)`` and ``padding='same' | 'valid'``."""
    value = call.value(0)
    weight = call.parameter(1, "weight")
    absent = np.zeros(weight.shape[0], dtype=np.float32)
    bias = call.optional_parameter(2, "bias")
    window, groups = window_of(call, weight)
    channels = call.shape(value)[-1]
    if groups == 1:
        operator: Operator = Conv2d(
            np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), absent if bias is None else bias, window
        )
    elif groups == channels == weight.shape[0]:
        operator = DepthwiseConv2d(np.ascontiguousarray(weight[:, 0]), absent if bias is None else bias, window)
    else:
        raise call.refuse(
            f"{groups} groups over {channels} input and {weight.shape[0]} output channels are not supported",
            "use groups=1, or groups = in_channels = out_channels (depthwise)",
        )
    return call.add(operator, value)


def window_of(call: Call, weight: Float32Array) -> tuple[Window, int]:
    """Window and groups of a convolution call."""
    if weight.ndim != 4:
        raise call.refuse(f"weight of shape {weight.shape}: only 2-D convolutions are supported", "use nn.Conv2d")
    kernel = (weight.shape[2], weight.shape[3])
    if any(step != 1 for step in call.integers(5, "dilation", (1, 1))):
        raise call.refuse("dilation other than 1 is not supported", "use dilation=1")
    if call.aten == "aten.convolution.default":
        if call.flag(6, "transposed", False):
            raise call.refuse("transposed convolutions are not supported", "use upsampling on the host")
        groups = call.number(8, "groups", 1)
    else:
        groups = call.number(6, "groups", 1)
    window = Window(kernel, call.pair(3, "stride", (1, 1)))
    mode = call.argument(4, "padding")
    if mode == "valid":
        return window, int(groups)
    if mode == "same":
        # PyTorch puts the odd element at the end.
        rows, columns = kernel[0] - 1, kernel[1] - 1
        return window.widened(rows // 2, rows - rows // 2, columns // 2, columns - columns // 2), int(groups)
    pad = call.pair(4, "padding", (0, 0))
    return window.widened(pad[0], pad[0], pad[1], pad[1]), int(groups)
