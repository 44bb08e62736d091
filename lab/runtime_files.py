"""The C runtime in ``firmware/runtime``, and which of its files given code needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent.parent / "firmware" / "runtime"
INCLUDE = re.compile(r'^[ \t]*#include "([^"]+)"', re.MULTILINE)


def all_sources() -> list[Path]:
    """The C files of the runtime, in a fixed order."""
    return sorted(RUNTIME.glob("*.c"))


def needed_files(sources: Iterable[str]) -> list[Path]:
    """The headers that code includes, the C files of the same names, and what those include in turn.

    Every branch of conditional code counts. Code includes by the runtime's folder, the runtime also by the folder of
    the file that includes.

    Args:
        sources: texts of C files.

    Returns:
        Files of the runtime, in a fixed order.
    """
    found: set[Path] = set()
    waiting = [path for text in sources for path in _included(text, RUNTIME)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _included(path.read_text(encoding="utf-8"), path.parent)
    return sorted(found)


def needed_sources(sources: Iterable[str]) -> list[Path]:
    """The C files among ``needed_files``: what is to be compiled beside the code."""
    return [path for path in needed_files(sources) if path.suffix == ".c"]


def _included(text: str, folder: Path) -> Iterator[Path]:
    for name in INCLUDE.findall(text):
        header = folder / name if (folder / name).is_file() else RUNTIME / name
        yield from (path.resolve() for path in (header, header.with_suffix(".c")) if path.is_file())
