"""What a workload is, and what its preparation yields."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledModel, TrainingStep
from lab.events import Job, ResultEvent

Int8Array: TypeAlias = npt.NDArray[np.int8]
FloatArray: TypeAlias = npt.NDArray[np.float32]
DeviceClass: TypeAlias = Literal["mcu", "linux", "phone", "host"]
EVERY_CLASS: tuple[DeviceClass, ...] = ("mcu", "linux", "phone", "host")
"""For workloads of compiled C alone, which runs wherever a runner does."""
Form: TypeAlias = Literal["reduction", "factor", "difference"]


@dataclass(frozen=True)
class Dataset:
    """Which data a run used: name, SHA-256 hex digest, number of evaluated samples, and a note for the report."""

    name: str
    digest: str
    samples: int
    note: str = ""


@dataclass(frozen=True)
class Score:
    """One figure of a workload's own, with what it is compared with.

    Attributes:
        metric: ``accuracy`` …
        value: measured on the device.
        reference: the same figure from the reference on the host.
        unit: unit of both.
        trials: of how many samples ``value`` is the share that is right; 0 of anything else.
    """

    metric: str
    value: float
    reference: float
    unit: str = "1"
    trials: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure the preparation knows (a plan, a published value); recorded as modelled, with the note.

    Attributes:
        metric, value, unit, note: as in :class:`measurements.record.Record`.
    """

    metric: str
    value: float
    unit: str
    note: str = ""


Rounds: TypeAlias = Generator[Job, Sequence[ResultEvent], list[Score]]
"""Jobs one after another, each made of what came of those before: is sent the named results of each, returns scores,
and raises :class:`lab.errors.WorkloadError` where what came is not acceptable."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a workload is trained on the device before its job runs.

    Attributes:
        job: from :func:`lab.training.training_job`.
        check: takes the losses, float32 (steps,), and the raw bytes of every variable afterwards by name; raises
            :class:`lab.errors.WorkloadError` when they are not acceptable and returns the scores.
        target_accuracy: accuracy whose time is told; 0 where none is.
        steps_to_accuracy: steps after which the same training on the host first reaches it; None where it never does.
        rounds: makes of the job the jobs that it is sent in, where this computer takes part in the training; together
            they take the job's steps in order. None where the job is sent as it is.
    """

    job: Job
    check: Callable[[FloatArray, Mapping[str, bytes]], list[Score]]
    target_accuracy: float = 0.0
    steps_to_accuracy: int | None = None
    rounds: Callable[[Job], Rounds] | None = None


FILTER = "filter"
"""The runner's job that goes through a piece of a stream and sends back the samples that a host is to adapt to."""


@dataclass(frozen=True)
class StreamPlan:
    """The job goes once through a stream of samples, in order, by a network that may change with what it sees.

    Attributes:
        samples: single samples of the stream; a pass of the job may take several.
        metered: a shorter stream for the power meter, with an adaptation in it where there are any.
        check: takes the places at which the device adapted (indices of its passes through ``adapt``) and the raw bytes
            of every variable after the stream by name, none of a network that does not change; raises
            :class:`lab.errors.WorkloadError` when they are not acceptable and returns the scores.
        rounds: makes of the workload's job the jobs that the stream is sent in, where what the device is sent depends
            on what it has sent back; together they see the job's samples in order. None where the job is sent as it is.
    """

    samples: int
    metered: Job
    check: Callable[[Sequence[int], Mapping[str, bytes]], list[Score]]
    rounds: Callable[[Job], Rounds] | None = None


@dataclass(frozen=True)
class KernelProfile:
    """What is known of a kernel: the kind of layer it computes, and its loads and stores per instruction."""

    kind: str
    loads_per_instruction: float
    stores_per_instruction: float


@dataclass(frozen=True)
class LayerProbe:
    """The network's layers are to be recovered from its power trace (:mod:`lab.layer_probe`).

    Attributes:
        profiled: kernels that whoever reads the trace has profiled before.
    """

    profiled: tuple[KernelProfile, ...]


@dataclass(frozen=True)
class Roofline:
    """Training is to be laid beside the device's peaks (:mod:`lab.roofline`).

    Attributes:
        steps: the schedule, with what each step computes and moves; whatever runs it.
    """

    steps: tuple[TrainingStep, ...]


@dataclass(frozen=True)
class TorchProgram:
    """The same workload for PyTorch on the device, in float32 (:mod:`lab.torch_programs`).

    Attributes:
        archive: what ``torch.export.save`` writes of the module in evaluation mode, of one sample.
        inputs: float32, shape (count, …), as the module takes them.
        outputs: float32, shape (count, classes): PyTorch's on this computer, after ``training`` where there is one.
        labels: int64, shape (count,): classes.
        training: steps of one sample, cross-entropy and plain gradient descent; None for inference only.
        losses: float32, shape (steps,): those of the same steps on this computer.
    """

    archive: bytes = field(repr=False)
    inputs: FloatArray
    outputs: FloatArray
    labels: npt.NDArray[np.int64]
    training: Job | None = None
    losses: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class Room:
    """What a device offers a model, bytes: of RAM for its arena and variables together, and for its arena alone."""

    ram_bytes: int
    arena_bytes: int


@dataclass(frozen=True)
class Survey:
    """A program that a device runs first; what is prepared for the device then depends on what it found.

    Attributes:
        model: the program, with variables that the jobs fill.
        jobs: of kind ``train``, run one after the other from the values the model was compiled with.
        decide: takes the raw bytes of every variable after the last job, by name, and the device's room; yields what is
            deployed. Raises :class:`lab.errors.WorkloadError` when the variables are not acceptable and
            :class:`lab.errors.ConfigError` where nothing can be made for this device.
    """

    model: CompiledModel
    jobs: tuple[Job, ...]
    decide: Callable[[Mapping[str, bytes], Room], Prepared]


@dataclass(frozen=True)
class Prepared:
    """A workload made ready on the host.

    Attributes:
        model: the compiled model.
        job: what the runner is asked to do.
        dataset: what data it runs on.
        reference_outputs: int8, shape (count, output bytes): what PyTorch's integer reference yields for the
            job's samples.
        seed: seed of the preparation.
        parameters: what the report should say of the variant.
        check: takes the device's outputs (int8, (count, output bytes)), raises :class:`lab.errors.WorkloadError`
            when they are not acceptable and returns the scores.
        facts: sentences for the report (reference accuracy, bounds).
        figures: what is recorded beside the measurements.
        training: what the device is trained on, from the values it was compiled with, before ``job`` runs; None for
            inference only.
        layer_probe: what is done with the trace besides; None for nothing.
        stream: what is measured over the whole of a stream; None where samples have nothing to do with each other.
        program: makes the program for PyTorch on the device, or reads it from the cache; None where there is none.
        survey: what a device runs first, which yields what is deployed there in place of this; None for nothing.
        roofline: training is laid beside the device's peaks; None where it is not.
    """

    model: CompiledModel
    job: Job
    dataset: Dataset
    reference_outputs: Int8Array
    seed: int
    parameters: Mapping[str, str]
    check: Callable[[Int8Array], list[Score]]
    facts: tuple[str, ...] = field(default=())
    figures: tuple[Figure, ...] = ()
    training: TrainingPlan | None = None
    layer_probe: LayerProbe | None = None
    stream: StreamPlan | None = None
    program: Callable[[], TorchProgram] | None = None
    survey: Survey | None = None
    roofline: Roofline | None = None


@dataclass(frozen=True)
class Claim:
    """What a paper says of its method against a baseline, and what must hold of ours (:mod:`lab.comparison`).

    Attributes:
        system: id in the systems catalogue.
        text: the paper's claim, one sentence.
        source: its table, figure or section.
        metric, region: of the records that are compared.
        baseline: what ``metric`` is compared with, one of the workload's ``baselines``; empty for another figure of the
            method's own run, which ``against`` names.
        form: ``reduction``: baseline / method. ``factor``: method / baseline. ``difference``: method − baseline.
        paper: the paper's figure in this form; None where it gives none.
        at_least, at_most: what ours must keep to with the default variant. Neither where our scale cannot show the
            claim, and ``why`` says so.
        why: why ours is not the paper's.
        against: metric and region of the baseline's record, where they are others.
        bound_on: classes of the devices that the bound was stated for; on others ours is told.
        bound_data: the same for the data, by its name; any data where empty.
    """

    system: str
    text: str
    source: str
    metric: str
    baseline: str
    form: Form
    paper: float | None
    why: str
    region: str = "run"
    at_least: float | None = None
    at_most: float | None = None
    against: tuple[str, str] | None = None
    bound_on: tuple[DeviceClass, ...] = EVERY_CLASS
    bound_data: str = ""


class Workload(Protocol):
    """A workload. One file per method; registered in :mod:`lab.workloads`.

    Attributes:
        id: name on the command line and in records.
        title: one line for people.
        family: folder it lives in.
        systems: ids in the systems catalogue it serves.
        classes: device classes that it runs on.
        baselines: variants that run with it, on the same device in the same session, such as ``update=full``. Each is
            appended to the method's own variant, whose later options replace earlier ones.
        claims: what is compared.
        missing: what it lacks to be whole, in words; empty where it is.
    """

    id: str
    title: str
    family: str
    systems: tuple[str, ...]
    classes: tuple[DeviceClass, ...]
    baselines: tuple[str, ...]
    claims: tuple[Claim, ...]
    missing: str

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, quantise and compile; everything expensive is cached under ``cache`` by content.

        Raises:
            ConfigError: unknown variant, or data that cannot be had.
        """
