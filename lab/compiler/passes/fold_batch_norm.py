"""Fold batch normalisation into the weights of the layer before it.

Source: Jacob et al. 2018, section 3.2: ``w' = w · gain``, ``b' = b · gain + offset``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.graph import Float32Array, Graph, Node
from lab.compiler.operators.batch_norm import BatchNorm
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.geometry import Window
from lab.compiler.operators.linear import Linear


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph without batch norms. One that cannot be folded becomes a 1×1 depthwise convolution (or, on features,
    a diagonal linear layer)."""
    for node in graph.nodes:
        if not isinstance(node.operator, BatchNorm):
            continue
        before = graph.producer(node.inputs[0])
        foldable = before is not None and graph.sole_consumer(before.output) is node
        if before is not None and foldable:
            folded = scaled(before, node.operator)
            if folded is not None:
                return fold_batch_norm(graph.merged(before, node, folded))
        standalone = diagonal(node.operator, rank=len(graph.shapes[node.inputs[0]]))
        return fold_batch_norm(graph.with_operator(node, standalone))
    return graph


def scaled(node: Node, norm: BatchNorm) -> Conv2d | DepthwiseConv2d | Linear | None:
    """The node's operator followed by ``norm``; ``None`` where it has no weights or an activation in between."""
    operator = node.operator
    if not isinstance(operator, (Conv2d, DepthwiseConv2d, Linear)) or operator.activation is not None:
        return None
    column = norm.gain.reshape(-1, *([1] * (operator.weight.ndim - 1)))
    weight: Float32Array = operator.weight * column
    bias: Float32Array = operator.bias * norm.gain + norm.offset
    return replace(operator, weight=weight, bias=bias)


def diagonal(norm: BatchNorm, rank: int) -> DepthwiseConv2d | Linear:
    """``norm`` as a layer of its own."""
    if rank == 1:
        return Linear(np.diag(norm.gain), norm.offset)
    return DepthwiseConv2d(norm.gain.reshape(-1, 1, 1), norm.offset, Window((1, 1), (1, 1)))
