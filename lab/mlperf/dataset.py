"""A labelled set as the benchmark lays it out: a folder with ``y_labels.csv`` and the files it names.

A row is ``file,classes,class``; for ad01 ``file,classes,class,bytes_to_send,stride``: a file there is cut into segments
of ``bytes_to_send`` bytes, each ``stride`` bytes after the one before.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

from lab.errors import ConfigError
from lab.mlperf.benchmarks import Benchmark

TRUTH_FILE = "y_labels.csv"


@dataclass(frozen=True)
class Sample:
    """One file of the set.

    Attributes:
        path: the file.
        label: its class.
        segment_bytes, stride: how it is cut; both 0 where it is loaded whole.
        input_bytes: bytes of one load.
    """

    path: Path
    label: int
    segment_bytes: int
    stride: int
    input_bytes: int

    def segments(self) -> list[bytes]:
        """What is loaded, one inference each.

        Raises:
            ConfigError: the file is missing or has a size the model cannot take.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        size = self.segment_bytes or len(data)
        step = self.stride or max(len(data), 1)
        segments = [data[begin : begin + size] for begin in range(0, len(data) - size + 1, step)]
        if size != self.input_bytes or not segments:
            raise ConfigError(
                f"{self.path} has {len(data)} bytes, loaded {size} at a time; one inference takes {self.input_bytes}"
            )
        return segments


@dataclass(frozen=True)
class LabelledSet:
    """All samples, in the order of the truth file, and the SHA-256 of that file, hex."""

    folder: Path
    samples: tuple[Sample, ...]
    digest: str


def read_set(folder: Path, benchmark: Benchmark) -> LabelledSet:
    """The labelled set of a benchmark: in ``folder`` or in its subfolder of the benchmark's name.

    Raises:
        ConfigError: there is no truth file, or a row of it is not as the benchmark has them; says which and why.
    """
    candidates = (folder, folder / benchmark.id)
    found = next((one for one in candidates if (one / TRUTH_FILE).is_file()), None)
    if found is None:
        raise ConfigError(
            f"neither {candidates[0]} nor {candidates[1]} holds {TRUTH_FILE}",
            hint="the benchmark's repository has the truth files and says where the data is",
        )
    text = (found / TRUTH_FILE).read_bytes()
    try:
        rows = list(csv.reader(text.decode().splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{found / TRUTH_FILE} is no CSV text: {error}") from error
    samples = tuple(_sample(found, row, number, benchmark) for number, row in enumerate(rows, 1) if row)
    if not samples:
        raise ConfigError(f"{found / TRUTH_FILE} names no files")
    return LabelledSet(found, samples, hashlib.sha256(text).hexdigest())


def _sample(folder: Path, row: list[str], number: int, benchmark: Benchmark) -> Sample:
    columns = 5 if benchmark.is_anomaly_detection else 3
    where = f"{folder / TRUTH_FILE}, line {number}"
    if len(row) != columns:
        raise ConfigError(f"{where}: {len(row)} columns; {benchmark.id} has {columns}")
    try:
        classes, label, *cut = (int(cell) for cell in row[1:])
    except ValueError as error:
        raise ConfigError(f"{where}: {','.join(row)!r} holds what is no whole number") from error
    wanted = 2 if benchmark.is_anomaly_detection else benchmark.results
    if classes != wanted or not 0 <= label < classes:
        raise ConfigError(f"{where}: class {label} of {classes}; {benchmark.id} has {wanted} classes")
    segment_bytes, stride = cut or (0, 0)
    if cut and (segment_bytes != benchmark.input_bytes or stride < 1):
        raise ConfigError(
            f"{where}: segments of {segment_bytes} bytes, {stride} apart; "
            f"{benchmark.id} loads {benchmark.input_bytes} bytes, at least one apart"
        )
    return Sample(folder / row[0], label, segment_bytes, stride, benchmark.input_bytes)
