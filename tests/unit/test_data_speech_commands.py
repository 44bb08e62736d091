"""Speech Commands from a user's folder against SciPy's reading, by its lists; and every way the folder can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
from helpers.data_folders import write_speech_commands, write_wav

from lab.errors import ConfigError
from lab.workloads.data import speech_commands
from lab.workloads.data.mfcc import one_second


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return write_speech_commands(tmp_path)


def test_recordings_are_scipys_and_stand_in_the_middle_of_their_second(folder: Path) -> None:
    data = speech_commands.load("validation", ("yes",))
    whole, shorter = (scipy.io.wavfile.read(folder / f"yes/00000000_nohash_{take}.wav")[1] for take in (0, 1))
    assert data.samples.shape == (2, 16_000)
    assert np.array_equal(data.samples[0], whole)
    left = (16_000 - 12_001) // 2
    assert np.array_equal(data.samples[1, left : left + 12_001], shorter)
    assert not data.samples[1, :left].any()
    assert not data.samples[1, left + 12_001 :].any()


def test_lists_part_the_speakers(folder: Path) -> None:
    parts = {part: speech_commands.load(part) for part in speech_commands.PARTS}
    assert {part: data.domain_names() for part, data in parts.items()} == {
        "training": ("00000002",), "validation": ("00000000",), "testing": ("00000001",)
    }  # fmt: skip
    assert parts["training"].classes == ("no", "yes"), "noise in the background is no word"
    assert parts["training"].labels.tolist() == [0, 0, 1, 1]
    assert len({data.digest for data in parts.values()}) == 3


def test_words_are_numbered_as_asked_and_may_be_fewer(folder: Path) -> None:
    data = speech_commands.load("testing", ("yes", "no"), most_each=1)
    assert data.classes == ("yes", "no")
    assert data.labels.tolist() == [0, 1]


def test_half_the_rate_keeps_what_is_said_and_fits_the_features() -> None:
    seconds = np.arange(16_000) / 16_000
    tone = (12_000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16)
    halved = speech_commands.at_8_khz(tone)
    assert len(halved) == 8000
    inside = slice(100, -100)
    assert np.abs(halved[inside].astype(float) - tone[::2][inside]).max() < 60
    assert one_second(halved).shape == (8000,)
    whistle = (12_000 * np.sin(2 * np.pi * 6000 * seconds)).astype(np.int16)
    assert np.abs(speech_commands.at_8_khz(whistle)[inside]).max() < 600, (
        "nothing above 4 kHz comes back as something else"
    )
    with pytest.raises(ConfigError, match="15 samples"):
        speech_commands.at_8_khz(tone[:15])


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def unlist_training(folder: Path) -> None:
    names = [f"yes/0000000{speaker}_nohash_{take}.wav" for speaker in (1, 2) for take in (0, 1)]
    (folder / "testing_list.txt").write_text("\n".join(names))


def not_a_wav(folder: Path) -> None:
    (folder / "yes" / "00000002_nohash_0.wav").write_bytes(b"RIFF")


def other_rate(folder: Path) -> None:
    write_wav(folder / "yes" / "00000002_nohash_0.wav", np.zeros(80, np.int16), rate_hz=8000)


def not_text(folder: Path) -> None:
    (folder / "testing_list.txt").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("damage", "part", "told"),
    [
        (unlink("testing_list.txt"), "training", "testing_list.txt cannot be read"),
        (unlink("yes/00000000_nohash_1.wav"), "validation", "names yes/00000000_nohash_1.wav, which is not there"),
        (unlist_training, "training", "yes has no recordings for training"),
        (not_a_wav, "training", "yes/00000002_nohash_0.wav is no WAV recording"),
        (other_rate, "training", "is 8000 Hz, 1 channels, 2 bytes per sample; 16000 Hz"),
        (not_text, "training", "testing_list.txt is no text"),
    ],
)
def test_folders_that_lack_something_are_refused(
    folder: Path, damage: Callable[[Path], None], part: speech_commands.Part, told: str
) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=told) as refused:
        speech_commands.load(part, ("yes",))
    assert "speech_commands_v0.02" in refused.value.hint


def test_words_that_nobody_says_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no recordings of 'maybe'; there are: no, yes"):
        speech_commands.load("training", ("yes", "maybe"))
    (tmp_path / "empty" / "speech-commands").mkdir(parents=True)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="has no folder of recordings"):
        speech_commands.words()
