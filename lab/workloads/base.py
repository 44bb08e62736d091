"""What a workload is, and what its preparation yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledModel
from lab.events import Job

Int8Array: TypeAlias = npt.NDArray[np.int8]
FloatArray: TypeAlias = npt.NDArray[np.float32]


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
    """

    metric: str
    value: float
    reference: float
    unit: str = "1"


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


@dataclass(frozen=True)
class TrainingPlan:
    """How a workload is trained on the device before its job runs.

    Attributes:
        job: from :func:`lab.training.training_job`.
        check: takes the losses, float32 (steps,), and the raw bytes of every variable afterwards by name; raises
            :class:`lab.errors.WorkloadError` when they are not acceptable and returns the scores.
    """

    job: Job
    check: Callable[[FloatArray, Mapping[str, bytes]], list[Score]]


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


class Workload(Protocol):
    """A workload. One file per method; registered in :mod:`lab.workloads`.

    Attributes:
        id: name on the command line and in records.
        title: one line for people.
        family: folder it lives in.
        systems: ids in the systems catalogue it serves.
    """

    id: str
    title: str
    family: str
    systems: tuple[str, ...]

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, quantise and compile; everything expensive is cached under ``cache`` by content.

        Raises:
            ConfigError: unknown variant, or data that cannot be had.
        """
