"""Classes to learn from on the host, and unseen ones that a device learns one after another. No torch in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.continual import paper_data, paper_sounds
from lab.workloads.data import (
    cifar100,
    digits,
    esc50,
    log_mel,
    mfcc,
    omniglot,
    sound_files,
    speech_commands,
    spoken_digits,
    urbansound8k,
    yamnet_patches,
)

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Array = TypeVar("Array", npt.NDArray[np.int8], npt.NDArray[np.float32])
OwnData: TypeAlias = Literal["characters", "digits", "speech"]
PaperData: TypeAlias = Literal["cifar-100", "mini-imagenet", "speech-commands", "esc-50", "urbansound8k"]
Data: TypeAlias = OwnData | PaperData

DATA: tuple[OwnData, ...] = get_args(OwnData)
PAPER_DATA: tuple[PaperData, ...] = get_args(PaperData)
SIDE = 24
"""Pixels along a side: three poolings leave a map of 3×3, as the 28 pixels of ANML's Omniglot do."""
SAMPLES = 20
"""Of each class, at most."""
SPEECH = "Free Spoken Digit Dataset"
UNSEEN_SPEAKERS = ("theo", "yweweler")
RECORDED: tuple[PaperData, ...] = ("speech-commands", "esc-50", "urbansound8k")
"""Of the papers' data, recordings."""
SOURCES = (
    Path(__file__), *paper_data.SOURCES, Path(paper_sounds.__file__), Path(digits.__file__), Path(esc50.__file__),
    Path(log_mel.__file__), Path(mfcc.__file__), Path(omniglot.__file__), Path(sound_files.__file__),
    Path(speech_commands.__file__), Path(spoken_digits.__file__), Path(urbansound8k.__file__),
    Path(yamnet_patches.__file__),
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """Samples by class.

    Attributes:
        samples: float32, (classes, samples, height, width) or (classes, samples, channels, height, width), centred
            about zero.
        names: of the classes.
    """

    samples: FloatArray
    names: tuple[str, ...]

    @property
    def images(self) -> FloatArray:
        """The samples with their channels: (classes, samples, channels, height, width)."""
        return self.samples if self.samples.ndim == 5 else self.samples[:, :, None]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sample."""
        channels, height, width = self.images.shape[2:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.names)

    def spread(self, count: int, each: int = SAMPLES) -> Classes:
        """At most ``count`` of them, evenly spread, and the first ``each`` samples of each."""
        places = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64))
        names = tuple(self.names[place] for place in places)
        return Classes(np.ascontiguousarray(self.samples[places, :each]), names)


@dataclass(frozen=True)
class Tasks:
    """What a network learns on the host, and what nobody has shown it.

    Attributes:
        known: classes of the host.
        unseen: classes of the device; none of them is among ``known``.
        name, note: of the data, for records.
    """

    known: Classes
    unseen: Classes
    name: str
    note: str


@dataclass(frozen=True)
class Draw:
    """Which classes a device learns, in this order, from which of their samples, and by which it is asked.

    Attributes:
        classes: int64, (count,).
        shots: int64, (count, shots): places among the samples of each class.
        questions: int64, (count, questions): others.
    """

    classes: IntArray
    shots: IntArray
    questions: IntArray

    def learnt(self, values: Array) -> Array:
        """Of values (classes, samples, …) those that are learnt from: (count, shots, …)."""
        return values[self.classes[:, None], self.shots]

    def asked(self, values: Array) -> Array:
        """Those that are asked: (count, questions, …)."""
        return values[self.classes[:, None], self.questions]


def load(data: Data, patches: bool = False) -> Tasks:
    """The classes of a data set, by ``LAB_DATA``.

    Args:
        data: which.
        patches: whether they are shown as YAMNet's patches; of recordings only.

    Raises:
        ConfigError: data that is not there, or cannot be used.
    """
    return _papers(partial(_SOUNDS[data], patches)) if data in _SOUNDS else _LOADERS[data]()


def digest(data: Data) -> str:
    """SHA-256, hex, of all that :func:`load` reads.

    Raises:
        ConfigError: as there.
    """
    return _DIGESTS[data]()


def draw(there: tuple[int, int], count: int, shots: int, questions: int, generator: np.random.Generator) -> Draw:
    """Draw ``count`` classes in random order, with samples to learn from and others to be asked.

    Args:
        there: how many classes there are, and samples of each.
        count, shots, questions: what is drawn.
        generator: draws.

    Raises:
        ConfigError: fewer than two classes, no sample, no question, or more than there are.
    """
    classes, samples = there
    if not (2 <= count <= classes and shots >= 1 and questions >= 1 and shots + questions <= samples):
        raise ConfigError(
            f"{count} classes with {shots} samples to learn from and {questions} questions each cannot be drawn from "
            f"{classes} classes of {samples} samples",
            hint=f"2 to {classes} classes; at least one sample and one question, together at most {samples}",
        )
    chosen = generator.permutation(classes)[:count]
    orders = np.stack([generator.permutation(samples)[: shots + questions] for _ in chosen])
    return Draw(chosen, orders[:, :shots], orders[:, shots:])


def _of(characters: omniglot.Characters) -> Classes:
    names = tuple(f"{alphabet} {number}" for number, alphabet in enumerate(characters.alphabets))
    return Classes(characters.images[:, :SAMPLES] * 2 - 1, names)


def _characters() -> Tasks:
    known, unseen = omniglot.background(SIDE)
    note = f"Learnt on the host: {len(known)} characters; the device's are of other alphabets."
    return Tasks(_of(known), _of(unseen), omniglot.name(), note)


def _digits() -> Tasks:
    known, _ = omniglot.background(SIDE)
    found = digits.load()
    large = np.repeat(np.repeat(found.pixels, SIDE // 8, 1), SIDE // 8, 2)
    by_class = np.stack([large[found.digits == digit][:SAMPLES] for digit in range(digits.CLASSES)])
    unseen = Classes(by_class * 2 - 1, tuple(map(str, range(digits.CLASSES))))
    return Tasks(_of(known), unseen, digits.SOURCE, f"Learnt on the host: {omniglot.name()}, another data set.")


def _speech() -> Tasks:
    recordings = spoken_digits.load(_spoken_folder())
    keys = [f"{speaker} {digit}" for speaker, digit in zip(recordings.speakers, recordings.digits, strict=True)]
    places = {key: [n for n, one in enumerate(keys) if one == key][:SAMPLES] for key in dict.fromkeys(keys)}
    chosen = np.array([place for each in places.values() for place in each])
    features = mfcc.mfcc(np.stack([mfcc.one_second(recordings.clips[place]) for place in chosen]))
    features = features - features.mean(1, keepdims=True)
    scaled = (features / features.std()).reshape(len(places), SAMPLES, *features.shape[1:]).astype(np.float32)
    new = np.array([key.split()[0] in UNSEEN_SPEAKERS for key in places])
    names = np.array(list(places))
    return Tasks(
        Classes(scaled[~new], tuple(names[~new])),
        Classes(scaled[new], tuple(names[new])),
        SPEECH,
        f"A class is a digit of a speaker. The device's speakers are {' and '.join(UNSEEN_SPEAKERS)}; the host has "
        "heard the others.",
    )


def _papers(read: Callable[[], tuple[paper_data.By, paper_data.By, str]]) -> Tasks:
    known, unseen, name = read()
    note = f"Learnt on the host: {len(known[1])} classes; the device has the other {len(unseen[1])}."
    return Tasks(Classes(*known), Classes(*unseen), name, note)


def _spoken_folder() -> Path:
    folder = omniglot.find()
    if folder is None:
        raise ConfigError(
            "data=speech needs the spoken digits, and LAB_DATA is not set",
            hint=f"{spoken_digits.HINT}; data=characters and data=digits run without it",
        )
    return folder


_SOUNDS: Mapping[Data, Callable[[bool], paper_sounds.Parted]] = {
    "speech-commands": paper_sounds.words, "esc-50": paper_sounds.sounds, "urbansound8k": paper_sounds.noises,
}  # fmt: skip
_LOADERS: Mapping[Data, Callable[[], Tasks]] = {
    "characters": _characters,
    "digits": _digits,
    "speech": _speech,
    "cifar-100": partial(_papers, paper_data.images),
    "mini-imagenet": partial(_papers, paper_data.photographs),
}
_DIGESTS: Mapping[Data, Callable[[], str]] = {
    "characters": omniglot.digest,
    "digits": lambda: f"{omniglot.digest()}{digits.digest(digits.find())}",
    "speech": lambda: spoken_digits.verify(_spoken_folder()),
    "cifar-100": lambda: cifar100.cifar100("train").digest,
    "mini-imagenet": paper_data.photographs_digest,
    "speech-commands": lambda: paper_sounds.read_words().digest,
    "esc-50": esc50.digest,
    "urbansound8k": paper_sounds.noises_digest,
}
