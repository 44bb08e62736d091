"""Fully connected layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Clamp, Float32Array, Operator, Shape
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
class Linear(Operator):
    """``y = x · weightᵀ + bias``.

    Attributes:
        weight: (outputs, inputs).
        bias: (outputs,).
        activation: fused clamp.
    """

    kind: ClassVar[str] = "linear"
    weight: Float32Array
    bias: Float32Array
    activation: Clamp | None = None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.weight.shape[0],)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        y = torch.nn.functional.linear(inputs[0], torch.from_numpy(self.weight), torch.from_numpy(self.bias))
        return self.activation.apply(y) if self.activation else y

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        return minimum_output_scale(self.weight, self.bias, inputs[0])

    def with_fake_quantized_weights(self, inputs: Sequence[Affine]) -> Operator:
        weight, bias = fake_quantize_weights(self.weight, self.bias, inputs[0])
        return replace(self, weight=weight, bias=bias)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedLinear(quantize_weights(self.weight, self.bias, self.activation, inputs[0], output))


@dataclass(frozen=True)
class QuantizedLinear(QuantizedOperator):
    """Fully connected in int8."""

    kind: ClassVar[str] = "linear"
    weights: QuantizedWeights

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # float64 holds these sums exactly: they stay below 2^31.
        centred = (inputs[0] - self.weights.input.zero_point).to(torch.float64)
        weight = torch.from_numpy(self.weights.weight.astype(np.float64))
        return self.weights.finish((centred @ weight.T).to(torch.int64))

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        sizes = (("inputs", inputs[0][0]), ("outputs", output[0]))
        fields = (*sizes, *self.weights.fields())
        return KernelCall("lab_linear", self.weights.packed_constants(), fields, takes_scratch=True)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        return self.weights.weight.size

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        # The input as int16.
        return 2 * padded_inputs(inputs[0][0])


@captures("aten.linear.default")
def capture_linear(call: Call) -> str:
    """``linear(input, weight, bias)`` on ``(1, F)``."""
    value = call.value(0)
    if len(call.shape(value)) != 1:
        raise call.refuse(
            f"input of NHWC shape {call.shape(value)}: linear takes (1, features)", "flatten the input first"
        )
    weight = call.parameter(1, "weight")
    bias = call.optional_parameter(2, "bias")
    return call.add(Linear(weight, np.zeros(weight.shape[0], np.float32) if bias is None else bias), value)
