"""CIFAR-100's binary files, made in small: images and fine labels as they were written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_cifar100

from lab.errors import ConfigError
from lab.workloads.data.cifar100 import cifar100


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set's own folder."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    write_cifar100(tmp_path, 2)
    return tmp_path / "cifar-100-binary"


def test_images_come_by_their_fine_labels(folder: Path, tmp_path: Path) -> None:
    written = write_cifar100(tmp_path / "again", 2)
    found = cifar100("train")
    assert len(found) == 200
    for label in (0, 37, 99):
        assert np.array_equal(found.samples[found.labels == label], written[label])
    assert found.classes[37] == "thing_37"
    assert set(found.domains) == {"train"}


def test_the_digest_is_of_images_and_names(folder: Path) -> None:
    digests = {cifar100("train").digest}
    names = (folder / "fine_label_names.txt").read_text()
    (folder / "fine_label_names.txt").write_text(names.replace("thing_00", "apple"))
    digests.add(cifar100("train").digest)
    content = bytearray((folder / "train.bin").read_bytes())
    content[-1] ^= 1
    (folder / "train.bin").write_bytes(content)
    digests.add(cifar100("train").digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train.bin", b"x" * 3075, "3075 bytes, which is no whole number of images of 3074"),
        ("train.bin", b"", "0 bytes"),
        ("train.bin", b"\0\x64" + b"x" * 3072, "label 100; 0 to 99"),
        ("fine_label_names.txt", b"apple\npear\n", "2 names; 100 are needed"),
        ("fine_label_names.txt", b"\xff\xfe", "no text"),
    ],
)
def test_what_is_no_file_of_it_is_refused(folder: Path, name: str, content: bytes, told: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        cifar100("train")
    assert "cifar-100-binary/ with train.bin, test.bin and fine_label_names.txt" in caught.value.hint


def test_what_is_missing_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"test\.bin cannot be read"):
        cifar100("test")
    monkeypatch.delenv("LAB_DATA")
    with pytest.raises(ConfigError, match="LAB_DATA is not set"):
        cifar100("train")
