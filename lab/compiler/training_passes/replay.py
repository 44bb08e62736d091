"""Rehearsal with stored logits, and gradients of several steps that add up before the parameters change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.operations.loss import NllLossGradient
from lab.compiler.operations.optimizer import Optimizer, Sgd
from lab.compiler.operations.replay import Commit, Replay, ReplayGradient
from lab.compiler.operations.softmax import SoftmaxGradient
from lab.compiler.program import Program, Step, Tensor, Update
from lab.errors import CompileError

LOGITS, NEXT = "replay.logits", ".next"
"""The stored logits, (slots, classes), and what the names of a parameter's next values end with."""


def replay_logits(program: Program, chosen: Replay | None) -> Program:
    """Put what :class:`Replay` makes of a step in place of the gradient of the cross entropy.

    The step's loss stays the cross entropy of its sample.

    Raises:
        CompileError: the loss is no cross entropy of a step's logits, or nothing can be kept.
    """
    if chosen is None:
        return program
    logits = program.tensors[program.output]
    step = next((one for one in program.steps if isinstance(one.operation, SoftmaxGradient)), None)
    loss = program.producer(step.inputs[0]) if step is not None else None
    alone = loss is not None and isinstance(loss.operation, NllLossGradient) and loss.operation.rows == chosen.rows
    whole = alone and program.classes * chosen.rows == logits.elements and chosen.rows in (1, chosen.batch)
    if step is None or not whole or min(chosen.slots, chosen.batch) < 1:
        raise CompileError(
            f"logits cannot be replayed: {chosen}",
            hint="cross entropy of the samples of a step, one or a batch; slots and batch from 1",
        )
    own, gradient = step.outputs[0], replace(program.tensors[step.outputs[0]], name="replay.gradient")
    kept = _state(LOGITS, np.zeros((chosen.slots, program.classes), np.float32))
    made = Step(
        "replay", ReplayGradient(chosen, program.classes), (own, logits.name, LOGITS), (LOGITS, gradient.name),
        "backward", step.source,
    )  # fmt: skip
    steps: list[Step] = []
    for one in program.steps:
        steps.append(replace(one, inputs=tuple(gradient.name if name == own else name for name in one.inputs)))
        if one is step:
            steps.append(made)
    gradients = {name: gradient.name if one == own else one for name, one in program.gradients.items()}
    return replace(program, gradients=gradients).with_steps(steps, gradient, kept)


def in_groups(program: Program, steps: int, optimizer: Optimizer) -> Program:
    """Let the updates of so many steps change next values of the parameters, which these take behind the last.

    So every step of a group has the same parameters, and what is added up is the sum of their gradients.

    Raises:
        CompileError: an optimiser other than plain SGD, of whose steps the sum is no step.
    """
    if steps == 1:
        return program
    if steps < 1 or not isinstance(optimizer, Sgd) or optimizer.weight_decay:
        raise CompileError(
            f"gradients of {steps} steps cannot be added up under {optimizer.describe()}",
            hint="Sgd() without weight decay, steps from 1",
        )
    changed = [one for one in program.of_kind("parameter") if any(one.name in step.outputs for step in program.steps)]
    names = {one.name: one.name + NEXT for one in changed}
    coming = [replace(one, name=names[one.name], kind="state") for one in changed]
    source = program.steps[-1].source
    commits = [
        Step(f"{name}.commit", Commit(steps), (later, name), (name,), "backward", source)
        for name, later in names.items()
    ]
    made = [_renamed(step, names) if isinstance(step.operation, Update) else step for step in program.steps]
    return program.with_steps([*made, *commits], *coming)


def _renamed(step: Step, names: dict[str, str]) -> Step:
    """An update that changes next values."""
    changed = {name: names[name] for name in step.outputs if name in names}
    read, written = (tuple(changed.get(name, name) for name in one) for one in (step.inputs, step.outputs))
    return replace(step, inputs=read, outputs=written)


def _state(name: str, value: np.ndarray) -> Tensor:
    axes = tuple(range(value.ndim))
    return Tensor(name, value.shape, "float32", "state", value, permutation=axes, torch_shape=value.shape)
