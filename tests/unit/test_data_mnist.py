"""The MNIST family from a user's folder: what the files hold, packed or not, and every way they can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import idx_bytes, write_mnist

from lab.errors import ConfigError
from lab.workloads.data import mnist


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("member", mnist.MEMBERS)
def test_files_are_read_as_they_were_written_packed_or_not(folder: Path, member: mnist.Member) -> None:
    written = write_mnist(folder, member)
    training, asked = mnist.load(member, "train"), mnist.load(member, "test")
    assert training.samples.shape == (60, 1, 28, 28)
    np.testing.assert_array_equal(training.samples[:, 0], written["train"])
    np.testing.assert_array_equal(asked.samples[:, 0], written["t10k"])
    assert asked.labels.tolist() == [*range(10)] * 2
    assert len(training.classes) == 10
    assert training.domain_names() == ("train",)
    assert training.digest != asked.digest
    assert training.name == mnist.SOURCES[member].name


def test_numbers_of_the_header_are_big_endian() -> None:
    """The first twenty bytes of a file of two images, as the format's page has them."""
    assert idx_bytes(np.zeros((2, 28, 28), np.uint8))[:16].hex() == "00000803000000020000001c0000001c"


def images(folder: Path, shape: tuple[int, ...]) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros(shape, np.uint8)))


def other_type(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:])


def cut(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def claims_everything(folder: Path) -> None:
    """A header whose product is beyond 64 bits."""
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12)


def short(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08")


def label(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(20, 10, np.uint8)))


def fewer(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))


def gone(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (gone, r"t10k-labels-idx1-ubyte cannot be read: No such file"),
        (other_type, "is no idx file of bytes in 3 dimensions"),
        (short, "is no idx file of bytes in 1 dimensions"),
        (cut, r"is cut or damaged: 15679 bytes for the shape \(20, 28, 28\)"),
        (claims_everything, "is cut or damaged: 0 bytes"),
        (label, "the label 10; 0 to 9 are allowed"),
        (fewer, "20 images and 19 labels"),
        (lambda folder: images(folder, (20, 32, 32)), r"\(20, 32, 32\); \(n, 28, 28\) is needed"),
        (lambda folder: images(folder, (0, 28, 28)), r"\(0, 28, 28\); \(n, 28, 28\) is needed"),
    ],
)
def test_files_that_are_wrong_are_refused(folder: Path, damage: Callable[[Path], None], told: str) -> None:
    write_mnist(folder, "kmnist")
    damage(folder / "kmnist")
    with pytest.raises(ConfigError, match=told) as refused:
        mnist.load("kmnist", "test")
    assert "rois-codh/kmnist" in refused.value.hint
    assert mnist.load("kmnist", "train").labels[0] == 0, "the other part is as it was"


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"no gzip", gzip.compress(bytes(4000))[:-9]])
def test_packed_files_that_are_damaged_are_refused(folder: Path, content: bytes) -> None:
    write_mnist(folder)
    (folder / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte.gz cannot be unpacked"):
        mnist.load("mnist", "train")


def test_a_file_that_unpacks_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(folder)
    monkeypatch.setattr(mnist, "_MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="unpacks to more than 1000 bytes"):
        mnist.load("mnist", "train")


def test_without_the_folder_it_is_said_what_belongs_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="Fashion-MNIST is needed, and there is no folder") as refused:
        mnist.load("fashion-mnist", "train")
    assert "fashion-mnist/ with train-images-idx3-ubyte" in refused.value.hint
    with pytest.raises(ConfigError, match="there is no data set 'emnist'"):
        mnist.load("emnist", "train")  # type: ignore[arg-type]
