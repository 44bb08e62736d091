"""The data of the papers, from a user's folder: CIFAR-100 and Speech Commands, parted by classes. No torch in here.

LifeLearner (Kwon et al. 2023, section 5.1) has 70 classes of CIFAR-100 on the host and 30 on the device, and 25 words
and 10 of Speech Commands; so has MetaCLBench. Which of them they are is not told: here the first ones are the host's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.workloads.data import cifar100, mfcc, speech_commands
from lab.workloads.data.cifar10 import normalised
from lab.workloads.data.labelled import Labelled

FloatArray = npt.NDArray[np.float32]
By = tuple[FloatArray, tuple[str, ...]]

SOURCES = (Path(__file__), Path(cifar100.__file__), Path(speech_commands.__file__), Path(mfcc.__file__))
KNOWN_IMAGES = 70
KNOWN_WORDS, WORDS = 25, 35
MOST_RECORDINGS = 200
"""Of a word: a tenth of what there is, eight times what a device learns from."""


def images() -> tuple[By, By, str]:
    """CIFAR-100's training images, normalised: those of the host's classes and of the device's, each (classes, samples,
    3, 32, 32) with the names; and the data's name.

    Raises:
        ConfigError: as :func:`lab.workloads.data.cifar100.cifar100`, or a class has no image.
    """
    found = cifar100.cifar100("train")
    counts = np.bincount(found.labels, minlength=cifar100.CLASSES)
    if not (each := int(counts.min())):
        raise cifar100.CIFAR100.refused(f"{found.name} has no training image of '{found.classes[counts.argmin()]}'")
    rows = np.stack([np.flatnonzero(found.labels == label)[:each] for label in range(cifar100.CLASSES)])
    scaled = normalised(found.samples)[rows]
    known, unseen = scaled[:KNOWN_IMAGES], scaled[KNOWN_IMAGES:]
    return (known, found.classes[:KNOWN_IMAGES]), (unseen, found.classes[KNOWN_IMAGES:]), found.name


def words() -> tuple[By, By, str]:
    """MFCCs of Speech Commands' words, less the mean of each recording: as :func:`images`, each (classes, samples, 49,
    10).

    Raises:
        ConfigError: as :func:`lab.workloads.data.speech_commands.load`, or fewer than four words.
    """
    found = read_words()
    each = int(np.bincount(found.labels).min())
    features = np.stack([_features(found.samples[found.labels == label][:each]) for label in range(len(found.classes))])
    # By the deviation of what the host knows: the device's words are not there yet.
    border = len(found.classes) * KNOWN_WORDS // WORDS
    features = features / features[:border].std()
    names = found.classes
    return (features[:border], names[:border]), (features[border:], names[border:]), found.name


def read_words() -> Labelled[np.int16]:
    """The recordings, before anything is made of them.

    Raises:
        ConfigError: as :func:`words`.
    """
    names = speech_commands.words()
    if len(names) * KNOWN_WORDS // WORDS < 2 or len(names) < 4:
        raise speech_commands.SPEECH_COMMANDS.refused(
            f"there are {len(names)} words ({', '.join(names)}); 4 are the least that host and device can share"
        )
    return speech_commands.load("training", most_each=MOST_RECORDINGS)


def _features(recordings: npt.NDArray[np.int16]) -> FloatArray:
    halved = [mfcc.one_second(speech_commands.at_8_khz(one)) for one in recordings]
    features = mfcc.mfcc(np.stack(halved))
    return np.asarray(features - features.mean(1, keepdims=True), np.float32)
