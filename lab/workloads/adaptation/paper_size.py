"""The size of the papers: CIFAR-10-C in a stream, and networks that the user has of CIFAR-10.

LeanTTA (arXiv:2503.15889, section 4.1) and the robustness benchmarks use ResNet-18 with a stem of 3×3 and stride 1,
EcoTTA (arXiv:2303.01904, section 4.1) the WideResNet-40-2 of AugMix; CEMA (arXiv:2402.17316) has ResNet-18 on the
device and ResNet-101 as its foundation model, on ImageNet-C. Weights come from ``networks/``, the data from
``CIFAR-10-C/`` and ``cifar-10-batches-bin/`` of ``LAB_DATA``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.adaptation.options import WIDE, WIDTHS, Options
from lab.workloads.data import cifar10, corruptions
from lab.workloads.data.corruptions import CLEAN, Segment, Stream
from lab.workloads.data.labelled import Labelled

if TYPE_CHECKING:
    from torch import nn

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

STATE_IMAGES = 256
SEED = 1


def untrained(name: str) -> nn.Sequential:
    """One of :data:`WIDTHS`, :data:`WIDE` or :data:`FOUNDATIONS`, with weights from torch's global random state."""
    from lab.workloads.networks import WideResNet, resnet18, resnet101

    if name in WIDE:
        return WideResNet(*WIDE[name])
    return resnet18(WIDTHS[name]) if name in WIDTHS else resnet101()


def taken(images: npt.NDArray[np.uint8], network: str) -> FloatArray:
    """Images (n, 3, 32, 32) as a network takes them: by CIFAR-10's mean and deviation, or, as AugMix has it, -1 … 1."""
    return images.astype(np.float32) / np.float32(127.5) - 1 if network in WIDE else cifar10.normalised(images)


def learnt(network: str) -> tuple[FloatArray, IntArray]:
    """CIFAR-10's training images as a network takes them, float32 (n, 3, 32, 32), and labels (n,).

    Raises:
        ConfigError: as :func:`lab.workloads.data.cifar10.cifar10`.
    """
    known = cifar10.cifar10(cifar10.TRAINING)
    return taken(known.samples, network), known.labels


def digests(options: Options) -> list[str]:
    """SHA-256, hex, of all that a method reads besides the stream: networks, and training images.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    found = [source_network(options.network)[1]]
    if options.method in ("eco", "meta"):
        found.append(cifar10.cifar10(cifar10.TRAINING).digest)
    if options.method == "od" or options.precision == "int8":
        found.append(cifar10.cifar10(cifar10.TRAINING[:1]).digest)
    if options.method == "cema":
        found.append(source_network(options.foundation)[1])
    return found


def source_network(name: str) -> tuple[nn.Sequential, str]:
    """A network of the user's in evaluation mode, and the SHA-256, hex, of its file.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.weight_files.load`.
    """
    from lab.workloads.networks.weight_files import load

    made = untrained(name)
    digest = load(made, name)
    return made.eval(), digest


def stream(parts: Sequence[Segment], only: int, network: str = "resnet18") -> tuple[Stream, str]:
    """The stream, and a SHA-256, hex, of all files that it comes from.

    Every segment takes the next test images of one seeded order, again from its beginning when that ends.

    Args:
        parts: what it goes through; ``clean`` is CIFAR-10's test set, the others are files of CIFAR-10-C.
        only: class that it is held to; -1 for all.
        network: which takes it.

    Raises:
        ConfigError: a folder or file is missing or damaged, the two sets are not of the same images, or no image is of
            that class.
    """
    clean = cifar10.cifar10(cifar10.TEST)
    images = np.flatnonzero((clean.labels == only) | (only < 0))
    if not len(images):
        raise ConfigError(f"{clean.name} has no test image of the class {only}", hint="only=-1 takes all")
    total = sum(one.samples for one in parts)
    generator = np.random.default_rng(SEED)
    order = np.concatenate([generator.permutation(images) for _ in range(-(-total // len(images)))])[:total]
    numbers = np.repeat(np.arange(len(parts)), [one.samples for one in parts])
    met = np.empty((total, *clean.samples.shape[1:]), np.uint8)
    digests = [clean.digest]
    # Corruption by corruption, since a file holds five times the test set.
    for corruption in sorted({one.corruption for one in parts}):
        severities = sorted({one.severity for one in parts if one.corruption == corruption})
        known = clean if corruption == CLEAN else _corrupted(corruption, severities, clean)
        digests.append(known.digest)
        for number, one in enumerate(parts):
            if one.corruption == corruption:
                here = numbers == number
                met[here] = known.samples[severities.index(one.severity) * len(clean) + order[here]]
    names = tuple(one.corruption if one.corruption == CLEAN else f"{one.corruption} {one.severity}" for one in parts)
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Stream(taken(met, network), clean.labels[order], numbers, names), digest


def _corrupted(name: str, severities: Sequence[int], clean: Labelled[np.uint8]) -> Labelled[np.uint8]:
    found = cifar10.cifar10_c((name,), severities)
    if not np.array_equal(found.labels, np.tile(clean.labels, len(severities))):
        raise ConfigError(
            f"{found.name} and {clean.name} are not of the same test images: {len(found) // len(severities)} and "
            f"{len(clean)} labels differ",
            hint="take both as they are published: labels.npy holds those of test_batch.bin five times",
        )
    return found


def shifted(kind: str, severity: int, network: str = "resnet18") -> FloatArray:
    """Training images under one of the lab's own corruptions, for source states: float32 (n, 3, 32, 32), as the network
    takes them.

    Raises:
        ConfigError: as :func:`lab.workloads.data.cifar10.cifar10`.
    """
    known = cifar10.cifar10(cifar10.TRAINING[:1])
    planes = known.samples[:STATE_IMAGES].reshape(-1, cifar10.SIDE, cifar10.SIDE).astype(np.float32) / np.float32(255)
    made = corruptions.corrupt(planes, kind, severity, np.random.default_rng(SEED))
    levels = np.clip(np.rint(made * 255), 0, 255).astype(np.uint8)
    return taken(levels.reshape(-1, 3, cifar10.SIDE, cifar10.SIDE), network)
