"""Recordings of a user's own: their samples as they were written, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_recordings, write_wav

from lab.errors import ConfigError
from lab.workloads.data import sound_folder


@pytest.fixture
def ears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return write_recordings(tmp_path, "ears", ("chewing", "speaking"), others=("coughing",))


def test_recordings_stand_in_the_middle_of_as_many_samples_as_are_asked_for(ears: Path) -> None:
    clip = np.arange(1, 8, dtype=np.int16)
    write_wav(ears / "train" / "chewing" / "000.wav", clip)
    assert sound_folder.classes("ears", "train") == ("chewing", "speaking")
    assert sound_folder.classes("ears", "test") == ("chewing", "coughing", "speaking")
    for samples, expected in ((10, [0, 1, 2, 3, 4, 5, 6, 7, 0, 0]), (4, [2, 3, 4, 5])):
        found = sound_folder.load("ears", "train", ("chewing", "speaking"), samples, 1)
        assert found.samples[0].tolist() == expected
        assert found.labels.tolist() == [0, 1]


def test_what_is_missing_or_of_another_form_is_told(ears: Path) -> None:
    classes = ("chewing", "speaking")
    with pytest.raises(ConfigError, match=r"'\.\./ears' is no name of a folder of recordings"):
        sound_folder.load("../ears", "train", classes, 10)
    write_wav(ears / "test" / "chewing" / "000.wav", np.zeros(10, np.int16), 8000)
    with pytest.raises(ConfigError, match="16000 Hz, 1 channel, 2 bytes are needed"):
        sound_folder.load("ears", "test", classes, 10)
    shutil.rmtree(ears / "train" / "speaking")
    with pytest.raises(ConfigError, match="speaking has no recordings"):
        sound_folder.load("ears", "train", classes, 10)
    with pytest.raises(ConfigError, match="has 1 folders of classes; 2 are needed"):
        sound_folder.classes("ears", "train")
