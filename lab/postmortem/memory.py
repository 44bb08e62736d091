"""What can be read of a device's memory after the fact."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Protocol

from lab.errors import LabError
from lab.postmortem.image import Image


class Memory(Protocol):
    """A device's memory, as far as it can be read."""

    def read(self, address: int, size: int) -> bytes | None:
        """``size`` bytes; None where they cannot be had."""


class KeptMemory:
    """Pieces that were kept of a device's memory, and what its image says of code and constants.

    Args:
        image: the image that ran.
        pieces: (address, bytes); neighbours are joined.
    """

    def __init__(self, image: Image, pieces: Iterable[tuple[int, bytes]]) -> None:
        self._image = image
        self._pieces: list[tuple[int, bytes]] = []
        for address, data in sorted(pieces):
            if self._pieces and sum((self._pieces[-1][0], len(self._pieces[-1][1]))) == address:
                start, before = self._pieces.pop()
                self._pieces.append((start, before + data))
            else:
                self._pieces.append((address, data))

    def read(self, address: int, size: int) -> bytes | None:
        """As :class:`Memory`."""
        for start, data in self._pieces:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return self._image.read(address, size)


class LiveMemory:
    """The memory of a core that can be read now; code and constants come from its image.

    Args:
        image: the image that runs.
        read: reads bytes of the core's memory; raises :class:`lab.errors.LabError` where nothing is.
    """

    def __init__(self, image: Image, read: Callable[[int, int], bytes]) -> None:
        self._image = image
        self._read = read
        self._known: dict[tuple[int, int], bytes | None] = {}

    def read(self, address: int, size: int) -> bytes | None:
        """As :class:`Memory`."""
        constant = self._image.read(address, size)
        if constant is not None:
            return constant
        for (start, length), data in self._known.items():
            if data is not None and start <= address and address + size <= start + length:
                return data[address - start : address - start + size]
        if (address, size) not in self._known:
            self._known[address, size] = self._read_device(address, size)
        return self._known[address, size]

    def preload(self, address: int, size: int) -> None:
        """Read a range at once that will be asked for in pieces."""
        self._known[address, size] = self._read_device(address, size)

    def _read_device(self, address: int, size: int) -> bytes | None:
        if address < 0 or address + size > 1 << 32:
            return None
        try:
            return self._read(address, size)
        except LabError:
            return None


def read_word(memory: Memory, address: int) -> int | None:
    """A little-endian word of 32 bits; None where it cannot be read."""
    data = memory.read(address, 4)
    return None if data is None else int(struct.unpack("<I", data)[0])
