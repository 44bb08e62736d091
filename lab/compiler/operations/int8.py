"""Layers of the int8 graph as steps of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.graph import Shape
from lab.compiler.operations.copy import Reshape, present
from lab.compiler.operations.pool import MaxPool2dPlaces, Windows
from lab.compiler.operations.unary import UnaryGradient
from lab.compiler.operators.max_pool2d import QuantizedMaxPool2d
from lab.compiler.operators.table import grid
from lab.compiler.program import Kind, Operation, Program, Step, Tensor
from lab.compiler.quantized import Affine, Constant, KernelCall, QuantizedGraph, QuantizedOperator


@dataclass(frozen=True)
class Int8Layer(Operation):
    """A layer of the int8 graph; its weights are constants of the layer.

    Attributes:
        layer: what is computed.
        input_shapes, output_shape: as the layer sees them, without batch.
    """

    kind: ClassVar[str] = "int8"
    layer: QuantizedOperator
    input_shapes: tuple[Shape, ...]
    output_shape: Shape

    @property
    def label(self) -> str:
        return self.layer.kind

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        shaped = [
            present(one).to(torch.int64).reshape(1, *shape)
            for one, shape in zip(inputs, self.input_shapes, strict=True)
        ]
        return (self.layer.run(shaped).to(torch.int8),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return self.layer.call(self.input_shapes, self.output_shape)

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.macs(self.input_shapes, self.output_shape)

    def scratch_bytes(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        return self.layer.scratch_bytes(self.input_shapes, self.output_shape)


@dataclass(frozen=True)
class Int8InPlace(Int8Layer):
    """A layer that may write over either input."""

    in_place: ClassVar[tuple[int, ...]] = (0, 1)


@dataclass(frozen=True)
class Int8MaxPoolPlaces(Operation):
    """Max pooling in int8 that also yields the place of each maximum in its window, the first of equal ones.

    Attributes:
        layer: what is computed.
        windows: sizes, as the gradient of the float layer has them.
    """

    kind: ClassVar[str] = "int8"
    layer: QuantizedMaxPool2d
    windows: Windows

    @property
    def label(self) -> str:
        return self.layer.kind

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        # float32 holds int8 exactly.
        y, places = MaxPool2dPlaces(self.windows).run([present(inputs[0]).float()])
        return y.to(torch.int8), places

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        plain = self.layer.call([self.windows.input], self.windows.output)
        return replace(plain, kernel="lab_max_pool2d_places", descriptor="lab_max_pool2d_t")


@dataclass(frozen=True)
class TableGradient(Operation):
    """``gradient · f'(value)`` with a table of ``f'`` over int8; inputs: gradient, the value ``f'`` is a function of.

    Attributes:
        function: the gradient in float32.
        affine: quantisation of the value.
    """

    kind: ClassVar[str] = "table.gradient"
    in_place: ClassVar[tuple[int, ...]] = (0,)
    function: UnaryGradient
    affine: Affine

    @property
    def slopes(self) -> torch.Tensor:
        """``f'`` of -128 … 127, float32 (256,)."""
        return self.function.slope(torch.from_numpy(grid(self.affine))).to(torch.float32)

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient, value = present(inputs[0]), present(inputs[1]).long()
        return (gradient * self.slopes[value + 128].reshape(gradient.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        slopes = Constant("slopes", self.slopes.numpy().astype(np.float32), "of the value -128 to 127")
        return KernelCall("lab_table_gradient", (slopes,), (("size", outputs[0].elements),), header="lab_table.h")


def layer_operation(layer: QuantizedOperator, inputs: Sequence[Shape], output: Shape) -> Operation:
    """The operation of a layer of the int8 graph for shapes without batch."""
    if layer.is_alias:
        return Reshape((1, *output))
    return (Int8InPlace if layer.in_place else Int8Layer)(layer, tuple(inputs), output)


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
            layer_operation(node.operator, graph.input_shapes(node), graph.shapes[node.output]),
            node.inputs,
            (node.output,),
            "forward",
            node.source,
        )
        for node in graph.nodes
    )
    return Program(tensors, steps, graph.output)
