"""What the papers' networks are trained on and asked: a user's copy of the MNIST family, or of Speech Commands."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from lab.workloads.base import Dataset
from lab.workloads.data import mnist, speech_commands
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.mfcc import Framing, mfcc
from lab.workloads.uncertainty.scenes import (
    SEED,
    UNKNOWN,
    FloatArray,
    IntArray,
    Scene,
    Task,
    kinds_of,
    shift,
    shift_share,
)

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""Words that are events; all others of the data set are what nobody has shown the network."""
FRAMING = Framing(rate_hz=speech_commands.SAMPLE_RATE_HZ, padded=True)
SHIFT_DB = 5.0
NOISES_DB = (5.0, 30.0)
"""Signal over noise of shifted recordings; and between which that of a noisy copy of each for training is drawn."""
_QUIET = 1e-6
MOST_JUDGED = 2000
"""Images by which a threshold is set."""


def mnist_task(member: mnist.Member, samples: int, counts: tuple[int, int, int]) -> Task:
    """One data set of the MNIST family, all of its classes known, pixels 0 … 1.

    Args:
        member: which.
        samples: images that are trained on, at most; of a seeded order.
        counts: how many test images are clean, under a shift, and unknown, of which there are none.

    Raises:
        ConfigError: as :func:`lab.workloads.data.mnist.load`.
    """
    known, held_out = mnist.load(member, "train"), mnist.load(member, "test")
    chosen = np.random.default_rng(SEED).permutation(len(known))[:samples]

    def training() -> tuple[FloatArray, IntArray]:
        return _grey(known.samples[chosen]), known.labels[chosen]

    generator = np.random.default_rng(SEED)
    kinds = kinds_of(counts)
    drawn = generator.permutation(len(held_out))
    places = np.resize(drawn, len(kinds))
    pixels = _grey(held_out.samples[places])[:, 0]
    shift(pixels, kinds, generator)
    order = generator.permutation(len(kinds))
    scene = Scene(pixels[order][:, None], held_out.labels[places][order], kinds[order])
    data = dataset_of(known.name, (known, held_out), len(scene), f"28x28 pixels, trained on {len(chosen)} images.")
    judged = partial(_judged_images, held_out, drawn[len(kinds) :][:MOST_JUDGED], counts)
    return Task(len(known.classes), training, f"{known.digest}, {len(chosen)}", scene, data, judged)


def _judged_images(
    images: Labelled[np.uint8], places: IntArray, counts: tuple[int, int, int]
) -> tuple[FloatArray, IntArray]:
    """Some of the part for tests, none of which is asked."""
    pixels = _grey(images.samples[places])
    shift_share(pixels[:, 0], counts)
    return pixels, images.labels[places]


def _grey(images: mnist.Uint8Array) -> FloatArray:
    return images.astype(np.float32) / np.float32(255)


def keywords_task(each: int, counts: tuple[int, int, int]) -> Task:
    """Ten keywords of Speech Commands as (n, 1, 10, 51): coefficients and frames.

    Args:
        each: recordings of a word that are trained on, at most: each as it is and once with noise.
        counts: how many recordings of the test part are clean, noisy, and of other words.

    Raises:
        ConfigError: as :func:`lab.workloads.data.speech_commands.load`, or the folder has no other words.
    """
    source = speech_commands.SPEECH_COMMANDS
    if not (others := [word for word in speech_commands.words() if word not in KEYWORDS]):
        raise source.refused("Speech Commands has no words beside the ten keywords, and unknown ones are asked, too")
    clean, shifted, unknown = counts
    known = speech_commands.load("training", KEYWORDS, each)
    asked = speech_commands.load("testing", KEYWORDS, -(-(clean + shifted) // len(KEYWORDS)))
    strange = speech_commands.load("testing", others, max(1, -(-unknown // len(others))))

    def training() -> tuple[FloatArray, IntArray]:
        generator = np.random.default_rng(SEED)
        levels = generator.uniform(*NOISES_DB, len(known))
        clips = np.concatenate([levelled(known), noisy(levelled(known), levels, generator)])
        return features(clips), np.tile(known.labels, 2)

    generator = np.random.default_rng(SEED)
    kinds = kinds_of(counts)
    events = np.resize(generator.permutation(len(asked)), clean + shifted)
    rest = np.resize(generator.permutation(len(strange)), unknown)
    clips = np.concatenate([levelled(asked)[events], levelled(strange)[rest]])
    noise = slice(clean, clean + shifted)
    clips[noise] = noisy(clips[noise], np.full(shifted, SHIFT_DB), generator)
    labels = np.where(kinds == UNKNOWN, -1, np.concatenate([asked.labels[events], rest]))
    order = generator.permutation(len(kinds))
    scene = Scene(features(clips)[order], labels[order], kinds[order])
    note = f"10 coefficients of 51 frames, trained on {len(known)} recordings of {len(KEYWORDS)} words."
    data = dataset_of(source.name, (known, asked, strange), len(scene), note)
    return Task(len(KEYWORDS), training, known.digest, scene, data, partial(_judged_words, each))


def _judged_words(each: int) -> tuple[FloatArray, IntArray]:
    """Recordings of the part for validation, a quarter as many of a word as are trained on."""
    found = speech_commands.load("validation", KEYWORDS, -(-each // 4))
    return features(levelled(found)), found.labels


def features(clips: FloatArray, frames: int = FRAMING.frames) -> FloatArray:
    """Of recordings (n, 16000): ten coefficients in the first frames, (n, 1, 10, 51) of all, each of mean 0 and
    deviation 1 over its frames, so that neither channel nor loudness change the evidence.

    Source of the normalisation: O. Viikki and K. Laurila, Speech Communication 25, 1998.
    """
    coefficients = mfcc(clips, FRAMING)[:, :frames]
    centred = coefficients - coefficients.mean(1, keepdims=True)
    scaled = centred / (centred.std(1, keepdims=True) + np.float32(_QUIET))
    return np.ascontiguousarray(scaled.transpose(0, 2, 1)[:, None], np.float32)


def noisy(clips: FloatArray, levels_db: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
          generator: np.random.Generator) -> FloatArray:  # fmt: skip
    """Recordings (n, samples) with white noise, ``levels_db`` (n,) below the power of each."""
    power = np.mean(clips.astype(np.float64) ** 2, 1) / 10 ** (levels_db / 10)
    noise = np.sqrt(power)[:, None] * generator.standard_normal(clips.shape)
    return np.asarray(clips + noise, np.float32)


def levelled(recordings: Labelled[np.int16]) -> FloatArray:
    """Scaled to a peak of 1; silence stays silent."""
    clips = recordings.samples.astype(np.float32)
    return np.asarray(clips / np.maximum(np.abs(clips).max(1, keepdims=True), 1), np.float32)


def dataset_of(
    name: str, parts: Sequence[Labelled[np.uint8] | Labelled[np.int16] | Labelled[np.float32]], asked: int, note: str
) -> Dataset:
    """The data of a record. Its digest stands for every part that was read, and for how much of it (SHA-256, hex)."""
    digest = hashlib.sha256("".join([*(one.digest for one in parts), note]).encode()).hexdigest()
    return Dataset(name, digest, asked, note)
