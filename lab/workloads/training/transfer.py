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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

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
from lab.workloads.training.agreement import (
    EARLY_STEPS,
    LIMITS,
    NONE,
    STROKE,
    FloatArray,
    Limits,
    Precision,
    Spread,
    loss_error,
    nearly,
    parts_late,
    update_error,
)
from lab.workloads.training.in_pytorch import Batches, InPyTorch, in_pytorch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.channels import Channels
    from lab.compiler.host import HostTraining
    from lab.compiler.operations.perturbation import Perturbation
    from lab.compiler.training import TrainingModel

IntArray: TypeAlias = npt.NDArray[np.int64]
Samples: TypeAlias = FloatArray | Int8Array
Rows = TypeVar("Rows", Samples, IntArray, npt.NDArray[np.int32])

CURVE_POINTS = 8
"""How often the accuracy is told along the way."""


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
        limits: how far the device may be from PyTorch; None for those of the precision.
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
        parted: how far from PyTorch in float32 the C on this computer ends, begun from weights changed by
            :data:`~lab.workloads.training.agreement.STROKE`; nothing where it was not asked.
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
    parted: Spread = NONE

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
        batches = Batches(samples, targets, inputs, answers)
        with progress.step(f"{task.name}: training in PyTorch", quiet_below_s=2.0):
            found = in_pytorch(made, batches, task)
    points = np.unique(np.linspace(0, task.steps * task.epochs, CURVE_POINTS + 1).astype(np.int64))
    with progress.step(f"{task.name}: training on the host", quiet_below_s=2.0):
        run = _on_host(model, batches, task, found, points)
    return Trained(
        model, inputs.reshape(len(inputs), -1), answers, samples.reshape(len(samples), -1), targets, found.losses,
        found.variables, found.initial, run.outputs, found.accuracy, run.curve, points, found.autograd_error,
        run.parted,
    )  # fmt: skip


@dataclass(frozen=True)
class _HostRun:
    """What the C on this computer came to.

    Attributes:
        outputs, curve: as of :class:`Trained`.
        parted: how far from PyTorch in float32, begun from weights changed by
            :data:`~lab.workloads.training.agreement.STROKE`; nothing in int8.
    """

    outputs: Int8Array
    curve: FloatArray
    parted: Spread


def _on_host(model: CompiledModel, batches: Batches, task: Transfer, found: InPyTorch, points: IntArray) -> _HostRun:
    from lab.compiler.host import HostTraining

    outputs: list[Int8Array] = []
    with tempfile.TemporaryDirectory() as at:
        host = HostTraining(model, Path(at))

        def ask(step: int) -> None:
            if step in points:
                outputs.append(host.run(batches.asked).reshape(len(batches.asked), -1).view(np.int8))

        _host_steps(host, batches, task, ask)
        parted = NONE
        if task.precision == "float32":
            host.reset()
            begun = {name: np.frombuffer(one, np.float32) for name, one in host.raw_variables().items()}
            host.write({name: one.tobytes() for name, one in nearly(begun, STROKE, task.seed).items()})
            losses = _host_steps(host, batches, task, lambda _: None)
            off = update_error(host.variables(), found.variables, found.initial)
            parted = Spread(loss_error(losses, found.losses), off)
    curve = [accuracy_of(one, batches.answers) for one in outputs]
    return _HostRun(outputs[-1], np.array(curve, np.float32), parted)


def _host_steps(
    host: HostTraining, batches: Batches, task: Transfer, after: Callable[[int], None]
) -> FloatArray:
    """Every step by the C, and their losses; ``after`` is called before the first and behind each."""
    host.state.random = task.seed
    losses = np.zeros(task.steps * task.epochs, np.float32)
    after(0)
    for step in range(len(losses)):
        number = step % len(batches.samples)
        losses[step] = host.step(batches.samples[number], batches.targets[number], task.rate)
        after(step + 1)
    return losses


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


def accuracy_of(outputs: Int8Array, answers: IntArray) -> float:
    """Share of right answers; outputs are float32 logits as bytes, of a batch of answers in a row."""
    logits = outputs.view(np.float32).reshape(len(answers), -1)
    return float(np.mean(logits.argmax(axis=1) == answers))


# ---- what the device is held to -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """What a device must come to.

    Attributes:
        trained: on this computer.
        limits: how far it may be from PyTorch where rounding does not part their ways.
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
        late = parts_late(losses, trained.losses)
        limits = self.limits.beside(trained.parted) if late else self.limits
        error = loss_error(losses, trained.losses)
        if not error <= limits.loss:
            raise WorkloadError(
                f"the losses differ from PyTorch's by {error:.2g} in the median; at most {limits.loss:.2g} is allowed"
            )
        off = update_error(trained.training.to_torch(variables), trained.variables, trained.initial)
        if not off <= limits.update:
            raise WorkloadError(
                f"the trained variables are off PyTorch's by {off:.2g} of the way these have come; at most "
                f"{limits.update:.2g} is allowed"
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
    if (beside := expected.limits.beside(trained.parted)) != expected.limits:
        facts += (
            f"A device whose losses part from PyTorch's behind step {EARLY_STEPS} may end {beside.update:.2g} of the "
            f"way from it, any other {expected.limits.update:g}: the C on this computer, begun from weights changed by "
            f"{STROKE:g}, ends {trained.parted.update:.2g} from it.",
        )
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
           f"the median over the first {min(EARLY_STEPS, len(trained.losses))} steps."),
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
    here = Path(__file__).parent
    own = (here / f"{name}.py" for name in ("transfer", "agreement", "differences", "in_pytorch"))
    return cached.key(parts, [*own, *sources, *compiler, *RUNTIME.rglob("*.[ch]")])


def to_entry(trained: Trained, document: Mapping[str, object] | None = None) -> cached.Entry:
    """As it is cached, with anything else that is JSON."""
    arrays: dict[str, cached.AnyArray] = {
        "inputs": trained.inputs, "answers": trained.answers, "samples": trained.samples, "targets": trained.targets,
        "losses": trained.losses, "outputs": trained.outputs, "curve": trained.curve,
        "curve_steps": trained.curve_steps, "autograd_error": np.array([trained.autograd_error]),
        "parted": np.array([trained.parted.loss, trained.parted.update]),
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
        parted=Spread(*(float(one) for one in arrays["parted"].astype(np.float64))),
    )
