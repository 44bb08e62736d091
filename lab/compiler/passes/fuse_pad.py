"""Merge zero padding into the convolution that is its only reader."""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.graph import Graph
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.pad import Pad


def fuse_pad(graph: Graph) -> Graph:
    """The graph with padding merged where a convolution follows; asymmetric padding stays asymmetric."""
    for node in graph.nodes:
        if not isinstance(node.operator, Pad):
            continue
        reader = graph.sole_consumer(node.output)
        if reader is None or not isinstance(reader.operator, (Conv2d, DepthwiseConv2d)):
            continue
        pad, convolution = node.operator, reader.operator
        window = convolution.window.widened(pad.top, pad.bottom, pad.left, pad.right)
        fused = replace(reader, operator=replace(convolution, window=window), inputs=node.inputs)
        nodes = tuple(fused if other is reader else other for other in graph.nodes if other is not node)
        return fuse_pad(replace(graph, nodes=nodes))
    return graph
