"""A network's constants as one image in flash, read into RAM as a whole. No torch in here.

What a network that nobody compressed takes to be switched to where kernels read RAM: weights, biases and
requantisation, one after the other, each at a multiple of four bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.compiler.binary_constants import arrays_of, file_name

_CONSTANT = re.compile(
    r"^static const (int8_t|uint8_t|int32_t|float) (\w+)\[(\d+)\] = \{\n(.*?)^\};\n", re.MULTILINE | re.DOTALL
)
_TYPES: Mapping[str, npt.DTypeLike] = {"int8_t": "i1", "uint8_t": "u1", "int32_t": "<i4", "float": "<f4"}
_ALIGNED = 4


@dataclass(frozen=True)
class _Constant:
    """An array of a generated source: its C, and where its values (as bytes) stand in the image."""

    text: str
    kind: str
    label: str
    values: bytes
    offset: int


def _constants(text: str, files: Mapping[str, bytes]) -> Iterator[_Constant]:
    """In the order of the source, those in files among them."""
    found: dict[int, tuple[str, str, str, bytes]] = {
        one.start(): (one.group(), one[1], one[2], _values(*one.groups())) for one in _CONSTANT.finditer(text)
    }
    for array in arrays_of(text):
        found[array.at] = (array.text, array.c_type, array.label, files[file_name(array.label)])
    offset = 0
    for place in sorted(found):
        declared, kind, label, values = found[place]
        yield _Constant(declared, kind, label, values, offset)
        offset += len(values) + -len(values) % _ALIGNED


def _values(kind: str, label: str, count: str, body: str) -> bytes:
    numbers = [word.rstrip("f") for word in body.replace(",", " ").split()]
    if len(numbers) != int(count):
        raise ValueError(f"the array '{label}' of {count} holds {len(numbers)} values")
    return np.array([float(number) for number in numbers]).astype(_TYPES[kind]).tobytes()


def image_of(text: str, files: Mapping[str, bytes] | None = None) -> bytes:
    """The constants of a network's C, one after the other.

    Args:
        text: the C.
        files: what it includes (:mod:`lab.compiler.binary_constants`).

    Raises:
        ValueError: an array with other than as many values as it says.
    """
    parts = (one.values + bytes(-len(one.values) % _ALIGNED) for one in _constants(text, files or {}))
    return b"".join(parts)


def in_region(text: str, region: str, files: Mapping[str, bytes]) -> str:
    """The C of a network whose constants lie in ``region``, an array of int32_t, as :func:`image_of` has them."""
    for one in _constants(text, files):
        place = f"#define {one.label} ((const {one.kind} *)({region} + {one.offset // _ALIGNED}u))\n"
        text = text.replace(one.text, place)
    return text
