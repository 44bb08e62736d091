"""The spoken digits' loader on small archives of real WAV files, and on the real set where it is there."""

from __future__ import annotations

import hashlib
import io
import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lab.errors import ConfigError
from lab.workloads.data import spoken_digits

real_data = pytest.mark.skipif(
    not os.environ.get("LAB_DATA"), reason="LAB_DATA is not set: the real recordings are not here"
)


def wav(samples: np.ndarray[tuple[int], np.dtype[np.int16]], rate_hz: int = 8000, channels: int = 1) -> bytes:
    """A WAV file of 16-bit samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def tone(digit: int, take: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """A tone that tells digit and take."""
    places = np.arange(3000 + 100 * take)
    return np.asarray(8000 * np.sin(2 * np.pi * (200 + 150 * digit) * places / 8000), dtype=np.int16)


def put(folder: Path, entries: dict[str, bytes]) -> Path:
    """An archive with these entries and its checksum."""
    path = folder / spoken_digits.ARCHIVE
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    sign(folder)
    return path


def sign(folder: Path) -> None:
    """Write the checksums for whatever the archive holds."""
    digest = hashlib.sha256((folder / spoken_digits.ARCHIVE).read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ./other.bin\n{digest}  ./{spoken_digits.ARCHIVE}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two speakers, three digits, two takes, out of order, with a file that is no recording."""
    entries = {
        f"recordings/{digit}_{speaker}_{take}.wav": wav(tone(digit, take))
        for take in (1, 0)
        for digit in (2, 0, 1)
        for speaker in ("theo", "jackson")
    }
    put(tmp_path, {"recordings/": b"", "README.md": b"text", **entries})
    return tmp_path


def test_reads_clips_in_a_fixed_order(folder: Path) -> None:
    recordings = spoken_digits.load(folder)
    assert len(recordings) == 12
    assert recordings.names() == ("jackson", "theo")
    keys = list(zip(recordings.speakers, recordings.digits.tolist(), recordings.takes.tolist(), strict=True))
    assert keys == sorted(keys)
    for (_, digit, take), clip in zip(keys, recordings.clips, strict=True):
        np.testing.assert_array_equal(clip, tone(digit, take))


def test_digest_is_the_archives(folder: Path) -> None:
    expected = hashlib.sha256((folder / spoken_digits.ARCHIVE).read_bytes()).hexdigest()
    assert spoken_digits.load(folder).digest == expected == spoken_digits.verify(folder)


def test_speakers_indices_do_not_overlap(folder: Path) -> None:
    recordings = spoken_digits.load(folder)
    theo, jackson = set(recordings.of("theo").tolist()), set(recordings.of("jackson").tolist())
    assert not theo & jackson
    assert theo | jackson == set(range(12))
    assert {recordings.speakers[index] for index in theo} == {"theo"}
    assert len(recordings.of("nobody")) == 0


def test_a_folder_inside_the_archive_does_not_matter(tmp_path: Path) -> None:
    put(tmp_path, {"dataset-1.0/recordings/7_theo_3.wav": wav(tone(7, 3))})
    recordings = spoken_digits.load(tmp_path)
    assert (recordings.digits.tolist(), recordings.takes.tolist()) == ([7], [3])


def assert_one_clear_error(folder: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spoken_digits.load(folder)
    for word in words:
        assert word in caught.value.message
    assert "Jakobovski/free-spoken-digit-dataset" in caught.value.hint
    assert "LAB_DATA" in caught.value.hint


def test_missing_archive(tmp_path: Path) -> None:
    assert_one_clear_error(tmp_path, str(tmp_path / spoken_digits.ARCHIVE), "No such file")


def test_missing_folder(tmp_path: Path) -> None:
    assert_one_clear_error(tmp_path / "absent", spoken_digits.ARCHIVE, "No such file")


def test_missing_checksums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    assert_one_clear_error(folder, "SHA256SUMS", "No such file")


def test_checksums_without_the_archive(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("00  ./something\n")
    assert_one_clear_error(folder, "SHA256SUMS", "no line for", spoken_digits.ARCHIVE)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_archive_is_told_by_its_checksum(folder: Path, damage: str) -> None:
    path = folder / spoken_digits.ARCHIVE
    data = bytearray(path.read_bytes())
    listed = hashlib.sha256(data).hexdigest()
    if damage == "flip":
        data[100] ^= 1
    else:
        del data[-50:]
    path.write_bytes(data)
    assert_one_clear_error(folder, "damaged or another version", listed, hashlib.sha256(data).hexdigest())


def test_signed_file_that_is_no_zip(folder: Path) -> None:
    (folder / spoken_digits.ARCHIVE).write_bytes(b"this is no archive")
    sign(folder)
    assert_one_clear_error(folder, "cannot be read as a zip archive")


def test_archive_without_recordings(tmp_path: Path) -> None:
    put(tmp_path, {"README.md": b"nothing here"})
    assert_one_clear_error(tmp_path, "holds no recordings/")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wav(tone(1, 0), rate_hz=16000), ("16000 Hz", "8000 Hz, 1 channel, 2 bytes are needed")),
        (wav(tone(1, 0)[:3000], channels=2), ("2 channels",)),
        (b"RIFFxxxx", ("is no WAV recording",)),
        (b"", ("is no WAV recording",)),
    ],
)
def test_a_recording_of_another_form_is_named(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    put(tmp_path, {"recordings/1_theo_0.wav": data})
    assert_one_clear_error(tmp_path, "recordings/1_theo_0.wav", *words)


@real_data
def test_real_set_is_complete() -> None:
    recordings = spoken_digits.load(Path(os.environ["LAB_DATA"]))
    assert len(recordings) == 3000
    assert recordings.names() == spoken_digits.SPEAKERS
    for speaker in recordings.names():
        said = recordings.digits[recordings.of(speaker)]
        assert np.bincount(said).tolist() == [50] * 10
