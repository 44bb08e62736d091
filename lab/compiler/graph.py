"""The float graph: what capture yields and passes rewrite.

Activations are NHWC without the batch dimension: ``(H, W, C)`` or ``(F,)``. An operator is a frozen dataclass that
holds its attributes and constants and knows its shape rule, its float reference and its int8 lowering.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from lab.compiler.quantized import Affine, QuantizedOperator

Shape: TypeAlias = tuple[int, ...]
Float32Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Where in the user's code an operator comes from: module path (``features.3.act``), file and line."""

    module: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"'{self.module}'" if self.module else "the top module's forward"
        return f"{place} ({self.file}:{self.line})" if self.file else place


@dataclass(frozen=True)
class Clamp:
    """An activation that clamps to ``[low, high]``; ReLU is ``[0, inf]``."""

    low: float
    high: float

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Clamp a tensor of real values."""
        return x.clamp(self.low, self.high)

    def then(self, later: Clamp) -> Clamp:
        """This clamp followed by ``later`` as one clamp."""
        return Clamp(
            min(max(self.low, later.low), later.high),
            max(min(self.high, later.high), later.low),
        )


class Operator(ABC):
    """One float operator.

    Attributes:
        kind: name in layer tables (``conv2d``).
        keeps_scale: the output takes the quantisation of the first input.
        output_quantization: (scale, zero point) of the output where the operator prescribes it.
    """

    kind: ClassVar[str]
    keeps_scale: ClassVar[bool] = False
    output_quantization: ClassVar[tuple[float, int] | None] = None

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output, NHWC without batch."""

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Float reference on NHWC tensors with a batch dimension."""

    @abstractmethod
    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        """The int8 operator for the given quantisation of inputs and output."""

    def minimum_output_scale(self, inputs: Sequence[Affine]) -> float:
        """Smallest output scale the int8 operator can requantise to."""
        return 0.0

    def with_fake_quantized_weights(self, inputs: Sequence[Affine]) -> Operator:
        """This operator with weights and bias on the grid they have in int8; itself where it has none."""
        return self


@dataclass(frozen=True)
class Node:
    """One operator applied to named values.

    Attributes:
        name: unique; the user's module path, with the operator's kind where the module is not the operator itself.
        operator: what is computed.
        inputs: names of the values read.
        output: name of the value written.
        source: place in the user's module.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    output: str
    source: Source


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order.

    Attributes:
        input, output: names of the values at the border.
        shapes: value name to NHWC shape without batch.
        nodes: every node reads values written before it.
    """

    input: str
    output: str
    shapes: Mapping[str, Shape]
    nodes: tuple[Node, ...]

    def consumers(self, value: str) -> list[Node]:
        """Nodes that read ``value``."""
        return [node for node in self.nodes if value in node.inputs]

    def producer(self, value: str) -> Node | None:
        """The node that writes ``value``; ``None`` for the graph's input."""
        return next((node for node in self.nodes if node.output == value), None)

    def sole_consumer(self, value: str) -> Node | None:
        """The only reader of ``value``, if there is exactly one and it is not also the graph's output."""
        readers = self.consumers(value)
        return readers[0] if len(readers) == 1 and value != self.output else None

    def merged(self, first: Node, second: Node, operator: Operator) -> Graph:
        """The graph with ``second``, the sole consumer of ``first``, merged into it as ``operator``."""
        fused = replace(first, operator=operator, output=second.output)
        nodes = tuple(fused if node is first else node for node in self.nodes if node is not second)
        return replace(self, nodes=nodes)

    def with_operator(self, node: Node, operator: Operator) -> Graph:
        """The graph with another operator in ``node``."""
        changed = replace(node, operator=operator)
        return replace(self, nodes=tuple(changed if other is node else other for other in self.nodes))

    def run(self, x: torch.Tensor, observe: Callable[[str, torch.Tensor], None] | None = None) -> torch.Tensor:
        """Evaluate in float on NHWC input ``(n, …)``; ``observe`` is told every value."""
        values = {self.input: x}
        if observe is not None:
            observe(self.input, x)
        for node in self.nodes:
            values[node.output] = node.operator.run([values[name] for name in node.inputs])
            if observe is not None:
                observe(node.output, values[node.output])
        return values[self.output]


def to_nhwc(x: torch.Tensor) -> torch.Tensor:
    """``(n, C, H, W)`` to ``(n, H, W, C)``; ``(n, F)`` as it is."""
    return x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x


def to_nchw(x: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`to_nhwc`."""
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
