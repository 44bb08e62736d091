"""Files that are whole or not there, and logs whose lines survive a kill."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def replace_file(target: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a file in one step: a reader sees the old one or the whole new one, also after a power cut.

    Args:
        target: the file.
        data: its new content.
        synced: False where a power cut makes the content worthless anyway: nothing waits for the disk then.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def append_line(path: Path, entry: Mapping[str, Json]) -> None:
    """Add one JSON line to a log; durable when this returns. A torn line before it is closed off.

    Raises:
        OSError: it could not be written.
    """
    with path.open("ab+") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
        torn = end > 0 and stream.read(1) != b"\n"
        stream.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> list[dict[str, Json]]:
    """The whole lines of a log, oldest first; a line that a kill has torn is left out.

    Raises:
        OSError: it cannot be read.
    """
    entries: list[dict[str, Json]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
