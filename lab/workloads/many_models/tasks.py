"""Three things that one device is asked: written digits, movements, and heart beats. No torch in here.

All samples become maps of 8×8 behind a network's first convolution, so that what follows can be the same for all: a
series is folded into rows, the rows are the map's other axis (as H. Wu et al., "TimesNet", 2023, fold series to use
two-dimensional convolutions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.data import corruptions, digits, made_series

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Kind: TypeAlias = Literal["alike", "lenet5", "ds-cnn", "resnet8", "own"]

SEED = 1
OWN_FILE = "yono-{}"
"""Of a user's own network for a task, without its ending."""
TASKS = ("digits", "movements", "beats")
SOURCE = "three tasks: digits, made movements and heart beats"
ROW = 16
"""Samples of a series in a row of its map."""
FOLDED = 8 * ROW
HELD_OUT_SHARE = 0.4
VALIDATION_SHARE = 0.2
"""Of what is not held out: by it the host decides which layers it tunes."""
WINDOWS, BEATS = 60, 72
"""Of each class by each of four people."""
COPIES = 2
"""Of each sample in training, each with noise of its own."""
NOISE: Mapping[str, float] = {"digits": 0.45, "movements": 0.6, "beats": 0.35}
"""Standard deviation, in the samples' own unit, of what is added to all of them: without it no task is hard enough to
show what a code loses."""


@dataclass(frozen=True)
class Form:
    """What the networks of a size have in common.

    Attributes:
        grid: pixels along a side of the maps behind the first convolution.
        widths: channels of the first convolution, of the middle and of the end.
    """

    grid: int = 8
    widths: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True)
class Part:
    """Samples float32 (n, channels, height, width), and their classes, int64 (n,)."""

    samples: FloatArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """What one network is trained on, judged by on the host, and asked on the device.

    Attributes:
        name: one of :data:`TASKS`, or one of the paper's size.
        classes: how many there are.
        training, validation, asked: apart from each other; ``asked`` in random order.
        digest: SHA-256 of the data, hex.
        form: of its network, where networks are alike.
        network: ``alike``, which of the published ones is its, or the user's ``own``.
    """

    name: str
    classes: int
    training: Part
    validation: Part
    asked: Part
    digest: str
    form: Form = field(default_factory=Form)
    network: Kind = "alike"

    @property
    def stride(self) -> tuple[int, int]:
        """Of the first convolution: what makes maps of the form's grid."""
        height, width = self.training.samples.shape[2:]
        return height // self.form.grid, width // self.form.grid


def all_tasks() -> tuple[Task, ...]:
    """The tasks in the order of :data:`TASKS`.

    Raises:
        ConfigError: scikit-learn, which carries the digits, is not installed.
    """
    return _digits(), _movements(), _beats()


def _digits() -> Task:
    images = digits.load()
    return _parted("digits", corruptions.enlarged(images.pixels)[:, None], images.digits, images.digest)


def _movements() -> Task:
    made = made_series.imu(per_class=WINDOWS)
    return _parted("movements", folded(made.samples), made.labels, made.digest)


def _beats() -> Task:
    made = made_series.ecg((BEATS,) * len(made_series.ECG_CLASSES))
    return _parted("beats", folded(made.samples), made.labels, made.digest)


def folded(series: FloatArray) -> FloatArray:
    """The first 128 samples of series (n, channels, samples) in rows: (n, channels, 8, 16)."""
    return np.ascontiguousarray(series[:, :, :FOLDED].reshape(*series.shape[:2], -1, ROW), np.float32)


def _parted(name: str, samples: FloatArray, labels: IntArray, digest: str) -> Task:
    known, asked = digits.stratified_split(labels, HELD_OUT_SHARE, SEED)
    inner, outer = digits.stratified_split(labels[known], VALIDATION_SHARE, SEED)
    generator = np.random.default_rng(SEED)

    def part(places: IntArray, copies: int = 1) -> Part:
        order = np.tile(generator.permutation(places), copies)
        clean = samples[order]
        noisy = clean + NOISE[name] * generator.standard_normal(clean.shape)
        return Part(noisy.astype(np.float32), labels[order])

    training, validation, last = part(known[inner], COPIES), part(known[outer]), part(asked)
    return Task(name, int(labels.max()) + 1, training, validation, last, digest)


def digest(tasks: tuple[Task, ...]) -> str:
    """SHA-256 of all their data, hex."""
    return hashlib.sha256("".join(one.digest for one in tasks).encode()).hexdigest()
