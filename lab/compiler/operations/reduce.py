"""Sums and means over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class Sum(Operation):
    """The sum over the middle one of three axes, divided by a number.

    Attributes:
        outer, reduced, inner: sizes of the axes.
        divisor: 1 for a sum, the number of summands for a mean.
    """

    kind: ClassVar[str] = "sum"
    outer: int
    reduced: int
    inner: int
    divisor: float = 1.0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = present(inputs[0]).reshape(self.outer, self.reduced, self.inner)
        return (x.sum(1) / self.divisor,)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (
            ("outer", self.outer),
            ("reduced", self.reduced),
            ("inner", self.inner),
            ("divisor", float(self.divisor)),
        )
        return KernelCall("lab_f32_sum", (), fields)
