"""Make every reshape free: move the NCHW order of a flatten into the columns of the linear layer that reads it, and the
order of a map into the rows of the linear layer that yields it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.graph import Graph, Node
from lab.compiler.operators.clamp import Activation
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.reshape import Permutation, Reshape
from lab.errors import CompileError


def order_reshape(graph: Graph) -> Graph:
    """The graph in which the memory of every reshape's output is that of its input.

    Raises:
        CompileError: a reshape whose result is not read by linear layers only (through activations), and which does not
            alone read a linear layer's either.
    """
    for node in graph.nodes:
        if isinstance(node.operator, Reshape) and not node.operator.is_alias(graph.shapes[node.inputs[0]]):
            order = node.operator.permutation(graph.shapes[node.inputs[0]])
            writer = graph.producer(node.inputs[0])
            alone = graph.sole_consumer(node.inputs[0]) is node
            if alone and writer is not None and isinstance(writer.operator, Linear):
                graph = permute_rows(graph, writer, writer.operator, order)
            else:
                graph = permute_readers(graph, node.output, order, node)
            return order_reshape(graph.with_operator(node, replace(node.operator, memory_order=True)))
    return graph


def permute_rows(graph: Graph, writer: Node, linear: Linear, order: Permutation) -> Graph:
    """Let a linear layer yield its outputs in the order ``order`` of memory."""
    weight, bias = (np.ascontiguousarray(one[order]) for one in (linear.weight, linear.bias))
    return graph.with_operator(writer, replace(linear, weight=weight, bias=bias))


def permute_readers(graph: Graph, value: str, order: Permutation, reshape: Node) -> Graph:
    """Permute the columns of every linear layer that reads ``value``, directly or through activations."""
    if value == graph.output:
        raise refusal(reshape, "the model's output")
    for reader in graph.consumers(value):
        if isinstance(reader.operator, Linear):
            # output[i] = input[order[i]], so column i of the weights belongs to memory element order[i].
            weight = np.ascontiguousarray(reader.operator.weight[:, np.argsort(order)])
            graph = graph.with_operator(reader, replace(reader.operator, weight=weight))
        elif isinstance(reader.operator, Activation):
            graph = permute_readers(graph, reader.output, order, reshape)
        else:
            raise refusal(reshape, f"'{reader.name}' ({reader.operator.kind})")
    return graph


def refusal(reshape: Node, reader: str) -> CompileError:
    """The error for a reshape that would have to move data."""
    return CompileError(
        f"reshape at {reshape.source} changes the order of elements in NHWC memory and is read by {reader}",
        hint="flatten (C, H, W) only in front of linear layers, or pool to 1×1 first",
    )
