"""An ``.onnx`` file as plain data.

Format: ONNX's protobuf schema. Counts and sizes are bounded here, and constants outside the file are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from lab.compiler.importers.assembly import MAXIMUM_CONSTANT_BYTES, Refusal
from lab.errors import CompileError

MAXIMUM_NODES = 4096
MAXIMUM_DIMENSIONS = 8
Array: TypeAlias = npt.NDArray[np.generic]
Attribute: TypeAlias = float | str | tuple[int, ...] | Array


@dataclass(frozen=True)
class NodeData:
    """A node: number, operator (with its domain where it is not ONNX's own), name, values and attributes."""

    index: int
    code: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of integers.

        Raises:
            Refusal: here and below: the attribute is of another type.
        """
        found = self.attributes.get(name, tuple(default))
        if not isinstance(found, tuple):
            raise Refusal(f"attribute '{name}' is no list of integers")
        return found

    def integer(self, name: str, default: int) -> int:
        """An integer."""
        found = self.attributes.get(name, default)
        if not isinstance(found, int):
            raise Refusal(f"attribute '{name}' is no integer")
        return found

    def number(self, name: str, default: float) -> float:
        """A number."""
        found = self.attributes.get(name, default)
        if not isinstance(found, (int, float)):
            raise Refusal(f"attribute '{name}' is no number")
        return float(found)

    def text(self, name: str, default: str) -> str:
        """A string."""
        found = self.attributes.get(name, default)
        if not isinstance(found, str):
            raise Refusal(f"attribute '{name}' is no string")
        return found


@dataclass(frozen=True)
class GraphData:
    """The graph of a file.

    Attributes:
        nodes: in the file's order.
        constants: initialisers by name.
        inputs: name to shape of what is fed; 0 stands for a dimension that the file leaves open.
        outputs: names.
    """

    nodes: tuple[NodeData, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]


def read_graph(data: bytes, path: str) -> GraphData:
    """Read the file.

    Raises:
        CompileError: no ONNX file, damaged, or beyond the lab's limits.
    """
    try:
        model = onnx.load_model_from_string(data)
        return graph_of(model.graph, path)
    except (DecodeError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise CompileError(
            f"{path} is no ONNX model, or a damaged one ({str(error)[:200]})",
            hint="get the file again, or export it again",
        ) from error


def graph_of(graph: onnx.GraphProto, path: str) -> GraphData:
    """Nodes, constants and borders."""
    if not graph.node:
        raise CompileError(f"{path} holds no graph: it is no ONNX model, or a damaged one")
    if len(graph.node) > MAXIMUM_NODES:
        raise CompileError(f"{path} has {len(graph.node)} nodes; at most {MAXIMUM_NODES} are read")
    constants: dict[str, Array] = {}
    budget = MAXIMUM_CONSTANT_BYTES
    for tensor in graph.initializer:
        constants[tensor.name] = array_of(tensor, budget)
        budget -= constants[tensor.name].nbytes
    nodes = []
    for index, proto in enumerate(graph.node):
        node = node_of(index, proto, budget)
        value = node.attributes.get("value")
        if node.code == "Constant" and isinstance(value, np.ndarray) and len(node.outputs) == 1:
            constants[node.outputs[0]] = value
            budget -= value.nbytes
        else:
            nodes.append(node)
    inputs = {value.name: shape_of(value) for value in graph.input if value.name not in constants}
    return GraphData(tuple(nodes), constants, inputs, tuple(value.name for value in graph.output))


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Shape of a border; 0 where it is open."""
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions) > MAXIMUM_DIMENSIONS:
        raise ValueError(f"{len(dimensions)} dimensions of '{value.name}'")
    return tuple(int(dimension.dim_value) for dimension in dimensions)


def array_of(tensor: onnx.TensorProto, budget: int) -> Array:
    """A constant; its size is checked before it is made."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError(f"constant '{tensor.name}' lies in another file; only constants in the file itself are read")
    dimensions = [int(size) for size in tensor.dims]
    if len(dimensions) > MAXIMUM_DIMENSIONS or min(dimensions, default=1) < 0 or math.prod(dimensions) > budget:
        raise ValueError(f"constant '{tensor.name}' of shape {dimensions} is beyond the limit of {budget} bytes")
    array: Array = onnx.numpy_helper.to_array(tensor)
    return array


def node_of(index: int, node: onnx.NodeProto, budget: int) -> NodeData:
    """One node."""
    own = node.domain in ("", "ai.onnx")
    code = node.op_type if own else f"{node.domain}.{node.op_type}"
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        match attribute.type:
            case onnx.AttributeProto.INT:
                attributes[attribute.name] = int(attribute.i)
            case onnx.AttributeProto.FLOAT:
                attributes[attribute.name] = float(attribute.f)
            case onnx.AttributeProto.STRING:
                attributes[attribute.name] = attribute.s.decode(errors="replace")
            case onnx.AttributeProto.INTS:
                attributes[attribute.name] = tuple(int(value) for value in attribute.ints)
            case onnx.AttributeProto.TENSOR:
                attributes[attribute.name] = array_of(attribute.t, budget)
            case _:
                attributes[attribute.name] = f"attribute of type {attribute.type}"
    return NodeData(index, code[:200], node.name[:200], tuple(node.input), tuple(node.output), attributes)
