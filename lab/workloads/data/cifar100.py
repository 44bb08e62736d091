"""CIFAR-100: colour images of 32×32 pixels of a hundred classes, 500 of each to train on and 100 for tests.

Public source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, in its binary version: an
image is its coarse label, its fine label and 3,072 bytes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

Part: TypeAlias = Literal["train", "test"]

CIFAR100 = Source(
    name="CIFAR-100, binary version",
    folder="cifar-100-binary",
    origin="University of Toronto, www.cs.toronto.edu/~kriz/cifar.html",
    licence="no licence stated; for research, with citation",
    layout="train.bin, test.bin and fine_label_names.txt",
)
CLASSES = 100
SIDE = 32
MEAN = (0.5071, 0.4865, 0.4409)
DEVIATION = (0.2673, 0.2564, 0.2762)
"""Of red, green and blue over the training images, 0 … 1."""
_PIXELS = 3 * SIDE * SIDE
_LABELS = 2


def cifar100(part: Part) -> Labelled[np.uint8]:
    """Images by fine labels: uint8 (n, 3, 32, 32), red, green, blue; the part is the domain.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or a file is missing, is no file of this kind, or holds a label
            that has no name.
    """
    reader = Reader(CIFAR100)
    names = tuple(reader.text("fine_label_names.txt").split())
    if len(names) != CLASSES:
        raise CIFAR100.refused(f"{reader.root / 'fine_label_names.txt'} has {len(names)} names; {CLASSES} are needed")
    path = reader.root / f"{part}.bin"
    content = np.frombuffer(reader.read(path.name), np.uint8)
    if len(content) == 0 or len(content) % (_LABELS + _PIXELS):
        raise CIFAR100.refused(
            f"{path} has {len(content)} bytes, which is no whole number of images of {_LABELS + _PIXELS}"
        )
    rows = content.reshape(-1, _LABELS + _PIXELS)
    labels = rows[:, 1].astype(np.int64)
    if labels.max() >= CLASSES:
        raise CIFAR100.refused(f"{path} holds the label {labels.max()}; 0 to {CLASSES - 1} are allowed")
    images = np.ascontiguousarray(rows[:, _LABELS:]).reshape(-1, 3, SIDE, SIDE)
    return Labelled(images, labels, names, (part,) * len(labels), CIFAR100.name, reader.digest())


def normalised(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images (n, 3, 32, 32) as networks take them: 0 … 1, less the mean, by the deviation of their colour."""
    mean, deviation = (np.array(one, np.float32)[:, None, None] for one in (MEAN, DEVIATION))
    return (images.astype(np.float32) / np.float32(255) - mean) / deviation
