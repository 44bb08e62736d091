"""Trains some channels of a weight only: gradients, optimiser state and what is kept of the input shrink to them.

Runs behind :mod:`~lab.compiler.training_passes.immediate_update`. The chosen channels end with the numbers they have
where the whole weight is trained; the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lab.compiler.channels import Channels
from lab.compiler.graph import Shape
from lab.compiler.operations.conv2d import (
    Conv2dWeightGradient,
    Conv2dWeightSgd,
    ConvGeometry,
    Part,
    linear_geometry,
)
from lab.compiler.operations.copy import StridedCopy
from lab.compiler.operations.int8_training import Int8WeightGradient, Int8WeightSgd, Int8WeightUpdate
from lab.compiler.operations.matmul import MatMul, MatMulSgd
from lab.compiler.operations.optimizer import OptimizerUpdate, Rows
from lab.compiler.program import Operation, Program, Step, Tensor, Update
from lab.errors import CompileError


def sparse_update(program: Program, channels: Mapping[str, Channels]) -> Program:
    """Restrict updates to the chosen channels.

    Raises:
        CompileError: a parameter that is no weight of one convolution or linear layer; channels it does not have.
    """
    for name, chosen in channels.items():
        program = _restricted(program, name, chosen)
    return program


@dataclass
class _Work:
    """Steps in the making: copies of inputs by name, and what takes the place of a step."""

    program: Program
    tensors: list[Tensor] = field(default_factory=list)
    copies: dict[str, Step] = field(default_factory=dict)


def _restricted(program: Program, name: str, chosen: Channels) -> Program:
    updates = [step for step in program.steps if isinstance(step.operation, Update)]
    update = next((step for step in updates if step.outputs[0] == name), None)
    if update is None:
        raise CompileError(f"channels of '{name}' are chosen, which is not trained", hint="name it in train=")
    gradient = update if len(update.inputs) > 2 and _geometry(update.operation) else _gradient_step(program, update)
    geometry = None if gradient is None else _geometry(gradient.operation)
    if gradient is None or geometry is None:
        raise CompileError(
            f"channels of '{name}' are chosen, which is no weight of one convolution or linear layer",
            hint=f"train all of it, or none; it is updated at {update.source}",
        )
    parts = chosen.parts(name, geometry)
    work = _Work(program)
    replaced: dict[str, list[Step]] = {gradient.name: [], update.name: []}
    for number, part in enumerate(parts):
        tag = "" if len(parts) == 1 else f".{number}"
        x, output_gradient = _operands(gradient)
        kept = _input_slice(work, gradient, x, geometry, part)
        if gradient is update:
            replaced[update.name].append(_fused(update, kept, output_gradient, geometry, part, tag))
        else:
            made, outputs = _gradient(work, gradient, kept, output_gradient, geometry, part, tag)
            replaced[gradient.name] += made
            replaced[update.name].append(_update(work, update, outputs, geometry, part, tag))
    source = _operands(gradient)[0]
    layer = next((step for step in program.steps if {source, name} <= {*step.inputs}), program.producer(source))
    steps: list[Step] = list(work.copies.values()) if layer is None else []
    for step in program.steps:
        steps += replaced.get(step.name, [step])
        if step is layer:
            steps += work.copies.values()
    return program.with_steps(steps, *work.tensors)


def _gradient_step(program: Program, update: Step) -> Step | None:
    return program.producer(update.inputs[1])


def _geometry(operation: Operation) -> ConvGeometry | None:
    """Sizes of the layer whose weight gradient an operation computes."""
    if isinstance(operation, MatMulSgd):
        return _geometry(operation.product)
    if isinstance(operation, MatMul):
        # With one row both sides are vectors, which lie the same either way.
        plain = operation.transpose_a and not operation.transpose_b
        linear = (plain or operation.depth == 1) and operation.batch == 1
        return linear_geometry(operation.columns, operation.rows, operation.depth) if linear else None
    if isinstance(operation, (Conv2dWeightGradient, Conv2dWeightSgd, Int8WeightGradient)):
        return operation.geometry
    return operation.gradient.geometry if isinstance(operation, Int8WeightSgd) else None


def _operands(gradient: Step) -> tuple[str, str]:
    """Input of the layer and gradient of its output."""
    first, second = gradient.inputs[:2]
    return (second, first) if isinstance(gradient.operation, (MatMul, MatMulSgd)) else (first, second)


def _input_slice(work: _Work, gradient: Step, x: str, geometry: ConvGeometry, part: Part) -> str:
    """The part's channels of the layer's input, copied behind the layer: all that backward keeps of it."""
    if part.input_count == geometry.input[2]:
        return x
    name = f"{x}.channels_{part.first_input}_{part.first_input + part.input_count - 1}"
    if name not in work.copies:
        copy = _channels(geometry.batch, geometry.input, part.first_input, part.input_count)
        work.tensors.append(replace(work.program.tensors[x], name=name, shape=copy.shape, kind="activation"))
        work.copies[name] = Step(name, copy, (x,), (name,), "forward", gradient.source)
    return name


def _channels(batch: int, size: tuple[int, int, int], first: int, count: int) -> StridedCopy:
    """Some channels of a feature map."""
    height, width, channels = size
    strides = (height * width * channels, width * channels, channels, 1)
    return StridedCopy((batch, height, width, count), strides, first)


def _fused(
    update: Step, x: str, output_gradient: str, geometry: ConvGeometry, part: Part, tag: str
) -> Step:
    """Gradient and update in one, of a part."""
    operation = update.operation
    if isinstance(operation, Int8WeightSgd):
        made: Update = Int8WeightSgd(replace(operation.gradient, part=part), replace(operation.update, part=part))
    elif isinstance(operation, (Conv2dWeightSgd, MatMulSgd)):
        made = Conv2dWeightSgd(geometry, operation.rate_scale, operation.weight_decay, part)
    else:
        raise TypeError(f"{operation.label} is no gradient with an update")
    return replace(
        update, name=update.name + tag, operation=made, inputs=(x, output_gradient, *update.inputs[2:])
    )


def _gradient(
    work: _Work, gradient: Step, x: str, output_gradient: str, geometry: ConvGeometry, part: Part, tag: str
) -> tuple[list[Step], str]:
    """Steps that store the gradient of a part, and its name."""
    output = gradient.outputs[0] + tag
    whole = replace(work.program.tensors[gradient.outputs[0]], name=output)
    if isinstance(gradient.operation, Int8WeightGradient):
        work.tensors.append(replace(whole, shape=_part_shape(geometry, part)))
        made = replace(gradient.operation, part=part)
        return [replace(gradient, name=gradient.name + tag, operation=made, inputs=(x, output_gradient),
                        outputs=(output,))], output  # fmt: skip
    steps: list[Step] = []
    if part.output_count != geometry.output[2]:
        copy = _channels(geometry.batch, geometry.output, part.first_output, part.output_count)
        cut = f"{output}.output_gradient"
        work.tensors.append(Tensor(cut, copy.shape))
        steps.append(Step(cut, copy, (output_gradient,), (cut,), "backward", gradient.source))
        output_gradient = cut
    small = replace(
        geometry,
        input=(*geometry.input[:2], part.input_count),
        output=(*geometry.output[:2], part.output_count),
        groups=part.input_count if geometry.depthwise else geometry.groups,
    )
    work.tensors.append(replace(whole, shape=small.weight_shape))
    made_float = Conv2dWeightGradient(small)
    steps.append(replace(gradient, name=gradient.name + tag, operation=made_float, inputs=(x, output_gradient),
                         outputs=(output,)))  # fmt: skip
    return steps, output


def _part_shape(geometry: ConvGeometry, part: Part) -> Shape:
    if geometry.depthwise:
        return (*geometry.kernel, part.input_count)
    return (part.output_count, *geometry.kernel, part.input_count)


def _update(work: _Work, update: Step, gradient: str, geometry: ConvGeometry, part: Part, tag: str) -> Step:
    """The update of a part by its stored gradient; its state shrinks to the part."""
    operation = update.operation
    states: Sequence[str] = ()
    if isinstance(operation, Int8WeightUpdate):
        made: Update = Int8WeightUpdate(replace(operation.update, part=part))
        others = update.inputs[2:]
    elif isinstance(operation, OptimizerUpdate):
        made = replace(operation, part=_rows(geometry, part))
        states = [_state(work, name, tag, _part_shape(geometry, part)) for name in update.inputs[2:]]
        others = tuple(states)
    else:
        raise TypeError(f"{operation.label} is no update by a gradient")
    parameter = update.inputs[0]
    outputs = (parameter, *states) if states or len(update.outputs) == 1 else update.outputs
    return replace(
        update, name=update.name + tag, operation=made, inputs=(parameter, gradient, *others), outputs=outputs
    )


def _state(work: _Work, name: str, tag: str, shape: Shape) -> str:
    old = work.program.tensors[name]
    if old.value is None:
        raise ValueError(f"the state '{name}' has no first value")
    value = old.value.reshape(-1)[: _elements(shape)].reshape(shape)
    work.tensors.append(replace(old, name=name + tag, shape=shape, value=value, permutation=(), torch_shape=()))
    return name + tag


def _elements(shape: Shape) -> int:
    elements = 1
    for size in shape:
        elements *= size
    return elements


def _rows(geometry: ConvGeometry, part: Part) -> Rows:
    """The part of a weight as rows."""
    taps = geometry.kernel[0] * geometry.kernel[1]
    channels = geometry.input[2]
    if geometry.depthwise:
        return Rows(part.first_input, taps, part.input_count, channels)
    first = part.first_output * taps * channels + part.first_input
    return Rows(first, part.output_count * taps, part.input_count, channels)
