"""Initial RAM file systems: the cpio format ``newc`` (kernel: Documentation/driver-api/early-userspace/buffer-format).

Everything belongs to root and has the time 0, and files stand in the order they were added, so the same content gives
the same bytes. Devices are only entries here, so nothing needs root's rights.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import PurePosixPath

_MAGIC = "070701"
_BLOCK_BYTES = 512


class Initramfs:
    """An archive under construction; paths are absolute in the guest, folders above them come by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._inode = 0
        self._folders: set[str] = set()
        self._names: set[str] = set()

    def folder(self, path: str, mode: int = 0o755, *, owner: int = 0) -> None:
        """Add a folder; one that is there already stays as it is. ``owner`` is its user and its group."""
        name = path.strip("/")
        if name and name not in self._folders:
            self._parents(name)
            self._folders.add(name)
            self._add(name, stat.S_IFDIR | mode, owner=owner)

    def file(self, path: str, data: bytes, mode: int = 0o644, *, owner: int = 0) -> None:
        """Add a file; ``owner`` is its user and its group."""
        name = path.strip("/")
        self._parents(name)
        self._add(name, stat.S_IFREG | mode, data, owner=owner)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        name = path.strip("/")
        self._parents(name)
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, mode: int, major: int, minor: int) -> None:
        """Add a character device."""
        name = path.strip("/")
        self._parents(name)
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._names

    def finish(self) -> bytes:
        """The archive, filled up to whole blocks; another may follow it."""
        self._add("TRAILER!!!", 0)
        self._pad(_BLOCK_BYTES)
        return b"".join(self._parts)

    def _parents(self, name: str) -> None:
        for parent in reversed([*PurePosixPath(name).parents][:-1]):
            self.folder(str(parent))

    def _add(
        self, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0), owner: int = 0
    ) -> None:
        if name in self._names:
            raise ValueError(f"/{name} stands twice in the initial file system")
        self._names.add(name)
        self._inode += 1
        path = name.encode() + b"\0"
        numbers = (self._inode, mode, owner, owner, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._write([(_MAGIC + "".join(f"{number:08X}" for number in numbers)).encode(), path])
        self._pad(4)
        self._write([data])
        self._pad(4)

    def _write(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._parts.append(part)
            self._size += len(part)

    def _pad(self, alignment: int) -> None:
        self._write([b"\0" * (-self._size % alignment)])
