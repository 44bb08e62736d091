"""The compiler from end to end."""

from __future__ import annotations

import re

import torch

from lab.compiler.capture import capture
from lab.compiler.emit import Model, binaries, digest, emit
from lab.compiler.graph import to_nhwc
from lab.compiler.memory import check_limit, layout
from lab.compiler.model import CompiledModel, LayerInfo, TensorSpec
from lab.compiler.operations.int8 import program_of
from lab.compiler.passes import lower
from lab.compiler.program import Program, Step, Tensor
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
    program = program_of(quantized)
    plan = layout(program)
    check_limit(program, plan, arena_limit_bytes)
    model = Model(name, program, plan)
    sources = emit(model)
    return CompiledModel(
        name=name,
        sources=sources,
        input=tensor_spec(program.tensors[program.of_kind("input")[0].name]),
        output=tensor_spec(program.tensors[program.output]),
        layers=tuple(layer_info(program, step) for step in plan.steps),
        buffers=plan.buffers,
        arena_bytes=plan.arena_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        digest=digest(sources),
        binaries=binaries(model),
    )


def tensor_spec(tensor: Tensor) -> TensorSpec:
    """A tensor at the model's border."""
    shape = tensor.shape[1:] or (1,)
    batch = tensor.shape[0] if tensor.shape else 1
    if tensor.affine is not None:
        return TensorSpec(shape, tensor.affine.scale, tensor.affine.zero_point)
    return TensorSpec(shape if batch == 1 else tensor.shape, 1.0, 0, tensor.dtype)


def layer_info(program: Program, step: Step) -> LayerInfo:
    """A step of the inference schedule."""
    inputs, outputs = program.inputs_of(step), program.outputs_of(step)
    weights = sum(
        tensor.size_bytes for tensor in inputs if tensor is not None and tensor.kind in ("constant", "parameter")
    )
    weights += sum(constant.values.nbytes for constant in step.operation.call(inputs, outputs).constants)
    first = next(tensor for tensor in inputs if tensor is not None)
    macs = step.operation.macs(inputs, outputs)
    return LayerInfo(step.name, step.operation.label, macs, weights, first.shape[1:], outputs[0].shape[1:])
