"""Images of a user's own as the transformers of ImageNet take them, and the weights that these begin with."""

from __future__ import annotations

import hashlib

import numpy as np

from lab.workloads.base import Dataset
from lab.workloads.data import image_folder
from lab.workloads.data.image_folder import Uint8Array
from lab.workloads.data.labelled import Labelled
from lab.workloads.uncertainty.scenes import SEED, FloatArray, IntArray, Scene, Task, kinds_of

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, 0 … 1, as torchvision and timm have them."""


def folder_task(name: str, weights: str, side: int, samples: int, asked: int) -> Task:
    """A folder of images: (n, 3, side, side), less the channels' means, by their deviations.

    Args:
        name: of the folder below ``images/``.
        weights: digest of those that the network begins with; that of the data stands for them, too.
        side: pixels.
        samples, asked: images of ``train`` and of ``test``, at most, about as many of each class.

    Raises:
        ConfigError: as :func:`lab.workloads.data.image_folder.load`.
    """
    known, held_out = _some(name, "train", side, samples), _some(name, "test", side, asked)

    def training() -> tuple[FloatArray, IntArray]:
        return normalised(known.samples), known.labels

    scene = Scene(normalised(held_out.samples), held_out.labels, kinds_of((len(held_out), 0, 0)))
    trained_on = f"{known.digest}, {len(known)} of {side} pixels, {weights}"
    digest = hashlib.sha256(f"{trained_on}, {held_out.digest}, {len(held_out)}".encode()).hexdigest()
    note = f"{side}x{side} pixels, trained on {len(known)} images; the digest is of images and weights."
    return Task(len(known.classes), training, trained_on, scene, Dataset(known.name, digest, len(scene), note))


def _some(name: str, part: image_folder.Part, side: int, most: int) -> Labelled[np.uint8]:
    """So many images in a seeded order."""
    found = image_folder.load(name, part, side, -(-most // len(image_folder.classes(name))))
    return found.at(np.random.default_rng(SEED).permutation(len(found))[:most])


def normalised(images: Uint8Array) -> FloatArray:
    """Pixels (n, 3, height, width), 0 … 255, as the networks take them."""
    mean, deviation = (np.array(one, np.float32)[:, None, None] for one in (MEAN, DEVIATION))
    return np.asarray((images.astype(np.float32) / 255 - mean) / deviation, np.float32)
