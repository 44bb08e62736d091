"""The paper's size of many models: images, words and movements from the user's folder. No torch in here.

Kwon et al., "YONO", 2022, store networks of images, sounds and sensors; of its data sets these are CIFAR-10, Speech
Commands and PAMAP2. The networks are as large as theirs in the mean (2.91 MB for five in float32, which is 145,000
weights each) and of the same kinds of layers; they are not theirs layer by layer. Of published networks, whose layers
are known, there are LeNet-5 on MNIST, DS-CNN-S on the words and ResNet-8 on CIFAR-10. A user who has other networks
gives them as files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lab.errors import ConfigError
from lab.workloads.data import cifar10, digits, inertial, mfcc, mnist, speech_commands
from lab.workloads.data.labelled import Labelled
from lab.workloads.many_models.options import PLAN, Networks, Variant
from lab.workloads.many_models.tasks import (
    HELD_OUT_SHARE,
    OWN_FILE,
    SEED,
    VALIDATION_SHARE,
    FloatArray,
    Form,
    IntArray,
    Kind,
    Part,
    Task,
)

SOURCES: Mapping[Networks, str] = {
    "alike": "three tasks: CIFAR-10, ten words of Speech Commands, PAMAP2",
    "published": "three tasks: MNIST, ten words of Speech Commands, CIFAR-10",
    "own": "three tasks: CIFAR-10, ten words of Speech Commands, PAMAP2",
}
FORM = Form(grid=16, widths=(36, 72, 144))
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
FRAMES, COEFFICIENTS = 48, 16
"""Of the 49 frames of a word and its 10 coefficients, behind which lie zeros: multiples of the grid."""
WINDOW = 256
"""Samples of a movement, in rows of 16; windows do not overlap."""
SMALLEST = 1e-6


def all_tasks(variant: Variant) -> tuple[Task, ...]:
    """The tasks: ``images``, ``words``, ``movements``; of the published networks ``digits``, ``words``, ``images``.

    Raises:
        ConfigError: ``LAB_DATA`` lacks a folder, a file is missing or damaged, or there are too few samples.
    """
    if variant.networks == "published":
        found = (_digits(variant), _words(variant), _images(variant))
    else:
        found = (_images(variant), _words(variant), _movements(variant))
    if variant.networks == "own":
        found = (_owned(found[0]), _owned(found[1]), _owned(found[2]))
    for one in found:
        if len(one.asked) < variant.evaluated:
            raise ConfigError(
                f"yono: {one.name} has {len(one.asked)} held-out samples, {variant.evaluated} are asked for",
                hint="fewer evaluated=",
            )
        if len(one.training) < PLAN.batch:
            raise ConfigError(
                f"yono: {one.name} has {len(one.training)} samples to train on; a step takes {PLAN.batch}",
                hint="more samples=, or data with more of each class",
            )
    return found


def _owned(task: Task) -> Task:
    """The task of a network of the user's; movements in the rows that the network takes.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.own_file.find`.
    """
    from lab.workloads.networks import own_file

    program, digest = own_file.find(OWN_FILE.format(task.name))
    found, shape = replace(task, digest=task.digest + digest, network="own"), program.input_shape[1:]
    there = task.asked.samples.shape[1:]
    # Series are folded into rows; a network may take them in others, or in one.
    if task.name != "movements" or len(shape) != 3 or shape[0] != there[0] or math.prod(shape) != math.prod(there):
        return found
    training, validation, asked = (
        Part(one.samples.reshape(-1, *shape), one.labels) for one in (task.training, task.validation, task.asked)
    )
    return replace(found, training=training, validation=validation, asked=asked)


def _digits(variant: Variant) -> Task:
    """MNIST in LeNet-5's images of 32×32."""
    known, tested = mnist.load("mnist", "train"), mnist.load("mnist", "test")
    training, validation = _known(known.labels, variant.samples)
    asked = np.random.default_rng(SEED).permutation(len(tested))[: variant.evaluated]
    parts = [
        Part(_framed(one.samples[places]), one.labels[places])
        for one, places in ((known, training), (known, validation), (tested, asked))
    ]
    digest = known.digest + tested.digest
    return Task("digits", len(known.classes), parts[0], parts[1], parts[2], digest, network="lenet5")


def _framed(images: mnist.Uint8Array) -> FloatArray:
    """Pixels 0 … 1, with two rows and columns of paper on each side."""
    return np.pad(images.astype(np.float32) / np.float32(255), ((0, 0), (0, 0), (2, 2), (2, 2)))


def _images(variant: Variant) -> Task:
    known, tested = cifar10.cifar10(), cifar10.cifar10(cifar10.TEST)
    training, validation = _known(known.labels, variant.samples)
    asked = np.random.default_rng(SEED).permutation(len(tested))[: variant.evaluated]
    parts = [
        Part(cifar10.normalised(one.samples[places]), one.labels[places])
        for one, places in ((known, training), (known, validation), (tested, asked))
    ]
    digest = known.digest + tested.digest
    kind: Kind = "resnet8" if variant.networks == "published" else "alike"
    return Task("images", len(known.classes), parts[0], parts[1], parts[2], digest, FORM, kind)


def _words(variant: Variant) -> Task:
    each: dict[speech_commands.Part, int] = {
        "training": variant.samples, "validation": -(-variant.samples // 4), "testing": variant.evaluated,
    }  # fmt: skip
    found = [speech_commands.load(part, WORDS, most) for part, most in each.items()]
    raw = [_cepstra(one) for one in found]
    mean, deviation = raw[0].mean((0, 1)), raw[0].std((0, 1)) + SMALLEST
    parts = []
    for one, cepstra in zip(found, raw, strict=True):
        standard = (cepstra - mean) / deviation
        if variant.networks == "alike":
            standard = np.pad(standard[:, :FRAMES], ((0, 0), (0, 0), (0, COEFFICIENTS - standard.shape[2])))
        order = np.random.default_rng(SEED).permutation(len(one))
        parts.append(Part(standard[order, None].astype(np.float32), one.labels[order]))
    digest = "".join(one.digest for one in found)
    kind: Kind = "ds-cnn" if variant.networks == "published" else "alike"
    return Task("words", len(WORDS), parts[0], parts[1], parts[2], digest, FORM, kind)


def _cepstra(clips: Labelled[np.int16]) -> FloatArray:
    """(n, 49, 10)."""
    halved = (speech_commands.at_8_khz(one) for one in clips.samples)
    return mfcc.mfcc(np.stack([mfcc.one_second(one) for one in halved]))


def _movements(variant: Variant) -> Task:
    found = inertial.pamap2(samples=WINDOW, step=WINDOW)
    known, asked = digits.stratified_split(found.labels, HELD_OUT_SHARE, SEED)
    inner, outer = _known(found.labels[known], variant.samples)
    training, validation = known[inner], known[outer]
    asked = np.random.default_rng(SEED).permutation(asked)[: variant.evaluated]
    channels = found.samples[training]
    mean, deviation = (one[None, :, None] for one in (channels.mean((0, 2)), channels.std((0, 2)) + SMALLEST))
    standard = ((found.samples - mean) / deviation).astype(np.float32)
    maps = standard.reshape(*standard.shape[:2], FORM.grid, -1)
    parts = [Part(maps[places], found.labels[places]) for places in (training, validation, asked)]
    return Task("movements", len(found.classes), parts[0], parts[1], parts[2], found.digest, FORM)


def _known(labels: IntArray, each: int) -> tuple[IntArray, IntArray]:
    """Places of at most so many samples of each class, for training and for validation, in random order."""
    generator = np.random.default_rng(SEED)
    shuffled = generator.permutation(len(labels))
    chosen = np.concatenate([shuffled[labels[shuffled] == one][:each] for one in np.unique(labels)])
    inner, outer = digits.stratified_split(labels[chosen], VALIDATION_SHARE, SEED)
    return generator.permutation(chosen[inner]), generator.permutation(chosen[outer])
