"""Tiny ImageNet: colour photographs of 64×64 pixels of 200 classes of ImageNet, 500 of each to train on and 50.

Public source: Stanford's course CS231n; read as its archive has it: ``train/ID/images/``, and ``val/images/`` with the
class of each image in ``val/val_annotations.txt``. The images of ``test/`` have no labels.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import numpy as np

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import IntArray
from lab.workloads.data.listed_images import ListedImages

Part: TypeAlias = Literal["train", "val"]

TINY_IMAGENET = Source(
    name="Tiny ImageNet",
    folder="tiny-imagenet-200",
    origin="Stanford's CS231n, cs231n.stanford.edu/tiny-imagenet-200.zip",
    licence="ImageNet's terms: research and teaching, no commerce",
    layout="wnids.txt, train/ID/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt",
)
CLASSES = 200
SIDE = 64
IDS, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"
SUFFIX = ".jpeg"


def listed(part: Part) -> ListedImages:
    """The images of a part; labels are places among the 200 WordNet numbers, sorted.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder; a list is missing, has a line that cannot be right, or names other
            than 200 classes; a class has no image to train on; an image for validation is listed and not there.
    """
    reader = Reader(TINY_IMAGENET)
    classes = _classes(reader)
    if part == "val":
        files, labels = _annotated(reader, classes)
        return ListedImages(TINY_IMAGENET, reader.root, (IDS, ANNOTATIONS), part, classes, files, labels)
    by_class = [reader.files(f"train/{one}/images", SUFFIX) for one in classes]
    if empty := [one for one, files in zip(classes, by_class, strict=True) if not files]:
        raise TINY_IMAGENET.refused(f"{reader.root / 'train' / empty[0] / 'images'} has no images (.JPEG)")
    labels = np.repeat(np.arange(CLASSES), [len(files) for files in by_class])
    files = tuple(file for files in by_class for file in files)
    return ListedImages(TINY_IMAGENET, reader.root, (IDS,), part, classes, files, labels)


def _classes(reader: Reader) -> tuple[str, ...]:
    found = reader.text(IDS).split()
    if wrong := [one for one in found if not re.fullmatch(r"n\d{8}", one)]:
        raise TINY_IMAGENET.refused(f"{reader.root / IDS}: '{wrong[0]}' is no WordNet number (n and eight digits)")
    if len(set(found)) != CLASSES:
        raise TINY_IMAGENET.refused(f"{reader.root / IDS} names {len(set(found))} classes; {CLASSES} are needed")
    return tuple(sorted(set(found)))


def _annotated(reader: Reader, classes: tuple[str, ...]) -> tuple[tuple[str, ...], IntArray]:
    """Files and labels by the list: a name, a class and a box in each line, between tabs."""
    path, numbers = reader.root / ANNOTATIONS, {one: number for number, one in enumerate(classes)}
    files, labels = [], []
    for number, line in enumerate(reader.text(ANNOTATIONS).splitlines(), 1):
        name, of_class, *_ = (*line.split("\t"), "", "")
        if not name or {"/", "\\"} & set(name) or name[0] == "." or of_class not in numbers:
            raise TINY_IMAGENET.refused(f"{path}, line {number}: '{line}' is no image and its class")
        files.append(f"val/images/{name}")
        labels.append(numbers[of_class])
    if missing := next((one for one in files if not (reader.root / one).is_file()), None):
        raise TINY_IMAGENET.refused(f"{reader.root / missing} is listed in {path.name}, and is not there")
    if not files:
        raise TINY_IMAGENET.refused(f"{path} lists no image")
    return tuple(files), np.array(labels, np.int64)
