"""Content-addressed results of expensive preparation: arrays and one JSON document per key, in one ``.npz`` file.

An entry is written under a temporary name and renamed, so that it is there as a whole or not at all; the zip format's
own CRC-32 tells damage. An operating-system lock per key lets one process produce while others wait and then read.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.errors import ConfigError
from lab.filelock import try_lock, wait_for_lock

AnyArray: TypeAlias = npt.NDArray[np.generic]

_DOCUMENT = "document"


@dataclass(frozen=True)
class Entry:
    """What is cached.

    Attributes:
        document: JSON text.
        arrays: named arrays; no object arrays.
    """

    document: str
    arrays: Mapping[str, AnyArray]


def key(parts: Mapping[str, str], sources: Iterable[Path]) -> str:
    """Key of a result: SHA-256 over what it depends on, hex.

    Args:
        parts: named digests, versions, parameters.
        sources: files whose text the result depends on; read here. Their order does not matter.
    """
    files = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sources)
    text = json.dumps({"parts": dict(parts), "sources": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def obtain(folder: Path, name: str, key: str, produce: Callable[[], Entry]) -> Entry:
    """The cached entry, or what ``produce`` yields, then cached.

    Args:
        folder: cache folder; made where missing.
        name: readable begin of the file's name.
        key: from :func:`key`.
        produce: called at most once, with the key's lock held.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = folder / f"{name}-{key[:32]}.npz"
    if (entry := _read(path)) is not None:
        return entry
    with _unwritable_is_config_error(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("ab")
    with lock:
        _lock(lock, name)
        if (entry := _read(path)) is not None:
            return entry
        entry = produce()
        with _unwritable_is_config_error(path):
            _write(path, entry)
        return entry


@contextmanager
def _unwritable_is_config_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the cache entry {path} cannot be written: {error.strerror or error}",
            hint="free some space there, or set LAB_CACHE to a folder that can be written",
        ) from error


def _lock(handle: BinaryIO, name: str) -> None:
    """Lock the open file for this process alone; the system frees it when the file closes, however the process ends."""
    if not try_lock(handle.fileno()):
        with progress.step(f"waiting for another process that prepares {name}"):
            wait_for_lock(handle.fileno())


def _read(path: Path) -> Entry | None:
    """The entry; ``None`` where there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != _DOCUMENT}
            return Entry(stored[_DOCUMENT].tobytes().decode(), arrays)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError):
        return None


def _write(path: Path, entry: Entry) -> None:
    document = np.frombuffer(entry.document.encode(), dtype=np.uint8)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            np.savez(handle, allow_pickle=False, **{_DOCUMENT: document}, **entry.arrays)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
