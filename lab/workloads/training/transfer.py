"""What training workloads share: a network trained on the device by single samples, beside PyTorch's own steps.

Three machines take the same steps from the same bits: PyTorch (the program's reference operators, one by one, and for
float32 also its own autograd and ``torch.optim.SGD``; without a backward pass
:mod:`lab.workloads.training.differences`), the C on this computer, which gives the curve of accuracy over
steps, and the device, whose losses and variables are read back and compared with PyTorch's.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel, CompiledTraining
from lab.errors import WorkloadError
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import Dataset, Figure, Int8Array, Prepared, Score, TrainingPlan
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.training import differences

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.channels import Channels
    from lab.compiler.operations.perturbation import Perturbation
    from lab.compiler.training import TrainingModel

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Samples: TypeAlias = FloatArray | Int8Array
Precision: TypeAlias = Literal["int8", "float32"]
Rows = TypeVar("Rows", Samples, IntArray, npt.NDArray[np.int32])

CURVE_POINTS = 8
"""How often the accuracy is told along the way."""
AUTOGRAD_STEPS = 64
"""Over how many of the first steps PyTorch's autograd must agree with the program's own operators, and how far: a share
of the way. Seen: 1e-6. Sooner or later a last bit puts a value on the other side of a ReLU's corner, and the ways part:
another processor's sums do so at another step. So the median counts, of points along the way: another gradient is one
from the first step on."""
AUTOGRAD_POINTS = 8


@dataclass(frozen=True)
class Limits:
    """How far a device may be from PyTorch.

    Attributes:
        loss: in the median of the losses.
        update: distance of the trained variables, of the way that PyTorch's have come.
        autograd: the same of autograd's first steps and the program's operators on this computer, in the median.
    """

    loss: float
    update: float
    autograd: float = 1e-4


LIMITS: Mapping[Precision, Limits] = {"int8": Limits(0.02, 0.25), "float32": Limits(1e-4, 1e-3)}
"""Seen: below 1e-6 in float32. In int8 a last bit of a float32 gradient can tip a stochastic rounding, the next step
starts from there, and after some hundred steps a tenth of the way is another one; the losses stay the same."""


@dataclass(frozen=True)
class Transfer:
    """What is trained, and on what.

    Attributes:
        name: of the workload, a C identifier with hyphens.
        network: batch norm folded, as in ``eval()``.
        selection: parameters that change, and which channels of each; None for all.
        precision: of forward and weights.
        samples, labels: float32 (n, C, H, W) and int64 (n,): trained on in this order.
        asked, answers: the same of the held-out samples.
        calibration: float32 (m, C, H, W): set the ranges of int8 activations.
        epochs, rate, seed: passes, learning rate, first state of stochastic rounding.
        patches: convolutions whose gradients are computed on patches, with the side of these.
        forward_only: whether the network's layers have losses of their own and learn on the way forward.
        perturbation: how the gradient is estimated by forward passes alone, in float32; None where it is computed.
        immediate: whether each gradient is consumed as soon as it exists, rather than all updates at the end.
        limits: of which that of autograd counts here; None for those of the precision.
        uploads: with a perturbation, whether the device keeps differences of losses for a server and changes nothing.
        turns: with ``forward_only``, the first and the last step, from 1, in which each parameter changes; empty: all.
        each_use: with ``forward_only``, whether parameters change after each of their uses in a step.
        batch: samples of a step, whole ones: the rest is left out, of those asked as well.
        batch_norm: whether batch norms are in training, too.
    """

    name: str
    network: nn.Module
    selection: Mapping[str, Channels | None]
    precision: Precision
    samples: torch.Tensor
    labels: IntArray
    asked: torch.Tensor
    answers: IntArray
    calibration: torch.Tensor
    epochs: int
    rate: float
    seed: int
    patches: Mapping[str, int] = field(default_factory=dict)
    forward_only: bool = False
    perturbation: Perturbation | None = None
    immediate: bool = True
    limits: Limits | None = None
    uploads: bool = False
    turns: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    each_use: bool = False
    batch: int = 1
    batch_norm: bool = False

    @property
    def steps(self) -> int:
        """Steps of one pass over the samples."""
        return len(self.samples) // self.batch


@dataclass(frozen=True)
class Trained:
    """What came of the steps on this computer; what is cached.

    Attributes:
        model: the compiled model.
        inputs, answers: held-out samples as the device takes them, a batch in a row, and their classes.
        samples, targets: the same of those trained on, a row for each step of a pass.
        losses, variables, initial: PyTorch's, real values by name.
        outputs: logits after training by the C on this computer, as bytes.
        accuracy: PyTorch's after training, on the held-out samples.
        curve: accuracy of the C on this computer after ``curve_steps``; the first one before training.
        autograd_error: distance of autograd and PyTorch's SGD from the program's operators in the first steps, of the
            way; NaN in int8 and without a backward pass.
    """

    model: CompiledModel
    inputs: cached.AnyArray
    answers: IntArray
    samples: cached.AnyArray
    targets: npt.NDArray[np.int32]
    losses: FloatArray
    variables: Mapping[str, FloatArray]
    initial: Mapping[str, FloatArray]
    outputs: Int8Array
    accuracy: float
    curve: FloatArray
    curve_steps: IntArray
    autograd_error: float

    @property
    def training(self) -> CompiledTraining:
        """How the model trains."""
        if self.model.training is None:
            raise ValueError("the model is compiled for inference only")
        return self.model.training

    def steps_to(self, accuracy: float) -> int | None:
        """Steps after which the accuracy was first reached, by the points of the curve; None where it never was."""
        reached = np.flatnonzero(self.curve >= accuracy)
        return int(self.curve_steps[reached[0]]) if len(reached) else None


def train_on_host(task: Transfer) -> Trained:
    """Compile and take every step; one thread, seeded.

    Raises:
        CompileError: the network cannot be compiled so.
        WorkloadError: PyTorch's autograd disagrees with the program's reference.
    """
    from lab.compiler.host import HostTraining
    from lab.workloads.fitting import seeded

    with seeded(task.seed):
        with progress.step(f"{task.name}: compiling", quiet_below_s=2.0):
            made = compiled(task)
        model = made.compiled
        inputs, samples = (
            in_batches(physical(one, model, task.precision), task.batch) for one in (task.asked, task.samples)
        )
        targets = in_batches(task.labels.astype(np.int32), task.batch)
        answers = in_batches(task.answers, task.batch).reshape(-1)
        with progress.step(f"{task.name}: training in PyTorch", quiet_below_s=2.0):
            if task.perturbation is None:
                found = _in_pytorch(made, samples, targets, inputs, task)
            else:
                found = _by_differences(model, task, task.perturbation)
    steps = task.steps * task.epochs
    points = np.unique(np.linspace(0, steps, CURVE_POINTS + 1).astype(np.int64))
    with progress.step(f"{task.name}: training on the host", quiet_below_s=2.0), tempfile.TemporaryDirectory() as at:
        host = HostTraining(model, Path(at))
        host.state.random = task.seed
        curve = []
        for step in range(steps + 1):
            if step in points:
                outputs = host.run(inputs).reshape(len(inputs), -1).view(np.int8)
                curve.append(accuracy_of(outputs, answers))
            if step < steps:
                number = step % len(samples)
                host.step(samples[number], targets[number], task.rate)
    return Trained(
        model, inputs.reshape(len(inputs), -1), answers, samples.reshape(len(samples), -1), targets, found.losses,
        found.variables, found.initial, outputs, found.accuracy, np.array(curve, np.float32), points,
        found.autograd_error,
    )  # fmt: skip


def compiled(task: Transfer) -> TrainingModel:
    """The model of a task.

    Raises:
        CompileError: the network cannot be compiled so.
    """
    import torch

    from lab.compiler.operations.optimizer import Sgd
    from lab.compiler.perturbed import compile_perturbed
    from lab.compiler.training import compile_training

    if task.perturbation is not None:
        return compile_perturbed(
            task.network, task.samples[:1], loss=torch.nn.CrossEntropyLoss(), train=task.selection,
            perturbation=task.perturbation, name=task.name.replace("-", "_"), uploads=task.uploads,
        )  # fmt: skip
    return compile_training(
        task.network, task.samples[: task.batch], loss=torch.nn.CrossEntropyLoss(), train=task.selection,
        optimizer=Sgd(), name=task.name.replace("-", "_"), precision=task.precision,
        calibration=task.calibration if task.precision == "int8" else None, patches=task.patches,
        forward_only=task.forward_only, each_use=task.each_use, immediate=task.immediate, turns=task.turns,
        batch_norm=task.batch_norm,
    )  # fmt: skip


def physical(images: torch.Tensor, model: CompiledModel, precision: Precision) -> Samples:
    """Samples as the device takes them: NHWC, quantised in int8."""
    physical: FloatArray = images.permute(0, 2, 3, 1).contiguous().numpy()
    return model.input.quantize(physical) if precision == "int8" else physical


def in_batches(rows: Rows, batch: int) -> Rows:
    """Rows (n, …) as whole batches (n // batch, batch, …)."""
    whole = len(rows) // batch
    return rows[: whole * batch].reshape(whole, batch, *rows.shape[1:])


@dataclass(frozen=True)
class _InPyTorch:
    """What PyTorch came to; fields as of :class:`Trained`."""

    losses: FloatArray
    variables: Mapping[str, FloatArray]
    initial: Mapping[str, FloatArray]
    accuracy: float
    autograd_error: float


def _by_differences(model: CompiledModel, task: Transfer, perturbation: Perturbation) -> _InPyTorch:
    """Training by forward passes alone, which shares no code with the compiler."""
    import copy

    from lab.workloads.networks import logits

    if model.training is None:
        raise ValueError("compiled for inference only")
    network = copy.deepcopy(task.network)
    made = differences.train(
        network, model.training.variables, perturbation, task.samples, task.labels, epochs=task.epochs,
        rate=task.rate, seed=task.seed,
    )  # fmt: skip
    accuracy = float(np.mean(logits(network, task.asked).numpy().argmax(axis=1) == task.answers))
    return _InPyTorch(made.losses, made.variables, made.initial, accuracy, math.nan)


def _in_pytorch(
    made: TrainingModel, samples: Samples, targets: npt.NDArray[np.int32], asked: Samples, task: Transfer
) -> _InPyTorch:
    """Training by the program's operators in PyTorch, and the first steps in float32 by its autograd, too.

    ``samples``, ``targets`` and ``asked`` are as of :func:`in_batches`.
    """
    import torch

    from lab.compiler.program import TrainingState

    program, training = made.program, made.compiled.training
    if training is None:
        raise ValueError("compiled for inference only")
    memory, state = program.initial_memory(), TrainingState(task.rate, 0, task.seed)
    initial = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    losses: list[float] = []
    early: dict[int, Mapping[str, FloatArray]] = {}
    compared = _autograd_points(task)
    for step in range(len(samples) * task.epochs):
        number = step % len(samples)
        state.step += 1
        sample, target = torch.from_numpy(samples[number]), torch.from_numpy(targets[number])
        values = program.run(sample, target, memory, state)
        losses.append(float(values[program.loss]))
        if state.step in compared:
            early[state.step] = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    trained = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    inference = made.inference
    told = torch.cat([inference.run(torch.from_numpy(one), None, memory)[inference.output] for one in asked])
    error = _autograd_error(task, early, initial) if task.precision == "float32" else math.nan
    accuracy = float(np.mean(told.argmax(1).numpy() == in_batches(task.answers, task.batch).reshape(-1)))
    return _InPyTorch(np.array(losses, np.float32), trained, initial, accuracy, error)


def _autograd_points(task: Transfer) -> Collection[int]:
    """After how many steps autograd is compared."""
    steps = min(AUTOGRAD_STEPS, task.steps * task.epochs)
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


def accuracy_of(outputs: Int8Array, answers: IntArray) -> float:
    """Share of right answers; outputs are float32 logits as bytes, of a batch of answers in a row."""
    logits = outputs.view(np.float32).reshape(len(answers), -1)
    return float(np.mean(logits.argmax(axis=1) == answers))


def update_error(
    found: Mapping[str, FloatArray], expected: Mapping[str, FloatArray], initial: Mapping[str, FloatArray]
) -> float:
    """Distance of two sets of trained variables, as a share of the way that the expected ones have come."""
    come = math.sqrt(sum(_square(expected[name], initial[name]) for name in expected))
    off = math.sqrt(sum(_square(found[name], expected[name]) for name in expected))
    return off / come if come else math.inf


def _square(one: FloatArray, other: FloatArray) -> float:
    return float(np.sum((one.astype(np.float64) - other.astype(np.float64)) ** 2))


# ---- what the device is held to -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """What a device must come to.

    Attributes:
        trained: on this computer.
        limits: how far it may be from PyTorch.
        must_learn: whether an accuracy that does not rise is a failure: of a baseline it is a finding.
    """

    trained: Trained
    limits: Limits
    must_learn: bool = True

    def check_training(self, losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        """Judge losses, float32 (steps,), and the raw bytes of the variables.

        Raises:
            WorkloadError: not PyTorch's.
        """
        trained = self.trained
        error = float(np.median(np.abs(losses - trained.losses)))
        if not error <= self.limits.loss:
            raise WorkloadError(
                f"the losses differ from PyTorch's by {error:.2g} in the median; at most {self.limits.loss} is allowed"
            )
        off = update_error(trained.training.to_torch(variables), trained.variables, trained.initial)
        if not off <= self.limits.update:
            raise WorkloadError(
                f"the trained variables are off PyTorch's by {off:.2g} of the way these have come; at most "
                f"{self.limits.update} is allowed"
            )
        tail = max(1, len(losses) // 10)
        return [
            Score("loss.first", float(losses[:tail].mean()), float(trained.losses[:tail].mean())),
            Score("loss.last", float(losses[-tail:].mean()), float(trained.losses[-tail:].mean())),
            Score("update_error", off, 0.0),
        ]

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge the answers with the device's own parameters.

        Raises:
            WorkloadError: nothing was learned.
        """
        trained = self.trained
        accuracy, before = accuracy_of(outputs, trained.answers), float(trained.curve[0])
        if self.must_learn and accuracy <= before:
            raise WorkloadError(
                f"accuracy after training is {accuracy:.2%}; before it was {before:.2%}: nothing was learned"
            )
        count = len(trained.answers)
        return [
            Score("accuracy", accuracy, trained.accuracy, trials=count),
            Score("accuracy.untrained", before, before, trials=count),
        ]


def prepared_of(
    trained: Trained,
    task: str,
    dataset: Dataset,
    parameters: Mapping[str, str],
    *,
    precision: Precision,
    epochs: int,
    rate: float,
    seed: int,
    target_accuracy: float,
    figures: tuple[Figure, ...],
    must_learn: bool,
    limits: Limits | None = None,
) -> Prepared:
    """The workload, ready.

    Args:
        trained: what came of :func:`train_on_host`.
        task: first words of the facts.
        dataset, parameters: of the report.
        precision, epochs, rate, seed: as in :class:`Transfer`.
        target_accuracy: whose time is told.
        figures: beside those of the arena.
        must_learn: as in :class:`Expectation`.
        limits: how far the device may be from PyTorch; None for those of the precision.
    """
    expected = Expectation(trained, limits or LIMITS[precision], must_learn)
    training = trained.training
    job = training_job(
        trained.samples.astype(np.float32) if precision == "float32" else trained.samples.astype(np.int8),
        trained.targets, epochs=epochs, learning_rate=rate, seed=seed,
    )  # fmt: skip
    size = "one sample" if training.batch == 1 else f"{training.batch} samples"
    facts = (f"{task} {len(trained.losses)} steps of {size}, learning rate {rate:g}.", *_facts(trained))
    return Prepared(
        model=trained.model,
        job=Job("infer", trained.inputs.tobytes(), len(trained.inputs)),
        dataset=dataset,
        reference_outputs=trained.outputs,
        seed=seed,
        parameters=parameters,
        check=expected.check,
        facts=facts,
        figures=(
            Figure("arena", training.arena_bytes, "bytes", "planned arena of a training step"),
            Figure("arena.inference", inference_arena(trained.model), "bytes", "planned arena of inference alone"),
            Figure("arena.lower_bound", training.lower_bound_bytes, "bytes", "largest set of tensors live at once"),
            *figures,
        ),
        training=TrainingPlan(job, expected.check_training, target_accuracy, trained.steps_to(target_accuracy)),
    )


def _facts(trained: Trained) -> tuple[str, ...]:
    """What is told of training and of its comparison with PyTorch."""
    training = trained.training
    curve = ", ".join(f"{one:.1%} after {step}" for step, one in zip(trained.curve_steps, trained.curve, strict=True))
    return (
        f"Arena {training.arena_bytes} bytes (lower bound {training.lower_bound_bytes}), trained variables "
        f"{training.variables_bytes} bytes, arena of inference alone {inference_arena(trained.model)} bytes.",
        f"Accuracy by steps, the C on this computer: {curve}.",
        "Losses and trained variables are compared with PyTorch's, started from the same bits."
        + ("" if math.isnan(trained.autograd_error) else
           f" PyTorch's autograd with its own SGD is within {trained.autograd_error:.1e} of the way in "
           f"the median over the first {min(AUTOGRAD_STEPS, len(trained.losses))} steps."),
    )  # fmt: skip


def inference_arena(model: CompiledModel) -> int:
    """Bytes of the arena that inference alone would need."""
    return max((one.offset + one.size for one in model.buffers), default=0)


# ---- the cache ----------------------------------------------------------------------------------------------------


def cache_key(variant: Mapping[str, object], data_digest: str, *sources: Path) -> str:
    """Key of what :func:`train_on_host` yields.

    Args:
        variant: every option.
        data_digest: SHA-256 of the data, hex.
        sources: files of the workload itself; compiler, runtime and this file are added.
    """
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    parts = {"data": data_digest, "variant": json.dumps(dict(variant), sort_keys=True),
             **{package: version(package) for package in ("numpy", "torch")}}  # fmt: skip
    own = (Path(__file__), Path(differences.__file__))
    return cached.key(parts, [*own, *sources, *compiler, *RUNTIME.rglob("*.[ch]")])


def to_entry(trained: Trained, document: Mapping[str, object] | None = None) -> cached.Entry:
    """As it is cached, with anything else that is JSON."""
    arrays: dict[str, cached.AnyArray] = {
        "inputs": trained.inputs, "answers": trained.answers, "samples": trained.samples, "targets": trained.targets,
        "losses": trained.losses, "outputs": trained.outputs, "curve": trained.curve,
        "curve_steps": trained.curve_steps, "autograd_error": np.array([trained.autograd_error]),
    }  # fmt: skip
    for n, variable in enumerate(trained.training.variables):
        arrays |= {f"initial_{n}": trained.initial[variable.name], f"trained_{n}": trained.variables[variable.name]}
    known = {"model": model_to_json(trained.model), "accuracy": trained.accuracy}
    return cached.Entry(json.dumps(known | dict(document or {})), arrays)


def from_entry(entry: cached.Entry) -> Trained:
    """What :func:`to_entry` wrote."""
    document, arrays = json.loads(entry.document), entry.arrays
    model = model_from_json(document["model"])
    names = [one.name for one in ([] if model.training is None else model.training.variables)]
    return Trained(
        model=model,
        inputs=arrays["inputs"],
        answers=arrays["answers"].astype(np.int64),
        samples=arrays["samples"],
        targets=arrays["targets"].astype(np.int32),
        losses=arrays["losses"].astype(np.float32),
        variables={name: arrays[f"trained_{n}"].astype(np.float32) for n, name in enumerate(names)},
        initial={name: arrays[f"initial_{n}"].astype(np.float32) for n, name in enumerate(names)},
        outputs=arrays["outputs"].astype(np.int8),
        accuracy=float(document["accuracy"]),
        curve=arrays["curve"].astype(np.float32),
        curve_steps=arrays["curve_steps"].astype(np.int64),
        autograd_error=float(arrays["autograd_error"].astype(np.float64)[0]),
    )
