"""What every byte stream to a device offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class ByteStream(Protocol):
    """A byte stream to a device. Methods raise :class:`lab.errors.TransportError` when the stream is broken."""

    name: str

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte; ``b""`` when none came."""

    def close(self) -> None:
        """Close the stream; safe to call twice."""


@runtime_checkable
class Reopenable(Protocol):
    """A byte stream that can be opened anew after it broke, as when a USB device resets and comes back."""

    def reopen(self, timeout_s: float) -> None:
        """Open it again, waiting up to ``timeout_s`` for the device to be back; closes what is left of it first."""


@runtime_checkable
class Tunable(Protocol):
    """A byte stream with a rate, bits per second.

    Attributes:
        baud: the rate now.
    """

    baud: int

    @property
    def first_baud(self) -> int:
        """The rate a device has after a reset."""

    @property
    def max_baud(self) -> int:
        """Most that may be agreed on."""

    def set_baud(self, baud: int) -> None:
        """Go on at another rate, after all that was written has left."""

    def limit_baud(self, baud: int) -> None:
        """Agree on no more than this from now on."""


class MemoryPort(Protocol):
    """A way to place bytes in a device's memory without its help: shared memory of an emulator, or SWD."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Place ``data`` at ``address``."""
