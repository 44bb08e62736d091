"""Recordings of a user's own: a folder for each class, as sounds of ears, coughs and machines are handed round."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.recordings import centred, decode_wav

Part: TypeAlias = Literal["train", "test"]

SAMPLE_RATE_HZ = 16_000


def source(name: str) -> Source:
    """The data set of this name: a folder ``recordings/NAME`` with ``train/`` and ``test/``.

    Raises:
        ConfigError: the name is none of a folder right there.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ConfigError(
            f"'{name}' is no name of a folder of recordings", hint="a folder below recordings/ in LAB_DATA"
        )
    return Source(
        name=f"recordings of {name}",
        folder=f"recordings/{name}",
        origin="a data set of your own, or a public one as folders",
        licence="whatever it comes under",
        layout="train/CLASS/*.wav and test/CLASS/*.wav of 16 kHz, 16 bit, mono,",
    )


def classes(name: str, part: Part) -> tuple[str, ...]:
    """The classes of a part, sorted.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or the part fewer than two classes.
    """
    reader = Reader(source(name))
    if len(found := reader.folders(part)) < 2:
        raise reader.source.refused(f"{reader.root / part} has {len(found)} folders of classes; 2 are needed")
    return found


def load(name: str, part: Part, chosen: tuple[str, ...], samples: int, most_each: int = 0) -> Labelled[np.int16]:
    """Recordings: int16 (n, samples), shorter ones in the middle, longer ones cut on both sides.

    Args:
        name: of the folder below ``recordings/``.
        part: the one domain.
        chosen: classes, in the order of their labels.
        samples: of a recording.
        most_each: recordings of each class, the first by name; 0 for all.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, a class has no recordings, or one is damaged or of another form.
    """
    reader = Reader(source(name))
    clips, labels = [], []
    for label, one in enumerate(chosen):
        files = reader.files(f"{part}/{one}", ".wav")[: most_each or None]
        if not files:
            raise reader.source.refused(f"{reader.root / part / one} has no recordings (.wav)")
        for file in files:
            clip = decode_wav(reader.read(file), str(reader.root / file), SAMPLE_RATE_HZ, reader.source.hint)
            clips.append(centred(clip, samples))
            labels.append(label)
    return Labelled(
        np.stack(clips), np.array(labels, np.int64), chosen, (part,) * len(labels), reader.source.name, reader.digest()
    )
