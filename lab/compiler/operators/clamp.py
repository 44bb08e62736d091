"""ReLU, ReLU6 and hardtanh: clamps that were not fused into the operator before them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp, Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class Activation(Operator):
    """A clamp of its own; keeps the scale of its input."""

    kind: ClassVar[str] = "clamp"
    keeps_scale: ClassVar[bool] = True
    clamp: Clamp

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.clamp.apply(inputs[0])

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedActivation(*output.bounds(self.clamp))


@dataclass(frozen=True)
class QuantizedActivation(QuantizedOperator):
    """Clamp in int8, in place where the input dies here."""

    kind: ClassVar[str] = "clamp"
    in_place: ClassVar[bool] = True
    minimum: int
    maximum: int

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return inputs[0].clamp(self.minimum, self.maximum)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        fields = (("size", int(np.prod(output))), ("minimum", self.minimum), ("maximum", self.maximum))
        return KernelCall("lab_clamp", (), fields)


@captures("aten.relu.default")
def capture_relu(call: Call) -> str:
    """``relu(input)``."""
    return call.add(Activation(Clamp(0.0, math.inf)), call.value(0))


@captures("aten.relu6.default")
def capture_relu6(call: Call) -> str:
    """``relu6(input)``."""
    return call.add(Activation(Clamp(0.0, 6.0)), call.value(0))


@captures("aten.hardtanh.default", "aten.clamp.default")
def capture_hardtanh(call: Call) -> str:
    """``hardtanh(input, min_val, max_val)`` and ``clamp(input, min, max)`` with plain numbers."""
    hard = call.aten.startswith("aten.hardtanh")
    low = call.number(1, "min_val" if hard else "min", -1.0 if hard else -math.inf)
    high = call.number(2, "max_val" if hard else "max", 1.0 if hard else math.inf)
    return call.add(Activation(Clamp(low, high)), call.value(0))
