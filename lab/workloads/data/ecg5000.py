"""ECG5000: 5,000 heart beats of one patient, five kinds, each drawn over 140 samples.

Public source: A. Dau et al., "The UCR Time Series Archive", 2019, whose series were cut by Y. Chen and E. Keogh from
the record chf07 of PhysioNet's BIDMC Congestive Heart Failure Database (A. Goldberger et al., 2000). The archive's text
has a beat in each line, its class first; the ``.ts`` files of timeseriesclassification.com have a header up to
``@data``, then values with commas and the class behind a colon.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

FloatArray: TypeAlias = npt.NDArray[np.float32]
Part: TypeAlias = Literal["TRAIN", "TEST"]

PARTS: tuple[Part, ...] = get_args(Part)
ECG5000 = Source(
    name="ECG5000",
    folder="ECG5000",
    origin="the UCR Time Series Archive, or timeseriesclassification.com",
    licence="ODC-BY 1.0, PhysioNet's of the recording",
    layout="ECG5000_TRAIN and ECG5000_TEST, each as .tsv, .txt or .ts,",
)
CLASSES = ("normal", "r-on-t", "premature ventricular", "premature supraventricular", "unknown")
"""By their numbers in the files, 1 to 5; the last are beats that nobody could name."""
SAMPLES = 140
SUFFIXES = (".tsv", ".txt", ".ts")
DATA = "@data"


def load(part: Part) -> Labelled[np.float32]:
    """Beats of one part: float32 (n, 1, 140), in no unit; the part is the one domain.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, it has no file of the part, or a line is no beat of 140 numbers
            with a class from 1 to 5.
    """
    reader = Reader(ECG5000)
    names = [f"ECG5000_{part}{suffix}" for suffix in SUFFIXES]
    there = [name for name in names if (reader.root / name).is_file()]
    if not there:
        raise ECG5000.refused(f"{reader.root} has none of {', '.join(names)}")
    name = there[0]
    lines = reader.text(name).splitlines()
    begin = _data_line(lines, f"{reader.root / name}") if name.endswith(".ts") else 0
    rows = [
        _beat(line, name.endswith(".ts"), f"{reader.root / name}, line {number}")
        for number, line in enumerate(lines[begin:], begin + 1)
        if line.strip()
    ]
    if not rows:
        raise ECG5000.refused(f"{reader.root / name} has no beats")
    samples = np.stack([beat for _, beat in rows])[:, None]
    labels = np.array([label - 1 for label, _ in rows], np.int64)
    return Labelled(samples, labels, CLASSES, (part,) * len(labels), ECG5000.name, reader.digest())


def _data_line(lines: list[str], where: str) -> int:
    """The number of the first line behind the header."""
    for number, line in enumerate(lines):
        if line.strip().lower() == DATA:
            return number + 1
    raise ECG5000.refused(f"{where} has no line {DATA}, which ends the header of a .ts file")


def _beat(line: str, is_ts: bool, where: str) -> tuple[int, FloatArray]:
    """Class, 1 … 5, and samples (140,) of a line."""
    values, _, label = line.rpartition(":") if is_ts else ("", "", "")
    words = [label, *values.split(",")] if is_ts else line.replace(",", " ").split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise ECG5000.refused(f"{where}: {error}") from error
    if len(numbers) != SAMPLES + 1 or not np.isfinite(numbers).all():
        raise ECG5000.refused(f"{where} has {len(numbers) - 1} values; {SAMPLES} finite ones and a class are needed")
    if numbers[0] not in range(1, len(CLASSES) + 1):
        raise ECG5000.refused(f"{where} is of class {words[0]}; 1 to {len(CLASSES)} are allowed")
    return int(numbers[0]), numbers[1:].astype(np.float32)
