"""The stream through rings in memory, against pyOCD's own client of the same layout."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyocd.debug.rtt import GenericRTTControlBlock

from lab.errors import TransportError
from lab.transports.rtt import RttStream, find_block

BASE, BLOCK, UP, DOWN = 0x20000000, 0x40, 0x100, 0x200
MEMORY_BYTES = 0x400


class Target:
    """Memory of a device, for :class:`RttStream` and, by its own names, for pyOCD."""

    def __init__(self, up_bytes: int, down_bytes: int, offset: int = 0) -> None:
        self.memory = bytearray(MEMORY_BYTES)
        up = (0, BASE + UP, up_bytes, offset % up_bytes, offset % up_bytes, 2)
        down = (0, BASE + DOWN, down_bytes, offset % down_bytes, offset % down_bytes, 2)
        self.memory[BLOCK : BLOCK + 72] = struct.pack("<16s2I6I6I", b"SEGGER RTT", 1, 1, *up, *down)

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address - BASE : address - BASE + size])

    def write_memory(self, address: int, data: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(data)] = data

    def read_memory_block8(self, address: int, size: int) -> list[int]:
        return list(self.read_memory(address, size))

    def read_memory_block32(self, address: int, words: int) -> tuple[int, ...]:
        return struct.unpack(f"<{words}I", self.read_memory(address, 4 * words))

    def read32(self, address: int) -> int:
        return self.read_memory_block32(address, 1)[0]

    def write_memory_block8(self, address: int, data: Sequence[int]) -> None:
        self.write_memory(address, bytes(data))

    def write32(self, address: int, value: int) -> None:
        self.write_memory(address, struct.pack("<I", value))

    def say(self, data: bytes) -> int:
        """The firmware writes to its up ring as much as fits; how much that was."""
        address, size, written, read = struct.unpack_from("<4I", self.memory, BLOCK + 28)
        count = min(len(data), (read - written - 1) % size)
        for byte in data[:count]:
            self.memory[address - BASE + written] = byte
            written = (written + 1) % size
        struct.pack_into("<I", self.memory, BLOCK + 36, written)
        return count

    def hear(self) -> bytes:
        """The firmware takes what is in its down ring."""
        address, size, written, read = struct.unpack_from("<4I", self.memory, BLOCK + 52)
        data = bytearray()
        while read != written:
            data.append(self.memory[address - BASE + read])
            read = (read + 1) % size
        struct.pack_into("<I", self.memory, BLOCK + 64, read)
        return bytes(data)


def stream(target: Target, *, write_timeout_s: float = 10.0) -> RttStream:
    return RttStream(target, BASE + BLOCK, "rtt", write_timeout_s=write_timeout_s)


def theirs(target: Target) -> GenericRTTControlBlock:
    block = GenericRTTControlBlock(target, address=BASE + BLOCK)
    block.start()
    return block


@given(st.integers(2, 40), st.integers(0, 40), st.lists(st.binary(max_size=60), max_size=8))
def test_what_the_firmware_says_arrives_as_at_pyocd(size: int, offset: int, said: list[bytes]) -> None:
    ours, reference = Target(size, 16, offset), Target(size, 16, offset)
    for data in said:
        assert ours.say(data) == reference.say(data)
        assert stream(ours).read(0.0) == bytes(theirs(reference).up_channels[0].read())
        assert ours.memory == reference.memory


@given(st.integers(2, 40), st.integers(0, 40), st.lists(st.binary(max_size=30), max_size=8))
def test_what_is_written_reaches_the_firmware_as_from_pyocd(size: int, offset: int, sent: list[bytes]) -> None:
    target, reference = Target(16, size, offset), Target(16, size, offset)
    for data in sent:
        for start in range(0, len(data), size - 1):
            # A ring holds one byte less than its size; whoever writes more waits for the firmware.
            piece = data[start : start + size - 1]
            stream(target).write(piece)
            theirs(reference).down_channels[0].write(piece)
            assert target.hear() == reference.hear() == piece


def test_a_ring_that_stays_full_is_an_error_after_the_time_allowed() -> None:
    target = Target(16, 8)
    with pytest.raises(TransportError, match=r"took no bytes for 0\.02 s, its ring stays full"):
        stream(target, write_timeout_s=0.02).write(bytes(20))
    assert target.hear() == bytes(7)


def test_firmware_that_has_not_started_says_nothing_and_takes_nothing() -> None:
    target = Target(16, 16)
    rtt = stream(target, write_timeout_s=0.02)
    target.say(b"of the firmware before")
    rtt.forget()
    assert rtt.read(0.0) == b""
    with pytest.raises(TransportError, match="no control block appears"):
        rtt.write(b"hello")


@pytest.mark.parametrize("field", [32, 36, 40, 56, 60, 64], ids=["size", "written", "read", "size", "written", "read"])
def test_a_damaged_block_is_an_error_not_a_read_from_anywhere(field: int) -> None:
    target = Target(16, 16)
    struct.pack_into("<I", target.memory, BLOCK + field, 0xFFFFFFF0)
    with pytest.raises(TransportError, match="control block at 0x20000040 is damaged"):
        stream(target).read(0.0)


def test_a_closed_stream_refuses() -> None:
    rtt = stream(Target(16, 16))
    rtt.close()
    rtt.close()
    with pytest.raises(TransportError, match="rtt is closed"):
        rtt.read(0.0)


@pytest.mark.parametrize("at", [0, 0x3FF8, 0x3FFC, 0x4000, 0x7FF0])
def test_a_block_is_found_wherever_it_lies(at: int) -> None:
    target = Target(16, 16)
    target.memory = bytearray(0x8000)
    target.memory[at : at + 16] = b"SEGGER RTT".ljust(16, b"\0")
    assert find_block(target, BASE, BASE + 0x8000) == BASE + at
    target.memory[at] = 0
    assert find_block(target, BASE, BASE + 0x8000) is None
