"""Constants that are too large for C text: files beside ``model.c``, which the assembler takes into the image.

A C compiler needs many times an array's size to read it as text, and a quarter of a gigabyte of attentive units would
be a gigabyte of it. Such an array goes into a file of :attr:`lab.compiler.model.CompiledModel.binaries`.
"""

from __future__ import annotations

import hashlib

LEAST_BYTES = 1 << 25
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
