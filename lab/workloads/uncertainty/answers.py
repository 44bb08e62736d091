"""A network's answers to a set of images: compiled, computed by PyTorch, and what a device's are held against.

Two references stand behind an answer: the steps of the compiled program in PyTorch, which a device must come to within
the order of sums of its float32 heads, exit by exit; and the network itself in float32, whose class it must mostly
share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel
from lab.errors import WorkloadError
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.workloads import cache as cached
from lab.workloads import trained
from lab.workloads.base import Figure, Int8Array, Prepared, Score, StreamPlan
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.uncertainty.scenes import SEED, FloatArray, Task

if TYPE_CHECKING:
    from torch import nn

Precision: TypeAlias = Literal["int8", "float32"]
CALIBRATION_IMAGES = 64
METERED = 32
CHECKED = 60
"""Images, from the first on, whose answers are held against the program's steps: PyTorch is slow in integers."""
MIN_SAME_EXIT, MAX_ERROR = 0.99, 1e-3
MIN_AGREEMENT: Mapping[str, float] = {"int8": 0.9, "float32": 0.99}
"""What a device's answers may differ by: share of the same exits as in the program's reference, since a margin can be
rounding; values of the same exit, at most; and share of the classes that PyTorch has in float32, of which int8 loses
some on shifted images. Seen: all, 3e-6, and 99 %."""
FILE = "file."
"""In front of the name of a file that the program includes, in the cache."""
LEAVE = "leave"
"""The operator of an exit in layer tables."""
_HERE = Path(__file__).parent
_DATA = _HERE.parent / "data"
TRAINED_BY = (
    *(_HERE / name for name in ("evidence.py", "networks.py", "paper_networks.py", "paper_scenes.py", "scenes.py",
                              "series_scenes.py", "training_runs.py")),
    *(_DATA / name for name in ("corruptions.py", "digits.py", "ecg5000.py", "made_series.py", "mfcc.py", "mnist.py",
                                "smote.py", "sound_folder.py", "speech_commands.py")),
    _HERE.parent / "networks" / "blocks.py",
)  # fmt: skip
"""Files that what a trained network is depends on."""
TRANSFORMER = tuple(
    _HERE.parent / "networks" / f"{name}.py" for name in ("attention", "swin", "vit", "weight_files")
)
"""And one of attention, besides."""
SOURCES = (*_HERE.glob("*.py"), *TRAINED_BY, *TRANSFORMER)


@dataclass(frozen=True)
class Rated:
    """A figure of a set of answers; ``trials`` where it is a share, of how many."""

    value: float
    trials: int = 0


Judge: TypeAlias = Callable[[FloatArray], Mapping[str, Rated]]
"""The figures of answers (n, width)."""


@dataclass(frozen=True)
class Reading:
    """How a row of an answer is read.

    Attributes:
        classes: the first columns are their shares.
        exit_column: holds the number of the exit, from 0; None of a network that has one end.
        exits: how many there are.
    """

    classes: int
    exit_column: int | None = None
    exits: int = 1

    def chosen(self, answers: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """The class of each row."""
        return np.asarray(answers[:, : self.classes].argmax(1), np.int64)

    def places(self, answers: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """The exit of each row; 0 where there is one end."""
        if self.exit_column is None:
            return np.zeros(len(answers), np.int64)
        return np.asarray(answers[:, self.exit_column], np.int64)

    def shares(self, answers: FloatArray) -> dict[str, Rated]:
        """How many leave at each exit."""
        counts = np.bincount(self.places(answers), minlength=self.exits)
        if self.exit_column is None:
            return {}
        total = len(answers)
        return {f"exit_share.{n + 1}": Rated(float(count / total), total) for n, count in enumerate(counts)}


@dataclass(frozen=True)
class Expectation:
    """What a device must answer.

    Attributes:
        reference: float32 (m, width), the steps of the compiled program in PyTorch, of the first m images.
        pytorch: float32 (n, width), the network in float32.
        reading: of the columns.
        judge: the workload's own figures.
        precision: of the layers in front of the heads.
    """

    reference: FloatArray
    pytorch: FloatArray
    reading: Reading
    judge: Judge
    precision: Precision

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge a device's outputs, int8 views of float32 (n, width).

        Raises:
            WorkloadError: another shape, exits elsewhere, other values or other classes than PyTorch's.
        """
        values = np.ascontiguousarray(outputs).view(np.float32).reshape(len(outputs), -1)
        if values.shape != self.pytorch.shape:
            raise WorkloadError(f"the device answered {values.shape}; {self.pytorch.shape} is expected")
        same, error = self._against_reference(np.nan_to_num(values[: len(self.reference)], nan=np.inf))
        agreement = float(np.mean(self.reading.chosen(values) == self.reading.chosen(self.pytorch)))
        least = MIN_AGREEMENT[self.precision]
        if agreement < least:
            raise WorkloadError(
                f"the device has PyTorch's class with {agreement:.1%} of {len(values)} images; {least:.0%} is allowed",
                hint="the quantisation loses too much: look at the ranges of the activations",
            )
        own, theirs = ({**self.judge(one), **self.reading.shares(one)} for one in (values, self.pytorch))
        return [
            *(Score(name, one.value, theirs[name].value, trials=one.trials) for name, one in own.items()),
            Score("agreement", agreement, 1.0),
            Score("same_exit", same, 1.0),
            Score("output_error", error, 0.0),
        ]

    def _against_reference(self, values: FloatArray) -> tuple[float, float]:
        """Share of the same exits, and the largest difference of answers from those.

        Raises:
            WorkloadError: too few, or too large.
        """
        same = self.reading.places(values) == self.reading.places(self.reference)
        if same.mean() < MIN_SAME_EXIT:
            raise WorkloadError(
                f"the device left at the reference's exit with {same.mean():.1%} of {len(values)} images; "
                f"{MIN_SAME_EXIT:.0%} or more is allowed"
            )
        error = float(np.abs(values[same] - self.reference[same]).max())
        if error > MAX_ERROR:
            raise WorkloadError(
                f"the device's answers differ from the reference's by {error:.2g}; {MAX_ERROR} is allowed",
                hint="int8 layers agree to the bit everywhere, heads to rounding: run the host build on the same image",
            )
        return float(same.mean()), error


@dataclass(frozen=True)
class Question:
    """One variant of a workload.

    Attributes:
        workload: id.
        options: all of the variant's; ``method`` is one of them.
        precision: of the layers in front of the heads.
        task: what is trained on and asked.
        reading, judge: as of :class:`Expectation`.
        network: makes the trained network in evaluation mode; called late, where torch may be imported.
        images: what the images are, in words.
    """

    workload: str
    options: Mapping[str, object]
    precision: Precision
    task: Task
    reading: Reading
    judge: Judge
    network: Callable[[], nn.Module]
    images: str


def prepare(question: Question, cache: Path) -> Prepared:
    """Train, compile and answer on this computer, or read all of it from the cache; ready for a device, which is asked
    every image once, in order, and whose costs are taken over all of them.

    Raises:
        CompileError: a layer that is not supported.
        ConfigError: the cache cannot be written.
    """
    key = _key({"workload": question.workload, **question.options}, question.task.dataset.digest)
    entry = cached.obtain(cache / "workloads", question.workload, key, lambda: _produce(question))
    arrays = entry.arrays
    files = {name.removeprefix(FILE): arrays[name].tobytes() for name in arrays if name.startswith(FILE)}
    model = replace(model_from_json(entry.document), binaries=files)
    reference, pytorch = (arrays[name].astype(np.float32) for name in ("reference", "pytorch"))
    samples = arrays["samples"]
    expectation = Expectation(reference, pytorch, question.reading, question.judge, question.precision)
    job = Job("infer", np.ascontiguousarray(samples).tobytes(), len(samples))
    few = min(METERED, len(samples))
    metered = Job("infer", np.ascontiguousarray(samples[:few]).tobytes(), few)
    return Prepared(
        model=model,
        job=job,
        dataset=question.task.dataset,
        reference_outputs=np.ascontiguousarray(pytorch).view(np.int8).reshape(len(pytorch), -1),
        seed=SEED,
        parameters={name: str(value) for name, value in question.options.items()},
        check=expectation.check,
        facts=(
            f"Method {question.options['method']}, {question.precision} in front of the heads; {question.images}.",
            f"Arena {model.arena_bytes} bytes (lower bound {model.lower_bound_bytes}).",
        ),
        figures=_figures(model, question.reading, pytorch),
        stream=StreamPlan(len(samples), metered, lambda adapted, raw: []),
    )


def _produce(question: Question) -> cached.Entry:
    """The compiled network, what a device is asked, and both references."""
    import torch

    from lab.compiler.float_inference import compile_program, program_of
    from lab.workloads.fitting import seeded

    name = f"{question.workload}_{question.options['method']}".replace("-", "_")
    training, _ = question.task.training()
    calibration = torch.from_numpy(training[:: max(1, len(training) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES])
    images, is_int8 = question.task.scene.images, question.precision == "int8"
    with seeded(SEED):
        module = question.network()
        asked = torch.from_numpy(images)
        with torch.no_grad(), progress.step(f"{name}: compiling, and answering in PyTorch", quiet_below_s=2.0):
            pytorch: torch.Tensor = module(asked)
            program = program_of(module, asked[:1], calibration if is_int8 else None)
            model = compile_program(program, name)
            rows = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            samples = model.input.quantize(rows) if is_int8 else rows
            reference = [
                program.run(torch.from_numpy(one[None]), None, {})[program.output].numpy().reshape(-1)
                for one in samples[:CHECKED]
            ]
    arrays: dict[str, cached.AnyArray] = {
        "samples": samples.reshape(len(samples), -1),
        "reference": np.stack(reference),
        "pytorch": pytorch.numpy(),
    }
    # Hundreds of megabytes would be a document several times as large.
    arrays |= {FILE + name: np.frombuffer(content, np.uint8) for name, content in model.binaries.items()}
    return cached.Entry(model_to_json(replace(model, binaries={})), arrays)


def _key(options: Mapping[str, object], digest: str) -> str:
    """Key of a compiled network: its options, the data, and every source it depends on."""
    parts = {
        "data": digest,
        "options": json.dumps(dict(options), sort_keys=True),
        **{package: version(package) for package in ("numpy", "torch")},
    }
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    return cached.key(parts, [*SOURCES, Path(trained.__file__), *compiler, *RUNTIME.rglob("*.[ch]")])


def macs_of_exits(model: CompiledModel) -> tuple[int, ...]:
    """Multiply-accumulates up to each exit; of the whole network where it has none."""
    found: list[int] = []
    total = 0
    for layer in model.layers:
        total += layer.macs
        if layer.operator == LEAVE:
            found.append(total)
    return tuple(found) or (total,)


def _figures(model: CompiledModel, reading: Reading, pytorch: FloatArray) -> tuple[Figure, ...]:
    macs = np.array(macs_of_exits(model), np.float64)
    counts = np.bincount(reading.places(pytorch), minlength=len(macs))
    mean = float(macs @ counts / counts.sum())
    figures = [
        Figure("arena.lower_bound", model.lower_bound_bytes, "bytes", "largest set of tensors live at once"),
        Figure("macs_per_sample", mean, "1", "multiply-accumulates, mean over the images where PyTorch leaves"),
    ]
    if reading.exit_column is None:
        return tuple(figures)
    return (*figures, *(Figure(f"macs.exit.{n + 1}", float(one), "1", "up to this exit") for n, one in enumerate(macs)))
