"""Post-training int8: per-output-channel symmetric weights, per-tensor affine activations, int32 bias."""

from __future__ import annotations

import torch

from lab.compiler.calibrate import Histogram, affine_of_range, best_affine, observe
from lab.compiler.graph import Graph, Node
from lab.compiler.quantized import Affine, QuantizedGraph, QuantizedNode
from lab.errors import CompileError


def quantize(graph: Graph, calibration: torch.Tensor) -> QuantizedGraph:
    """Quantise a lowered graph.

    Args:
        graph: float graph after all passes.
        calibration: NHWC inputs ``(n, …)``, float32.

    Raises:
        CompileError: calibration data of another shape, empty, or with NaN; layers int8 cannot hold.
    """
    check_calibration(graph, calibration)
    seen = observe(graph, calibration)
    quantization = {graph.input: best_affine(seen[graph.input], 0.0)}
    nodes: list[QuantizedNode] = []
    for node in graph.nodes:
        inputs = [quantization[name] for name in node.inputs]
        output = output_affine(graph, node, inputs, seen[node.output])
        quantization[node.output] = output
        nodes.append(quantize_node(node, inputs, output))
    shapes = {name: graph.shapes[name] for name in quantization}
    return QuantizedGraph(graph.input, graph.output, shapes, quantization, tuple(nodes), graph)


def output_affine(graph: Graph, node: Node, inputs: list[Affine], seen: Histogram) -> Affine:
    """Quantisation of a node's output."""
    if node.operator.keeps_scale:
        return inputs[0]
    if node.operator.output_quantization is not None:
        return Affine(*node.operator.output_quantization)
    minimum = node.operator.minimum_output_scale(inputs)
    if node.output == graph.output:
        # Scores are compared with each other: clipping the largest could tie two classes.
        return affine_of_range(seen.low, seen.high, minimum)
    return best_affine(seen, minimum)


def quantize_node(node: Node, inputs: list[Affine], output: Affine) -> QuantizedNode:
    """The int8 node; adds the place to what the operator refuses."""
    try:
        operator = node.operator.quantize(inputs, output)
    except CompileError as error:
        raise CompileError(f"'{node.name}' at {node.source}: {error.message}", hint=error.hint) from error
    return QuantizedNode(node.name, operator, node.inputs, node.output, node.source)


def check_calibration(graph: Graph, calibration: torch.Tensor) -> None:
    """Refuse calibration data that cannot set ranges."""
    expected = graph.shapes[graph.input]
    found = tuple(calibration.shape)
    if calibration.dtype != torch.float32 or found[1:] != expected or found[0] == 0:
        raise CompileError(
            f"calibration data of NHWC shape {found} and {calibration.dtype}; the model takes (n, "
            f"{', '.join(map(str, expected))}) of torch.float32",
            hint="give inputs like the example, stacked along the first dimension",
        )
    if not bool(torch.isfinite(calibration).all()):
        raise CompileError("calibration data holds NaN or infinite values", hint="clean the data")
