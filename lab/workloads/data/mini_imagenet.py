"""MiniImageNet: colour photographs of a hundred classes of ImageNet, 600 of each, parted by classes.

Vinyals et al. 2016, "Matching Networks for One Shot Learning", with the parts of Ravi and Larochelle 2017,
"Optimization as a Model for Few-Shot Learning": 64 classes to train on, 16 for validation and 20 for tests. Read as
it is handed round most: three lists ``train.csv``, ``val.csv`` and ``test.csv``, and the images by their names.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.image_folder import read_images
from lab.workloads.data.labelled import Labelled

Part: TypeAlias = Literal["train", "val", "test"]

MINI_IMAGENET = Source(
    name="MiniImageNet",
    folder="mini-imagenet",
    origin="images of ImageNet, image-net.org, by the lists of Ravi and Larochelle",
    licence="ImageNet's terms: research and teaching, no commerce",
    layout="train.csv, val.csv and test.csv (filename,label) and the images as images/FILENAME or LABEL/FILENAME",
)
PARTS: tuple[Part, ...] = get_args(Part)
SIDE = 84
HEADER = ["filename", "label"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, from 0 to 1."""
PICKLES = "mini-imagenet-cache-{}.pkl"


def load(part: Part, most_each: int = 0) -> Labelled[np.uint8]:
    """Images: uint8 (n, 3, 84, 84), red, green, blue; of others the shorter side is shrunk, the middle kept.

    Args:
        part: by the lists; it is the domain. Labels are numbers of its own classes, sorted by name.
        most_each: images of each class, the first of the list; 0 for all.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or pickles alone; a list or a listed image is missing or damaged;
            a list names no image, a file outside of the folder, or a class of another list.
    """
    reader = Reader(MINI_IMAGENET)
    listed = _listed(reader, part, most_each)
    known = tuple(listed)
    names = [(label, file) for label, one in enumerate(known) for file in listed[one]]
    images = read_images(reader, [file for _, file in names], SIDE)
    labels = np.array([label for label, _ in names], np.int64)
    return Labelled(images, labels, known, (part,) * len(names), MINI_IMAGENET.name, reader.digest())


def digest(parts: Sequence[Part], most_each: int = 0) -> str:
    """SHA-256, hex, of what :func:`load` reads of these parts; no image is decoded.

    Raises:
        ConfigError: as there, but for damaged images.
    """
    reader = Reader(MINI_IMAGENET)
    for part in parts:
        for files in _listed(reader, part, most_each).values():
            for file in files:
                reader.read(file)
    return reader.digest()


def normalised(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images (…, 3, height, width) as networks take them: 0 … 1, less ImageNet's mean, by the deviation of a colour."""
    mean, deviation = (np.array(one, np.float32)[:, None, None] for one in (MEAN, DEVIATION))
    return (images.astype(np.float32) / np.float32(255) - mean) / deviation


def _listed(reader: Reader, part: Part, most_each: int) -> dict[str, list[str]]:
    """Files of each class of a part, which are there, relative to the folder."""
    _refuse_pickles(reader)
    of_part = {one: _classes(reader, one) for one in PARTS}
    for other in PARTS:
        if other != part and (shared := sorted(of_part[part].keys() & of_part[other].keys())):
            raise MINI_IMAGENET.refused(f"{reader.root / f'{part}.csv'} and {other}.csv both have class {shared[0]}")
    found = of_part[part]
    return {one: [_place(reader, one, name) for name in found[one][: most_each or None]] for one in sorted(found)}


def _classes(reader: Reader, part: Part) -> dict[str, list[str]]:
    """Names of the images of each class, as a list has them."""
    path = reader.root / f"{part}.csv"
    header, *rows = [*csv.reader(reader.text(path.name).splitlines())] or [[]]
    if header != HEADER or not rows:
        raise MINI_IMAGENET.refused(
            f"{path} begins with '{','.join(header)}' and has {len(rows)} images; 'filename,label' and one at least "
            "are needed"
        )
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(HEADER) or not all(one and not {"/", "\\"} & set(one) and one[0] != "." for one in row):
            raise MINI_IMAGENET.refused(f"{path}, line {number}: '{','.join(row)}' is no name of a file and a class")
        found.setdefault(row[1], []).append(row[0])
    return found


def _place(reader: Reader, of_class: str, name: str) -> str:
    places = (f"images/{name}", f"{of_class}/{name}", f"images/{of_class}/{name}")
    if there := next((one for one in places if (reader.root / one).is_file()), None):
        return there
    raise MINI_IMAGENET.refused(f"{name} of class {of_class} is listed, and is neither {' nor '.join(places)}")


def _refuse_pickles(reader: Reader) -> None:
    pickled = reader.root / PICKLES.format("train")
    if pickled.is_file() and not (reader.root / "train.csv").is_file():
        raise MINI_IMAGENET.refused(
            f"{pickled} is a pickle, which may run code when it is read: the lab reads the lists and the images"
        )
