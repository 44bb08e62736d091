"""The memory of an emulated board as its debug port sees it: what is mapped, RAM or ROM, and bits that read wrong."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Protocol

from lab.emulators.probe.faults import BitFlip
from lab.emulators.probe.qmp import Region
from lab.emulators.probe.qtest import Qtest
from lab.emulators.probe.signals import BusFault

_RAM_BASE = 0x20000000
_SYSTEM_BASE = 0xE0000000
# Of an address, where the system has TrustZone as Arm lays it out (SSE-200 and SSE-300).
_SECURE = 1 << 28


class CoreAccess(Protocol):
    """A way to memory by the core, which is let in where the bus is not; a running core stands meanwhile."""

    def read_as_core(self, address: int, size: int) -> bytes:
        """Bytes of memory."""

    def write_as_core(self, address: int, data: bytes) -> None:
        """Write memory, read-only memory too."""


class Bus:
    """Access to memory, while the core runs or stands.

    Args:
        qtest: the way in.
        regions: the memory map of the core.

    Attributes:
        flips: bits that read back inverted.
        writes: how often something was written; what was read before a write may not be there any more.
        through_core: on a core with TrustZone: the way to what is guarded.
    """

    def __init__(self, qtest: Qtest, regions: Sequence[Region]) -> None:
        self._qtest = qtest
        self._regions = sorted(regions, key=lambda region: region.start)
        self._starts = [region.start for region in self._regions]
        self.flips: tuple[BitFlip, ...] = ()
        self.writes = 0
        self.through_core: CoreAccess | None = None

    def region(self, address: int) -> Region | None:
        """The region an address lies in."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address > self._regions[index].end:
            return None
        return self._regions[index]

    def is_memory(self, address: int) -> bool:
        """Whether code could be at an address."""
        region = self.region(address)
        return region is not None and region.is_memory

    def is_plain(self, address: int, size: int) -> bool:
        """Whether reading all of a range is only reading: it is memory, and of one kind."""
        region = self.region(address)
        inside = region is not None and address + size <= region.end + 1
        return inside and region is not None and region.kind in ("ram", "rom", "romd")

    def scratch(self) -> int:
        """Address of RAM that code can run from; what is there must be put back."""
        secure = _SECURE if self.through_core is not None else 0
        for region in self._regions:
            writable = region.kind == "ram" or region.is_guarded
            if writable and region.start >= _RAM_BASE and region.start & _SECURE == secure:
                return region.start
        raise BusFault("the board has no RAM at or above 0x20000000")

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address.

        Raises:
            BusFault: nothing answers at some of them.
        """
        data = b"".join(self._read_part(*part) for part in self._parts(address, size))
        return self._flipped(address, data) if self.flips else data

    def write(self, address: int, data: bytes) -> None:
        """Write bytes, which the core sees after :meth:`settle`; read-only memory drops them.

        Raises:
            BusFault: nothing answers at some of them.
        """
        parts = self._parts(address, len(data))
        self.writes += 1
        for start, count, region in parts:
            part = data[start - address : start - address + count]
            if self.through_core is not None and region.is_guarded:
                self.through_core.write_as_core(start, part)
            elif region.kind == "i/o" and count in (1, 2, 4):
                self._qtest.write(start, int.from_bytes(part, "little"), count)
            else:
                self._qtest.write_block(start, part)

    def settle(self) -> None:
        """Return when everything that was written is in its place: before the core goes on, or is asked for memory."""
        self._qtest.settle()

    def read_register(self, address: int) -> int:
        """A word of a device or of the system registers, as the bus sees it: non-secure on a core with TrustZone."""
        return self._qtest.read(address, 4)

    def write_register(self, address: int, value: int) -> None:
        """Write what :meth:`read_register` reads."""
        self.writes += 1
        self._qtest.write(address, value, 4)

    def _read_part(self, start: int, count: int, region: Region) -> bytes:
        # The system registers are banked, too: the bus would see those of the non-secure state.
        if self.through_core is not None and (region.is_guarded or start >= _SYSTEM_BASE):
            return self.through_core.read_as_core(start, count)
        # Short reads by the one command that says nothing of a device but its own width.
        if count in (1, 2, 4) and start % count == 0:
            return self._qtest.read(start, count).to_bytes(count, "little")
        return self._qtest.read_block(start, count)

    def _parts(self, address: int, size: int) -> list[tuple[int, int, Region]]:
        parts, at, end = [], address, address + size
        while at < end:
            region = self.region(at)
            if region is None:
                raise BusFault(f"nothing answers at {at:#x}")
            count = min(end, region.end + 1) - at
            parts.append((at, count, region))
            at += count
        return parts

    def _flipped(self, address: int, data: bytes) -> bytes:
        changed = bytearray(data)
        for flip in self.flips:
            if address <= flip.address < address + len(data):
                changed[flip.address - address] ^= 1 << flip.bit
        return bytes(changed)
