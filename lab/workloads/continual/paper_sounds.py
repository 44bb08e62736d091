"""The recordings of the papers, from a user's folder, parted by classes; how a network is shown them. No torch in here.

Convolutions and transformers are shown a spectrogram of the whole recording, of the size that the papers tell, less the
mean of each band; YAMNet its own patch of 0.96 s (:mod:`lab.workloads.data.yamnet_patches`), as it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.continual.paper_data import By, FloatArray, by_class
from lab.workloads.data import esc50, mfcc, speech_commands, urbansound8k, yamnet_patches
from lab.workloads.data.labelled import Labelled

Int16Array: TypeAlias = npt.NDArray[np.int16]
Parted: TypeAlias = tuple[By, By, str]

KNOWN_WORDS, WORDS = 25, 35
KNOWN_SOUNDS, KNOWN_NOISES = 30, 5
MOST_RECORDINGS = 200
"""Of a word, or of a kind of city noise: eight times what a device learns from."""


def words(patches: bool) -> Parted:
    """Speech Commands' words: those of the host's classes and of the device's, each (classes, samples, 49, 10), MFCCs,
    or YAMNet's patches, with the names; and the data's name.

    Raises:
        ConfigError: as :func:`lab.workloads.data.speech_commands.load`, or fewer than four words.
    """
    found = read_words()
    border = len(found.classes) * KNOWN_WORDS // WORDS
    return _parted(found, border, _word_patches if patches else _coefficients, scaled=not patches)


def sounds(patches: bool) -> Parted:
    """ESC-50's recordings, as :func:`words`: powers in mel bands, (classes, samples, 157, 64).

    Raises:
        ConfigError: as :func:`lab.workloads.data.esc50.load`.
    """
    return _parted(esc50.load(), KNOWN_SOUNDS, _sound_patches if patches else _bands, scaled=not patches)


def noises(patches: bool) -> Parted:
    """UrbanSound8K's recordings, as :func:`words`: powers in mel bands, (classes, samples, 128, 85).

    Raises:
        ConfigError: as :func:`lab.workloads.data.urbansound8k.load`.
    """
    found = urbansound8k.load(
        yamnet_patches.RATE_HZ if patches else urbansound8k.FEATURE_RATE_HZ, most_each=MOST_RECORDINGS
    )
    return _parted(found, KNOWN_NOISES, _word_patches if patches else _noise_bands, scaled=not patches)


def noises_digest() -> str:
    """SHA-256, hex, of what :func:`noises` reads.

    Raises:
        ConfigError: as there, but for damaged recordings.
    """
    return urbansound8k.digest(MOST_RECORDINGS)


def read_words() -> Labelled[np.int16]:
    """Speech Commands' recordings, before anything is made of them.

    Raises:
        ConfigError: as :func:`words`.
    """
    names = speech_commands.words()
    if len(names) * KNOWN_WORDS // WORDS < 2 or len(names) < 4:
        raise speech_commands.SPEECH_COMMANDS.refused(
            f"there are {len(names)} words ({', '.join(names)}); 4 are the least that host and device can share"
        )
    return speech_commands.load("training", most_each=MOST_RECORDINGS)


def _parted(
    found: Labelled[np.int16], border: int, shown: Callable[[Int16Array], FloatArray], *, scaled: bool
) -> Parted:
    """What is shown of each class; ``border`` of them are the host's."""
    features = np.stack([shown(found.samples[places]) for places in by_class(found)])
    if scaled:
        # By the deviation of what the host knows: the device's are not there yet.
        features = features / features[:border].std()
    names = found.classes
    return (features[:border], names[:border]), (features[border:], names[border:]), found.name


def _coefficients(recordings: Int16Array) -> FloatArray:
    halved = [mfcc.one_second(speech_commands.at_8_khz(one)) for one in recordings]
    return _centred(mfcc.mfcc(np.stack(halved)))


def _bands(recordings: Int16Array) -> FloatArray:
    return _centred(esc50.log_mel(recordings))


def _noise_bands(recordings: Int16Array) -> FloatArray:
    return _centred(np.stack([urbansound8k.SPECTRUM.of(one / (1 << 15)) for one in recordings])).transpose(0, 2, 1)


def _centred(features: FloatArray) -> FloatArray:
    """Less the mean of each band in a recording: (n, frames, bands)."""
    return np.asarray(features - features.mean(1, keepdims=True), np.float32)


def _word_patches(recordings: Int16Array) -> FloatArray:
    return np.stack([yamnet_patches.loudest(one / (1 << 15)) for one in recordings])


def _sound_patches(recordings: Int16Array) -> FloatArray:
    return np.stack([yamnet_patches.loudest(esc50.at_rate(one, yamnet_patches.RATE_HZ)) for one in recordings])
