"""What the networks are asked of heart beats and sounds of ears: made beats, a user's ECG5000, a user's recordings.

A beat of 140 samples becomes a map of ten rows, as the paper has it (1×10×56, each sample drawn out to four); a sound
of 0.4 s becomes ten coefficients of 21 frames. Kwon et al., "UR2M", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.data import digits, ecg5000, made_series, smote, sound_folder
from lab.workloads.data.labelled import Labelled
from lab.workloads.uncertainty.paper_scenes import (
    NOISES_DB,
    SHIFT_DB,
    dataset_of,
    features,
    levelled,
    noisy,
)
from lab.workloads.uncertainty.scenes import SEED, SHIFTED, UNKNOWN, FloatArray, IntArray, Scene, Task, kinds_of

_Doubles: TypeAlias = npt.NDArray[np.float64]

ROWS = 10
DRAWN_OUT = 4
"""Times that the paper's map has the samples of a beat."""
KNOWN_BEATS = 4
"""Kinds that are events; beats that nobody could name are what nobody has shown the network."""
MADE_COUNTS, MADE_PEOPLE = (40, 24, 8, 8, 0), 6
"""Made beats of each kind by each of so many people that are trained on: about the shares of ECG5000."""
JUDGED_COUNTS, JUDGED_PEOPLE, JUDGED_SEED = (30, 30, 30, 30, 0), 3, 2
ASKED_COUNTS, ASKED_PEOPLE, ASKED_SEED = (30,) * 5, 3, 3
"""Others people's: by whom the host judges, and whom a device is asked."""
MADE_NOISE_MV = 0.12
"""Deviation of the noise on all made beats: without it the smallest network makes no mistakes, and nothing is told."""
JUDGED_SHARE = 0.25
NOISE, WANDER, MISSING = 0.5, 1.5, 0.25
"""Of shifted beats: deviation of white noise and height of a wandering line, in deviations of the beat, and the share
of it that is lost."""
MOST_NOISE = 0.3
"""Largest deviation of the noise that a copy of each beat gets in training."""
_QUIET = 1e-6
SOUND_FRAMES = 21
SOUND_SAMPLES = (SOUND_FRAMES - 1) * sound_folder.SAMPLE_RATE_HZ // 50
"""Of frames whose middles are 20 ms apart, the first and the last at the ends."""
LEAST_SOUNDS = 16
"""Recordings that are trained on: with a noisy copy of each a batch."""


@dataclass(frozen=True)
class Parts:
    """Beats that are trained on, by which the host judges, and which are asked; the last have unknown kinds, too."""

    training: Labelled[np.float32]
    judged: Labelled[np.float32]
    asked: Labelled[np.float32]


def made_beats_task(counts: tuple[int, int, int]) -> Task:
    """Made heart beats as (n, 1, 10, 14); training, judging and asking are of different people.

    Args:
        counts: how many are clean, shifted, and of the kind that is not known.
    """
    parts = Parts(
        _made(MADE_COUNTS, MADE_PEOPLE, SEED),
        _made(JUDGED_COUNTS, JUDGED_PEOPLE, JUDGED_SEED),
        _made(ASKED_COUNTS, ASKED_PEOPLE, ASKED_SEED),
    )
    return _beats_task(parts, 1, counts)


def _made(counts: tuple[int, ...], people: int, seed: int) -> Labelled[np.float32]:
    """Made beats with noise."""
    beats = made_series.ecg(counts, people, seed)
    noise = MADE_NOISE_MV * np.random.default_rng(seed).standard_normal(beats.samples.shape)
    return replace(beats, samples=(beats.samples + noise).astype(np.float32))


def ecg5000_task(counts: tuple[int, int, int]) -> Task:
    """A user's ECG5000 as (n, 1, 10, 56): three quarters of its training part are trained on, the rest judges.

    Raises:
        ConfigError: as :func:`lab.workloads.data.ecg5000.load`.
    """
    whole, asked = ecg5000.load("TRAIN"), ecg5000.load("TEST")
    known = whole.of_classes(range(KNOWN_BEATS))
    inner, outer = digits.stratified_split(known.labels, JUDGED_SHARE, SEED)
    return _beats_task(Parts(known.at(inner), known.at(outer), asked), DRAWN_OUT, counts)


def _beats_task(parts: Parts, times: int, counts: tuple[int, int, int]) -> Task:
    asked = parts.asked
    generator = np.random.default_rng(SEED)
    kinds = kinds_of(counts)
    places = _places(asked.labels < KNOWN_BEATS, counts, generator)
    beats = level(asked.samples[places][:, 0])
    shift_beats(beats, kinds, generator)
    labels = np.where(kinds == UNKNOWN, -1, asked.labels[places])
    order = generator.permutation(len(kinds))
    scene = Scene(as_map(beats, times)[order], labels[order], kinds[order])
    note = f"{KNOWN_BEATS} kinds are known, trained on {len(parts.training)} beats."
    data = dataset_of(asked.name, (parts.training, parts.judged, asked), len(scene), note)
    return Task(
        KNOWN_BEATS, partial(_trained_on, parts.training, times), f"{parts.training.digest}, {len(parts.training)}",
        scene, data, lambda: (as_map(level(parts.judged.samples[:, 0]), times), parts.judged.labels),
    )  # fmt: skip


def _trained_on(beats: Labelled[np.float32], times: int) -> tuple[FloatArray, IntArray]:
    """Rare kinds made as many as the most frequent one, each beat as it is and once with noise."""
    generator = np.random.default_rng(SEED)
    clean, labels = smote.balanced(level(beats.samples[:, 0]), beats.labels, generator)
    deviation = MOST_NOISE * generator.random((len(clean), 1))
    noise = deviation * generator.standard_normal(clean.shape)
    both = np.concatenate([clean, (clean + noise).astype(np.float32)])
    return as_map(both, times), np.tile(labels, 2)


def _places(known: npt.NDArray[np.bool_], counts: tuple[int, int, int], generator: np.random.Generator) -> IntArray:
    """Clean and shifted ones of what is known, then unknown ones, each in random order; repeated where too few."""
    events, rest = (generator.permutation(np.flatnonzero(known == one)) for one in (True, False))
    clean, shifted, unknown = counts
    return np.concatenate([np.resize(events, clean + shifted), np.resize(rest, unknown)]).astype(np.int64)


def level(beats: FloatArray) -> FloatArray:
    """Beats (n, samples), each of mean 0 and deviation 1: evidence grows with the scale of what is seen."""
    centred = beats - beats.mean(1, keepdims=True)
    return np.asarray(centred / (centred.std(1, keepdims=True) + np.float32(_QUIET)), np.float32)


def shift_beats(beats: FloatArray, kinds: IntArray, generator: np.random.Generator) -> None:
    """Put the shifted ones of beats (n, samples), of deviation 1, under noise, a wandering line and a loss in turn.

    In place; a shifted beat is levelled again, as a device would level what it sees.
    """
    chosen = np.flatnonzero(kinds == SHIFTED)
    length = beats.shape[1]
    at = np.linspace(0, 1, length)
    for number, place in enumerate(chosen):
        beat = beats[place].astype(np.float64)
        if number % 3 == 0:
            beat += NOISE * generator.standard_normal(length)
        elif number % 3 == 1:
            beat += WANDER * np.sin(2 * np.pi * (generator.uniform(0.5, 1.5) * at + generator.random()))
        else:
            lost = round(MISSING * length)
            begin = generator.integers(length - lost + 1)
            beat[begin : begin + lost] = 0
        beats[place] = beat
    beats[chosen] = level(beats[chosen])


def as_map(beats: FloatArray, times: int) -> FloatArray:
    """Beats (n, samples), drawn out to so many times their samples on straight lines, in ten rows: (n, 1, 10, …)."""
    length = beats.shape[1]
    at = np.linspace(0, length - 1, times * length)
    below = np.minimum(at.astype(np.int64), length - 2)
    share = (at - below).astype(np.float32)
    drawn = beats[:, below] * (1 - share) + beats[:, below + 1] * share
    return np.ascontiguousarray(drawn.reshape(len(beats), 1, ROWS, -1), np.float32)


# ---- sounds -------------------------------------------------------------------------------------------------------


def sounds_task(name: str, each: int, counts: tuple[int, int, int]) -> Task:
    """A user's recordings of 0.4 s as (n, 1, 10, 21): coefficients and frames.

    Args:
        name: of the folder below ``recordings/``; classes that ``test/`` has beyond ``train/`` are unknown.
        each: recordings of a class that are used of ``train/``, at most: a quarter judges, each of the others is
            trained on as it is and once with noise.
        counts: how many recordings of ``test/`` are clean, noisy, and of unknown classes.

    Raises:
        ConfigError: as :func:`lab.workloads.data.sound_folder.load`, or ``test/`` lacks a class, or has none beyond, or
            there are too few recordings.
    """
    classes = sound_folder.classes(name, "train")
    there = sound_folder.classes(name, "test")
    others = tuple(one for one in there if one not in classes)
    if not others:
        raise sound_folder.source(name).refused(
            f"test/ of {name} has no class that train/ lacks, and unknown ones are asked, too"
        )
    known = sound_folder.load(name, "train", classes, SOUND_SAMPLES, each)
    inner, outer = digits.stratified_split(known.labels, JUDGED_SHARE, SEED)
    if len(inner) < LEAST_SOUNDS:
        raise sound_folder.source(name).refused(
            f"train/ of {name} leaves {len(inner)} recordings to train on, a quarter of {len(known)} judges; at least "
            f"{LEAST_SOUNDS} are needed"
        )
    asked = sound_folder.load(name, "test", (*classes, *others), SOUND_SAMPLES)
    generator = np.random.default_rng(SEED)
    kinds = kinds_of(counts)
    places = _places(asked.labels < len(classes), counts, generator)
    clips = levelled(asked)[places]
    shifted = kinds == SHIFTED
    clips[shifted] = noisy(clips[shifted], np.full(int(shifted.sum()), SHIFT_DB), generator)
    labels = np.where(kinds == UNKNOWN, -1, asked.labels[places])
    order = generator.permutation(len(kinds))
    scene = Scene(_heard(clips)[order], labels[order], kinds[order])
    note = f"{len(classes)} classes are known, trained on {len(inner)} recordings of 0.4 s."
    data = dataset_of(known.name, (known, asked), len(scene), note)
    return Task(
        len(classes), partial(_sounds_trained_on, known.at(inner)), f"{known.digest}, {len(inner)}", scene, data,
        lambda: (_heard(levelled(known.at(outer))), known.labels[outer]),
    )  # fmt: skip


def _sounds_trained_on(known: Labelled[np.int16]) -> tuple[FloatArray, IntArray]:
    generator = np.random.default_rng(SEED)
    clips = levelled(known)
    loud = noisy(clips, generator.uniform(*NOISES_DB, len(known)), generator)
    return smote.balanced(_heard(np.concatenate([clips, loud])), np.tile(known.labels, 2), generator)


def _heard(clips: FloatArray) -> FloatArray:
    """Of recordings (n, 6400): the first frames of the second that they begin, (n, 1, 10, 21)."""
    whole = np.pad(clips, ((0, 0), (0, sound_folder.SAMPLE_RATE_HZ - clips.shape[1])))
    return features(whole, SOUND_FRAMES)
