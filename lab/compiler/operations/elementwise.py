"""Functions of two tensors, element by element, with broadcasting and memory orders that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch

from lab.compiler.graph import Shape
from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall

Function: TypeAlias = Literal["sum", "product", "quotient", "inverse_quotient", "keep_where", "keep_unless"]
FUNCTIONS: tuple[Function, ...] = ("sum", "product", "quotient", "inverse_quotient", "keep_where", "keep_unless")
AXES = 6
"""Axes the kernel handles, after those that lie alike are joined."""


@dataclass(frozen=True)
class Binary(Operation):
    """``f(a, b)`` of two tensors that lie alike.

    Attributes:
        function: ``sum`` is ``first_scale · a + second_scale · b``; ``keep_where`` is ``a`` where the mask ``b`` is not
            zero and ``first_scale`` elsewhere, ``keep_unless`` the reverse; ``inverse_quotient`` is ``b / a``.
        first_scale, second_scale: constants of the function.
    """

    kind: ClassVar[str] = "binary"
    in_place: ClassVar[tuple[int, ...]] = (0, 1)
    function: Function
    first_scale: float = 1.0
    second_scale: float = 1.0

    def of(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The function."""
        functions: dict[Function, Callable[[], torch.Tensor]] = {
            "sum": lambda: self.first_scale * a + self.second_scale * b,
            "product": lambda: a * b,
            "quotient": lambda: a / b,
            "inverse_quotient": lambda: b / a,
            "keep_where": lambda: torch.where(b != 0, a, self.first_scale),
            "keep_unless": lambda: torch.where(b != 0, self.first_scale, a),
        }
        return functions[self.function]()

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        a = present(inputs[0])
        return (self.of(a, present(inputs[1]).reshape(a.shape)),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return self.kernel((outputs[0].elements,), (1,), (1,))

    def kernel(self, shape: Shape, first: Shape, second: Shape) -> KernelCall:
        """The call for operands with these strides."""
        missing = AXES - len(shape)
        fields = (
            ("function", FUNCTIONS.index(self.function)),
            ("shape", (*(1,) * missing, *shape)),
            ("first_stride", (*(0,) * missing, *first)),
            ("second_stride", (*(0,) * missing, *second)),
            ("first_scale", self.first_scale),
            ("second_scale", self.second_scale),
        )
        return KernelCall("lab_f32_binary", (), fields)


@dataclass(frozen=True)
class BroadcastBinary(Binary):
    """``f(a, b)`` where operands are repeated or lie differently.

    The output may take the memory of ``a`` alone, which lies as the output does wherever it has its size.

    Attributes:
        shape: of the output, at most six axes.
        first, second: strides of the operands along its axes; 0 repeats.
    """

    in_place: ClassVar[tuple[int, ...]] = (0,)
    shape: Shape = ()
    first: Shape = ()
    second: Shape = ()

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        a = present(inputs[0]).contiguous().flatten().as_strided(self.shape, self.first)
        b = present(inputs[1]).contiguous().flatten().as_strided(self.shape, self.second)
        return (self.of(a, b).contiguous(),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return self.kernel(self.shape, self.first, self.second)


def join_axes(shape: Shape, *strides: Shape) -> tuple[Shape, ...]:
    """Join neighbouring axes that every operand walks as one; axes of size one are left out.

    Returns:
        the joined shape, then each operand's strides; one axis at least.
    """
    sizes: list[int] = []
    walks: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        here = [stride[axis] for stride in strides]
        if sizes and all(walk[-1] == step * size for walk, step in zip(walks, here, strict=True)):
            sizes[-1] *= size
            for walk, step in zip(walks, here, strict=True):
                walk[-1] = step
            continue
        sizes.append(size)
        for walk, step in zip(walks, here, strict=True):
            walk.append(step)
    if not sizes:
        return ((1,), *((0,) for _ in strides))
    return (tuple(sizes), *(tuple(walk) for walk in walks))
