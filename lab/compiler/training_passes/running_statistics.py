"""Batch norm in training: a step of training normalises by the statistics of its batch, which running ones follow, and
inference normalises by these. The numbers of training stay; those of inference are others, as they are in PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import nn

from lab.compiler.operations.normalisation import GroupNorm, RunningNorm, RunningStatistics
from lab.compiler.program import Program, Step, Tensor
from lab.errors import CompileError

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
MEAN, VARIANCE = ".running_mean", ".running_var"
"""What the names of a batch norm's running statistics end with, as PyTorch's do."""
FOLLOWED, INFERENCE = ".statistics", ".inference"
"""What is added to the name of a batch norm's step that follows the batch, and that inference has in its place."""


def by_batch(module: nn.Module, batch: int) -> tuple[nn.Module, dict[str, BatchNorm]]:
    """A copy in evaluation mode whose batch norms take the batch's statistics, and these batch norms by name.

    Raises:
        CompileError: there is none, or one without scale and shift, running statistics or a constant momentum; or the
            batch is of one sample.
    """
    if batch < 2:
        raise CompileError("a batch of one sample has no statistics to follow", hint="an example of two or more")
    made, norms = copy.deepcopy(module).eval(), _batch_norms(module)
    if not norms:
        raise CompileError(f"{type(module).__name__} has no batch norm", hint="leave batch_norm out")
    for (name, norm), own in zip(norms.items(), _batch_norms(made).values(), strict=True):
        if not (norm.affine and norm.track_running_stats) or norm.momentum is None:
            raise CompileError(
                f"batch norm '{name}' has no scale and shift, no running statistics or a cumulative average",
                hint="affine=True, track_running_stats=True and a momentum",
            )
        own.running_mean = own.running_var = None
    return made, norms


def _batch_norms(module: nn.Module) -> dict[str, BatchNorm]:
    return {name: one for name, one in module.named_modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))}


def running_statistics(program: Program, norms: Mapping[str, BatchNorm]) -> Program:
    """Let the running statistics of each batch norm follow its batch; call it behind all that moves steps.

    Raises:
        CompileError: a batch norm that is not computed once.
    """
    for name, norm in norms.items():
        program = _followed(program, name, norm)
    return program


def _followed(program: Program, name: str, norm: BatchNorm) -> Program:
    scale = f"{name}.weight"
    found = [one for one in program.steps if isinstance(one.operation, GroupNorm) and scale in one.inputs]
    if len(found) != 1:
        raise CompileError(f"batch norm '{name}' is computed {len(found)} times in a step", hint="a norm for each use")
    (step,) = found
    operation = step.operation
    if not isinstance(operation, GroupNorm) or norm.momentum is None:
        raise TypeError(f"{name} is no batch norm of a batch")
    states = [
        _state(name + ending, value)
        for ending, value in ((MEAN, norm.running_mean), (VARIANCE, norm.running_var))
        if value is not None
    ]
    names = tuple(one.name for one in states)
    update = Step(
        step.name + FOLLOWED, RunningStatistics(operation.sizes.positions, norm.momentum, operation.epsilon),
        (*names, *step.outputs[1:]), names, "backward", step.source,
    )  # fmt: skip
    # Behind the forward pass, or where there is no other one, behind the layer.
    borders = [number for number, one in enumerate(program.steps) if one.phase != "forward"]
    place = program.steps.index(step) + 1 if program.learns_forward else min(borders, default=len(program.steps))
    steps = [*program.steps[:place], update, *program.steps[place:]]
    if program.learns_forward:
        steps[place] = replace(update, phase="forward")
    return program.with_steps(steps, *states)


def _state(name: str, value: torch.Tensor) -> Tensor:
    array = value.detach().cpu().numpy().astype("float32")
    return Tensor(name, array.shape, "float32", "state", array, permutation=(0,), torch_shape=array.shape)


def by_running(program: Program) -> Program:
    """The forward steps of inference: what is followed in training normalises in place of the batch's statistics."""
    running = {one.inputs[2]: one.inputs[:2] for one in program.steps if isinstance(one.operation, RunningStatistics)}
    return program.with_steps([_by_running(one, running) for one in program.steps])


def _by_running(step: Step, running: Mapping[str, tuple[str, ...]]) -> Step:
    operation = step.operation
    if not isinstance(operation, GroupNorm) or step.outputs[1] not in running:
        return step
    norm = RunningNorm(operation.sizes.positions, operation.sizes.groups, operation.epsilon)
    inputs = (step.inputs[0], *running[step.outputs[1]], *step.inputs[1:])
    return replace(step, name=step.name + INFERENCE, operation=norm, inputs=inputs, outputs=step.outputs[:1])
