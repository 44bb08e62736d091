"""Fuse a clamp into the layer before it, as the output range of its requantisation."""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.graph import Clamp, Graph, Operator
from lab.compiler.operators.add import Add
from lab.compiler.operators.clamp import Activation
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.sample_norm import SampleNorm


def fuse_activation(graph: Graph) -> Graph:
    """The graph with every clamp fused whose input is read by nobody else."""
    for node in graph.nodes:
        if not isinstance(node.operator, Activation):
            continue
        before = graph.producer(node.inputs[0])
        if before is None or graph.sole_consumer(before.output) is not node:
            continue
        fused = clamped(before.operator, node.operator.clamp)
        if fused is not None:
            return fuse_activation(graph.merged(before, node, fused))
    return graph


def clamped(operator: Operator, clamp: Clamp) -> Operator | None:
    """The operator followed by ``clamp``; ``None`` where it has no requantisation to carry it."""
    if isinstance(operator, Activation):
        return Activation(operator.clamp.then(clamp))
    if isinstance(operator, (Conv2d, DepthwiseConv2d, Linear, Add, SampleNorm)):
        earlier = operator.activation
        return replace(operator, activation=clamp if earlier is None else earlier.then(clamp))
    return None
