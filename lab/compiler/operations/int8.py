"""Layers of the int8 graph as steps of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.graph import Shape
from lab.compiler.operations.copy import Reshape, given, present
from lab.compiler.program import Kind, Operation, Program, Step, Tensor
from lab.compiler.quantized import KernelCall, QuantizedGraph, QuantizedOperator


def sample_shape(tensor: Tensor) -> Shape:
    """Shape without the batch, which is one in int8."""
    return tensor.shape[1:]


@dataclass(frozen=True)
class Int8Layer(Operation):
    """A layer of the int8 graph; its weights are constants of the layer.

    Attributes:
        layer: what is computed.
    """

    kind: ClassVar[str] = "int8"
    layer: QuantizedOperator

    @property
    def label(self) -> str:
        return self.layer.kind

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (self.layer.run([present(one).to(torch.int64) for one in inputs]).to(torch.int8),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return self.layer.call([sample_shape(given(one)) for one in inputs], sample_shape(outputs[0]))

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.macs([sample_shape(given(one)) for one in inputs], sample_shape(outputs[0]))

    def scratch_bytes(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.scratch_bytes([sample_shape(given(one)) for one in inputs], sample_shape(outputs[0]))


@dataclass(frozen=True)
class Int8InPlace(Int8Layer):
    """A layer that may write over either input."""

    in_place: ClassVar[tuple[int, ...]] = (0, 1)


def layer_operation(layer: QuantizedOperator, output: Shape) -> Operation:
    """The operation of a layer of the int8 graph; ``output`` is the shape of its output, without batch."""
    if layer.is_alias:
        return Reshape((1, *output))
    return Int8InPlace(layer) if layer.in_place else Int8Layer(layer)


def program_of(graph: QuantizedGraph) -> Program:
    """An int8 graph as a program."""
    kinds: dict[str, Kind] = {graph.input: "input"}
    tensors = {
        value: Tensor(value, (1, *shape), "int8", kinds.get(value, "activation"), affine=graph.quantization[value])
        for value, shape in graph.shapes.items()
    }
    steps = tuple(
        Step(
            node.name,
            layer_operation(node.operator, graph.shapes[node.output]),
            node.inputs,
            (node.output,),
            "forward",
            node.source,
        )
        for node in graph.nodes
    )
    return Program(tensors, steps, graph.output)
