"""Imagenette: colour photographs of ten classes of ImageNet that are easily told apart, 9,469 to train on and 3,925.

Public source: J. Howard, "Imagenette", fastai/imagenette on GitHub, its second version; read as its archives have it: a
folder for each class, named by its WordNet number, in ``train/`` and ``val/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.listed_images import ListedImages

Part: TypeAlias = Literal["train", "val"]

FOLDERS = ("imagenette2-160", "imagenette2-320", "imagenette2")
"""Of the archives of 160 and 320 pixels along the shorter side, and of that of full size; the first that is there."""
IMAGENETTE = Source(
    name="Imagenette",
    folder=FOLDERS[0],
    origin="fastai/imagenette on GitHub",
    licence="Apache-2.0; the images ImageNet's terms",
    layout="train/ and val/, in each a folder of .JPEG for each of ten WordNet numbers (n01440764 …)",
)
CLASSES: Mapping[str, str] = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip
SUFFIXES = (".jpeg", ".jpg", ".png")


def listed(part: Part) -> ListedImages:
    """The images of a part, by class and name.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, a class is missing, has no image, or is none of the ten.
    """
    source = _source()
    reader = Reader(source)
    found = reader.folders(part)
    if unlike := sorted(set(found) ^ set(CLASSES)):
        what = "is no class of it" if unlike[0] in found else f"is missing; there are {len(found)} of ten classes"
        raise source.refused(f"{reader.root / part / unlike[0]} {what}")
    by_class = [reader.files(f"{part}/{one}", *SUFFIXES) for one in CLASSES]
    if empty := [one for one, files in zip(CLASSES, by_class, strict=True) if not files]:
        raise source.refused(f"{reader.root / part / empty[0]} has no images ({', '.join(SUFFIXES)})")
    labels = np.repeat(np.arange(len(CLASSES)), [len(files) for files in by_class])
    files = tuple(file for files in by_class for file in files)
    return ListedImages(source, reader.root, (), part, tuple(CLASSES.values()), files, labels)


def _source() -> Source:
    root = os.environ.get("LAB_DATA", "")
    there = [one for one in FOLDERS if root and (Path(root) / one).is_dir()]
    return replace(IMAGENETTE, folder=there[0]) if there else IMAGENETTE
