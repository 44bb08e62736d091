"""Images of a user's own, against Pillow's own reading, and every way the folder can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import write_images
from PIL import Image, ImageOps

from lab.errors import ConfigError
from lab.workloads.data import image_folder


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return write_images(tmp_path, "flowers", ("daisy", "poppy", "rose"))


def test_the_middle_of_each_image_is_shrunk_as_pillow_fits_it(flowers: Path) -> None:
    data = image_folder.load("flowers", "train", 20)
    assert data.samples.shape == (12, 3, 20, 20)
    assert data.samples.dtype == np.uint8
    for number, name in ((0, "daisy/000.png"), (5, "poppy/001.jpg")):
        with Image.open(flowers / "train" / name) as opened:
            fitted = ImageOps.fit(opened.convert("RGB"), (20, 20), Image.Resampling.BILINEAR)
        assert np.array_equal(data.samples[number], np.asarray(fitted).transpose(2, 0, 1))
    assert data.classes == ("daisy", "poppy", "rose")
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.name == "images of flowers"


def test_parts_and_fewer_images_are_other_data(flowers: Path) -> None:
    training, asked = (image_folder.load("flowers", part, 8) for part in image_folder.PARTS)
    assert training.digest != asked.digest
    few = image_folder.load("flowers", "train", 8, most_each=2)
    assert np.array_equal(few.samples[:2], training.samples[:2])
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_grey_images_and_those_with_transparency_become_colours(flowers: Path) -> None:
    Image.new("L", (10, 10), 128).save(flowers / "train" / "daisy" / "000.png")
    Image.new("RGBA", (10, 10), (10, 20, 30, 255)).save(flowers / "train" / "daisy" / "002.png")
    data = image_folder.load("flowers", "train", 8)
    assert (data.samples[0] == 128).all()
    assert data.samples[2, :, 0, 0].tolist() == [10, 20, 30]


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / name)


def empty(root: Path) -> None:
    for path in (root / "train" / "rose").iterdir():
        path.unlink()


def extra(root: Path) -> None:
    (root / "test" / "tulip").mkdir()


def damaged(root: Path) -> None:
    path = root / "train" / "rose" / "000.png"
    path.write_bytes(path.read_bytes()[:200])


def no_image(root: Path) -> None:
    (root / "train" / "rose" / "000.png").write_text("a rose is a rose")


def only_one(root: Path) -> None:
    for name in ("daisy", "poppy"):
        shutil.rmtree(root / "train" / name)


def huge(root: Path) -> None:
    Image.new("1", (10_000, 6_000)).save(root / "train" / "rose" / "000.png")


@pytest.mark.parametrize(
    ("damage", "part", "told"),
    [
        (remove("train"), "train", "0 folders of classes; 2 are needed"),
        (only_one, "train", "1 folders of classes"),
        (empty, "train", "rose has no images"),
        (remove("test/rose"), "test", "rose has no images"),
        (extra, "test", "tulip is a class that train/ has not"),
        (damaged, "train", "rose/000.png is no image, or damaged"),
        (no_image, "train", "rose/000.png is no image, or damaged"),
        (huge, "train", "10000x6000 pixels; 50000000 at most"),
    ],
)
def test_folders_that_are_wrong_are_refused(
    flowers: Path, damage: Callable[[Path], None], part: image_folder.Part, told: str
) -> None:
    damage(flowers)
    with pytest.raises(ConfigError, match=told) as refused:
        image_folder.load("flowers", part, 8)
    assert "images/flowers/ with train/CLASS" in refused.value.hint


@pytest.mark.parametrize("name", ["", "../flowers", ".hidden", "a/b"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a folder of images"):
        image_folder.load(name, "train", 8)
