"""MiniImageNet's lists and images, against Pillow's own reading, and every way the folder can be wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.continual_folders import write_mini_imagenet
from PIL import Image

from lab.errors import ConfigError
from lab.workloads.data import mini_imagenet

Spoil = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path / "mini-imagenet"


@pytest.mark.parametrize("layout", ["images", "a folder for each class"])
def test_images_are_those_of_the_lists(folder: Path, layout: str) -> None:
    classes = write_mini_imagenet(folder.parent, layout=layout)
    found = mini_imagenet.load("train")
    assert found.classes == tuple(classes["train"])
    assert (found.samples.shape, found.samples.dtype) == ((9, 3, 84, 84), np.uint8)
    assert np.bincount(found.labels).tolist() == [3, 3, 3]
    assert found.domain_names() == ("train",)
    path = next(folder.rglob(f"{classes['train'][2]}00000001.png"))
    own = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(found.samples[7], own), "of 84x84 as it is"
    other = Image.open(next(folder.rglob(f"{classes['train'][0]}00000002.jpg"))).convert("RGB")
    middle = other.resize((84, 84), Image.Resampling.BILINEAR, (0, 5, 90, 95))
    assert np.array_equal(found.samples[2], np.asarray(middle).transpose(2, 0, 1))
    some = mini_imagenet.load("test", most_each=1)
    assert np.bincount(some.labels).tolist() == [1, 1]


def test_its_digest_is_that_of_all_that_is_read(folder: Path) -> None:
    write_mini_imagenet(folder.parent)
    before = mini_imagenet.digest(("train",))
    assert before == mini_imagenet.load("train").digest
    assert before != mini_imagenet.digest(("train",), 2)
    path = next((folder / "images").glob("n00000001*1.png"))
    path.write_bytes(path.read_bytes() + b" ")
    assert mini_imagenet.digest(("train",)) != before


def test_colours_are_scaled_by_imagenets() -> None:
    images = np.array([0, 128, 255], np.uint8)[:, None, None] * np.ones((2, 3, 4, 4), np.uint8)
    made = mini_imagenet.normalised(images)
    assert made.dtype == np.float32
    assert made[1, :, 2, 3] == pytest.approx([-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def _line(text: str) -> Spoil:
    return lambda folder: (folder / "val.csv").write_text(f"filename,label\n{text}\n")


def _pickles_alone(folder: Path) -> None:
    (folder / "train.csv").unlink()
    (folder / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps({"image_data": []}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "test.csv").unlink(), "test.csv cannot be read"),
        (lambda folder: (folder / "val.csv").write_text(""), "begins with '' and has 0 images"),
        (lambda folder: (folder / "val.csv").write_text("name,class\na.jpg,b\n"), "begins with 'name,class'"),
        (_line("../secret.jpg,n1"), "line 2: '../secret.jpg,n1' is no name of a file and a class"),
        (_line("a.jpg"), "line 2: 'a.jpg' is no name"),
        (_line("a.jpg,n00000002"), "train.csv and val.csv both have class n00000002"),
        (lambda folder: next((folder / "images").glob("n00000001*1.png")).unlink(), "of class n00000001 is listed"),
        (lambda folder: next((folder / "images").glob("n00000001*1.png")).write_bytes(b"?"), "is no image, or damaged"),
        (_pickles_alone, "is a pickle, which may run code"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, spoil: Spoil, told: str) -> None:
    write_mini_imagenet(folder.parent)
    spoil(folder)
    with pytest.raises(ConfigError, match=told) as caught:
        mini_imagenet.load("train")
    assert "put it as mini-imagenet/" in caught.value.hint


def test_without_a_folder_it_says_where_it_comes_from(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder") as caught:
        mini_imagenet.digest(("train", "test"))
    assert "Ravi and Larochelle" in caught.value.hint
