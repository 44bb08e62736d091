"""Int8 classifiers: train in PyTorch, compile, cache, and judge what a device answers.

A workload describes its data and network as a :class:`Task`; :func:`prepare` does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel, TensorSpec
from lab.errors import WorkloadError
from lab.events import Job
from lab.workloads import cache as cached
from lab.workloads.base import Dataset, Int8Array, Prepared, Score, TorchProgram
from lab.workloads.fitting import Plan

if TYPE_CHECKING:
    from torch import nn

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

_HERE = Path(__file__).parent
_CALIBRATION_SAMPLES = 500
_PACKAGES = ("numpy", "scipy", "torch")


@dataclass(frozen=True)
class Bounds:
    """What a device's int8 answers may differ from PyTorch's float32 reference by.

    Attributes:
        min_agreement: share of samples on which both choose the same class, at least.
        max_logit_error_steps: mean absolute difference of the logits, at most, in steps of the output's scale.
        max_accuracy_drop: how far accuracy may lie below the reference's.
    """

    min_agreement: float
    max_logit_error_steps: float
    max_accuracy_drop: float


@dataclass(frozen=True)
class Samples:
    """Samples of a task, NCHW float32, with class numbers as labels.

    Attributes:
        training, training_labels: what the network is trained on, augmented copies included.
        calibration: unaugmented training samples that set the ranges of the activations.
        held_out, held_out_labels: what the device is asked.
    """

    training: FloatArray
    training_labels: IntArray
    calibration: FloatArray
    held_out: FloatArray
    held_out_labels: IntArray


class Task(Protocol):
    """A classification task.

    Attributes:
        dataset_name: name of the data in records.
        note: what the report should say of the data.
        digest: SHA-256 of the data, hex.
        parameters: what tells this task from another of the same workload; part of the cache key.
    """

    @property
    def dataset_name(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, str]: ...

    def samples(self, seed: int) -> Samples:
        """Read, split and augment.

        Raises:
            ConfigError: data that cannot be used.
        """

    def network(self) -> nn.Module:
        """The untrained network; yields the logits."""


@dataclass(frozen=True)
class Expectation:
    """What a device must answer.

    Attributes:
        labels: int64, shape (count,).
        reference_logits: float32, shape (count, classes): PyTorch's, unquantised.
        reference_outputs: int8, shape (count, classes): the integer reference's.
        output: quantisation of the outputs.
        bounds: what is allowed.
    """

    labels: IntArray
    reference_logits: FloatArray
    reference_outputs: Int8Array
    output: TensorSpec
    bounds: Bounds

    @property
    def reference_accuracy(self) -> float:
        """Accuracy of the float32 reference."""
        return _share(self.reference_logits.argmax(axis=1) == self.labels)

    def agreement(self, outputs: Int8Array) -> float:
        """Share of samples on which ``outputs`` and the float32 reference choose the same class."""
        return _share(outputs.argmax(axis=1) == self.reference_logits.argmax(axis=1))

    def logit_error_steps(self, outputs: Int8Array) -> float:
        """Mean absolute difference to the float32 logits, in steps of the output's scale."""
        difference = self.output.dequantize(outputs) - self.reference_logits
        return float(np.mean(np.abs(difference)) / self.output.scale)

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge a device's outputs: equal to the integer reference to the bit, and near enough to float32.

        Args:
            outputs: int8, shape (count, classes).

        Raises:
            WorkloadError: wrong shape or type, a byte that differs from the integer reference, or a broken bound; says
                what was measured and what is allowed.
        """
        must_equal(outputs, self.reference_outputs)
        agreement = self.agreement(outputs)
        if agreement < self.bounds.min_agreement:
            raise WorkloadError(
                f"the device agrees with the float32 reference on {agreement:.2%} of {len(outputs)} samples; "
                f"at least {self.bounds.min_agreement:.2%} is allowed",
                hint="the quantisation loses too much: look at the calibration and the scales per layer",
            )
        error = self.logit_error_steps(outputs)
        if error > self.bounds.max_logit_error_steps:
            raise WorkloadError(
                f"the device's logits differ from the float32 reference by {error:.2f} output steps in the mean; "
                f"at most {self.bounds.max_logit_error_steps:.2f} is allowed",
                hint="the quantisation loses too much: look at the calibration and the scales per layer",
            )
        accuracy = _share(outputs.argmax(axis=1) == self.labels)
        floor = self.reference_accuracy - self.bounds.max_accuracy_drop
        if accuracy < floor:
            raise WorkloadError(
                f"accuracy on the device is {accuracy:.2%}; at least {floor:.2%} is allowed "
                f"({self.bounds.max_accuracy_drop:.2%} below the float32 reference's {self.reference_accuracy:.2%})"
            )
        expected = self.reference_outputs
        return [
            Score("accuracy", accuracy, self.reference_accuracy),
            Score("agreement", agreement, self.agreement(expected)),
            Score("logit_error", error, self.logit_error_steps(expected), "output step"),
        ]


def must_equal(outputs: Int8Array, expected: Int8Array) -> None:
    """Refuse a device's outputs that are not the integer reference's to the bit.

    Raises:
        WorkloadError: another shape or type, or a byte that differs; says the first sample that does.
    """
    if outputs.shape != expected.shape or outputs.dtype != np.int8:
        raise WorkloadError(
            f"the device yielded {outputs.dtype} outputs of shape {outputs.shape}; "
            f"int8 of shape {expected.shape} is expected"
        )
    wrong = np.flatnonzero(np.any(outputs != expected, axis=1))
    if len(wrong):
        first = int(wrong[0])
        raise WorkloadError(
            f"{len(wrong)} of {len(outputs)} outputs differ from the integer reference, first sample {first}: "
            f"{outputs[first].tolist()} where {expected[first].tolist()} is expected; none may differ",
            hint="integer kernels agree to the bit everywhere: run the host build on the same sample",
        )


def _share(matches: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(matches))


@dataclass(frozen=True)
class Recipe:
    """How the workload's network is made: the training plan, the seed, and the source files the result depends on."""

    plan: Plan
    seed: int
    sources: tuple[Path, ...]


def prepare(name: str, task: Task, recipe: Recipe, bounds: Bounds, cache: Path) -> Prepared:
    """Train, quantise and compile a task, or read the result from the cache.

    Torch is imported only where the cache has no entry.

    Args:
        name: C identifier of the model and begin of the cache file's name.
        task: data and network.
        recipe: how it is trained.
        bounds: what the device's answers may differ by.
        cache: cache folder of the lab.

    Raises:
        ConfigError: data that cannot be used, or a cache that cannot be written.
        WorkloadError: training diverged.
    """
    entry = cached.obtain(cache / "workloads", name, _key(task, recipe), lambda: _produce(name, task, recipe, cache))
    model = model_from_json(entry.document)
    inputs, outputs = entry.arrays["inputs"].astype(np.int8), entry.arrays["outputs"].astype(np.int8)
    expectation = Expectation(
        labels=entry.arrays["labels"].astype(np.int64),
        reference_logits=entry.arrays["logits"].astype(np.float32),
        reference_outputs=outputs,
        output=model.output,
        bounds=bounds,
    )
    return Prepared(
        model=model,
        job=Job(name="infer", blob=inputs.tobytes(), count=len(inputs)),
        dataset=Dataset(task.dataset_name, task.digest, len(inputs), task.note),
        reference_outputs=outputs,
        seed=recipe.seed,
        parameters=task.parameters,
        check=expectation.check,
        facts=_facts(expectation, task),
        program=lambda: TorchProgram(
            entry.arrays["program"].tobytes(),
            entry.arrays["held_out"].astype(np.float32),
            expectation.reference_logits,
            expectation.labels,
        ),
    )


def _facts(expectation: Expectation, task: Task) -> tuple[str, ...]:
    bounds, outputs = expectation.bounds, expectation.reference_outputs
    return (
        f"Data: {task.dataset_name}. {task.note}",
        f"PyTorch float32 accuracy on the {len(outputs)} held-out samples: {expectation.reference_accuracy:.2%}.",
        f"Integer reference: same class as float32 on {expectation.agreement(outputs):.2%} "
        f"(allowed: {bounds.min_agreement:.2%} or more), logits off by "
        f"{expectation.logit_error_steps(outputs):.2f} output steps in the mean "
        f"(allowed: {bounds.max_logit_error_steps:.2f} or less).",
        f"Accuracy may lie {bounds.max_accuracy_drop:.2%} below float32; "
        "outputs must equal the integer reference to the bit.",
    )


def _key(task: Task, recipe: Recipe) -> str:
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    return cached.key(_parts(task, recipe), [*_sources(recipe), *compiler])


def _parts(task: Task, recipe: Recipe) -> dict[str, str]:
    return {
        "data": task.digest,
        "parameters": json.dumps(dict(task.parameters), sort_keys=True),
        "plan": json.dumps(asdict(recipe.plan), sort_keys=True),
        "seed": str(recipe.seed),
        **{package: version(package) for package in _PACKAGES},
    }


def _sources(recipe: Recipe) -> tuple[Path, ...]:
    """What the trained network depends on; what is compiled of it, on the compiler too."""
    shared = (_HERE / "classification.py", _HERE / "fitting.py", _HERE / "trained.py")
    return (*recipe.sources, *shared, *_HERE.joinpath("networks").glob("*.py"))


def _produce(name: str, task: Task, recipe: Recipe, cache: Path) -> cached.Entry:
    with progress.step(f"{name}: reading {task.dataset_name}", quiet_below_s=2.0):
        samples = task.samples(recipe.seed)
    with progress.step(f"{name}: loading PyTorch", quiet_below_s=2.0):
        import torch

        from lab.workloads.fitting import fit, seeded
        from lab.workloads.networks import exported, logits
        from lab.workloads.trained import trained

    def train() -> None:
        inputs, labels = torch.from_numpy(samples.training), torch.from_numpy(samples.training_labels)
        fit(network, inputs, labels, recipe.plan, recipe.seed, f"{name}: training on {len(inputs)} samples")
        if not torch.isfinite(logits(network, held_out)).all():
            raise WorkloadError(f"{name}: training diverged, the reference logits are not finite")

    held_out = torch.from_numpy(samples.held_out)
    with seeded(recipe.seed):
        network = task.network()
        trained(network, cache, f"{name}-network", _parts(task, recipe), _sources(recipe), train)
        reference_logits = logits(network, held_out).numpy()
        with progress.step(f"{name}: compiling", quiet_below_s=2.0):
            calibration = torch.from_numpy(_spread(samples.calibration, _CALIBRATION_SAMPLES))
            model, integer = lab.compiler.compile_with_reference(
                network, held_out[:1], calibration=calibration, name=name
            )
        quantised = model.input.quantize(np.ascontiguousarray(samples.held_out.transpose(0, 2, 3, 1)))
        with progress.step(f"{name}: running the integer reference", quiet_below_s=2.0):
            outputs = integer.run_integer(quantised)
    arrays: dict[str, cached.AnyArray] = {
        "inputs": quantised.reshape(len(quantised), -1),
        "labels": samples.held_out_labels,
        "logits": reference_logits,
        "outputs": outputs.reshape(len(quantised), -1),
        "held_out": samples.held_out,
        "program": np.frombuffer(exported(network, held_out[:1]), np.uint8),
    }
    return cached.Entry(model_to_json(model), arrays)


def _spread(samples: FloatArray, count: int) -> FloatArray:
    """At most ``count`` samples, evenly spread over all."""
    places = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64))
    return np.ascontiguousarray(samples[places])


def model_to_json(model: CompiledModel) -> str:
    """A compiled model as a document for the cache."""
    from pydantic import TypeAdapter

    return TypeAdapter(CompiledModel).dump_json(model).decode()


def model_from_json(text: str) -> CompiledModel:
    """The compiled model of such a document."""
    from pydantic import TypeAdapter

    return TypeAdapter(CompiledModel).validate_json(text)
