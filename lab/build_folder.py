"""Folders to build in that are removed at the end, and by a later build where their own was killed.

A file in the folder is locked as long as its build runs. The kernel frees the lock however the build ends, so a folder
whose lock can be had belongs to nobody; process ids would not tell, since a cache may be shared by several containers.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.filelock import try_lock

_PREFIX = ".building-"
_LOCK = "lock"


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A new folder that nobody else has, removed at the end of the block. First sweeps what killed builds have left.

    Args:
        parent: holds the folders; made where missing.

    Raises:
        OSError: the folder cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder, and the open file in it whose lock we hold."""
    while True:
        folder = parent / f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir()
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        # Who sweeps may have had the lock in the moment between.
        if _try_lock(descriptor, where_there_are_none=True) and (folder / _LOCK).exists():
            return folder, descriptor
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            abandoned = _try_lock(descriptor, where_there_are_none=False)
            if abandoned:
                # While it is locked, so that a build that begins just now sees that its folder is not its own.
                with suppress(OSError):
                    path.unlink()
        finally:
            os.close(descriptor)
        if abandoned:
            shutil.rmtree(path.parent, ignore_errors=True)


def _try_lock(descriptor: int, *, where_there_are_none: bool) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:
        return where_there_are_none
