"""Exits: steps behind which inference may end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class Leave(Operation):
    """The first exit: its answer becomes the output, and where its last element is 0 or more nothing follows.

    Attributes:
        size: elements of an answer, the margin included.
    """

    kind: ClassVar[str] = "leave"
    size: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (present(inputs[0]).clone(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_leave", (), (("size", self.size),), leaves=True)


@dataclass(frozen=True)
class LeaveLater(Leave):
    """Another exit, whose answer takes the place of ``inputs[1]``, the one before, which was not sure enough."""

    extends: ClassVar[int | None] = 1

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        answer, earlier = present(inputs[0]), present(inputs[1])
        return (earlier.clone() if float(earlier.reshape(-1)[-1]) >= 0 else answer.clone(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        first = super().call(inputs, outputs)
        return replace(first, kernel="lab_f32_leave_later", descriptor="lab_f32_leave_t", header="lab_f32_leave.h")
