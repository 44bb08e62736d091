"""Free Spoken Digit Dataset: 3,000 recordings of ten English digits by six speakers, 8 kHz, 16 bit, mono.

Public source: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0). The lab reads an archive of that
repository's ``recordings`` folder straight from the zip, without unpacking it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.recordings import Int16Array, decode_wav

IntArray: TypeAlias = npt.NDArray[np.int64]

ARCHIVE = "free-spoken-digit-dataset.zip"
CHECKSUMS = "SHA256SUMS"
SOURCE = "Jakobovski/free-spoken-digit-dataset on GitHub, CC BY-SA 4.0"
SAMPLE_RATE_HZ = 8000
CLASSES = 10
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")

HINT = (
    f"get the Free Spoken Digit Dataset ({SOURCE}) as {ARCHIVE} with its recordings/ folder, put it with its "
    f"{CHECKSUMS} into one folder and set LAB_DATA to that folder; or unset LAB_DATA to run on scikit-learn's digits"
)
_RECORDING = re.compile(r"(?:.*/)?recordings/(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav")


@dataclass(frozen=True)
class Recordings:
    """Recordings in the order of (speaker, digit, take); all fields have the same length.

    Attributes:
        clips: PCM samples of each recording at 8 kHz.
        digits: what is said, 0 … 9.
        speakers: who says it.
        takes: which repetition it is, from 0.
        digest: SHA-256 of the archive, hex.
    """

    clips: tuple[Int16Array, ...]
    digits: IntArray
    speakers: tuple[str, ...]
    takes: IntArray
    digest: str

    def __len__(self) -> int:
        return len(self.clips)

    def of(self, *speakers: str) -> IntArray:
        """Indices of everything these speakers say."""
        return np.flatnonzero(np.isin(np.array(self.speakers), speakers))

    def names(self) -> tuple[str, ...]:
        """The speakers, sorted."""
        return tuple(sorted(set(self.speakers)))


def verify(folder: Path) -> str:
    """Check the archive against the checksums beside it.

    Args:
        folder: what ``LAB_DATA`` names.

    Returns:
        SHA-256 of the archive, hex.

    Raises:
        ConfigError: the archive or the checksums are missing, or they do not agree.
    """
    found = hashlib.sha256(_read(folder / ARCHIVE)).hexdigest()
    sums = folder / CHECKSUMS
    listed = dict(_checksum_lines(_read(sums).decode(errors="replace")))
    if ARCHIVE not in listed:
        raise ConfigError(f"{sums} has no line for {ARCHIVE}: the archive cannot be checked", hint=HINT)
    if listed[ARCHIVE] != found:
        raise ConfigError(
            f"{folder / ARCHIVE} is damaged or another version: its SHA-256 is {found}, "
            f"{CHECKSUMS} says {listed[ARCHIVE]}",
            hint=HINT,
        )
    return found


def load(folder: Path) -> Recordings:
    """Read all recordings from the archive.

    Args:
        folder: what ``LAB_DATA`` names.

    Raises:
        ConfigError: see :func:`verify`; or the archive is no zip, holds no recordings, or one is not 8 kHz 16 bit mono.
    """
    digest = verify(folder)
    path = folder / ARCHIVE
    found: list[tuple[str, int, int, Int16Array]] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if match := _RECORDING.fullmatch(entry):
                    clip = decode_wav(archive.read(entry), f"{path}:{entry}", SAMPLE_RATE_HZ, HINT)
                    found.append((match["speaker"], int(match["digit"]), int(match["take"]), clip))
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path} cannot be read as a zip archive: {error}", hint=HINT) from error
    if not found:
        raise ConfigError(f"{path} holds no recordings/{{digit}}_{{speaker}}_{{take}}.wav", hint=HINT)
    found.sort(key=lambda recording: recording[:3])
    return Recordings(
        clips=tuple(recording[3] for recording in found),
        digits=np.array([recording[1] for recording in found], dtype=np.int64),
        speakers=tuple(recording[0] for recording in found),
        takes=np.array([recording[2] for recording in found], dtype=np.int64),
        digest=digest,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=HINT) from error


def _checksum_lines(text: str) -> list[tuple[str, str]]:
    """(file, digest) of each line of ``sha256sum`` output; files are relative to the folder, with or without ``./``."""
    parts = (line.split(maxsplit=1) for line in text.splitlines())
    return [(part[1].removeprefix("*").removeprefix("./"), part[0]) for part in parts if len(part) == 2]
