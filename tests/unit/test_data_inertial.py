"""UCI-HAR and PAMAP2 from a user's folder, against NumPy's reading, and every way the folders can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_pamap2, write_uci_har

from lab.errors import ConfigError
from lab.workloads.data import inertial


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_windows_of_uci_har_are_those_of_the_files(folder: Path) -> None:
    root = write_uci_har(folder)
    data = inertial.uci_har("test")
    assert data.samples.shape == (6, 9, 128)
    for channel, signal in ((0, "body_acc_x"), (4, "body_gyro_y"), (8, "total_acc_z")):
        expected = np.loadtxt(root / "test" / "Inertial Signals" / f"{signal}_test.txt")
        assert np.array_equal(data.samples[:, channel], expected.astype(np.float32))
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.classes[data.labels[3]] == "sitting", "number 4 of the data set"
    assert data.domain_names() == ("person2", "person3", "person4")
    assert data.digest != inertial.uci_har("train").digest


def replace_text(name: str, text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (replace_text("train/y_train.txt", "1\n2\n"), r"train have \[2, 6\] rows"),
        (replace_text("train/y_train.txt", "1\n2\n3\n4\n5\n7\n"), "other labels than 1 to 6"),
        (replace_text("train/y_train.txt", "1 1\n"), "1 rows of 2; 1 numbers a row"),
        (replace_text("train/subject_train.txt", "nobody\n"), "cannot be read as numbers"),
        (replace_text("train/subject_train.txt", "nan\n" * 6), "6 rows of 1; 1 numbers a row"),
        (lambda root: (root / "train/Inertial Signals/body_gyro_y_train.txt").unlink(), "body_gyro_y_train.txt cannot"),
    ],
)
def test_copies_of_uci_har_that_are_wrong_are_refused(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(write_uci_har(folder))
    with pytest.raises(ConfigError, match=told) as refused:
        inertial.uci_har("train")
    assert "data set 240" in refused.value.hint


def test_windows_of_pamap2_hold_one_activity_each(folder: Path) -> None:
    root = write_pamap2(folder)
    data = inertial.pamap2(("hand", "ankle"), samples=40, step=20)
    # Of 100 samples of walking four windows fit, of 70 of rope jumping two; the rest lies between activities.
    assert data.domain_names() == ("ankle/person101", "ankle/person105", "hand/person101", "hand/person105")
    walking, jumping = data.classes.index("walking"), data.classes.index("rope jumping")
    assert data.labels.tolist() == ([walking] * 4 + [jumping] * 2) * 4
    table = np.loadtxt(root / "subject101.dat")
    hand = table[50:90][:, [4, 5, 6, 10, 11, 12]]
    ankle = table[30 + 100 + 10 + 20 :][:40, [38, 39, 40, 44, 45, 46]]
    assert np.array_equal(data.samples[1], hand.T.astype(np.float32))
    assert np.array_equal(data.samples[11], ankle.T.astype(np.float32))


def test_a_few_lost_samples_are_filled_in_on_a_line_and_many_lose_the_window(folder: Path) -> None:
    root = write_pamap2(folder, ((4, 80),))
    (root / "subject105.dat").unlink()
    lines = (root / "subject101.dat").read_text().splitlines()
    for number in (10, 11, *range(40, 60)):
        parts = lines[number].split()
        parts[4] = "NaN"
        lines[number] = " ".join(parts)
    (root / "subject101.dat").write_text("\n".join(lines) + "\n")
    data = inertial.pamap2(samples=40, step=40)
    assert len(data) == 1, "half of the second window is lost"
    table = np.loadtxt(root / "subject101.dat")
    x = data.samples[0, 0]
    assert x[10] == pytest.approx(table[9, 4] + (table[12, 4] - table[9, 4]) / 3, rel=1e-5)
    assert x[11] == pytest.approx(table[9, 4] + (table[12, 4] - table[9, 4]) * 2 / 3, rel=1e-5)
    assert np.isfinite(data.samples).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 2 3\n", "has 3 columns; 54"),
        ("1.0 nothing " + "0 " * 52 + "\n", "cannot be read as numbers"),
        ("1.0 NaN " + "0 " * 52 + "\n", "an activity in each row"),
        ("", "cannot be read as numbers"),
        (("1.0 4 " + "0 " * 52 + "\n") * 10, "no 40 samples of one activity"),
    ],
)
def test_copies_of_pamap2_that_are_wrong_are_refused(folder: Path, text: str, told: str) -> None:
    root = write_pamap2(folder)
    for path in root.glob("*.dat"):
        path.write_text(text)
    with pytest.raises(ConfigError, match=told) as refused:
        inertial.pamap2(samples=40)
    assert "data set 231" in refused.value.hint


def test_windows_that_cannot_be_are_refused(folder: Path) -> None:
    root = write_pamap2(folder)
    with pytest.raises(ConfigError, match="the place 'knee'"):
        inertial.pamap2(("knee",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="step=0"):
        inertial.pamap2(step=0)
    for path in root.glob("*.dat"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no .dat files"):
        inertial.pamap2()
