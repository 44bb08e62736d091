"""The compiler from end to end."""

from __future__ import annotations

import re

import torch

from lab.compiler.capture import capture
from lab.compiler.emit import digest, emit, layer_infos
from lab.compiler.graph import to_nhwc
from lab.compiler.model import CompiledModel, TensorSpec
from lab.compiler.passes import lower
from lab.compiler.planner import check_limit, plan_memory
from lab.compiler.quantize import quantize
from lab.compiler.quantized import QuantizedGraph
from lab.errors import CompileError


def compile_module(
    module: torch.nn.Module,
    example: torch.Tensor,
    calibration: torch.Tensor,
    name: str,
    arena_limit_bytes: int | None,
) -> tuple[CompiledModel, QuantizedGraph]:
    """See :func:`lab.compiler.compile_with_reference`."""
    check_name(name)
    graph = lower(capture(module, example))
    quantized = quantize(graph, to_nhwc(calibration.detach()))
    return compile_quantized(quantized, name, arena_limit_bytes), quantized


def check_name(name: str) -> None:
    """Refuse names of models that are no C identifiers."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise CompileError(f"model name {name!r} is not a C identifier", hint="use letters, digits and underscores")


def compile_quantized(quantized: QuantizedGraph, name: str, arena_limit_bytes: int | None) -> CompiledModel:
    """Plan and emit an int8 graph, wherever it came from.

    Raises:
        CompileError: no C identifier, a model that computes nothing, or an arena larger than the limit.
    """
    check_name(name)
    plan = plan_memory(quantized)
    check_limit(quantized, plan, arena_limit_bytes)
    sources = emit(name, quantized, plan)
    return CompiledModel(
        name=name,
        sources=sources,
        input=tensor_spec(quantized, quantized.input),
        output=tensor_spec(quantized, quantized.output),
        layers=layer_infos(quantized, plan),
        buffers=plan.buffers,
        arena_bytes=plan.arena_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        digest=digest(sources),
    )


def tensor_spec(graph: QuantizedGraph, value: str) -> TensorSpec:
    """A value at the model's border."""
    affine = graph.quantization[value]
    return TensorSpec(graph.shapes[value], affine.scale, affine.zero_point)
