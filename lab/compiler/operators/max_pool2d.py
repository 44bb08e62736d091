"""Max pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Operator, Shape, to_nchw, to_nhwc
from lab.compiler.operators.geometry import Window, size_fields
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class MaxPool2d(Operator):
    """Maximum over a window; padding never wins; keeps the scale of its input."""

    kind: ClassVar[str] = "max_pool2d"
    keeps_scale: ClassVar[bool] = True
    window: Window

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.window.output_size(inputs[0]), inputs[0][2])

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        padded = self.window.pad(to_nchw(inputs[0]), -math.inf)
        return to_nhwc(torch.nn.functional.max_pool2d(padded, self.window.kernel, self.window.stride))

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedMaxPool2d(self.window)


@dataclass(frozen=True)
class QuantizedMaxPool2d(QuantizedOperator):
    """Maximum in int8."""

    kind: ClassVar[str] = "max_pool2d"
    window: Window

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        padded = self.window.pad(to_nchw(inputs[0]), -128)
        rows = padded.unfold(2, self.window.kernel[0], self.window.stride[0])
        columns = rows.unfold(3, self.window.kernel[1], self.window.stride[1])
        return to_nhwc(columns.amax(dim=(-1, -2)))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        fields = (
            *size_fields("input", inputs[0])[:2],
            *size_fields("output", output)[:2],
            ("channels", output[2]),
            *self.window.fields(),
        )
        return KernelCall("lab_max_pool2d", (), fields)


@captures("aten.max_pool2d.default")
def capture_max_pool2d(call: Call) -> str:
    """``max_pool2d(input, kernel, stride, padding, dilation, ceil_mode)``."""
    value = call.value(0)
    if call.flag(5, "ceil_mode", False) or any(step != 1 for step in call.integers(4, "dilation", (1, 1))):
        raise call.refuse("ceil_mode and dilation are not supported", "use ceil_mode=False and dilation=1")
    kernel = call.pair(1, "kernel_size", (1, 1))
    rows, columns = call.pair(3, "padding", (0, 0))
    window = Window(kernel, call.pair(2, "stride", kernel), rows, rows, columns, columns)
    return call.add(MaxPool2d(window), value)
