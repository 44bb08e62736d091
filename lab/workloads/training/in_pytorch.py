"""What PyTorch comes to in the steps that a device takes.

The program's reference operators take them one by one; the first ones of float32 PyTorch's own autograd takes as well,
with ``torch.optim.SGD``; without a backward pass it is :mod:`lab.workloads.training.differences`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledModel
from lab.errors import WorkloadError
from lab.workloads.training import differences
from lab.workloads.training.agreement import EARLY_STEPS, LIMITS, FloatArray, update_error

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.channels import Channels
    from lab.compiler.operations.perturbation import Perturbation
    from lab.compiler.training import TrainingModel
    from lab.workloads.training.transfer import IntArray, Samples, Transfer

AUTOGRAD_POINTS = 8
"""At so many points along the first :data:`EARLY_STEPS` steps PyTorch's autograd must agree with the program's own
operators; seen: 1e-6 of the way. The median counts: another processor's sums may part sooner."""


@dataclass(frozen=True)
class Batches:
    """What is trained on and what is asked, as the device takes it.

    Attributes:
        samples: (steps of a pass, batch, H, W, C).
        targets: (steps of a pass, batch).
        asked: (questions // batch, batch, H, W, C).
        answers: (questions,).
    """

    samples: Samples
    targets: npt.NDArray[np.int32]
    asked: Samples
    answers: IntArray


@dataclass(frozen=True)
class InPyTorch:
    """What PyTorch came to; fields as of :class:`~lab.workloads.training.transfer.Trained`."""

    losses: FloatArray
    variables: Mapping[str, FloatArray]
    initial: Mapping[str, FloatArray]
    accuracy: float
    autograd_error: float


def in_pytorch(made: TrainingModel, batches: Batches, task: Transfer) -> InPyTorch:
    """All steps in PyTorch, and the answers behind them.

    Raises:
        WorkloadError: autograd disagrees with the program's operators.
    """
    if task.perturbation is not None:
        return _by_differences(made.compiled, task, task.perturbation)
    return _by_operators(made, batches, task)


def _by_differences(model: CompiledModel, task: Transfer, perturbation: Perturbation) -> InPyTorch:
    """Training by forward passes alone, which shares no code with the compiler."""
    from lab.workloads.networks import logits

    if model.training is None:
        raise ValueError("compiled for inference only")
    network = copy.deepcopy(task.network)
    made = differences.train(
        network, model.training.variables, perturbation, task.samples, task.labels, epochs=task.epochs,
        rate=task.rate, seed=task.seed,
    )  # fmt: skip
    accuracy = float(np.mean(logits(network, task.asked).numpy().argmax(axis=1) == task.answers))
    return InPyTorch(made.losses, made.variables, made.initial, accuracy, math.nan)


def _by_operators(made: TrainingModel, batches: Batches, task: Transfer) -> InPyTorch:
    """Training by the program's operators, and the first steps in float32 by autograd, too."""
    import torch

    training = made.compiled.training
    if training is None:
        raise ValueError("compiled for inference only")
    memory, inference = made.program.initial_memory(), made.inference
    initial = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    compared = _autograd_points(task)
    losses, reached = _steps(made, batches, task, memory, compared)
    told = [inference.run(torch.from_numpy(one), None, memory)[inference.output] for one in batches.asked]
    accuracy = float(np.mean(torch.cat(told).argmax(1).numpy() == batches.answers))
    error = math.nan
    if task.precision == "float32":
        error = _autograd_error(task, {step: reached[step] for step in compared}, initial)
    return InPyTorch(losses, reached[len(losses)], initial, accuracy, error)


def _steps(
    made: TrainingModel, batches: Batches, task: Transfer, memory: dict[str, torch.Tensor], points: Collection[int]
) -> tuple[FloatArray, dict[int, Mapping[str, FloatArray]]]:
    """Every step by the program's operators; ``memory`` is as it ends.

    Returns:
        float32 (steps,), the losses; and the variables after so many steps as ``points`` have, and after all.
    """
    import torch

    from lab.compiler.program import TrainingState

    program, training = made.program, made.compiled.training
    if training is None:
        raise ValueError("compiled for inference only")
    steps, state = len(batches.samples) * task.epochs, TrainingState(task.rate, 0, task.seed)
    losses = np.zeros(steps, np.float32)
    found: dict[int, Mapping[str, FloatArray]] = {}
    for step in range(steps):
        number = step % len(batches.samples)
        state.step += 1
        sample, target = torch.from_numpy(batches.samples[number]), torch.from_numpy(batches.targets[number])
        losses[step] = float(program.run(sample, target, memory, state)[program.loss])
        if state.step in points or state.step == steps:
            found[state.step] = training.to_torch({name: one.numpy().tobytes() for name, one in memory.items()})
    return losses, found


def _autograd_points(task: Transfer) -> Collection[int]:
    """After how many steps autograd is compared."""
    steps = min(EARLY_STEPS, task.steps * task.epochs)
    return {-(-steps * part // AUTOGRAD_POINTS) for part in range(1, AUTOGRAD_POINTS + 1)}


def _autograd_error(
    task: Transfer, early: Mapping[int, Mapping[str, FloatArray]], initial: Mapping[str, FloatArray]
) -> float:
    """The first float32 steps by autograd and ``torch.optim.SGD``: distance of the variables, of the way they came; the
    median over ``early``, the program's variables by number of steps."""
    import torch

    from lab.workloads.networks.filtered import with_filtered_gradients

    network = with_filtered_gradients(task.network, task.patches)
    network.train(task.batch_norm)
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in task.selection)
    optimizer = torch.optim.SGD([parameters[name] for name in task.selection], lr=task.rate)
    labels = torch.from_numpy(task.labels)
    errors = []
    for step in range(max(early)):
        number = step % task.steps * task.batch
        part = slice(number, number + task.batch)
        for loss in _losses(network, task.samples[part], labels[part], each_use=task.each_use):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for name, channels in task.selection.items():
                _keep_channels(parameters[name], channels)
            for name, (first, last) in task.turns.items():
                if not first <= step + 1 <= last:
                    parameters[name].grad = None
            optimizer.step()
        if step + 1 in early:
            state = network.state_dict()
            found = {name: state[name].detach().numpy().copy() for name in initial}
            errors.append(update_error(found, early[step + 1], initial))
    error = float(np.median(errors))
    limit = (task.limits or LIMITS[task.precision]).autograd
    if not error <= limit:
        raise WorkloadError(
            f"{task.name}: PyTorch's autograd and the compiled program come {error:.2g} of the way apart; at most "
            f"{limit} is allowed",
            hint="one of the two computes another gradient: `lab compile` shows the steps",
        )
    return error


def _losses(
    network: nn.Module, samples: torch.Tensor, labels: torch.Tensor, *, each_use: bool
) -> Iterator[torch.Tensor]:
    """What a step of training descends: one scalar, or one after another, as parameters are when it is asked for."""
    import torch

    from lab.compiler.joint import Penalised
    from lab.workloads.networks.local_recurrent import LocalRecurrent

    if each_use and isinstance(network, LocalRecurrent):
        yield from network.losses(samples, labels)
        return
    made = network(samples)
    loss = torch.nn.functional.cross_entropy(made.output if isinstance(made, Penalised) else made, labels)
    yield loss + made.of(labels) if isinstance(made, Penalised) else loss


def _keep_channels(parameter: torch.Tensor, channels: Channels | None) -> None:
    """Zero the gradient of input channels that do not change."""
    if channels is not None and parameter.grad is not None and isinstance(channels.inputs, float):
        parameter.grad[:, int(parameter.shape[1] * channels.inputs) :] = 0
