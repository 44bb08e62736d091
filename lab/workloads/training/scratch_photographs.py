"""Photographs for networks that learn from scratch: of a user's data sets no more are read than a variant wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lab.workloads.data import image_folder, imagenette, listed_images, tiny_imagenet, visual_wake_words
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.listed_images import ListedImages


@dataclass(frozen=True)
class Photographs:
    """A data set.

    Attributes:
        training, test: list its parts.
        classes: how many.
        side: pixels that a network is shown.
    """

    training: Callable[[], ListedImages]
    test: Callable[[], ListedImages]
    classes: int
    side: int


PHOTOGRAPHS: Mapping[str, Photographs] = {
    "imagenette": Photographs(
        partial(imagenette.listed, "train"), partial(imagenette.listed, "val"), len(imagenette.CLASSES), 128
    ),
    "tiny-imagenet": Photographs(
        partial(tiny_imagenet.listed, "train"), partial(tiny_imagenet.listed, "val"), tiny_imagenet.CLASSES,
        tiny_imagenet.SIDE,
    ),
    "vww": Photographs(
        partial(visual_wake_words.listed, "train"), partial(visual_wake_words.listed, "val"),
        len(visual_wake_words.CLASSES), visual_wake_words.SIDE,
    ),
}  # fmt: skip
"""LLS's authors show Imagenette as 128×128 pixels, Tiny ImageNet as it is, and Visual Wake Words, which they cut out of
COCO themselves, as 128×128: MLPerf Tiny's have 96×96."""
SOURCES = (
    Path(__file__), Path(image_folder.__file__), Path(imagenette.__file__), Path(listed_images.__file__),
    Path(tiny_imagenet.__file__), Path(visual_wake_words.__file__),
)  # fmt: skip


def read(name: str, samples: int, asked: int, seed: int) -> tuple[Labelled[np.uint8], Labelled[np.uint8]]:
    """Images to train on and others that are asked, drawn by ``seed``; as many as there are at most.

    Raises:
        ConfigError: as the loader says.
    """
    own = PHOTOGRAPHS[name]
    wanted = ((own.training(), samples), (own.test(), asked))
    chosen = [one.read(own.side, np.random.default_rng(seed).permutation(len(one))[:count]) for one, count in wanted]
    return chosen[0], chosen[1]
