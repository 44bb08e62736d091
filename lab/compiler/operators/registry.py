"""What capture knows: aten operator name to the function that turns one call into nodes of our graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch.fx import Node as FxNode

from lab.compiler.graph import Float32Array, Node, Operator, Shape, Source
from lab.errors import CompileError


@dataclass
class GraphBuilder:
    """Collects nodes and the shapes of their values during capture."""

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """``name``, or ``name_2`` … where it was given out before."""
        count = self.names.get(name, 0) + 1
        self.names[name] = count
        return name if count == 1 else f"{name}_{count}"

    def add(self, name: str, operator: Operator, inputs: tuple[str, ...], source: Source) -> str:
        """Append a node; returns the name of its output value."""
        unique = self.unique(name)
        self.shapes[unique] = operator.output_shape([self.shapes[value] for value in inputs])
        self.nodes.append(Node(unique, operator, inputs, unique, source))
        return unique


@dataclass(frozen=True)
class Call:
    """One aten call under capture.

    Attributes:
        node: the call in the exported graph.
        aten: name of the aten operator with overload (``aten.conv2d.default``).
        source: place in the user's module.
        leaf: the innermost module is one of torch.nn's own, so its path names the layer.
        builder: receives the nodes.
        values: exported node to the name of our value.
        parameters: exported placeholder to the parameter or buffer it stands for.
    """

    node: FxNode
    aten: str
    source: Source
    leaf: bool
    builder: GraphBuilder
    values: Mapping[FxNode, str]
    parameters: Mapping[FxNode, torch.Tensor]

    def refuse(self, why: str, hint: str = "") -> CompileError:
        """The error for a use of the operator that is not supported."""
        return CompileError(f"{self.aten} at {self.source}: {why}", hint=hint)

    def argument(self, index: int, name: str) -> object:
        """Positional or keyword argument; ``None`` where it was left out."""
        if index < len(self.node.args):
            return self.node.args[index]
        return self.node.kwargs.get(name)

    def value(self, index: int, name: str = "input") -> str:
        """Name of our value that is passed as an activation."""
        argument = self.argument(index, name)
        if isinstance(argument, FxNode) and argument in self.values:
            return self.values[argument]
        raise self.refuse(
            f"argument '{name}' is not an activation but {describe(argument)}",
            "only values computed from the model's input may stand here",
        )

    def parameter(self, index: int, name: str) -> Float32Array:
        """A parameter or buffer as float32."""
        array = self.optional_parameter(index, name)
        if array is None:
            raise self.refuse(f"argument '{name}' is missing")
        return array

    def optional_parameter(self, index: int, name: str) -> Float32Array | None:
        """A parameter or buffer as float32, ``None`` where it is absent."""
        argument = self.argument(index, name)
        if argument is None:
            return None
        if not isinstance(argument, FxNode) or argument not in self.parameters:
            raise self.refuse(
                f"argument '{name}' must be a parameter or buffer, found {describe(argument)}",
                "weights that are computed in forward are not supported",
            )
        tensor = self.parameters[argument]
        if tensor.dtype != torch.float32:
            raise self.refuse(f"'{name}' is {tensor.dtype}, only torch.float32 is supported", "use module.float()")
        if not bool(torch.isfinite(tensor).all()):
            raise self.refuse(f"'{name}' holds NaN or infinite values", "train again or load another checkpoint")
        return np.ascontiguousarray(tensor.detach().cpu().numpy())

    def number(self, index: int, name: str, default: float) -> float:
        """A plain number."""
        argument = self.argument(index, name)
        if argument is None:
            return default
        if isinstance(argument, (int, float)):
            return float(argument)
        raise self.refuse(f"argument '{name}' must be a number, found {describe(argument)}")

    def flag(self, index: int, name: str, default: bool) -> bool:
        """A plain boolean."""
        argument = self.argument(index, name)
        return default if argument is None else bool(argument)

    def integers(self, index: int, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of integers; refuses symbolic (dynamic) ones."""
        argument = self.argument(index, name)
        if argument is None:
            return tuple(default)
        if isinstance(argument, int):
            return (argument,)
        if isinstance(argument, (list, tuple)) and all(isinstance(item, int) for item in argument):
            return tuple(item for item in argument if isinstance(item, int))
        raise self.refuse(f"argument '{name}' must be fixed integers, found {describe(argument)}")

    def pair(self, index: int, name: str, default: tuple[int, int]) -> tuple[int, int]:
        """One or two integers as ``(height, width)``; an empty list stands for the default."""
        items = self.integers(index, name, default) or default
        return (items[0], items[-1])

    def shape(self, value: str) -> Shape:
        """NHWC shape of one of our values."""
        return self.builder.shapes[value]

    def add(self, operator: Operator, *inputs: str, suffix: str = "") -> str:
        """Append a node named after the user's module; returns the name of its output value."""
        path = self.source.module
        name = path if self.leaf and path else ".".join(part for part in (path, operator.kind) if part)
        return self.builder.add(name + suffix, operator, inputs, self.source)


def describe(argument: object) -> str:
    """An argument in words for an error."""
    return f"the result of {argument.target}" if isinstance(argument, FxNode) else repr(argument)


Capture: TypeAlias = Callable[[Call], str]
CAPTURES: dict[str, Capture] = {}


def captures(*aten: str) -> Callable[[Capture], Capture]:
    """Register a capture function for aten operators, named with their overload. It returns the output value's name."""

    def register(function: Capture) -> Capture:
        for name in aten:
            CAPTURES[name] = function
        return function

    return register


def supported() -> str:
    """The aten operators capture understands, for messages."""
    return ", ".join(sorted({name.removeprefix("aten.").split(".")[0] for name in CAPTURES}))
