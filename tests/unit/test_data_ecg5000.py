"""ECG5000 in the three forms that it is handed round in, tiny ones, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_ecg5000

from lab.errors import ConfigError
from lab.workloads.data import ecg5000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("suffix", [".tsv", ".txt", ".ts"])
def test_beats_are_those_that_were_written_in_each_form(root: Path, suffix: str) -> None:
    written = write_ecg5000(root, suffix)
    for part in ecg5000.PARTS:
        beats, labels = written[part]
        found = ecg5000.load(part)
        assert found.samples.dtype == np.float32
        np.testing.assert_allclose(found.samples[:, 0], beats, atol=1e-5)
        assert found.labels.tolist() == labels.tolist()
        assert set(found.domains) == {part}
    assert ecg5000.load("TRAIN").digest != ecg5000.load("TEST").digest


@pytest.mark.parametrize(
    ("suffix", "old", "new", "told"),
    [
        (".tsv", "\t", "\tsix\t", "line 1: could not convert string to float: 'six'"),
        (".tsv", "\t", "\t1.0\t", "line 1 has 141 values; 140 finite ones and a class are needed"),
        (".tsv", "\t", "\tnan\t", "141 values"),
        (".tsv", "1\t", "6\t", "line 1 is of class 6; 1 to 5 are allowed"),
        (".ts", "@data", "@date", "has no line @data"),
        (".ts", ":1\n", "\n", "could not convert"),
    ],
)
def test_a_line_that_is_no_beat_is_told(root: Path, suffix: str, old: str, new: str, told: str) -> None:
    write_ecg5000(root, suffix)
    path = root / "ECG5000" / f"ECG5000_TRAIN{suffix}"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        ecg5000.load("TRAIN")
    assert told in str(refused.value)
    assert "ECG5000_TRAIN and ECG5000_TEST" in (refused.value.hint or "")


def test_a_missing_or_empty_part_is_told(root: Path) -> None:
    with pytest.raises(ConfigError, match="ECG5000 is needed, and there is no folder"):
        ecg5000.load("TRAIN")
    write_ecg5000(root, ".tsv")
    path = root / "ECG5000" / "ECG5000_TEST.tsv"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="has no beats"):
        ecg5000.load("TEST")
    path.unlink()
    with pytest.raises(ConfigError, match=r"has none of ECG5000_TEST\.tsv, ECG5000_TEST\.txt, ECG5000_TEST\.ts"):
        ecg5000.load("TEST")
