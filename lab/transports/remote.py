"""What a device with an operating system offers, whichever way it is reached: commands, byte streams and files.

SSH (:mod:`lab.transports.ssh`) and ADB (:mod:`lab.transports.adb`) provide it; everything above, the Linux and phone
devices, their sensors, their measurement environment, knows only this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lab.transports.base import ByteStream


@dataclass(frozen=True)
class Finished:
    """A command that ended on the device.

    Attributes:
        status: exit status; 128 + n where signal n ended it, as shells say it.
        stdout: what it printed.
        stderr: what it complained.
    """

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without white space around it."""
        return self.stdout.decode(errors="replace").strip()


@dataclass(frozen=True)
class Pushed:
    """A file that lies on the device, compared by digest.

    Attributes:
        path: where, absolute.
        size_bytes: of the file.
        sent_bytes: how much of it was sent now: nothing where it lay there already, the rest where a push was resumed.
    """

    path: str
    size_bytes: int
    sent_bytes: int


class RemoteProcess(ByteStream, Protocol):
    """A command that runs on the device; its standard input and output are the byte stream.

    :meth:`read` raises :class:`lab.errors.TransportError` once it ended and all it printed was read.
    """

    def end_input(self) -> None:
        """Close its standard input; what it prints can still be read."""

    def poll(self) -> int | None:
        """Its status as in :class:`Finished`, None while it runs."""

    def wait(self, timeout_s: float) -> int:
        """Its status, once it ends.

        Raises:
            TransportError: it did not end in time, or the connection broke.
        """

    def stderr_tail(self) -> str:
        """The last of what it complained, at most 2,000 characters."""

    def kill(self) -> None:
        """End it and all processes it started; safe to call when it has ended."""


class Remote(Protocol):
    """A connection to a device.

    Arguments go as lists and arrive as they are: no shell sees them. Methods raise :class:`lab.errors.TransportError`
    (transient) when the connection breaks.
    """

    name: str

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        """Run a command to its end, whatever its status.

        Raises:
            TransportError: it did not end within ``timeout_s``: it and its process group were killed.
        """

    def start(self, argv: Sequence[str]) -> RemoteProcess:
        """Start a command that is spoken to while it runs."""

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        """Put a file on the device, whole or not at all, and compare its digest there.

        Raises:
            InfrastructureError: the device's disk is full or read-only, or the file arrived damaged twice.
        """

    def pull(self, source: str, destination: Path) -> None:
        """Fetch a file.

        Raises:
            TransportError: it is not there, or may not be read.
        """

    def reconnect(self, timeout_s: float) -> None:
        """Connect anew, waiting until the device is back; what was running is lost."""

    def close(self) -> None:
        """End all that runs and close the connection; safe to call twice."""


@runtime_checkable
class Terminals(Protocol):
    """A remote that can give a shell in a terminal, for people."""

    def terminal(self, kind: str, columns: int, rows: int) -> RemoteProcess:
        """Start the user's shell in a terminal of a kind (``TERM``) and size.

        Raises:
            TransportError: the connection broke, or the device gives no terminals.
        """
