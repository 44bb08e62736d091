"""Images of a user's own: a folder for each class, as Flowers, Cars, VWW and many others are handed round."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

Part: TypeAlias = Literal["train", "test"]
Uint8Array: TypeAlias = npt.NDArray[np.uint8]

PARTS: tuple[Part, ...] = get_args(Part)
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp")
MOST_PIXELS = 50_000_000
"""Of one image: more is a mistake, or meant to fill the memory."""


def source(name: str) -> Source:
    """The data set of this name: a folder ``images/NAME`` with ``train/`` and ``test/``.

    Raises:
        ConfigError: the name is none of a folder right there.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ConfigError(f"'{name}' is no name of a folder of images", hint="a folder below images/ in LAB_DATA")
    return Source(
        name=f"images of {name}",
        folder=f"images/{name}",
        origin="a data set of your own, or a public one as folders",
        licence="whatever it comes under",
        layout="train/CLASS/*.jpg and test/CLASS/*.jpg, the same classes in both",
    )


def classes(name: str) -> tuple[str, ...]:
    """The classes of a folder, sorted: those of ``train``.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or fewer than two classes.
    """
    reader = Reader(source(name))
    found = reader.folders("train")
    if len(found) < 2:
        raise reader.source.refused(f"{reader.root / 'train'} has {len(found)} folders of classes; 2 are needed")
    return found


def load(name: str, part: Part, side: int, most_each: int = 0) -> Labelled[np.uint8]:
    """Images: uint8 (n, 3, side, side), red, green, blue; the shorter side shrunk to ``side``, the middle kept.

    Args:
        name: of the folder below ``images/``.
        part: classes are those of ``train`` in both; the parts are the domains.
        side: pixels.
        most_each: images of each class, the first by name; 0 for all.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, fewer than two classes, a class without images, a class in
            ``test`` that is not in ``train``; a file that is no image, or Pillow is not installed.
    """
    known = classes(name)
    reader = Reader(source(name))
    if extra := sorted(set(reader.folders(part)) - set(known)):
        raise reader.source.refused(f"{reader.root / part / extra[0]} is a class that train/ has not")
    names = [(label, file) for label, one in enumerate(known) for file in _files(reader, part, one, most_each)]
    images = read_images(reader, [file for _, file in names], side)
    labels = np.array([label for label, _ in names], np.int64)
    return Labelled(images, labels, known, (part,) * len(names), reader.source.name, reader.digest())


def _files(reader: Reader, part: Part, of_class: str, most: int) -> tuple[str, ...]:
    found = reader.files(f"{part}/{of_class}", *SUFFIXES)
    if not found:
        raise reader.source.refused(f"{reader.root / part / of_class} has no images ({', '.join(SUFFIXES)})")
    return found[: most or None]


def read_images(reader: Reader, names: Sequence[str], side: int) -> Uint8Array:
    """Images of a data set: (n, 3, side, side), as :func:`read_image` has each.

    Raises:
        ConfigError: as there.
    """
    images = np.zeros((len(names), 3, side, side), np.uint8)
    with progress.step(f"{reader.source.name}: reading {len(names)} images", quiet_below_s=2.0) as step:
        for number, name in enumerate(names):
            images[number] = read_image(reader, name, side)
            step.update(number + 1, len(names))
    return images


def read_image(reader: Reader, name: str, side: int) -> Uint8Array:
    """An image of a data set: (3, side, side), the shorter side shrunk to ``side``, the middle kept.

    Raises:
        ConfigError: the file is no image, has too many pixels, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "images are read by Pillow, which is not installed", hint="pip install 'hil-lab[images]'"
        ) from error
    path = reader.root / name
    try:
        with Image.open(io.BytesIO(reader.read(name))) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise reader.source.refused(f"{path} has {width}x{height} pixels; {MOST_PIXELS} at most are read")
            edge = min(width, height)
            left, top = (width - edge) // 2, (height - edge) // 2
            middle = (left, top, left + edge, top + edge)
            shrunk = opened.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, middle)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise reader.source.refused(f"{path} is no image, or damaged: {error}") from error
    return np.ascontiguousarray(np.asarray(shrunk, np.uint8).transpose(2, 0, 1))
