"""Batch normalisation with running statistics. A pass folds it into the layer before; none is left to lower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Float32Array, Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, QuantizedOperator


@dataclass(frozen=True)
class BatchNorm(Operator):
    """``y = x · gain + offset`` per channel (the last dimension)."""

    kind: ClassVar[str] = "batch_norm"
    gain: Float32Array
    offset: Float32Array

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return inputs[0] * torch.from_numpy(self.gain) + torch.from_numpy(self.offset)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        raise NotImplementedError("batch norm is folded before quantisation")


@captures("aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default")
def capture_batch_norm(call: Call) -> str:
    """``(input, weight, bias, running mean, running variance, …, eps)`` in evaluation."""
    value = call.value(0)
    plain = call.aten == "aten.batch_norm.default"
    if plain and call.flag(5, "training", False):
        raise call.refuse("batch norm uses batch statistics", "put the module in eval() with tracked statistics")
    mean = call.parameter(3, "running_mean").astype(np.float64)
    variance = call.parameter(4, "running_var").astype(np.float64)
    weight = call.optional_parameter(1, "weight")
    bias = call.optional_parameter(2, "bias")
    eps = call.number(7 if plain else 6, "eps", 1e-5)
    gain = (np.ones_like(mean) if weight is None else weight) / np.sqrt(variance + eps)
    offset = (np.zeros_like(mean) if bias is None else bias) - mean * gain
    return call.add(BatchNorm(gain.astype(np.float32), offset.astype(np.float32)), value)
