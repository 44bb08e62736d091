"""One bit per element: where a gradient passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.operations.copy import given, present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall


def pack_bits(inside: torch.Tensor) -> torch.Tensor:
    """Booleans to bytes, the first element in the lowest bit."""
    return torch.from_numpy(np.packbits(inside.numpy().reshape(-1), bitorder="little"))


def unpack_bits(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Inverse of :func:`pack_bits`."""
    return torch.from_numpy(np.unpackbits(mask.numpy(), count=count, bitorder="little").astype(bool))


@dataclass(frozen=True)
class MaskInside(Operation):
    """Bits of the elements strictly inside ``(low, high)``.

    Attributes:
        low, high: bounds, in the units of the input (float32 or int8).
    """

    kind: ClassVar[str] = "mask"
    low: float
    high: float

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x = present(inputs[0])
        return (pack_bits((x > self.low) & (x < self.high)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        tensor = given(inputs[0])
        if tensor.dtype == "int8":
            fields = (("count", tensor.elements), ("low", int(self.low)), ("high", int(self.high)))
            return KernelCall("lab_q_mask", (), fields, header="lab_mask.h")
        return KernelCall(
            "lab_f32_mask",
            (),
            (("count", tensor.elements), ("low", self.low), ("high", self.high)),
            header="lab_mask.h",
        )


@dataclass(frozen=True)
class MaskGradient(Operation):
    """The gradient where the mask has a one, zero elsewhere; inputs: gradient, mask. May work in place."""

    kind: ClassVar[str] = "mask.gradient"
    in_place: ClassVar[tuple[int, ...]] = (0,)

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient = present(inputs[0])
        inside = unpack_bits(present(inputs[1]), gradient.numel()).reshape(gradient.shape)
        return (torch.where(inside, gradient, torch.zeros_like(gradient)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_mask_gradient", (), (("count", outputs[0].elements),), header="lab_mask.h")


@dataclass(frozen=True)
class MaskByValue(Operation):
    """The gradient where an int8 value lies strictly inside ``(low, high)``, zero elsewhere; inputs: gradient, value.

    Attributes:
        low, high: bounds on the int8 grid.
    """

    kind: ClassVar[str] = "clamp.gradient"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    low: int
    high: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, value = present(inputs[0]), present(inputs[1])
        inside = ((value > self.low) & (value < self.high)).reshape(gradient.shape)
        return (torch.where(inside, gradient, torch.zeros_like(gradient)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("count", outputs[0].elements), ("low", self.low), ("high", self.high))
        return KernelCall("lab_q_clamp_gradient", (), fields, descriptor="lab_q_mask_t", header="lab_mask.h")
