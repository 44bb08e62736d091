"""Zero padding. Fused into the convolution after it; a layer of its own elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Operator, Shape
from lab.compiler.operators.geometry import size_fields
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class Pad(Operator):
    """Zeros around height and width; keeps the scale of its input."""

    kind: ClassVar[str] = "pad"
    keeps_scale: ClassVar[bool] = True
    top: int
    bottom: int
    left: int
    right: int

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        height, width, channels = inputs[0]
        return (height + self.top + self.bottom, width + self.left + self.right, channels)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.padded(inputs[0], 0)

    def padded(self, x: torch.Tensor, value: int) -> torch.Tensor:
        """NHWC with ``value`` around."""
        return torch.nn.functional.pad(x, (0, 0, self.left, self.right, self.top, self.bottom), value=value)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedPad(self, output.zero_point)


@dataclass(frozen=True)
class QuantizedPad(QuantizedOperator):
    """Zero points around height and width."""

    kind: ClassVar[str] = "pad"
    pad: Pad
    zero_point: int

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.pad.padded(inputs[0], self.zero_point)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        sizes = (*size_fields("input", inputs[0]), *size_fields("output", output)[:2])
        fields = (*sizes, ("pad_top", self.pad.top), ("pad_left", self.pad.left), ("zero_point", self.zero_point))
        return KernelCall("lab_pad", (), fields)


@captures("aten.pad.default", "aten.constant_pad_nd.default")
def capture_pad(call: Call) -> str:
    """``pad(input, [left, right, top, bottom], 'constant', 0)``."""
    value = call.value(0)
    constant = call.aten.startswith("aten.constant")
    mode = "constant" if constant else call.argument(2, "mode") or "constant"
    if mode != "constant" or call.number(2 if constant else 3, "value", 0.0) != 0.0:
        raise call.refuse("only constant padding with 0 is supported", "use nn.ZeroPad2d")
    sides = call.integers(1, "pad", ())
    if len(sides) not in (2, 4) or min(sides) < 0 or len(call.shape(value)) != 3:
        raise call.refuse(f"padding {list(sides)} is not supported", "pad height and width, by zero or more")
    left, right, top, bottom = (*sides, 0, 0)[:4]
    return call.add(Pad(top, bottom, left, right), value)
