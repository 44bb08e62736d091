"""UrbanSound8K: 8,732 recordings of up to four seconds of ten kinds of city noise, in ten folds.

Salamon, Jacoby and Bello 2014, "A Dataset and Taxonomy for Urban Sound Research". Read as its archive has it:
``audio/fold1`` to ``fold10`` with WAV files as people have uploaded them, of many rates, depths and numbers of
channels, and ``metadata/UrbanSound8K.csv``. Many are cut out of one and the same recording; one fold has all of those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab import progress
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.log_mel import LogMel
from lab.workloads.data.recordings import centred
from lab.workloads.data.sound_files import decode_sound

URBANSOUND8K = Source(
    name="UrbanSound8K",
    folder="UrbanSound8K",
    origin="urbansounddataset.weebly.com",
    licence="CC BY-NC 3.0",
    layout="audio/fold1 to audio/fold10/*.wav and metadata/UrbanSound8K.csv",
)
META = "metadata/UrbanSound8K.csv"
CLASSES, FOLDS = 10, 10
SECONDS = 4
FEATURE_RATE_HZ = 22_050
SPECTRUM = LogMel(FEATURE_RATE_HZ, window_samples=2048, hop_samples=1024, fft_samples=2048, bands=128)
"""Four seconds are 85 whole windows: MetaCLBench's 128×85, if it has 128 bands. How it comes to them is not told."""


@dataclass(frozen=True)
class _Row:
    """What the list says of a recording."""

    file: str
    fold: int
    target: int
    category: str

    @property
    def path(self) -> str:
        return f"audio/fold{self.fold}/{self.file}"


def load(rate_hz: int, most_each: int = 0) -> Labelled[np.int16]:
    """Recordings: int16 (n, 4 · rate_hz), one channel, shorter ones in the middle; the folds are the domains.

    Args:
        rate_hz: at which they are sampled anew.
        most_each: recordings of each class, evenly spread over the list; 0 for all.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder; the list is missing, has other columns, a row that cannot be right
            or lacks classes; a recording is missing or damaged; soundfile is not installed.
    """
    reader = Reader(URBANSOUND8K)
    rows = _chosen(reader, most_each)
    names = {row.target: row.category for row in rows}
    clips = np.zeros((len(rows), SECONDS * rate_hz), np.int16)
    with progress.step(f"reading {len(rows)} recordings of UrbanSound8K", quiet_below_s=2.0) as step:
        for number, row in enumerate(rows):
            where = str(reader.root / row.path)
            clip = decode_sound(reader.read(row.path), where, rate_hz, URBANSOUND8K.hint)
            clips[number] = centred(clip, SECONDS * rate_hz)
            step.update(number + 1, len(rows))
    labels = np.array([row.target for row in rows], np.int64)
    domains = tuple(f"fold{row.fold}" for row in rows)
    classes = tuple(names[one] for one in range(CLASSES))
    return Labelled(clips, labels, classes, domains, URBANSOUND8K.name, reader.digest())


def digest(most_each: int = 0) -> str:
    """SHA-256, hex, of what :func:`load` reads; nothing is decoded.

    Raises:
        ConfigError: the list or a recording is missing.
    """
    reader = Reader(URBANSOUND8K)
    for row in _chosen(reader, most_each):
        reader.read(row.path)
    return reader.digest()


def _chosen(reader: Reader, most_each: int) -> list[_Row]:
    """Recordings of all classes, class by class."""
    rows = _rows(reader)
    found: list[_Row] = []
    for target in range(CLASSES):
        own = [row for row in rows if row.target == target]
        if not own or len({row.category for row in own}) > 1:
            raise URBANSOUND8K.refused(
                f"{reader.root / META} has {len({row.category for row in own})} names for class {target}; each of 0 to "
                f"{CLASSES - 1} has one"
            )
        places = np.unique(np.linspace(0, len(own) - 1, min(most_each or len(own), len(own))).round().astype(np.int64))
        found.extend(own[place] for place in places)
    return found


def _rows(reader: Reader) -> list[_Row]:
    """The list, line by line."""
    table = reader.table(META, ("slice_file_name", "fold", "classID", "class"))
    return [_row(reader, number, line) for number, line in enumerate(table, 2)]


def _row(reader: Reader, number: int, line: tuple[str, ...]) -> _Row:
    file, fold, target, category = line
    plain = bool(file) and not {"/", "\\"} & set(file) and file[0] != "."
    numbers = fold.isdigit() and 1 <= int(fold) <= FOLDS and target.isdigit() and int(target) < CLASSES
    if not (plain and numbers and category):
        raise URBANSOUND8K.refused(
            f"{reader.root / META}, line {number}: '{file},{fold},{target},{category}' is no recording of ten classes "
            "in ten folds"
        )
    return _Row(file, int(fold), int(target), category)
