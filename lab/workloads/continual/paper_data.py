"""The images of the papers, from a user's folder, parted by classes. No torch in here.

LifeLearner (Kwon et al. 2023, section 5.1) has 70 classes of CIFAR-100 on the host and 30 on the device, 64 and 20 of
MiniImageNet, and 25 words and 10 of Speech Commands (:mod:`.paper_sounds`); so has MetaCLBench, and 30 and 20 of
ESC-50, 5 and 5 of UrbanSound8K. MiniImageNet's are those of its lists. Which of the others they are is not told: here
the first ones are the host's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.workloads.data import cifar100, image_folder, mini_imagenet
from lab.workloads.data.cifar10 import normalised
from lab.workloads.data.labelled import Labelled

FloatArray = npt.NDArray[np.float32]
By = tuple[FloatArray, tuple[str, ...]]

SOURCES = tuple(Path(one) for one in (__file__, cifar100.__file__, mini_imagenet.__file__, image_folder.__file__))
KNOWN_IMAGES = 70
MOST_PHOTOGRAPHS = 200
"""Of a class of MiniImageNet: a third of what there is. All of them would be 4.3 GB as float32."""


def images() -> tuple[By, By, str]:
    """CIFAR-100's training images, normalised: those of the host's classes and of the device's, each (classes, samples,
    3, 32, 32) with the names; and the data's name.

    Raises:
        ConfigError: as :func:`lab.workloads.data.cifar100.cifar100`, or a class has no image.
    """
    found = cifar100.cifar100("train")
    counts = np.bincount(found.labels, minlength=cifar100.CLASSES)
    if not counts.min():
        raise cifar100.CIFAR100.refused(f"{found.name} has no training image of '{found.classes[counts.argmin()]}'")
    scaled = normalised(found.samples)[by_class(found)]
    known, unseen = scaled[:KNOWN_IMAGES], scaled[KNOWN_IMAGES:]
    return (known, found.classes[:KNOWN_IMAGES]), (unseen, found.classes[KNOWN_IMAGES:]), found.name


def photographs() -> tuple[By, By, str]:
    """MiniImageNet's images of its classes for training and of those for tests, normalised: as :func:`images`, each
    (classes, samples, 3, 84, 84).

    Raises:
        ConfigError: as :func:`lab.workloads.data.mini_imagenet.load`.
    """
    found = [mini_imagenet.load(part, MOST_PHOTOGRAPHS) for part in ("train", "test")]
    known, unseen = ((mini_imagenet.normalised(one.samples[by_class(one)]), one.classes) for one in found)
    return known, unseen, mini_imagenet.MINI_IMAGENET.name


def photographs_digest() -> str:
    """SHA-256, hex, of what :func:`photographs` reads.

    Raises:
        ConfigError: as there, but for damaged images.
    """
    return mini_imagenet.digest(("train", "test"), MOST_PHOTOGRAPHS)


def by_class(found: Labelled[np.uint8] | Labelled[np.int16]) -> npt.NDArray[np.int64]:
    """Places of the samples of each class, as many as the smallest has: (classes, samples)."""
    each = int(np.bincount(found.labels, minlength=len(found.classes)).min())
    return np.stack([np.flatnonzero(found.labels == label)[:each] for label in range(len(found.classes))])
