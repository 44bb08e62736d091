"""Fisher information and class means: what a step adds up besides its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.compiler.operations.conv2d import ChannelSum, Conv2d
from lab.compiler.operations.matmul import MatMul
from lab.compiler.operations.observe import ClassMeanUpdate, FisherUpdate
from lab.compiler.program import Program, Step, Tensor
from lab.compiler.training_passes.prune import prune
from lab.errors import CompileError

FISHER = ".fisher"
"""What the name of a layer's Fisher information ends with."""


@dataclass(frozen=True)
class ClassMeans:
    """A parameter (classes, features) that follows the mean of each class's features in place of a gradient.

    The module multiplies its features with the parameter, or with a function of it, in one matrix product.

    Attributes:
        parameter: its name.
        gain: share of a sample's features in the new mean, 0 to 1.
        round, rounds: of the first ``rounds`` rounds of so many samples each, one of each class, the share is 1 / n in
            the n-th, so that the parameter becomes the mean of all; ``gain`` afterwards.
    """

    parameter: str
    gain: float
    round: int = 1
    rounds: int = 0


def fisher(program: Program, layers: Sequence[str]) -> Program:
    """Sum the Fisher information of the output channels of ``layers`` instead of updating their biases.

    The gradient of a layer's bias is the sum of the gradient of its output; in its place that gradient meets the
    output itself. The output is the one behind a fused clamp, whose saturated elements have no gradient.

    Args:
        program: with a gradient of the bias of each layer.
        layers: names of convolutions with a bias.

    Raises:
        CompileError: a layer that is no convolution with a bias in float32.
    """
    gradients = dict(program.gradients)
    observed: dict[str, Step] = {}
    made: list[Tensor] = []
    for layer in layers:
        bias = f"{layer}.bias"
        summed = program.producer(gradients.pop(bias, ""))
        forward = next((step for step in program.steps if step.phase == "forward" and bias in step.inputs), None)
        if summed is None or forward is None or not isinstance(forward.operation, Conv2d):
            raise CompileError(
                f"the Fisher information of '{layer}' is asked for, which is no convolution with a bias",
                hint="fold batch norm first; name convolutions that the loss depends on",
            )
        operation = summed.operation
        if not isinstance(operation, ChannelSum):
            raise TypeError(f"the gradient of a convolution's bias is a {operation.label}")
        batch = forward.operation.geometry.batch
        update = FisherUpdate(batch, operation.rows // batch, operation.channels)
        potential = _potential(layer, operation.channels)
        made.append(potential)
        observed[summed.name] = Step(
            potential.name, update, (potential.name, summed.inputs[0], forward.outputs[0]), (potential.name,),
            "backward", summed.source,
        )  # fmt: skip
    steps = [observed.get(step.name, step) for step in program.steps]
    biases = {f"{layer}.bias" for layer in layers}
    tensors = {name: replace(one, kind="constant") if name in biases else one for name, one in program.tensors.items()}
    return prune(replace(program, tensors=tensors, gradients=gradients).with_steps(steps, *made))


def _potential(layer: str, channels: int) -> Tensor:
    return Tensor(
        f"{layer}{FISHER}", (channels,), "float32", "state", np.zeros(channels, np.float32),
        permutation=(0,), torch_shape=(channels,),
    )  # fmt: skip


def without_gradient(program: Program, means: ClassMeans) -> Program:
    """The program without the gradient of the class means, which none descends."""
    gradients: Mapping[str, str] = {
        name: gradient for name, gradient in program.gradients.items() if name != means.parameter
    }
    return prune(replace(program, gradients=gradients))


def class_means(program: Program, means: ClassMeans) -> Program:
    """Append the update of the class means behind everything that reads them.

    Raises:
        CompileError: the parameter meets features in no matrix product, or the target is no label.
    """
    if not 0.0 <= means.gain <= 1.0 or means.round < 1:
        raise CompileError(
            f"the gain of class means is {means.gain} in rounds of {means.round}",
            hint="0 to 1, and rounds of at least 1",
        )
    tensor = program.tensors[means.parameter]
    derived, features = {means.parameter}, ""
    for step in program.steps:
        if step.phase != "forward" or not derived.intersection(step.inputs):
            continue
        others = [name for name in step.inputs[:2] if name and name not in derived]
        if isinstance(step.operation, MatMul) and len(others) == 1:
            features = features or others[0]
        derived.update(step.outputs)
    target = program.of_kind("target")
    if not features or not target or program.classes == 0 or len(tensor.torch_shape) != 2:
        raise CompileError(
            f"'{means.parameter}' meets features in no matrix product, or the target is no label",
            hint="multiply the features (1, depth) with the class means (classes, depth), and train by labels",
        )
    depth = tensor.torch_shape[1]
    rows = program.tensors[features].elements // depth
    update = ClassMeanUpdate(rows, tensor.torch_shape[0], depth, means.gain, means.round, means.rounds)
    step = Step(
        f"{means.parameter}.class_mean", update, (means.parameter, features, target[0].name), (means.parameter,),
        "backward", program.steps[-1].source,
    )  # fmt: skip
    updates = [one for one in program.steps if one.phase == "update"]
    earlier = [one for one in program.steps if one.phase != "update"]
    return program.with_steps([*earlier, step, *updates])
