"""Operations that only move elements: views, copies, slices, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lab.compiler.graph import Shape
from lab.compiler.program import ITEM_BYTES, Operation, Tensor
from lab.compiler.quantized import KernelCall

RANK = 6
"""Axes the copy kernel handles."""


@dataclass(frozen=True)
class Reshape(Operation):
    """The same memory under another shape.

    Attributes:
        shape: of the output.
    """

    kind: ClassVar[str] = "reshape"
    alias: ClassVar[bool] = True
    shape: Shape

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (present(inputs[0]).reshape(self.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        raise TypeError("a reshape runs no code")


@dataclass(frozen=True)
class StridedCopy(Operation):
    """``output`` dense, read from ``input`` with strides: transposes, slices, selections, broadcasts.

    Attributes:
        shape: of the output.
        strides: elements between neighbours along each of its axes in the input; 0 repeats.
        offset: element of the input the first one is read from.
    """

    kind: ClassVar[str] = "copy"
    shape: Shape
    strides: Shape
    offset: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        flat = present(inputs[0]).contiguous().flatten()
        # as_strided counts from the start of the storage, of which a dense slice may be a part.
        return (flat.as_strided(self.shape, self.strides, flat.storage_offset() + self.offset).contiguous(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        dense = _row_major(self.shape)
        return _copy_call(self.shape, self.strides, dense, self.offset, 0, outputs[0])


@dataclass(frozen=True)
class StridedWrite(Operation):
    """Writes ``inputs[0]`` (dense) into zeros, with strides: the first part of a concatenation, padding, a slice's
    gradient.

    Attributes:
        shape: of the input.
        total: shape of the output.
        strides: elements between neighbours along each axis of the input, in the output.
        offset: element of the output the first one is written to.
        fill: what stands for zero: the zero point of an int8 output.
    """

    kind: ClassVar[str] = "write"
    shape: Shape
    total: Shape
    strides: Shape
    offset: int
    fill: int = 0

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        source = present(inputs[0])
        output = torch.full(self.total, self.fill, dtype=source.dtype)
        output.flatten().as_strided(self.shape, self.strides, self.offset).copy_(source.reshape(self.shape))
        return (output,)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        dense = _row_major(self.shape)
        return _copy_call(self.shape, dense, self.strides, 0, self.offset, outputs[0], fill=self.fill)


@dataclass(frozen=True)
class StridedExtend(StridedWrite):
    """Like :class:`StridedWrite`, over ``inputs[1]``, which an earlier part was written to."""

    extends: ClassVar[int | None] = 1

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        source = present(inputs[0])
        output = present(inputs[1]).clone().reshape(self.total)
        output.flatten().as_strided(self.shape, self.strides, self.offset).copy_(source.reshape(self.shape))
        return (output,)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        dense = _row_major(self.shape)
        call = _copy_call(self.shape, dense, self.strides, 0, self.offset, outputs[0])
        return replace(call, kernel="lab_strided_extend")


def present(tensor: torch.Tensor | None) -> torch.Tensor:
    """An input that is always there.

    Raises:
        ValueError: it is not.
    """
    if tensor is None:
        raise ValueError("a tensor is missing")
    return tensor


def given(tensor: Tensor | None) -> Tensor:
    """The description of an input that is always there.

    Raises:
        ValueError: it is not.
    """
    if tensor is None:
        raise ValueError("a tensor is missing")
    return tensor


def _row_major(shape: Shape) -> Shape:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _copy_call(
    shape: Shape,
    read: Shape,
    write: Shape,
    read_offset: int,
    write_offset: int,
    output: Tensor,
    fill: int | None = None,
) -> KernelCall:
    missing = RANK - len(shape)
    if missing < 0:
        raise ValueError(f"copies have at most {RANK} axes, found {shape}")
    fields = (
        ("shape", (*(1,) * missing, *shape)),
        ("read_stride", (*(0,) * missing, *read)),
        ("write_stride", (*(0,) * missing, *write)),
        ("read_offset", read_offset),
        ("write_offset", write_offset),
        ("item_bytes", ITEM_BYTES[output.dtype]),
        ("fill_bytes", 0 if fill is None else output.size_bytes),
        ("fill_value", fill or 0),
    )
    return KernelCall(
        "lab_strided_copy", (), fields, descriptor="lab_strided_copy_t", header="lab_strided_copy.h"
    )
