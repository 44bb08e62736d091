"""Imagenette, Tiny ImageNet and Visual Wake Words, against Pillow's own reading, and how a folder can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.photograph_folders import write_imagenette, write_tiny_imagenet, write_visual_wake_words
from PIL import Image

from lab.errors import ConfigError
from lab.workloads.data import imagenette, tiny_imagenet, visual_wake_words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny ImageNet, written once. Who spoils it puts it right again."""
    return write_tiny_imagenet(tmp_path_factory.mktemp("data"))


def test_imagenettes_images_are_those_of_its_folders(folder: Path) -> None:
    root = write_imagenette(folder)
    listed = imagenette.listed("train")
    assert (len(listed), listed.classes[0], listed.classes[-1]) == (20, "tench", "parachute")
    found = listed.read(16, np.array([19, 0]))
    assert (found.samples.shape, found.labels.tolist(), found.domains) == ((2, 3, 16, 16), [9, 0], ("train", "train"))
    own = Image.open(root / "train" / "n03888257" / "n03888257_1.JPEG").convert("RGB")
    middle = own.resize((16, 16), Image.Resampling.BILINEAR, (2, 0, 22, 20))
    assert np.array_equal(found.samples[0], np.asarray(middle).transpose(2, 0, 1))
    assert len(imagenette.listed("val")) == 10


def test_the_digest_is_that_of_what_is_read(folder: Path) -> None:
    root = write_imagenette(folder)
    some, all_of_them = imagenette.listed("train").read(16, np.array([3])), imagenette.listed("train").read(16)
    assert some.digest != all_of_them.digest
    path = root / "train" / "n01440764" / "n01440764_0.JPEG"
    path.write_bytes(path.read_bytes() + b" ")
    assert imagenette.listed("train").read(16, np.array([3])).digest == some.digest
    assert imagenette.listed("train").read(16).digest != all_of_them.digest


def test_an_archive_of_larger_images_will_do(folder: Path) -> None:
    write_imagenette(folder, folder="imagenette2-320")
    assert imagenette.listed("val").root == folder / "imagenette2-320"
    write_imagenette(folder)
    assert imagenette.listed("val").root == folder / "imagenette2-160", "before the larger one"


def test_tiny_imagenets_labels_are_those_of_its_lists(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tiny.parent))
    training, held_out = tiny_imagenet.listed("train"), tiny_imagenet.listed("val")
    assert (len(training), len(held_out)) == (200, 20)
    assert training.classes == held_out.classes == tuple(f"n{number:08}" for number in range(200))
    assert held_out.labels.tolist() == list(range(3, 200, 10))
    found = held_out.read(64, np.array([7]))
    own = Image.open(tiny / "val" / "images" / "val_7.JPEG").convert("RGB")
    assert np.array_equal(found.samples[0], np.asarray(own).transpose(2, 0, 1))
    assert found.digest != held_out.read(64, np.array([8])).digest


def test_of_visual_wake_words_the_first_tenth_of_each_class_is_held_out(folder: Path) -> None:
    """As Keras splits a folder: ``int(0.1 * 21)`` files of each class, sorted, before the others."""
    write_visual_wake_words(folder)
    training, held_out = visual_wake_words.listed("train"), visual_wake_words.listed("val")
    assert [one.rpartition("_")[2] for one in held_out.files] == ["000000000000.jpg", "000000000001.jpg"] * 2
    assert [one.partition("/")[0] for one in held_out.files] == ["non_person"] * 2 + ["person"] * 2
    assert held_out.labels.tolist() == [0, 0, 1, 1]
    assert (len(training), set(training.files) & set(held_out.files)) == (38, set())
    assert held_out.read(96).samples.shape == (4, 3, 96, 96)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("wnids.txt", "n00000001\n", "names 1 classes; 200 are needed"),
        ("wnids.txt", "../n0000001\n", "'../n0000001' is no WordNet number"),
        ("val/val_annotations.txt", "../x.JPEG\tn00000001\n", "line 1: '../x.JPEG\tn00000001' is no image"),
        ("val/val_annotations.txt", "val_0.JPEG\tn99999999\n", "line 1: .* is no image and its class"),
        ("val/val_annotations.txt", "val_99.JPEG\tn00000001\n", "val_99.JPEG is listed in val_annotations.txt"),
        ("val/val_annotations.txt", "", "lists no image"),
    ],
)
def test_lists_that_cannot_be_right_are_told(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    monkeypatch.setenv("LAB_DATA", str(tiny.parent))
    kept = (tiny / name).read_text()
    (tiny / name).write_text(text)
    try:
        with pytest.raises(ConfigError, match=told) as caught:
            tiny_imagenet.listed("val")
    finally:
        (tiny / name).write_text(kept)
    assert "CS231n" in caught.value.hint


def test_what_is_wrong_with_the_others_is_told(folder: Path) -> None:
    for listed in (imagenette.listed, tiny_imagenet.listed, visual_wake_words.listed):
        with pytest.raises(ConfigError, match="there is no folder"):
            listed("train")
    write_visual_wake_words(folder, 9)
    with pytest.raises(ConfigError, match=r"non_person has 9 images .* ten at least"):
        visual_wake_words.listed("train")
    root = write_imagenette(folder)
    (root / "val" / "n03888257" / "n03888257_0.JPEG").write_bytes(b"?")
    with pytest.raises(ConfigError, match=r"n03888257_0\.JPEG is no image, or damaged"):
        imagenette.listed("val").read(16)
    (root / "val" / "n03888257" / "n03888257_0.JPEG").unlink()
    with pytest.raises(ConfigError, match="n03888257 has no images"):
        imagenette.listed("val")
    (root / "val" / "n03888257").rename(root / "val" / "n00000001")
    with pytest.raises(ConfigError, match="n00000001 is no class of it"):
        imagenette.listed("val")
    (root / "val" / "n00000001").rmdir()
    with pytest.raises(ConfigError, match="n03888257 is missing; there are 9 of ten"):
        imagenette.listed("val")


def test_a_class_without_images_to_train_on_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tiny.parent))
    path = tiny / "train" / "n00000042" / "images" / "n00000042_0.JPEG"
    path.rename(path.with_suffix(".txt"))
    with pytest.raises(ConfigError, match="n00000042/images has no images"):
        tiny_imagenet.listed("train")
    path.with_suffix(".txt").rename(path)
