"""Average pooling, global or windowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Operator, Shape, to_nchw, to_nhwc
from lab.compiler.operators.geometry import Window, size_fields
from lab.compiler.operators.registry import Call, captures
from lab.compiler.operators.reshape import Reshape
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class AvgPool2d(Operator):
    """Mean over a window; keeps the scale of its input.

    Attributes:
        window: kernel, stride and padding.
        count_padding: padding counts in the divisor.
    """

    kind: ClassVar[str] = "avg_pool2d"
    keeps_scale: ClassVar[bool] = True
    window: Window
    count_padding: bool = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.window.output_size(inputs[0]), inputs[0][2])

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        window = self.window
        x = to_nchw(inputs[0])
        pooled = torch.nn.functional.avg_pool2d(
            x, window.kernel, window.stride, (window.top, window.left), count_include_pad=self.count_padding
        )
        return to_nhwc(pooled)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedAvgPool2d(self.window, self.count_padding, output.zero_point)


@dataclass(frozen=True)
class QuantizedAvgPool2d(QuantizedOperator):
    """Mean in int8: the sum of the raw values divided by the count, rounded half away from zero as in TFLite."""

    kind: ClassVar[str] = "avg_pool2d"
    window: Window
    count_padding: bool
    zero_point: int

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        window = self.window
        x = to_nchw(inputs[0])
        counted = torch.ones_like(x[:1, :1])
        counted = window.pad(counted, 1 if self.count_padding else 0)
        padded = window.pad(x, self.zero_point if self.count_padding else 0)
        total = unfold_sum(padded, window)
        count = unfold_sum(counted, window)
        half = torch.where(total >= 0, count // 2, -(count // 2))
        return to_nhwc(torch.div(total + half, count, rounding_mode="trunc"))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        fields = (
            *size_fields("input", inputs[0])[:2],
            *size_fields("output", output)[:2],
            ("channels", output[2]),
            *self.window.fields(),
            ("count_padding", int(self.count_padding)),
            ("zero_point", self.zero_point),
        )
        return KernelCall("lab_avg_pool2d", (), fields)


def unfold_sum(x: torch.Tensor, window: Window) -> torch.Tensor:
    """Sum of NCHW integers over every window."""
    rows = x.unfold(2, window.kernel[0], window.stride[0])
    return rows.unfold(3, window.kernel[1], window.stride[1]).sum(dim=(-1, -2))


@captures("aten.avg_pool2d.default")
def capture_avg_pool2d(call: Call) -> str:
    """``avg_pool2d(input, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)``."""
    value = call.value(0)
    if call.flag(4, "ceil_mode", False) or call.argument(6, "divisor_override") is not None:
        raise call.refuse("ceil_mode and divisor_override are not supported", "use ceil_mode=False and no divisor")
    kernel = call.pair(1, "kernel_size", (1, 1))
    rows, columns = call.pair(3, "padding", (0, 0))
    window = Window(kernel, call.pair(2, "stride", kernel), rows, rows, columns, columns)
    return call.add(AvgPool2d(window, call.flag(5, "count_include_pad", True)), value)


@captures("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def capture_adaptive_avg_pool2d(call: Call) -> str:
    """``adaptive_avg_pool2d(input, output_size)`` where the output divides the input evenly."""
    value = call.value(0)
    height, width, _ = call.shape(value)
    size = call.pair(1, "output_size", (1, 1))
    if height % size[0] or width % size[1]:
        raise call.refuse(
            f"output {size[0]}×{size[1]} does not divide the input {height}×{width} evenly",
            "use output size 1, or one that divides the input",
        )
    kernel = (height // size[0], width // size[1])
    return call.add(AvgPool2d(Window(kernel, kernel)), value)


@captures("aten.mean.dim")
def capture_mean(call: Call) -> str:
    """``mean(input, dim, keepdim)`` over height and width."""
    value = call.value(0)
    shape = call.shape(value)
    dims = {dim % (len(shape) + 1) for dim in call.integers(1, "dim", ())}
    if len(shape) != 3 or dims != {2, 3}:
        raise call.refuse(f"mean over dims {sorted(dims)} of NHWC shape {shape}", "only dims (2, 3) are supported")
    window = Window((shape[0], shape[1]), (shape[0], shape[1]))
    pooled = call.add(AvgPool2d(window), value)
    if call.flag(2, "keepdim", False):
        return pooled
    return call.add(Reshape((shape[2],)), pooled, suffix=".reshape")
