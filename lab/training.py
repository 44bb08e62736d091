"""Training on a device: the job, what it yields, and checkpoints of the variables it changes.

``docs/wire.md`` describes the jobs ``train``, ``parameters``, ``restore`` and ``forget`` and a checkpoint's bytes.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from lab.devices.base import Device
from lab.errors import ConfigError, ProtocolError
from lab.events import Done, Event, Job, MetricEvent, RegionEvent, ResultEvent

FORWARD, BACKWARD, UPDATE = "train.forward", "train.backward", "train.update"
LAYER = "train.layer"
LOSS = "loss"
PARAMETERS = Job("parameters", b"", 0, warmup=0)
"""Sends every variable, and where its training stands (:func:`checkpoint_of`)."""
FORGET = Job("forget", b"", 0, warmup=0)
"""Sets every variable to what it was compiled with."""
QUIET_US = 2000
LONGEST_ORDER = 1 << 16

Samples = npt.NDArray[np.float32] | npt.NDArray[np.int8]
Targets = npt.NDArray[np.int32] | npt.NDArray[np.float32]

_HEAD = struct.Struct("<8s16sIIII")
_MAGIC = b"labckpt1"
_HEAD_NAME = "lab.checkpoint"


@dataclass(frozen=True)
class TrainingResult:
    """What a training run on a device yields.

    Attributes:
        losses: float32 (steps,), the loss of each step before its update.
        events: passes through ``train.forward``, ``train.backward`` and ``train.update``, in order; under PyTorch also
            through ``train.copy_in`` and ``train.copy_out``.
        done: the end of the job, with the high-water marks of memory.
    """

    losses: npt.NDArray[np.float32]
    events: tuple[RegionEvent, ...]
    done: Done


@dataclass(frozen=True)
class Checkpoint:
    """The variables of a model in training: parameters and tensors of the optimiser.

    Attributes:
        build_id: the firmware they belong to.
        step: steps done since the initial values.
        random: state of stochastic rounding.
        variables: raw bytes by name, in the device's order.
    """

    build_id: str
    step: int
    random: int
    variables: Mapping[str, bytes] = field(repr=False)

    def to_bytes(self) -> bytes:
        """The blob of the job ``restore``."""
        data = b"".join(self.variables.values())
        head = (_MAGIC, self.build_id.encode(), len(data), zlib.crc32(data), self.step, self.random)
        return _HEAD.pack(*head) + data

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file: every variable as uint8 under its name, and the head under ``lab.checkpoint``."""
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in self.variables.items()}
        head = np.frombuffer(self.to_bytes()[: _HEAD.size], np.uint8)
        # Typed here: NumPy's own type takes every name of a variable for a flag.
        write: Callable[..., None] = np.savez
        with path.open("wb") as stream:
            write(stream, **arrays, **{_HEAD_NAME: head})

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file that :meth:`save` wrote.

        Raises:
            ConfigError: there is no such file, it is no checkpoint, or it is damaged.
        """
        try:
            with ZipFile(path) as archive:
                arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
        except FileNotFoundError:
            raise ConfigError(f"there is no checkpoint {path}") from None
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise ConfigError(f"{path} is no checkpoint, or damaged: {error}") from error
        head = arrays.pop(_HEAD_NAME, b"")
        try:
            return _checkpoint(head, arrays)
        except ProtocolError as error:
            raise ConfigError(f"{path} is no checkpoint, or damaged: {error.message}") from error


def training_job(
    samples: Samples,
    targets: Targets,
    *,
    epochs: int = 1,
    learning_rate: float,
    seed: int = 1,
    order: Sequence[int] | None = None,
) -> Job:
    """The job that trains on ``samples``, each a step, from the variables the device has now.

    Args:
        samples: (n, …) as the model's input takes them.
        targets: (n, …) int32 labels or float32 values.
        epochs: passes over all samples.
        learning_rate: the same for every step.
        seed: first state of stochastic rounding, 1 to 2³² − 1.
        order: the sample of each step, n · epochs of them; as they lie where None.

    Raises:
        ConfigError: sizes that do not fit together, or a value out of range.
    """
    count = len(samples)
    if count == 0 or len(targets) != count:
        raise ConfigError(f"training takes a target for each sample; there are {count} samples, {len(targets)} targets")
    if epochs < 1:
        raise ConfigError(f"training runs for {epochs} epochs", hint="at least 1")
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise ConfigError(f"the learning rate is {learning_rate}", hint="a finite number that is not below 0")
    if not 0 < seed < 1 << 32:
        raise ConfigError(f"the seed is {seed}", hint="1 to 4294967295")
    blobs = {"targets": np.ascontiguousarray(targets).tobytes()}
    parameters: dict[str, int | float] = {"lr": float(learning_rate), "seed": seed}
    if order is not None:
        blobs["order"] = _order_bytes(order, count, epochs)
        parameters["order"] = 1
    return Job(
        "train",
        np.ascontiguousarray(samples).tobytes(),
        count,
        warmup=0,
        repeats=epochs,
        quiet_us=QUIET_US,
        parameters=parameters,
        blobs=blobs,
    )


def first_steps(job: Job, count: int) -> Job:
    """The same training over its first ``count`` samples, once and in the order in which they lie.

    Raises:
        ConfigError: the job has fewer samples.
    """
    if not 0 < count <= job.count:
        raise ConfigError(f"asked for {count} samples; the job trains on {job.count}", hint=f"1 to {job.count}")
    targets = job.blobs["targets"]
    return replace(
        job,
        blob=job.blob[: len(job.blob) // job.count * count],
        count=count,
        repeats=1,
        blobs={"targets": targets[: len(targets) // job.count * count]},
        parameters={name: value for name, value in job.parameters.items() if name != "order"},
    )


def _array(npy: bytes) -> bytes:
    return np.lib.format.read_array(io.BytesIO(npy), allow_pickle=False).tobytes()


def _order_bytes(order: Sequence[int], count: int, epochs: int) -> bytes:
    if len(order) != count * epochs or not all(0 <= index < count for index in order):
        raise ConfigError(
            f"the order names {len(order)} samples from {min(order, default=0)} to {max(order, default=0)}",
            hint=f"{count * epochs} of them ({epochs} epochs of {count} samples), each from 0 to {count - 1}",
        )
    if count > LONGEST_ORDER:
        raise ConfigError(f"an order reaches {LONGEST_ORDER} samples; there are {count}", hint="several jobs")
    return np.asarray(order, "<u2").tobytes()


def train(
    device: Device,
    samples: Samples,
    targets: Targets,
    *,
    epochs: int = 1,
    learning_rate: float,
    seed: int = 1,
    order: Sequence[int] | None = None,
) -> TrainingResult:
    """Train on a device, from the variables it has now; arguments as for :func:`training_job`.

    Raises:
        ConfigError: as :func:`training_job`.
        WorkloadError: the loss is no finite number; says at which step.
        DeviceError: the device refused the job or failed.
    """
    job = training_job(samples, targets, epochs=epochs, learning_rate=learning_rate, seed=seed, order=order)
    return training_result(list(device.run(job)))


def training_result(events: Sequence[Event]) -> TrainingResult:
    """Sort the events of a job ``train``.

    Raises:
        ProtocolError: the job did not say that it is done.
    """
    losses = [event.value for event in events if isinstance(event, MetricEvent) and event.name == LOSS]
    regions = tuple(event for event in events if isinstance(event, RegionEvent))
    return TrainingResult(np.array(losses, np.float32), regions, _done(events))


def checkpoint(device: Device) -> Checkpoint:
    """Every variable of the model on a device, and where its training stands.

    Raises:
        ProtocolError: the model is not trained on the device, or what came does not agree with its checksum.
    """
    events = list(device.run(PARAMETERS))
    _done(events)
    return checkpoint_of([event for event in events if isinstance(event, ResultEvent)])


def checkpoint_of(results: Sequence[ResultEvent]) -> Checkpoint:
    """The checkpoint that the results of :data:`PARAMETERS` make.

    Raises:
        ProtocolError: they have no head, or do not agree with its checksum.
    """
    named = {result.name: result.data for result in results}
    return _checkpoint(named.pop(_HEAD_NAME, b""), named)


def reading(variable: int) -> Job:
    """The job that sends one variable, by its place among them, and nothing else."""
    return replace(PARAMETERS, parameters={"variable": variable})


def read_parameters(device: Device) -> dict[str, bytes]:
    """Raw bytes of every variable by name.

    Raises:
        ProtocolError: as :func:`checkpoint`.
    """
    return dict(checkpoint(device).variables)


def restore(device: Device, saved: Checkpoint) -> None:
    """Give a device the variables of a checkpoint.

    Raises:
        ProtocolError: the device refused it: from another build, or of another size. Says what and why.
    """
    _done(list(device.run(restoring(saved))))


def restoring(saved: Checkpoint) -> Job:
    """The job that gives a device the variables of a checkpoint."""
    return Job("restore", b"", 0, warmup=0, blobs={"checkpoint": saved.to_bytes()})


def forget(device: Device) -> None:
    """Set every variable of a device's model to what it was compiled with.

    Raises:
        ProtocolError: the model is not trained on the device.
    """
    _done(list(device.run(FORGET)))


def _done(events: Sequence[Event]) -> Done:
    last = events[-1] if events else None
    if not isinstance(last, Done):
        raise ProtocolError("the job ended without saying that it is done")
    return last


def _checkpoint(head: bytes, variables: Mapping[str, bytes]) -> Checkpoint:
    if len(head) != _HEAD.size or not head.startswith(_MAGIC):
        raise ProtocolError("the variables came without the head of a checkpoint")
    _, build_id, total, crc, step, random = _HEAD.unpack(head)
    data = b"".join(variables.values())
    if len(data) != total or zlib.crc32(data) != crc:
        raise ProtocolError(f"the variables have {len(data)} bytes, the head says {total}; or their checksum is wrong")
    return Checkpoint(build_id.decode(errors="replace"), step, random, dict(variables))
