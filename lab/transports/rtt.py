"""A byte stream through two rings in a device's memory, which a debug probe reads and writes while the core runs (RTT).

The layout is that of SEGGER's Real Time Transfer, which pyOCD and other tools know too: a control block ``id[16]``,
the numbers of up and down rings, then for each ring ``name, address, size, written, read, flags`` (32-bit words). The
firmware's side is ``firmware/boards/common/rtt.c``.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Protocol

from lab.errors import TransportError

SYMBOL = "_SEGGER_RTT"
_ID = b"SEGGER RTT".ljust(16, b"\0")
_BLOCK = struct.Struct("<16s2I6I6I")
_UP_READ = 24 + 4 * 4
_DOWN_WRITTEN = 48 + 3 * 4
_POLL_S = 0.0005
_LONGEST_RING = 1 << 20
_PIECE_BYTES = 1 << 14


class Memory(Protocol):
    """What is needed of a debug probe; :class:`lab.transports.swd.Swd` has it."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory, also while the core runs."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in RAM, also while the core runs."""


def find_block(memory: Memory, start: int, end: int) -> int | None:
    """Address of a control block between two addresses of RAM, for firmware whose image is not at hand.

    Raises:
        ProbeError: the memory cannot be read.
    """
    before = b""
    for address in range(start, end, _PIECE_BYTES):
        piece = memory.read_memory(address, min(_PIECE_BYTES, end - address))
        position = (before + piece).find(_ID)
        if position >= 0:
            return address - len(before) + position
        before = piece[-len(_ID) :]
    return None


@dataclass(frozen=True)
class _Ring:
    address: int
    size: int
    written: int
    read: int

    @property
    def valid(self) -> bool:
        return 0 < self.size <= _LONGEST_RING and self.written < self.size and self.read < self.size

    @property
    def free(self) -> int:
        return (self.read - self.written - 1) % self.size


class RttStream:
    """The runner's line over RTT as a :class:`lab.transports.base.ByteStream`.

    Args:
        memory: the device's memory.
        address: of the control block, symbol :data:`SYMBOL` of the image.
        name: what to call it in errors.
        write_timeout_s: longest time the firmware may take no bytes.
    """

    def __init__(self, memory: Memory, address: int, name: str, *, write_timeout_s: float = 10.0) -> None:
        self.name = name
        self._memory = memory
        self._address = address
        self._write_timeout_s = write_timeout_s
        self._open = True

    def forget(self) -> None:
        """Make the control block of earlier firmware void, while the core is held: RAM survives a reset."""
        self._memory.write_memory(self._address, bytes(_BLOCK.size))

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte.

        Raises:
            TransportError: the stream is closed, or the control block is damaged.
            ProbeError: the probe or the board was lost.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            rings = self._rings()
            if rings is not None and rings[0].written != rings[0].read:
                return self._take(rings[0])
            if time.monotonic() >= deadline:
                return b""
            time.sleep(_POLL_S)

    def _take(self, ring: _Ring) -> bytes:
        if ring.written > ring.read:
            data = self._memory.read_memory(ring.address + ring.read, ring.written - ring.read)
        else:
            data = self._memory.read_memory(ring.address + ring.read, ring.size - ring.read)
            data += self._memory.read_memory(ring.address, ring.written) if ring.written else b""
        self._memory.write_memory(self._address + _UP_READ, struct.pack("<I", ring.written))
        return data

    def write(self, data: bytes) -> None:
        """Write all of ``data``; waits while the ring is full.

        Raises:
            TransportError: the firmware takes no bytes, the stream is closed, or the control block is damaged.
            ProbeError: the probe or the board was lost.
        """
        deadline = time.monotonic() + self._write_timeout_s
        left = data
        while left:
            rings = self._rings()
            taken = 0 if rings is None else self._give(rings[1], left)
            if taken:
                left = left[taken:]
                deadline = time.monotonic() + self._write_timeout_s
            elif time.monotonic() >= deadline:
                why = "no control block appears" if rings is None else "its ring stays full"
                raise TransportError(
                    f"{self.name}: the firmware took no bytes for {self._write_timeout_s:g} s, {why}",
                    hint="it hangs, or was built for a serial console: deploy it again",
                    transient=True,
                )
            else:
                time.sleep(_POLL_S)

    def _give(self, ring: _Ring, data: bytes) -> int:
        count = min(len(data), ring.free)
        first = min(count, ring.size - ring.written)
        if first:
            self._memory.write_memory(ring.address + ring.written, data[:first])
        if count > first:
            self._memory.write_memory(ring.address, data[first:count])
        if count:
            written = struct.pack("<I", (ring.written + count) % ring.size)
            self._memory.write_memory(self._address + _DOWN_WRITTEN, written)
        return count

    def _rings(self) -> tuple[_Ring, _Ring] | None:
        """The rings to and from the host; None until the firmware has set them up."""
        if not self._open:
            raise TransportError(f"{self.name} is closed")
        words = _BLOCK.unpack(self._memory.read_memory(self._address, _BLOCK.size))
        if words[0] != _ID:
            return None
        up, down = (_Ring(*words[start + 1 : start + 5]) for start in (3, 9))
        if words[1:3] != (1, 1) or not up.valid or not down.valid:
            raise TransportError(
                f"{self.name}: the control block at {self._address:#010x} is damaged: {words[1:]}",
                hint="firmware has overwritten it, or other firmware runs than was deployed: deploy again",
                transient=True,
            )
        return up, down

    def close(self) -> None:
        """Close the stream; safe to call twice."""
        self._open = False
