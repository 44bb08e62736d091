"""Speech Commands: one-second recordings of 35 English words by 2,618 speakers, 16 kHz, 16 bit, mono.

Public source: P. Warden, "Speech Commands: A dataset for limited-vocabulary speech recognition", 2018 (version 2). Who
speaks is the part of a file's name before ``_nohash_``; the two lists say which files are for validation and for tests,
and no speaker is in two parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.recordings import Int16Array, centred, decode_wav

Part: TypeAlias = Literal["training", "validation", "testing"]

SPEECH_COMMANDS = Source(
    name="Speech Commands",
    folder="speech-commands",
    origin="archive speech_commands_v0.02 at download.tensorflow.org/data",
    licence="CC BY 4.0",
    layout="a folder of .wav for each word, validation_list.txt and testing_list.txt",
)
PARTS: tuple[Part, ...] = get_args(Part)
SAMPLE_RATE_HZ = 16_000
CLIP_SAMPLES = SAMPLE_RATE_HZ
LISTS = {"validation": "validation_list.txt", "testing": "testing_list.txt"}


def words() -> tuple[str, ...]:
    """The words that the user's folder has.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or it holds no words.
    """
    reader = Reader(SPEECH_COMMANDS)
    if not (found := reader.folders()):
        raise SPEECH_COMMANDS.refused(f"{reader.root} has no folder of recordings")
    return found


def load(part: Part, chosen: Sequence[str] = (), most_each: int = 0) -> Labelled[np.int16]:
    """Recordings: int16 (n, 16000), shorter ones in the middle of their second; the speakers are the domains.

    Args:
        part: by the lists of the data set; ``training`` is what neither names.
        chosen: words, in the order of their labels; all of them when empty.
        most_each: recordings of each word, the first by name; 0 for all.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder; a word, a list or a listed file is missing; a recording is damaged
            or of another form; or a word has no recording in this part.
    """
    known = words()
    asked = tuple(chosen) or known
    if missing := [word for word in asked if word not in known]:
        raise SPEECH_COMMANDS.refused(f"there are no recordings of '{missing[0]}'; there are: {', '.join(known)}")
    reader = Reader(SPEECH_COMMANDS)
    listed = {name: set(reader.text(file).split()) for name, file in LISTS.items()}
    clips, labels, speakers = [], [], []
    for label, word in enumerate(asked):
        names = [name for name in reader.files(word, ".wav") if _part(name, listed) == part]
        if gone := sorted(name for name in listed.get(part, ()) if name.startswith(f"{word}/") and name not in names):
            raise SPEECH_COMMANDS.refused(f"{reader.root / LISTS[part]} names {gone[0]}, which is not there")
        if not names:
            raise SPEECH_COMMANDS.refused(f"{reader.root / word} has no recordings for {part}")
        for name in names[: most_each or None]:
            clip = decode_wav(reader.read(name), str(reader.root / name), SAMPLE_RATE_HZ, SPEECH_COMMANDS.hint)
            clips.append(centred(clip, CLIP_SAMPLES))
            labels.append(label)
            speakers.append(name.split("/")[1].partition("_nohash_")[0])
    return Labelled(
        np.stack(clips), np.array(labels, np.int64), asked, tuple(speakers), SPEECH_COMMANDS.name, reader.digest()
    )


def at_8_khz(clip: Int16Array) -> Int16Array:
    """A recording at half the rate, which :mod:`lab.workloads.data.mfcc` takes: shape (n / 2,).

    Raises:
        ConfigError: an odd number of samples.
    """
    from scipy.signal import resample_poly

    if len(clip) % 2:
        raise ConfigError(f"{len(clip)} samples have no half", hint="recordings of this data set have 16000")
    halved = resample_poly(clip.astype(np.float64), 1, 2)
    return np.clip(np.rint(halved), -(1 << 15), (1 << 15) - 1).astype(np.int16)


def _part(name: str, listed: dict[str, set[str]]) -> Part:
    if name in listed["validation"]:
        return "validation"
    return "testing" if name in listed["testing"] else "training"
