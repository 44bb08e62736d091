"""Files of a Linux kernel, of this computer or of another one: the seam at which meters in sysfs read."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lab.errors import MeterError
from lab.power.polled import Failed

EMULATED = "lab_emulated"
"""Name of a file in folders of emulated trees: what is read there is no measurement."""


class Files(Protocol):
    """Where files are read; methods raise :class:`OSError` with the kernel's number."""

    def read_text(self, path: str) -> str:
        """The whole of a file."""

    def names(self, folder: str) -> Sequence[str]:
        """Names in a folder, sorted."""

    def resolve(self, path: str) -> str:
        """The path without symbolic links."""


class LocalFiles:
    """The files of this computer."""

    def read_text(self, path: str) -> str:
        """The whole of a file."""
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def names(self, folder: str) -> Sequence[str]:
        """Names in a folder, sorted."""
        return sorted(os.listdir(folder))

    def resolve(self, path: str) -> str:
        """The path without symbolic links."""
        return os.path.realpath(path)


def text_or_empty(files: Files, path: str) -> str:
    """A file's text without spaces around it; empty where it is not there or cannot be read."""
    try:
        return files.read_text(path).strip()
    except OSError:
        return ""


def is_emulated(files: Files, folder: str) -> bool:
    """Whether a folder belongs to an emulated tree."""
    return bool(text_or_empty(files, f"{folder}/{EMULATED}"))


def number(files: Files, path: str) -> int | Failed:
    """The whole number in a file; :class:`Failed` for what may pass (a busy bus, a half-written file).

    Raises:
        MeterError: the file is gone (the driver was unbound), or may not be read.
    """
    try:
        text = files.read_text(path)
    except PermissionError as error:
        raise MeterError(
            f"{path}: permission denied", hint=f"let your user read it: sudo chmod a+r {path} (until the next boot)"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
            raise MeterError(
                f"{path}: gone: {error.strerror}",
                hint="was its driver unbound or its device unplugged?",
                transient=True,
            ) from error
        return Failed(f"{path}: {error.strerror}")
    try:
        return int(text)
    except ValueError:
        return Failed(f"{path}: {text.strip()[:40]!r} is no number")
