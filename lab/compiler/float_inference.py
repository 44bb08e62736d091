"""Inference alone in float32: throughout, with a border of int8, or in int8 up to the linear classifiers."""

from __future__ import annotations

import copy

import torch

from lab.compiler.calibrate import Observer, best_affine, collect
from lab.compiler.driver import check_name, layer_info, tensor_spec
from lab.compiler.emit import Model, binaries, digest, emit
from lab.compiler.graph import to_nhwc
from lab.compiler.int8_border import int8_border
from lab.compiler.joint import export_inference
from lab.compiler.lowering import lower
from lab.compiler.memory import check_limit, layout
from lab.compiler.model import CompiledModel
from lab.compiler.program import Program
from lab.compiler.training_passes import fold_batch_norm, fuse_activation, prune, to_int8


def compile_float_inference(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    name: str = "model",
    arena_limit_bytes: int | None = None,
    calibration: torch.Tensor | None = None,
) -> CompiledModel:
    """Compile a module to static C that infers in float32; batch norm is folded where it follows a layer of its own.

    With ``calibration`` the layers in front of linear classifiers are int8, as :func:`to_int8` has them: what is
    computed of the logits, such as the evidence of an exit, then needs no grid of its own.

    Args:
        module: network in float32; compiled as in ``eval()``.
        example: one batch of inputs, as the device is to take them.
        name: C identifier of the model.
        arena_limit_bytes: most arena bytes the device offers; no limit where ``None``.
        calibration: inputs ``(n, C, H, W)`` that set the ranges of int8 activations; float32 throughout where ``None``.

    Raises:
        CompileError: an operator, dtype or shape that is not supported, or an arena larger than the limit.
    """
    return compile_program(program_of(module, example, calibration), name, arena_limit_bytes)


def compile_between_int8(
    module: torch.nn.Module, example: torch.Tensor, calibration: torch.Tensor, *, name: str = "model"
) -> CompiledModel:
    """Compile a module that computes in float32 between an input and an output of int8.

    For networks whose operators have no int8 form (attention, layer norm) in the place of one that is int8 throughout.

    Args:
        module: network in float32; compiled as in ``eval()``.
        example: one input with batch 1.
        calibration: inputs ``(n, C, H, W)`` or ``(n, F)`` that set the ranges of input and output.
        name: C identifier of the model.

    Raises:
        CompileError: as :func:`compile_float_inference`, or infinite values on the calibration data.
    """
    with torch.no_grad():
        answers = copy.deepcopy(module).eval()(calibration)

    def run(see: Observer) -> None:
        see("input", calibration.detach())
        see("output", answers)

    seen = collect(run, {"input": "the input", "output": "the output"})
    taken, given = (best_affine(seen[one], 0.0) for one in ("input", "output"))
    return compile_program(int8_border(program_of(module, example), taken, given), name)


def compile_program(program: Program, name: str, arena_limit_bytes: int | None = None) -> CompiledModel:
    """Plan and emit what :func:`program_of` yields.

    Raises:
        CompileError: no C identifier, or an arena larger than the limit.
    """
    check_name(name)
    plan = layout(program)
    check_limit(program, plan, arena_limit_bytes)
    model = Model(name, program, plan)
    sources = emit(model)
    return CompiledModel(
        name=name,
        sources=sources,
        input=tensor_spec(program.of_kind("input")[0]),
        output=tensor_spec(program.tensors[program.output]),
        layers=tuple(layer_info(program, step) for step in plan.steps),
        buffers=plan.buffers,
        arena_bytes=plan.arena_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        digest=digest(sources),
        binaries=binaries(model),
    )


def program_of(module: torch.nn.Module, example: torch.Tensor, calibration: torch.Tensor | None = None) -> Program:
    """The program that :func:`compile_float_inference` emits; its ``run`` is the reference of every step.

    Raises:
        CompileError: as there.
    """
    folded = fold_batch_norm(module, example, everything=calibration is not None)
    program = fuse_activation(prune(lower(export_inference(folded, example))))
    if calibration is None:
        return program
    return prune(to_int8(program, list(torch.split(to_nhwc(calibration.detach()), 1))))
