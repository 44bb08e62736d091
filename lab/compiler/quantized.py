"""The int8 graph: what quantisation yields, the integer reference runs and the emitter prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.graph import Clamp, Graph, Shape, Source
from lab.compiler.model import Int8Array

if TYPE_CHECKING:
    import torch

ConstantArray: TypeAlias = npt.NDArray[np.generic]
REFERENCE_BATCH = 64
"""Samples the integer reference evaluates at once; bounds its memory."""


@dataclass(frozen=True)
class Affine:
    """``real = scale · (q − zero_point)`` with ``q`` in int8."""

    scale: float
    zero_point: int

    def bounds(self, clamp: Clamp | None) -> tuple[int, int]:
        """The int8 range that ``clamp`` leaves."""
        if clamp is None:
            return -128, 127
        low = -128 if np.isneginf(clamp.low) else self.zero_point + round(clamp.low / self.scale)
        high = 127 if np.isposinf(clamp.high) else self.zero_point + round(clamp.high / self.scale)
        return min(max(low, -128), 127), min(max(high, -128), 127)


@dataclass(frozen=True)
class Constant:
    """A constant array of a layer.

    Attributes:
        name: field of the kernel's descriptor, and suffix of the C array's name.
        values: flat, in the order of the C array; the dtype gives the C type.
        comment: layout, for the reader of the generated file.
    """

    name: str
    values: ConstantArray
    comment: str


@dataclass(frozen=True)
class KernelCall:
    """How a layer calls its kernel.

    Attributes:
        kernel: C function; ``<kernel>.h`` is its header and ``<kernel>_t`` its descriptor, where no others are named.
        constants: arrays the descriptor points to.
        fields: other fields of the descriptor, name (``layer.batch`` in a nested one) to value; a tuple fills an array.
        bound: descriptor fields that point to a constant or parameter among the inputs, with its position.
        takes_scratch: a scratch pointer follows the tensors, a null pointer where the plan has none.
        takes_state: the last parameter is the ``lab_training_state_t``.
        leaves: the kernel says whether inference may end behind it.
        tables: descriptor fields that point to a table of variables (``lab_part_t``), with their positions among the
            inputs.
        runs_forward: the kernel runs the steps up to the loss itself: its descriptor has them as ``forward``, and the
            caller's output and the arena follow the tensors.
    """

    kernel: str
    constants: tuple[Constant, ...]
    fields: tuple[tuple[str, int | float | tuple[int, ...]], ...]
    takes_scratch: bool = False
    takes_state: bool = False
    descriptor: str = ""
    header: str = ""
    bound: tuple[tuple[str, int], ...] = ()
    leaves: bool = False
    tables: tuple[tuple[str, tuple[int, ...]], ...] = ()
    runs_forward: bool = False

    @property
    def described(self) -> frozenset[int]:
        """Positions of the inputs that the descriptor points to: these are not passed."""
        return frozenset({position for _, position in self.bound}.union(*(places for _, places in self.tables)))


class QuantizedOperator(ABC):
    """One int8 operator.

    Attributes:
        kind: name in layer tables.
        in_place: the output may take the memory of any input.
        is_alias: the output *is* the input's memory; no code is emitted.
    """

    kind: ClassVar[str]
    in_place: ClassVar[bool] = False
    is_alias: ClassVar[bool] = False

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Integer reference on int64 NHWC tensors with a batch dimension; exactly what the kernel computes."""

    @abstractmethod
    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        """The kernel call for the given shapes."""

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Multiply-accumulates of one pass."""
        return 0

    def scratch_bytes(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Arena bytes the kernel needs besides its input and output."""
        return 0


@dataclass(frozen=True)
class QuantizedNode:
    """One int8 operator applied to named values; fields as in :class:`lab.compiler.graph.Node`."""

    name: str
    operator: QuantizedOperator
    inputs: tuple[str, ...]
    output: str
    source: Source


@dataclass(frozen=True)
class QuantizedGraph:
    """The int8 graph.

    Attributes:
        input, output: names of the values at the border.
        shapes: value name to NHWC shape without batch.
        quantization: value name to its affine quantisation.
        nodes: in execution order.
        float_graph: the fused float graph it was made from, node for node.
    """

    input: str
    output: str
    shapes: Mapping[str, Shape]
    quantization: Mapping[str, Affine]
    nodes: tuple[QuantizedNode, ...]
    float_graph: Graph = field(repr=False)

    def run_integer(self, samples: Int8Array) -> Int8Array:
        """Integer reference: int8 ``(n, …NHWC)`` or ``(n, bytes)`` to int8 ``(n, output bytes)``.

        Raises:
            ValueError: samples of another size.
        """
        from lab.compiler.reference import run_integer

        return run_integer(self, samples)

    def input_shapes(self, node: QuantizedNode) -> list[Shape]:
        """Shapes of the values a node reads."""
        return [self.shapes[name] for name in node.inputs]
