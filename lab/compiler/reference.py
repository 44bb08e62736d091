"""Two references for the generated C: exact integers, and PyTorch's own fake quantisation."""

from __future__ import annotations

import numpy as np
import torch

from lab.compiler.model import FloatArray, Int8Array
from lab.compiler.quantized import REFERENCE_BATCH, Affine, QuantizedGraph


def run_integer(graph: QuantizedGraph, samples: Int8Array) -> Int8Array:
    """Evaluate the int8 graph with PyTorch integers; equals the generated C bit for bit.

    Args:
        graph: quantised graph.
        samples: int8 ``(n, …NHWC)`` or ``(n, bytes)``.

    Returns:
        int8 ``(n, output bytes)``.

    Raises:
        ValueError: samples of another size or type.
    """
    shape = graph.shapes[graph.input]
    if samples.dtype != np.int8 or samples.size != len(samples) * int(np.prod(shape)):
        raise ValueError(f"samples are {samples.dtype} {samples.shape}; the model takes int8 (n, {shape})")
    x = torch.from_numpy(np.ascontiguousarray(samples).reshape(-1, *shape))
    outputs = [run_chunk(graph, chunk.to(torch.int64)) for chunk in torch.split(x, REFERENCE_BATCH)]
    return np.concatenate(outputs).astype(np.int8)


def run_chunk(graph: QuantizedGraph, x: torch.Tensor) -> Int8Array:
    """Evaluate one batch of int64 values; returns ``(n, output bytes)``."""
    values = {graph.input: x}
    with torch.no_grad():
        for node in graph.nodes:
            values[node.output] = node.operator.run([values[name] for name in node.inputs])
    return values[graph.output].reshape(len(x), -1).to(torch.int8).numpy()


def run_fake_quantized(graph: QuantizedGraph, samples: Int8Array) -> FloatArray:
    """Evaluate with PyTorch's fake-quantised float arithmetic (``torch.fake_quantize_per_…_affine``).

    Shares no rounding code with the kernels: it shows that the integer arithmetic is the usual int8 one.

    Args:
        graph: quantised graph.
        samples: int8 ``(n, …NHWC)`` or ``(n, bytes)``.

    Returns:
        real outputs ``(n, outputs)`` on the output's grid.
    """
    shape = graph.shapes[graph.input]
    affine = graph.quantization[graph.input]
    real = (samples.reshape(-1, *shape).astype(np.float64) - affine.zero_point) * affine.scale
    values = {graph.input: torch.from_numpy(real.astype(np.float32))}
    with torch.no_grad():
        for node in graph.float_graph.nodes:
            inputs = [graph.quantization[name] for name in node.inputs]
            operator = node.operator.with_fake_quantized_weights(inputs)
            result = operator.run([values[name] for name in node.inputs])
            values[node.output] = fake_quantize(result, graph.quantization[node.output])
    output: FloatArray = values[graph.output].reshape(len(real), -1).numpy()
    return output


def fake_quantize(x: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Round to the affine grid."""
    return torch.fake_quantize_per_tensor_affine(x, affine.scale, affine.zero_point, -128, 127)
