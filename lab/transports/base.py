"""What every byte stream to a device offers."""

from __future__ import annotations

from typing import Protocol


class ByteStream(Protocol):
    """A byte stream to a device. Methods raise :class:`lab.errors.TransportError` when the stream is broken."""

    name: str

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte; ``b""`` when none came."""

    def close(self) -> None:
        """Close the stream; safe to call twice."""


class MemoryPort(Protocol):
    """A way to place bytes in a device's memory without its help: shared memory of an emulator, or SWD."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Place ``data`` at ``address``."""
