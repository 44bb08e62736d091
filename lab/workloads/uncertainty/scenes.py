"""What these workloads are asked: scikit-learn's digits, clean, under shifts, and of classes nobody has shown them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.base import Dataset
from lab.workloads.data import corruptions, digits

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

SEED = 1
HELD_OUT_SHARE = 0.4
NOISE = 0.24
"""Largest standard deviation of the noise that a copy of each training image gets; evidence grows with the scale of the
input, so that a network that has never seen noise is surer of it than of digits."""
SHIFTS = ("gauss", "fog", "motion")
SEVERITY = 3
CLEAN, SHIFTED, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Scene:
    """Single images in the order in which a device is asked.

    Attributes:
        images: float32 (n, 1, 16, 16), 0 … 1 and what a corruption adds.
        labels: int64 (n,); -1 of classes that the network does not know.
        kinds: int64 (n,): ``CLEAN``, ``SHIFTED`` or ``UNKNOWN``.
    """

    images: FloatArray
    labels: IntArray
    kinds: IntArray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """What a network is trained on, and what it is then asked.

    Attributes:
        classes: how many the network knows.
        training: reads what it is trained on: float32 (n, channels, height, width) and int64 (n,).
        trained_on: stands for that, for keys.
        scene: what is asked.
        dataset: for the record; its digest stands for all of it.
        judged: reads by what the host judges networks that it chooses among, as ``training``: neither trained on nor
            asked. None where nothing is chosen.
    """

    classes: int
    training: Callable[[], tuple[FloatArray, IntArray]]
    trained_on: str
    scene: Scene
    dataset: Dataset
    judged: Callable[[], tuple[FloatArray, IntArray]] | None = None


def digits_task(classes: int, counts: tuple[int, int, int], note: str) -> Task:
    """The first ``classes`` digits; ``counts`` as of :func:`asked`, ``note`` of the data set.

    Raises:
        ConfigError: no data.
    """
    digest = digits.digest(digits.find())
    scene = asked(classes, counts)
    data = Dataset(digits.SOURCE, digest, len(scene), note)
    return Task(classes, partial(training, classes), digest, scene, data, partial(judged, classes, counts))


def training(classes: int) -> tuple[FloatArray, IntArray]:
    """Images (n, 1, 16, 16) of the first ``classes`` digits and their labels: each clean and once with noise."""
    images = digits.load()
    chosen, _ = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    chosen = chosen[images.digits[chosen] < classes]
    clean = corruptions.enlarged(images.pixels[chosen])[:, None]
    generator = np.random.default_rng(SEED)
    deviation = NOISE * generator.random((len(clean), 1, 1, 1))
    noisy = clean + deviation * generator.standard_normal(clean.shape)
    labels = images.digits[chosen]
    return np.concatenate([clean, noisy]).astype(np.float32), np.concatenate([labels, labels])


def asked(classes: int, counts: tuple[int, int, int]) -> Scene:
    """Held-out images in random order, so that any part of them is a fair sample.

    Args:
        classes: digits below this are known.
        counts: how many are clean, under one of :data:`SHIFTS` in turn, and of unknown classes. Images of a kind
            repeat where there are too few.
    """
    images = digits.load()
    generator = np.random.default_rng(SEED)
    _, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    held_out = generator.permutation(held_out)
    known, unknown = (held_out[(images.digits[held_out] < classes) == is_known] for is_known in (True, False))
    clean, shifted, other = counts
    places = np.concatenate([np.resize(known, clean + shifted), np.resize(unknown, other)]).astype(np.int64)
    kinds = kinds_of(counts)
    pixels = corruptions.enlarged(images.pixels[places])
    shift(pixels, kinds, generator)
    labels = np.where(kinds == UNKNOWN, -1, images.digits[places])
    order = generator.permutation(len(places))
    return Scene(np.ascontiguousarray(pixels[order][:, None], np.float32), labels[order], kinds[order])


def judged(classes: int, counts: tuple[int, int, int]) -> tuple[FloatArray, IntArray]:
    """Held-out images of known classes that :func:`asked` leaves, as many of them under a shift as there, by share;
    none where all are asked.
    """
    images = digits.load()
    _, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    held_out = np.random.default_rng(SEED).permutation(held_out)
    rest = held_out[images.digits[held_out] < classes][sum(counts[:2]) :]
    pixels = corruptions.enlarged(images.pixels[rest])
    shift_share(pixels, counts)
    return np.ascontiguousarray(pixels[:, None], np.float32), images.digits[rest]


def shift_share(pixels: FloatArray, counts: tuple[int, int, int]) -> None:
    """Put the share of images (n, height, width) under a shift that ``counts``, of :func:`asked`, have, in place."""
    clean, shifted, _ = counts
    many = round(len(pixels) * shifted / (clean + shifted))
    shift(pixels, kinds_of((len(pixels) - many, many, 0)), np.random.default_rng(SEED))


def kinds_of(counts: tuple[int, int, int]) -> IntArray:
    """So many clean, shifted and unknown ones, in this order: int64 (n,)."""
    return np.repeat(np.array([CLEAN, SHIFTED, UNKNOWN], np.int64), counts)


def shift(pixels: FloatArray, kinds: IntArray, generator: np.random.Generator) -> None:
    """Put the shifted ones of images (n, height, width), 0 … 1, under one of :data:`SHIFTS` in turn, in place."""
    for number, name in enumerate(SHIFTS):
        chosen = np.flatnonzero(kinds == SHIFTED)[number :: len(SHIFTS)]
        pixels[chosen] = corruptions.corrupt(pixels[chosen], name, SEVERITY, generator)
