"""UrbanSound8K's recordings in all their forms, what is made of them, and every way the folder can be wrong."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.continual_folders import FORMS, write_urbansound8k

from lab.errors import ConfigError
from lab.workloads.data import urbansound8k
from lab.workloads.data.sound_files import decode_sound

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_urbansound8k(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_recordings_of_all_forms_are_the_same_tone(folder: Path) -> None:
    """By its place and height in the spectrum; of two channels, one of them silent, half the height is left."""
    found = urbansound8k.load(16_000)
    assert (found.samples.shape, found.samples.dtype) == ((50, 64_000), np.int16)
    assert found.labels.tolist() == sorted([*range(10)] * 5)
    assert found.classes[3] == "noise_3"
    assert found.domains[:3] == ("fold1", "fold2", "fold3")
    for number, (_, channels, _) in enumerate(FORMS):
        clip = found.samples[35 + number].astype(np.float64)
        assert not clip[:27_600].any(), "in the middle, but for whole blocks of ADPCM"
        spectrum = np.abs(np.fft.rfft(clip[28_000:36_000] * np.hanning(8_000)))
        assert int(spectrum.argmax()) == 255, "510 Hz, class 7, in steps of 2"
        assert spectrum[255] / (0.5 * np.hanning(8_000).sum()) == pytest.approx(16_384 / channels, rel=0.02)


def test_some_of_each_class_are_spread_over_the_list(folder: Path) -> None:
    some = urbansound8k.load(8_000, most_each=2)
    assert np.bincount(some.labels).tolist() == [2] * 10
    assert some.domains[:2] == ("fold1", "fold5"), "the first and the last"
    assert some.digest == urbansound8k.digest(2) != urbansound8k.digest()
    path = folder / "audio" / "fold5" / "1004-0-0-4.wav"
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert urbansound8k.digest(2) != some.digest


def test_four_seconds_are_85_frames_of_128_bands() -> None:
    """The middle of the loudest band is the tone, by O'Shaughnessy's mel scale, to a band."""
    tone_hz = 2000.0
    made = urbansound8k.SPECTRUM.of(np.sin(2 * np.pi * tone_hz * np.arange(4 * 22_050) / 22_050))
    assert made.shape == (85, 128)
    low, high = 2595 * np.log10(1 + np.array([20, 11_025]) / 700)
    edges = np.linspace(low, high, 130)[1:-1]
    assert abs(int(made[40].argmax()) - int(np.abs(edges - 2595 * np.log10(1 + tone_hz / 700)).argmin())) <= 1


def _line(text: str) -> Spoil:
    head = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    return lambda folder: (folder / "metadata" / "UrbanSound8K.csv").write_text(f"{head}\n{text}\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "metadata" / "UrbanSound8K.csv").unlink(), r"UrbanSound8K\.csv cannot be read"),
        (lambda folder: (folder / "metadata" / "UrbanSound8K.csv").write_text("a,b\n"), "has no column 'class'"),
        (_line("../x.wav,1,0,1,1,1,0,dog"), r"line 2: '\.\./x\.wav,1,0,dog' is no recording"),
        (_line("x.wav,1,0,1,1,11,0,dog"), r"line 2: 'x\.wav,11,0,dog' is no recording"),
        (_line("x.wav,1,0,1,1,1,0,dog"), "has 0 names for class 1; each of 0 to 9 has one"),
        (lambda folder: (folder / "audio" / "fold1" / "1000-0-0-0.wav").unlink(), r"1000-0-0-0\.wav cannot be read"),
        (lambda folder: (folder / "audio" / "fold1" / "1000-0-0-0.wav").write_bytes(b"RIFF?"), "is no recording, or"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, spoil: Spoil, told: str) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=told) as caught:
        urbansound8k.load(8_000)
    assert "urbansounddataset" in caught.value.hint


def test_recordings_that_cannot_be_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((folder / "audio" / "fold1" / "1000-0-0-0.wav").read_bytes())
    content[24:28] = (1).to_bytes(4, "little")
    with pytest.raises(ConfigError, match="samples at 1 Hz; one at least"):
        decode_sound(bytes(content), "x.wav", 16_000, "none")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match="soundfile, which is not installed") as caught:
        urbansound8k.load(8_000)
    assert caught.value.hint == "pip install 'hil-lab[sounds]'"


def test_without_a_folder_it_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no folder"):
        urbansound8k.digest()
