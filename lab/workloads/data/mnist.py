"""The MNIST family: grey images of 28×28 pixels of ten classes, 60,000 for training and 10,000 for tests, as idx files.

Public sources: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998, whose page has the
format of the files; H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017; T. Clanuwat et al., "Deep Learning for
Classical Japanese Literature", 2018 (Kuzushiji-MNIST).
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.labelled import Labelled

Uint8Array: TypeAlias = npt.NDArray[np.uint8]
Member: TypeAlias = Literal["mnist", "fashion-mnist", "kmnist"]
Part: TypeAlias = Literal["train", "test"]

MEMBERS: tuple[Member, ...] = get_args(Member)
SIDE = 28
_FILES: Mapping[Part, str] = {"train": "train", "test": "t10k"}
_LAYOUT = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each as it "
    "is or with .gz,"
)
SOURCES: Mapping[Member, Source] = {
    "mnist": Source("MNIST", "mnist", "Yann LeCun, yann.lecun.com/exdb/mnist", "CC BY-SA 3.0", _LAYOUT),
    "fashion-mnist": Source(
        "Fashion-MNIST", "fashion-mnist", "zalandoresearch/fashion-mnist on GitHub", "MIT", _LAYOUT
    ),
    "kmnist": Source("Kuzushiji-MNIST", "kmnist", "rois-codh/kmnist on GitHub", "CC BY-SA 4.0", _LAYOUT),
}
CLASSES: Mapping[Member, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip
_BYTES = 0x08
"""Of an idx file whose elements are unsigned bytes."""
_MOST_BYTES = 1 << 28
"""Of an unpacked file: five times the largest there is."""


def load(member: Member, part: Part) -> Labelled[np.uint8]:
    """Images of one part: uint8 (n, 1, 28, 28), 0 (paper) to 255 (ink); the part is the one domain.

    Raises:
        ConfigError: no such data set, ``LAB_DATA`` has no such folder, or a file is missing, damaged or of another
            form.
    """
    if member not in SOURCES:
        raise ConfigError(f"there is no data set '{member}' of the MNIST family", hint=f"one of {', '.join(MEMBERS)}")
    source, classes = SOURCES[member], CLASSES[member]
    reader = Reader(source)
    images = _idx(reader, f"{_FILES[part]}-images-idx3-ubyte", 3)
    labels = _idx(reader, f"{_FILES[part]}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        raise source.refused(f"{reader.root}: {part} has images of shape {images.shape}; (n, {SIDE}, {SIDE}) is needed")
    if len(images) != len(labels):
        raise source.refused(f"{reader.root}: {part} has {len(images)} images and {len(labels)} labels")
    if labels.max() >= len(classes):
        raise source.refused(f"{reader.root}: {part} has the label {labels.max()}; 0 to {len(classes) - 1} are allowed")
    return Labelled(
        images[:, None], labels.astype(np.int64), classes, (part,) * len(labels), source.name, reader.digest()
    )


def _idx(reader: Reader, name: str, dimensions: int) -> Uint8Array:
    """The array of bytes that an idx file holds: two zeros, type, number of dimensions, each as 32 bits, elements."""
    path = reader.root / name
    content = _unpacked(reader, name)
    begin = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, _BYTES, dimensions]) or len(content) < begin:
        raise reader.source.refused(f"{path} is no idx file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:begin])
    elements = np.frombuffer(content, np.uint8, offset=begin)
    if len(elements) != int(np.prod(shape, dtype=object)):
        raise reader.source.refused(f"{path} is cut or damaged: {len(elements)} bytes for the shape {shape}")
    return elements.reshape(shape)


def _unpacked(reader: Reader, name: str) -> bytes:
    """A file's content, of the packed one where there is no other."""
    if (reader.root / name).is_file() or not (reader.root / f"{name}.gz").is_file():
        return reader.read(name)
    packed = reader.read(f"{name}.gz")
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise reader.source.refused(f"{reader.root / name}.gz cannot be unpacked: {error}") from error
    if len(content) > _MOST_BYTES:
        raise reader.source.refused(f"{reader.root / name}.gz unpacks to more than {_MOST_BYTES} bytes")
    return content
