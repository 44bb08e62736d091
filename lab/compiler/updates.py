"""One update step per trained parameter, behind everything else; passes move and merge them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.operations.int8_training import GridUpdate, Int8BiasSgd, Int8WeightGradient, Int8WeightUpdate
from lab.compiler.operations.optimizer import Optimizer, Sgd
from lab.compiler.program import Program, Step, Tensor
from lab.compiler.storage import Storage
from lab.errors import CompileError


def add_updates(program: Program, optimizer: Optimizer) -> Program:
    """Append one update per gradient.

    Raises:
        CompileError: an optimiser that int8 weights cannot have.
    """
    steps = list(program.steps)
    made: list[Tensor] = []
    for name, gradient in program.gradients.items():
        parameter = program.tensors[name]
        if parameter.grid is not None:
            steps.append(_int8_update(program, parameter, gradient, optimizer))
            made.append(scale_tensor(parameter))
            continue
        operation, states = optimizer.update(parameter)
        made += states
        state_names = tuple(state.name for state in states)
        steps.append(
            Step(
                f"{name}.update",
                operation,
                (name, gradient, *state_names),
                (name, *state_names),
                "update",
                _producer(program, gradient).source,
            )
        )
    return replace(program.with_steps(steps, *made), gradients={})


def _producer(program: Program, gradient: str) -> Step:
    producer = program.producer(gradient)
    if producer is None:
        raise CompileError(f"the gradient '{gradient}' is constant", hint="the loss does not depend on the parameter")
    return producer


def _int8_update(program: Program, parameter: Tensor, gradient: str, optimizer: Optimizer) -> Step:
    """The update of an int8 weight or of the bias of such a layer."""
    if not isinstance(optimizer, Sgd) or optimizer.weight_decay != 0.0:
        raise CompileError(
            f"int8 weights train by SGD without momentum and weight decay, not by {optimizer.describe()}",
            hint="quantisation-aware scaling takes the place of optimiser state; use Sgd()",
        )
    name, producer = parameter.name, _producer(program, gradient)
    scale = scale_tensor(parameter).name
    if isinstance(producer.operation, Int8WeightGradient):
        layer = next(step for step in program.steps if step.phase == "forward" and name in step.inputs)
        bias = layer.inputs[2]
        operation = producer.operation
        update = GridUpdate(operation.geometry, operation.part, parameter_storage(parameter), optimizer.rate_scale)
        return Step(
            f"{name}.update",
            Int8WeightUpdate(update),
            (name, gradient, bias, scale),
            (name, bias),
            "update",
            producer.source,
        )
    update_bias = Int8BiasSgd(1, parameter.elements, optimizer.rate_scale)
    return Step(f"{name}.update", update_bias, (gradient, name, scale), (name,), "update", producer.source)


def scale_tensor(parameter: Tensor) -> Tensor:
    """Real values of one step of an int8 weight or its bias, per output, as a constant."""
    scales = np.asarray(parameter.grid.scales if parameter.grid else (), dtype=np.float32)
    return Tensor(f"{parameter.name}.scale", scales.shape, "float32", "constant", scales)


def parameter_storage(parameter: Tensor) -> Storage:
    """How an int8 weight lies in memory."""
    if parameter.grid is None:
        raise ValueError(f"'{parameter.name}' is not int8")
    return parameter.grid.storage
