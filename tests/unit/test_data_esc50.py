"""ESC-50's recordings and features, and every way the folder can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.continual_folders import write_esc50
from helpers.data_folders import write_wav

from lab.errors import ConfigError
from lab.workloads.data import esc50

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 50 recordings: written once, since they are 22 MB. Who spoils it puts it right again."""
    made = tmp_path_factory.mktemp("data")
    write_esc50(made)
    return made


@pytest.fixture
def folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(root))
    return root / "ESC-50"


def test_recordings_are_those_of_the_list(folder: Path) -> None:
    found = esc50.load()
    assert (found.samples.shape, found.samples.dtype) == ((50, 220_500), np.int16)
    assert found.labels.tolist() == list(range(49, -1, -1))
    assert found.classes[:3] == ("sound_0", "sound_1", "sound_2")
    assert found.domain_names() == ("fold1", "fold2", "fold3", "fold4", "fold5")
    assert found.domains[0] == "fold5"
    last = np.frombuffer((folder / "audio" / "1-100000-A-0.wav").read_bytes()[44:], "<i2")
    assert np.array_equal(found.samples[-1], last)
    assert found.digest == esc50.digest()


def test_a_tone_lies_in_its_band() -> None:
    """The middle of the loudest band is the tone, by O'Shaughnessy's mel scale, to half a band."""
    low, high = 2595 * np.log10(1 + np.array([20, 8000]) / 700)
    edges = np.linspace(low, high, 66)
    for tone_hz in (440.0, 3000.0):
        wave = 9000 * np.sin(2 * np.pi * tone_hz * np.arange(220_500) / 44_100)
        made = esc50.log_mel(wave.astype(np.int16)[None])
        assert made.shape == (1, 157, 64)
        mel = 2595 * np.log10(1 + tone_hz / 700)
        assert int(made[0, 80].argmax()) == int(np.abs(edges[1:-1] - mel).argmin())
    silence = esc50.log_mel(np.zeros((1, 220_500), np.int16))
    assert np.allclose(silence, np.log(1e-4)), "no minus infinity"


def _list_of(text: str) -> Spoil:
    return lambda folder: (folder / "meta" / "esc50.csv").write_text(text)


def _recording(rate_hz: int, samples: int) -> Spoil:
    path = "1-100000-A-0.wav"
    return lambda folder: write_wav(folder / "audio" / path, np.zeros(samples, np.int16), rate_hz)


HEAD = "filename,fold,target,category"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "audio" / "1-100000-A-0.wav").unlink(), "1-100000-A-0.wav cannot be read"),
        (lambda folder: (folder / "meta" / "esc50.csv").unlink(), "esc50.csv cannot be read"),
        (_list_of("filename,target\n"), "has no column 'category'"),
        (_list_of(f"{HEAD}\n../x.wav,1,0,dog\n"), "line 2: '../x.wav,1,0,dog' is no recording"),
        (_list_of(f"{HEAD}\nx.wav,one,0,dog\n"), "line 2: 'x.wav,one,0,dog' is no recording"),
        (_list_of(f"{HEAD}\nx.wav,1\n"), "line 2: 'x.wav,1,,' is no recording"),
        (_list_of(f"{HEAD}\n1-100000-A-0.wav,1,0,dog\n"), "lists 1 classes; 50, 0 to 49, are needed"),
        (_recording(16_000, 220_500), "is 16000 Hz"),
        (_recording(44_100, 44_100), "has 44100 samples; 220500, five seconds, are needed"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, spoil: Spoil, told: str) -> None:
    kept = {path: path.read_bytes() for path in (folder / "audio" / "1-100000-A-0.wav", folder / "meta" / "esc50.csv")}
    spoil(folder)
    try:
        with pytest.raises(ConfigError, match=told) as caught:
            esc50.load()
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert "karolpiczak/ESC-50" in caught.value.hint


def test_without_a_folder_it_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no folder"):
        esc50.digest()
