"""Softmax, its logarithm, and their gradients, over any one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class Softmax(Operation):
    """Softmax over the middle one of three axes.

    Attributes:
        outer, depth, inner: sizes of the axes.
        logarithm: the logarithm of the softmax.
        all_masked: a row of ``-inf`` yields zeros instead of NaN.
    """

    kind: ClassVar[str] = "softmax"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    outer: int
    depth: int
    inner: int
    logarithm: bool = False
    all_masked: bool = False

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = present(inputs[0])
        rows = x.reshape(self.outer, self.depth, self.inner)
        y = rows.log_softmax(1) if self.logarithm else rows.softmax(1)
        if self.all_masked:
            y = torch.where((rows == -torch.inf).all(1, keepdim=True), 0.0, y)
        return (y.reshape(x.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        flags = (("logarithm", int(self.logarithm)), ("all_masked", int(self.all_masked)))
        sizes = (("outer", self.outer), ("depth", self.depth), ("inner", self.inner))
        return KernelCall("lab_f32_softmax", (), (*sizes, *flags))


@dataclass(frozen=True)
class SoftmaxGradient(Operation):
    """Gradient of :class:`Softmax`; inputs are the gradient of its output, and its output.

    Attributes:
        outer, depth, inner, logarithm: as in :class:`Softmax`.
    """

    kind: ClassVar[str] = "softmax.gradient"
    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    outer: int
    depth: int
    inner: int
    logarithm: bool = False

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        saved = present(inputs[1])
        y = saved.reshape(self.outer, self.depth, self.inner)
        g = present(inputs[0]).reshape(y.shape)
        if self.logarithm:
            return ((g - y.exp() * g.sum(1, keepdim=True)).reshape(saved.shape),)
        return ((y * (g - (g * y).sum(1, keepdim=True))).reshape(saved.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        sizes = (("outer", self.outer), ("depth", self.depth), ("inner", self.inner))
        return KernelCall("lab_f32_softmax_gradient", (), (*sizes, ("logarithm", int(self.logarithm))))
