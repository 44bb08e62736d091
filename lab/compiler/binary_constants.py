"""Constants that are too large for C text: files beside ``model.c``, which the assembler takes into the image.

A C compiler needs many times an array's size to read it as text: the 345 MB of a ViT-B's weights would be 1.4 GB of it,
and some 19 GB of gcc's memory. Such an array goes into a file of :attr:`lab.compiler.model.CompiledModel.binaries`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

LEAST_BYTES = 1 << 20
"""Smaller arrays are text, which people can read and every toolchain takes."""


def is_binary(size_bytes: int) -> bool:
    """Whether an array of this size goes into a file."""
    return size_bytes >= LEAST_BYTES


def file_name(label: str) -> str:
    """The file of an array."""
    return f"{label}.bin"


def included(c_type: str, label: str, count: int, content: bytes) -> str:
    """C99 that declares an array whose content is in its file; for ELF, by GNU's assembler or LLVM's.

    The content's SHA-256 is in the text, so that whoever hashes the sources hashes the files as well.

    Args:
        c_type, label, count: of the array.
        content: of the file.
    """
    return "\n".join(
        (
            f"/* {file_name(label)}, SHA-256 {hashlib.sha256(content).hexdigest()} */",
            f'__asm__(".pushsection .rodata.{label},\\"a\\"\\n"',
            '        ".balign 16\\n"',
            f'        "{label}: .incbin \\"{file_name(label)}\\"\\n"',
            '        ".popsection\\n");',
            f"extern const {c_type} {label}[{count}];",
        )
    )


@dataclass(frozen=True)
class Included:
    """An array of a generated source whose content is in a file.

    Attributes:
        text: the C that declares it.
        at: where that begins in the source.
        c_type, label, count: of the array.
    """

    text: str
    at: int
    c_type: str
    label: str
    count: int


_INCLUDED = re.compile(r"^/\* (\w+)\.bin, SHA-256 .*?^extern const (\w+) \1\[(\d+)\];\n", re.MULTILINE | re.DOTALL)


def arrays_of(text: str) -> Iterator[Included]:
    """The arrays that :func:`included` declared in a source, in its order."""
    for found in _INCLUDED.finditer(text):
        yield Included(found.group(), found.start(), found[2], found[1], int(found[3]))
