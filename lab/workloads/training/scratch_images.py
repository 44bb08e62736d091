"""What networks that learn from scratch are shown: digits of 8×8 pixels, or images of a user's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lab.workloads.data import cifar10, cifar100, digits, image_augmentation, mini_imagenet, mnist
from lab.workloads.data.labelled import Labelled
from lab.workloads.training import scratch_photographs
from lab.workloads.training.scratch_photographs import PHOTOGRAPHS

if TYPE_CHECKING:
    import torch

SEED = 1
HELD_OUT_SHARE = 0.2
DIGITS, CIFAR10, CIFAR100, MNIST = "digits", "cifar10", "cifar100", "mnist"
PAPERS = (CIFAR10, CIFAR100, *mnist.MEMBERS)
"""Of the papers' data, those of small images that are read from ``LAB_DATA``."""
_GREY: Mapping[str, mnist.Member] = dict(zip(mnist.MEMBERS, mnist.MEMBERS, strict=True))
CHANNELS: Mapping[str, int] = {DIGITS: 1, CIFAR10: 3, CIFAR100: 3, **{str(one): 1 for one in mnist.MEMBERS},
                               **dict.fromkeys(PHOTOGRAPHS, 3)}  # fmt: skip
CLASSES: Mapping[str, int] = {
    **{one: cifar100.CLASSES if one == CIFAR100 else 10 for one in (DIGITS, *PAPERS)},
    **{name: one.classes for name, one in PHOTOGRAPHS.items()},
}
SIDE = 32
"""Pixels of the papers' small images: those of the MNIST family are enlarged."""
SIDES: Mapping[str, int] = {**dict.fromkeys(PAPERS, SIDE), **{name: one.side for name, one in PHOTOGRAPHS.items()}}
"""Pixels along a side of what a network is shown."""


class Wanted(Protocol):
    """Of a variant, what chooses its images."""

    @property
    def data(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def evaluated(self) -> int: ...


@dataclass(frozen=True)
class Parts:
    """Images that are trained on and images that are asked: float32 (n, channels, H, W) and int64 (n,)."""

    samples: torch.Tensor
    labels: npt.NDArray[np.int64]
    asked: torch.Tensor
    answers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """What a network is shown.

    Attributes:
        name, digest, note: for the record.
        parts: makes them; called where nothing is cached.
    """

    name: str
    digest: str
    note: str
    parts: Callable[[], Parts]


def images_of(wanted: Wanted) -> Images:
    """The images of a variant, in a seeded order; a user's are read here, so that their digest is known.

    Raises:
        ConfigError: no such data, or as the loader says.
    """
    if wanted.data == DIGITS:
        digest = digits.digest(digits.find())
        return Images(digits.SOURCE, digest, "8x8 pixels as they are.", partial(_digits, wanted))
    if wanted.data in PHOTOGRAPHS:
        return _photographs(wanted)
    if wanted.data == CIFAR10:
        both, note = (cifar10.cifar10(), cifar10.cifar10(cifar10.TEST)), "32x32 pixels, normalised."
    elif wanted.data == CIFAR100:
        both, note = (cifar100.cifar100("train"), cifar100.cifar100("test")), "32x32 pixels, normalised."
    else:
        member = _GREY[wanted.data]
        both, note = (mnist.load(member, "train"), mnist.load(member, "test")), "Enlarged to 32x32 pixels."
    digest = hashlib.sha256("".join(part.digest for part in both).encode()).hexdigest()
    return Images(both[0].name, digest, note, partial(_own, wanted, *both))


def augmented(parts: Parts, epochs: int) -> Parts:
    """The images of so many epochs one behind the other, those of each epoch changed anew by
    :mod:`~lab.workloads.data.image_augmentation`; those that are asked stay as they are."""
    import torch

    generator, pixels = np.random.default_rng(SEED), parts.samples.numpy()
    changed = [image_augmentation.flipped_and_cropped(pixels, generator) for _ in range(epochs)]
    return replace(parts, samples=torch.from_numpy(np.concatenate(changed)), labels=np.tile(parts.labels, epochs))


def sources() -> tuple[Path, ...]:
    """Files that what is trained on depends on."""
    return (Path(__file__), Path(image_augmentation.__file__), *scratch_photographs.SOURCES)


def _digits(wanted: Wanted) -> Parts:
    import torch

    images = digits.load()
    training, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    chosen, asked = (np.random.default_rng(SEED).permutation(part) for part in (training, held_out))
    chosen, asked = chosen[: wanted.samples], asked[: wanted.evaluated]
    pixels = torch.from_numpy(2 * images.pixels - 1)[:, None]
    return Parts(pixels[chosen], images.digits[chosen], pixels[asked], images.digits[asked])


def _own(wanted: Wanted, training: Labelled[np.uint8], test: Labelled[np.uint8]) -> Parts:
    chosen, asked = (
        part.at(np.random.default_rng(SEED).permutation(len(part))[:count])
        for part, count in ((training, wanted.samples), (test, wanted.evaluated))
    )
    return Parts(_pixels(wanted.data, chosen), chosen.labels, _pixels(wanted.data, asked), asked.labels)


def _photographs(wanted: Wanted) -> Images:
    both = scratch_photographs.read(wanted.data, wanted.samples, wanted.evaluated, SEED)
    digest = hashlib.sha256("".join(part.digest for part in both).encode()).hexdigest()
    side = SIDES[wanted.data]
    return Images(both[0].name, digest, f"{side}x{side} pixels, normalised as ImageNet's.", partial(_as_taken, *both))


def _as_taken(chosen: Labelled[np.uint8], asked: Labelled[np.uint8]) -> Parts:
    import torch

    pixels, others = (torch.from_numpy(mini_imagenet.normalised(one.samples)) for one in (chosen, asked))
    return Parts(pixels, chosen.labels, others, asked.labels)


def _pixels(data: str, images: Labelled[np.uint8]) -> torch.Tensor:
    """As the papers' networks take them."""
    import torch
    from torch.nn import functional

    if data == CIFAR10:
        return torch.from_numpy(cifar10.normalised(images.samples))
    if data == CIFAR100:
        return torch.from_numpy(cifar100.normalised(images.samples))
    grey = torch.from_numpy(images.samples.astype(np.float32) / np.float32(255))
    return functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear")
