"""A network that is partly coded, compiled to int8 with the very weights that a device decodes. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lab.compiler.arithmetic import quantize_multiplier
from lab.compiler.capture import capture
from lab.compiler.driver import compile_quantized
from lab.compiler.graph import Float32Array, Node, to_nhwc
from lab.compiler.model import CompiledModel
from lab.compiler.operators.conv2d import Conv2d, QuantizedConv2d
from lab.compiler.operators.linear import Linear, QuantizedLinear
from lab.compiler.operators.weights import QuantizedWeights
from lab.compiler.passes import lower
from lab.compiler.quantize import quantize
from lab.compiler.quantized import QuantizedGraph, QuantizedNode
from lab.workloads.many_models.coding import Layer


def compile_coded(
    network: nn.Module, calibration: Float32Array, layers: Mapping[str, Layer], name: str
) -> tuple[CompiledModel, QuantizedGraph, tuple[str, ...]]:
    """Compile a network for inference in int8; coded layers keep their weights and scales to the bit.

    Args:
        network: folded; its weights are those of ``layers``, as real values.
        calibration: samples (n, channels, height, width) that set the ranges of activations.
        layers: what is coded, by name.
        name: C identifier.

    Returns:
        The model, its integer reference, and the names of the layers with packed weights in the order of its C.

    Raises:
        CompileError: a layer that is not supported, or an output too fine for the scale of a coded layer.
    """
    samples = torch.from_numpy(calibration)
    graph = quantize(lower(capture(network, samples[:1])), to_nhwc(samples))
    there = [
        (node, whole)
        for node, whole in zip(graph.nodes, graph.float_graph.nodes, strict=True)
        if isinstance(node.operator, QuantizedConv2d | QuantizedLinear)
    ]
    # A node has the name of the module that it comes from.
    coded = {node.name: _coded(node, whole, layers[node.name]) for node, whole in there if node.name in layers}
    exact = replace(graph, nodes=tuple(coded.get(node.name, node) for node in graph.nodes))
    return compile_quantized(exact, name, None), exact, tuple(node.name for node, _ in there)


def _coded(node: QuantizedNode, whole: Node, layer: Layer) -> QuantizedNode:
    """The node with a layer's own int8 weights and scales in place of those that its largest weights would give."""
    if isinstance(node.operator, QuantizedConv2d) and isinstance(whole.operator, Conv2d):
        weights = _rescaled(node.operator.weights, whole.operator.bias, layer)
        return replace(node, operator=replace(node.operator, weights=weights))
    if isinstance(node.operator, QuantizedLinear) and isinstance(whole.operator, Linear):
        weights = _rescaled(node.operator.weights, whole.operator.bias, layer)
        return replace(node, operator=replace(node.operator, weights=weights))
    raise ValueError(f"'{node.name}' is neither a convolution nor a linear layer")


def _rescaled(old: QuantizedWeights, bias: Float32Array, layer: Layer) -> QuantizedWeights:
    steps = layer.scales * old.input.scale
    pairs = [quantize_multiplier(float(step) / old.output.scale) for step in steps]
    return replace(
        old,
        weight=np.ascontiguousarray(layer.weights.reshape(old.weight.shape)),
        bias=np.rint(bias.astype(np.float64) / steps).astype(np.int32),
        multiplier=np.array([pair[0] for pair in pairs], np.int32),
        shift=np.array([pair[1] for pair in pairs], np.uint8),
    )
