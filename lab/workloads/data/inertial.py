"""UCI-HAR and PAMAP2: what people do, by inertial sensors on their bodies.

Public sources: Anguita et al., "A public domain dataset for human activity recognition using smartphones", ESANN 2013
(a phone at the waist, 50 Hz); Reiss and Stricker, "Introducing a new benchmarked dataset for activity monitoring",
ISWC 2012 (hand, chest and ankle, 100 Hz).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

FloatArray: TypeAlias = npt.NDArray[np.float32]
_Doubles: TypeAlias = npt.NDArray[np.float64]
Place: TypeAlias = Literal["hand", "chest", "ankle"]
Part: TypeAlias = Literal["train", "test"]

UCI_HAR = Source(
    name="UCI-HAR",
    folder="UCI HAR Dataset",
    origin="UCI Machine Learning Repository, data set 240",
    licence="CC BY 4.0",
    layout="train/ and test/, each with y_*.txt, subject_*.txt and Inertial Signals/",
)
PAMAP2 = Source(
    name="PAMAP2",
    folder="PAMAP2_Dataset",
    origin="UCI Machine Learning Repository, data set 231",
    licence="CC BY 4.0",
    layout="Protocol/subject101.dat to Protocol/subject109.dat",
)
UCI_HAR_CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
UCI_HAR_SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
UCI_HAR_SAMPLES = 128
PAMAP2_CLASSES: Mapping[int, str] = {
    1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling", 7: "nordic walking",
    12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing", 24: "rope jumping",
}  # fmt: skip
"""Activities of the protocol by their numbers in the files; 0 is what lies between them."""
PAMAP2_COLUMNS = 54
_FIRST_COLUMN: Mapping[str, int] = {"hand": 3, "chest": 20, "ankle": 37}
"""Of each sensor: temperature, acceleration within 16 g and within 6 g, angular rate, magnetic field, orientation."""
_ACCELERATION, _RATE = 1, 7
MOST_LOST = 0.1
"""Share of a window's samples that may be lost on the radio; they are filled in on a line."""


def uci_har(part: Part) -> Labelled[np.float32]:
    """Windows of 2.56 s: float32 (n, 9, 128), acceleration without gravity (g), angular rate (rad/s), acceleration (g).

    Args:
        part: 21 people are in ``train`` and 9 others in ``test``; people are the domains, ``person1`` to ``person30``.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or a file is missing, damaged or of another length.
    """
    reader = Reader(UCI_HAR)
    labels = _table(reader, f"{part}/y_{part}.txt", 1)[:, 0]
    people = _table(reader, f"{part}/subject_{part}.txt", 1)[:, 0]
    signals = [
        _table(reader, f"{part}/Inertial Signals/{signal}_{part}.txt", UCI_HAR_SAMPLES) for signal in UCI_HAR_SIGNALS
    ]
    lengths = {len(one) for one in (labels, people, *signals)}
    if len(lengths) > 1:
        raise UCI_HAR.refused(f"files of {reader.root / part} have {sorted(lengths)} rows; all must have as many")
    if not np.isin(labels, np.arange(1, 7)).all():
        raise UCI_HAR.refused(f"{reader.root / part}/y_{part}.txt holds other labels than 1 to 6")
    samples = np.stack(signals, axis=1).astype(np.float32)
    domains = tuple(f"person{int(one)}" for one in people)
    return Labelled(samples, labels.astype(np.int64) - 1, UCI_HAR_CLASSES, domains, UCI_HAR.name, reader.digest())


def pamap2(places: Sequence[Place] = ("hand",), samples: int = 256, step: int = 128) -> Labelled[np.float32]:
    """Windows of one activity each: float32 (n, 6, samples), acceleration (m/s², within 16 g) and angular rate (rad/s).

    Args:
        places: sensors; domains are ``place/person``.
        samples: of a window, at 100 Hz.
        step: from a window's beginning to the next.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, no file, one that is damaged or has other columns, or nothing in
            it is as long as a window; an unknown place, no sample or no step.
    """
    if samples < 1 or step < 1 or not places or (unknown := set(places) - set(_FIRST_COLUMN)):
        what = f"the place '{min(unknown)}'" if samples > 0 and step > 0 and places else f"{samples=}, {step=}"
        raise ConfigError(f"{PAMAP2.name}: {what} is not allowed", hint="at least 1; hand, chest and ankle")
    reader = Reader(PAMAP2)
    files = reader.files("Protocol", ".dat")
    if not files:
        raise PAMAP2.refused(f"{reader.root / 'Protocol'} has no .dat files")
    windows: list[FloatArray] = []
    labels: list[int] = []
    domains: list[str] = []
    numbers = list(PAMAP2_CLASSES)
    for name in files:
        table = _pamap2_table(reader, name)
        person = name.rsplit("/")[-1].removesuffix(".dat").removeprefix("subject")
        for place in places:
            for activity, window in _windows(table, _FIRST_COLUMN[place], samples, step):
                windows.append(window)
                labels.append(numbers.index(activity))
                domains.append(f"{place}/person{person}")
    if not windows:
        raise PAMAP2.refused(f"{reader.root / 'Protocol'} has no {samples} samples of one activity in a row")
    classes = tuple(PAMAP2_CLASSES.values())
    return Labelled(
        np.stack(windows), np.array(labels, np.int64), classes, tuple(domains), PAMAP2.name, reader.digest()
    )


def _windows(table: _Doubles, first: int, samples: int, step: int) -> Iterator[tuple[int, FloatArray]]:
    """Activity and window (6, samples), of each run of one activity of the protocol."""
    activities = table[:, 1].astype(np.int64)
    borders = [0, *(np.flatnonzero(np.diff(activities)) + 1), len(activities)]
    columns = [first + kind + axis for kind in (_ACCELERATION, _RATE) for axis in range(3)]
    for begin, end in pairwise(borders):
        if (activity := int(activities[begin])) not in PAMAP2_CLASSES:
            continue
        for at in range(begin, end - samples + 1, step):
            window = table[at : at + samples, columns]
            lost: npt.NDArray[np.bool_] = np.any(np.isnan(window), axis=1)
            if lost.mean() <= MOST_LOST:
                yield activity, _filled(window, lost).T.astype(np.float32)


def _filled(window: _Doubles, lost: npt.NDArray[np.bool_]) -> _Doubles:
    """Lost samples on the line between their neighbours; at an end like the nearest."""
    kept = np.flatnonzero(~lost)
    every = np.arange(len(window))
    return np.stack([np.interp(every, kept, column[kept]) for column in window.T], axis=1)


def _pamap2_table(reader: Reader, name: str) -> _Doubles:
    """(samples, 54), NaN where a sample was lost. Read by pandas, which takes a tenth of NumPy's time."""
    import pandas as pd

    content = reader.read(name)
    try:
        table = pd.read_csv(io.BytesIO(content), sep=r"\s+", header=None, dtype=np.float64).to_numpy(np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise PAMAP2.refused(f"{reader.root / name} cannot be read as numbers: {error}") from error
    if table.shape[1] != PAMAP2_COLUMNS or np.isnan(table[:, 1]).any():
        raise PAMAP2.refused(
            f"{reader.root / name} has {table.shape[1]} columns; {PAMAP2_COLUMNS} and an activity in each row are due"
        )
    return table


def _table(reader: Reader, name: str, columns: int) -> _Doubles:
    """A text file of numbers: (rows, columns)."""
    path = reader.root / name
    try:
        table: _Doubles = np.loadtxt(io.StringIO(reader.text(name)), ndmin=2)
    except ValueError as error:
        raise UCI_HAR.refused(f"{path} cannot be read as numbers: {error}") from error
    if table.shape[1] != columns or not len(table) or not np.isfinite(table).all():
        raise UCI_HAR.refused(f"{path} has {len(table)} rows of {table.shape[1]}; {columns} numbers a row are needed")
    return table
