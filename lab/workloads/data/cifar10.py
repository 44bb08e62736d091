"""CIFAR-10 and CIFAR-10-C: colour images of 32×32 pixels of ten classes, and the test images under corruptions.

Public sources: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, in its binary version;
Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

Uint8Array: TypeAlias = npt.NDArray[np.uint8]
FloatArray: TypeAlias = npt.NDArray[np.float32]

CIFAR10 = Source(
    name="CIFAR-10, binary version",
    folder="cifar-10-batches-bin",
    origin="University of Toronto, www.cs.toronto.edu/~kriz/cifar.html",
    licence="no licence stated; for research, with citation",
    layout="data_batch_1.bin to data_batch_5.bin and test_batch.bin",
)
CIFAR10_C = Source(
    name="CIFAR-10-C",
    folder="CIFAR-10-C",
    origin="Zenodo record 2535967",
    licence="CC BY 4.0",
    layout="labels.npy and one .npy for each corruption",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The fifteen that results are told for; four more are for choosing parameters by."""
SEVERITIES = (1, 2, 3, 4, 5)
TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
SIDE = 32
_PIXELS = 3 * SIDE * SIDE
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of red, green and blue over the training images, 0 … 1."""


def cifar10(files: tuple[str, ...] = TRAINING) -> Labelled[np.uint8]:
    """Clean images: uint8 (n, 3, 32, 32), red, green, blue.

    Args:
        files: :data:`TRAINING` or :data:`TEST`; all read are one domain each.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or a file is missing or no file of this kind.
    """
    reader = Reader(CIFAR10)
    images, labels, domains = [], [], []
    for name in files:
        content = np.frombuffer(reader.read(name), np.uint8)
        if len(content) == 0 or len(content) % (1 + _PIXELS):
            raise CIFAR10.refused(
                f"{reader.root / name} has {len(content)} bytes, which is no whole number of images of {1 + _PIXELS}"
            )
        rows = content.reshape(-1, 1 + _PIXELS)
        _check_labels(rows[:, 0], CIFAR10, f"{reader.root / name}")
        images.append(rows[:, 1:].reshape(-1, 3, SIDE, SIDE))
        labels.append(rows[:, 0].astype(np.int64))
        domains += [name.partition(".")[0]] * len(rows)
    return Labelled(
        np.concatenate(images), np.concatenate(labels), CLASSES, tuple(domains), CIFAR10.name, reader.digest()
    )


def cifar10_c(corruptions: Sequence[str] = CORRUPTIONS, severities: Sequence[int] = (5,)) -> Labelled[np.uint8]:
    """Corrupted test images: uint8 (n, 3, 32, 32), one corruption after another and one severity after another.

    Domains are both, such as ``fog 5``; each holds the test set in its order.

    Args:
        corruptions: names of the files; the folder may hold others than :data:`CORRUPTIONS`.
        severities: of 1 to 5.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, a file is missing or damaged, or labels and images are not equally
            many, or there is no such severity.
    """
    if unknown := [one for one in severities if one not in SEVERITIES]:
        raise ConfigError(f"severity {unknown[0]} of {CIFAR10_C.name} is not allowed", hint="1 to 5")
    reader = Reader(CIFAR10_C)
    labels = _array(reader, "labels.npy", 1)
    _check_labels(labels, CIFAR10_C, f"{reader.root / 'labels.npy'}")
    each = len(labels) // len(SEVERITIES)
    images = []
    for corruption in corruptions:
        found = _array(reader, f"{corruption}.npy", 4)
        if found.shape != (len(SEVERITIES) * each, SIDE, SIDE, 3) or len(found) != len(labels):
            raise CIFAR10_C.refused(
                f"{reader.root / corruption}.npy is of shape {found.shape} for {len(labels)} labels; "
                f"(5 x images, {SIDE}, {SIDE}, 3) and as many labels are needed"
            )
        images += [found[(one - 1) * each : one * each].transpose(0, 3, 1, 2) for one in severities]
    return Labelled(
        np.ascontiguousarray(np.concatenate(images)),
        np.tile(np.concatenate([labels[(one - 1) * each : one * each] for one in severities]), len(corruptions)).astype(
            np.int64
        ),
        CLASSES,
        tuple(f"{name} {severity}" for name in corruptions for severity in severities for _ in range(each)),
        CIFAR10_C.name,
        reader.digest(),
    )


def normalised(images: Uint8Array) -> FloatArray:
    """Images (n, 3, 32, 32) as networks take them: 0 … 1, less the mean, by the deviation of their colour."""
    mean, deviation = (np.array(one, np.float32)[:, None, None] for one in (MEAN, DEVIATION))
    return (images.astype(np.float32) / np.float32(255) - mean) / deviation


def _array(reader: Reader, name: str, dimensions: int) -> Uint8Array:
    """A NumPy file of bytes; never one with Python objects in it, which could be code."""
    path = reader.root / name
    try:
        found = np.load(io.BytesIO(reader.read(name)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CIFAR10_C.refused(f"{path} is no array of NumPy: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "ui" or found.ndim != dimensions or not found.size:
        raise CIFAR10_C.refused(f"{path} is no array of whole numbers in {dimensions} dimensions")
    if found.min() < 0 or found.max() > 255:
        raise CIFAR10_C.refused(f"{path} holds values from {found.min()} to {found.max()}; 0 to 255 are allowed")
    return found.astype(np.uint8)


def _check_labels(labels: Uint8Array, source: Source, where: str) -> None:
    if labels.max() >= len(CLASSES):
        raise source.refused(f"{where} holds the label {labels.max()}; 0 to {len(CLASSES) - 1} are allowed")
