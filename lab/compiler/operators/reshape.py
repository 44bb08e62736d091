"""Flatten, view, reshape, squeeze, unsqueeze: another shape for the same elements in PyTorch's NCHW order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lab.compiler.graph import Operator, Shape
from lab.compiler.operators.registry import Call, captures
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator

Permutation: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reshape(Operator):
    """The elements in PyTorch's order under another shape; keeps the scale of its input.

    Attributes:
        shape: NHWC shape of the output.
        memory_order: elements keep their NHWC order in memory instead; set by the pass that permutes the linear layer.
    """

    kind: ClassVar[str] = "reshape"
    keeps_scale: ClassVar[bool] = True
    shape: Shape
    memory_order: bool = False

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape

    def permutation(self, source: Shape) -> Permutation:
        """Where in the input's memory each element of the output's memory comes from."""
        size = int(np.prod(source))
        if self.memory_order:
            return np.arange(size)
        order = np.arange(size).reshape(source)
        if len(source) == 3:
            order = order.transpose(2, 0, 1)
        if len(self.shape) == 3:
            height, width, channels = self.shape
            order = order.reshape(channels, height, width).transpose(1, 2, 0)
        return order.reshape(-1)

    def is_alias(self, source: Shape) -> bool:
        """Whether the memory of input and output is the same."""
        return bool(np.array_equal(self.permutation(source), np.arange(int(np.prod(source)))))

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        order = torch.from_numpy(self.permutation(tuple(x.shape[1:])))
        return x.reshape(x.shape[0], -1)[:, order].reshape(x.shape[0], *self.shape)

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        return QuantizedReshape(self.shape)


@dataclass(frozen=True)
class QuantizedReshape(QuantizedOperator):
    """The same memory under another shape; no code."""

    kind: ClassVar[str] = "reshape"
    is_alias: ClassVar[bool] = True
    shape: Shape

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        raise NotImplementedError("an alias has no kernel")


@captures(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def capture_reshape(call: Call) -> str:
    """Any change of shape; the result must be ``(1, F)`` or ``(1, C, H, W)``."""
    value = call.value(0)
    result = call.node.meta["val"].shape
    if len(result) not in (2, 4) or result[0] != 1:
        raise call.refuse(
            f"a result of shape {tuple(result)} is not supported", "keep the batch of 1 and use (1, F) or (1, C, H, W)"
        )
    shape = (result[1],) if len(result) == 2 else (result[2], result[3], result[1])
    return call.add(Reshape(tuple(int(size) for size in shape)), value)
