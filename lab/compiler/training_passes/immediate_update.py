"""Consumes each gradient as soon as it exists: updates move into the backward pass, right behind the last reader of the
parameter's old value, and plain SGD is merged with the computation of a weight gradient, which is then never stored.

PyTorch computes all gradients with the old parameters; so does the result, since every reader of a parameter comes
before its update.
"""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.operations.conv2d import ChannelSum, ChannelSumSgd, Conv2dWeightGradient, Conv2dWeightSgd
from lab.compiler.operations.matmul import MatMul, MatMulSgd
from lab.compiler.operations.optimizer import SgdUpdate
from lab.compiler.operations.reduce import Sum
from lab.compiler.program import Operation, Program, Step, Update


def immediate_update(program: Program) -> Program:
    """Move every update forward and merge plain SGD with the gradient."""
    for update in [step for step in program.steps if step.phase == "update"]:
        program = _moved(program, update)
    return program


def _moved(program: Program, update: Step) -> Program:
    parameter, gradient = update.inputs[0], update.inputs[1]
    producer = program.producer(gradient)
    if producer is None:
        return program
    merged = _merged(producer, update) if program.consumers(gradient) == [update] else None
    remaining = [step for step in program.steps if step is not update and (merged is None or step is not producer)]
    last = max(
        (index for index, step in enumerate(remaining) if parameter in step.inputs or gradient in step.outputs),
        default=remaining.index(producer) if merged is None else -1,
    )
    if merged is not None:
        sources = [index for index, step in enumerate(remaining) if set(step.outputs) & set(merged.inputs[:-1])]
        last = max([last, *sources])
    placed = merged or replace(update, phase="backward")
    return program.with_steps([*remaining[: last + 1], placed, *remaining[last + 1 :]])


def _merged(producer: Step, update: Step) -> Step | None:
    """Gradient and update in one step: the producer's inputs, then the parameter."""
    operation = update.operation
    if not isinstance(operation, SgdUpdate):
        return None
    fused = _fused(producer.operation, operation)
    if fused is None:
        return None
    parameter = update.inputs[0]
    inputs = (*producer.inputs[:2], parameter) if isinstance(fused, MatMulSgd) else (*producer.inputs, parameter)
    return replace(producer, name=f"{producer.name}.sgd", operation=fused, inputs=inputs, outputs=(parameter,))


def _fused(gradient: Operation, sgd: SgdUpdate) -> Update | None:
    rates = (sgd.rate_scale, sgd.weight_decay)
    if isinstance(gradient, MatMul) and gradient.batch == 1:
        return MatMulSgd(gradient, *rates)
    if isinstance(gradient, Conv2dWeightGradient):
        return Conv2dWeightSgd(gradient.geometry, *rates)
    if isinstance(gradient, ChannelSum):
        return ChannelSumSgd(gradient.rows, gradient.channels, *rates)
    if isinstance(gradient, Sum) and gradient.outer == 1 and gradient.divisor == 1.0:
        return ChannelSumSgd(gradient.reduced, gradient.inner, *rates)
    return None
