"""ESC-50: environmental sounds, fifty classes of forty recordings of five seconds, in five folds.

Piczak 2015, "ESC: Dataset for Environmental Sound Classification". Read as its repository has it: ``audio/`` with WAV
files of 44.1 kHz and ``meta/esc50.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.log_mel import LogMel
from lab.workloads.data.recordings import decode_wav
from lab.workloads.data.sound_files import resampled

ESC50 = Source(
    name="ESC-50",
    folder="ESC-50",
    origin="karolpiczak/ESC-50 on GitHub",
    licence="CC BY-NC 3.0",
    layout="audio/*.wav and meta/esc50.csv",
)
META = "meta/esc50.csv"
CLASSES = 50
RATE_HZ = 44_100
CLIP_SAMPLES = 5 * RATE_HZ
FEATURE_RATE_HZ = 16_000
SPECTRUM = LogMel(FEATURE_RATE_HZ, window_samples=1024, hop_samples=512, fft_samples=1024, bands=64, padded=True)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Row:
    """What the list says of a recording."""

    file: str
    fold: int
    target: int
    category: str


def load() -> Labelled[np.int16]:
    """Recordings: int16 (n, 220500), in the order of the list; the folds are the domains, ``fold1`` to ``fold5``.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder; the list is missing, has other columns or a row that cannot be
            right, or classes are missing in it; a recording is missing, damaged, or of another form or length.
    """
    reader = Reader(ESC50)
    rows = _rows(reader)
    names = {row.target: row.category for row in rows}
    if sorted(names) != list(range(CLASSES)):
        raise ESC50.refused(f"{reader.root / META} lists {len(names)} classes; {CLASSES}, 0 to 49, are needed")
    clips = np.zeros((len(rows), CLIP_SAMPLES), np.int16)
    for number, row in enumerate(rows):
        path = f"audio/{row.file}"
        clip = decode_wav(reader.read(path), str(reader.root / path), RATE_HZ, ESC50.hint)
        if len(clip) != CLIP_SAMPLES:
            raise ESC50.refused(
                f"{reader.root / path} has {len(clip)} samples; {CLIP_SAMPLES}, five seconds, are needed"
            )
        clips[number] = clip
    labels = np.array([row.target for row in rows], np.int64)
    domains = tuple(f"fold{row.fold}" for row in rows)
    return Labelled(clips, labels, tuple(names[one] for one in range(CLASSES)), domains, ESC50.name, reader.digest())


def digest() -> str:
    """SHA-256, hex, of what :func:`load` reads.

    Raises:
        ConfigError: the list or a recording is missing.
    """
    reader = Reader(ESC50)
    for row in _rows(reader):
        reader.read(f"audio/{row.file}")
    return reader.digest()


def log_mel(clips: npt.NDArray[np.int16]) -> FloatArray:
    """Logarithms of the powers in 64 mel bands, float32 (n, 157, 64), of recordings (n, 220500).

    At 16 kHz, by windows of 64 ms every 32 ms; half a window of zeros stands on both sides. These are MetaCLBench's
    157×64; how it comes to them its text does not say.
    """
    return np.stack([_log_mel_of(clip) for clip in clips])


def _log_mel_of(clip: npt.NDArray[np.int16]) -> FloatArray:
    return SPECTRUM.of(at_rate(clip, FEATURE_RATE_HZ))


def at_rate(clip: npt.NDArray[np.int16], rate_hz: int) -> npt.NDArray[np.float64]:
    """A recording (n,) from −1 to 1, at another rate."""
    return resampled(clip.astype(np.float64) / (1 << 15), RATE_HZ, rate_hz)


def _rows(reader: Reader) -> list[_Row]:
    """The list, line by line."""
    table = reader.table(META, ("filename", "fold", "target", "category"))
    return [_row(reader, number, line) for number, line in enumerate(table, 2)]


def _row(reader: Reader, number: int, line: tuple[str, ...]) -> _Row:
    file, fold, target, category = line
    plain = bool(file) and not {"/", "\\"} & set(file) and file[0] != "."
    if not (plain and fold.isdigit() and target.isdigit() and category):
        raise ESC50.refused(f"{reader.root / META}, line {number}: '{file},{fold},{target},{category}' is no recording")
    return _Row(file, int(fold), int(target), category)
