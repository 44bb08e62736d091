"""Client of QEMU's qtest protocol: the memory bus of the core, whether the core runs or stands.

One command and one answer per line (docs/devel/qtest in QEMU's sources), worked off in order: the answers to blocks
that are written are read with the next answer, or when all has to be in its place.
"""

from __future__ import annotations

import base64
import socket
from collections import deque

from lab.emulators.probe.signals import TargetLost

_TIMEOUT_S = 10.0
_SUFFIX = {1: "b", 2: "w", 4: "l"}
# Lines that QEMU may have to keep for us: a socket holds some hundred of them.
_MOST_UNANSWERED = 32


class Qtest:
    """One connection.

    Args:
        path: the socket.

    Raises:
        TargetLost: QEMU is gone.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise TargetLost(f"QEMU's qtest at {path} does not answer: {error}") from error
        self._unanswered: deque[str] = deque()
        # Buffered: without, Python would read byte by byte, twenty times slower.
        self._lines = self._socket.makefile("rb", buffering=1 << 16)

    def read_block(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        return base64.b64decode(self._ask(f"b64read {address:#x} {size:#x}"))

    def write_block(self, address: int, data: bytes) -> None:
        """Send bytes to memory, where they are after :meth:`settle`; read-only memory drops them."""
        self._send(f"b64write {address:#x} {len(data):#x} {base64.b64encode(data).decode()}")
        if len(self._unanswered) == _MOST_UNANSWERED:
            self.settle()

    def settle(self) -> None:
        """Return when all blocks that were written are in their places."""
        while self._unanswered:
            self._answer()

    def read(self, address: int, size: int) -> int:
        """One access of 1, 2 or 4 bytes, as a device needs it."""
        return int(self._ask(f"read{_SUFFIX[size]} {address:#x}"), 16) & ((1 << 8 * size) - 1)

    def write(self, address: int, value: int, size: int) -> None:
        """One access of 1, 2 or 4 bytes."""
        self._ask(f"write{_SUFFIX[size]} {address:#x} {value:#x}")

    def set_line(self, path: str, name: str, level: int) -> None:
        """Drive an input line, such as ``NMI``, of the device with that QOM path."""
        self._ask(f"set_irq_in {path} {name} 0 {level}")

    def close(self) -> None:
        """Close the connection, with all blocks in their places."""
        try:
            self.settle()
        finally:
            self._lines.close()
            self._socket.close()

    def _ask(self, command: str) -> bytes:
        self._send(command)
        while len(self._unanswered) > 1:
            self._answer()
        return self._answer()

    def _send(self, command: str) -> None:
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OSError as error:
            raise TargetLost(f"QEMU's qtest broke: {error}") from error
        self._unanswered.append(command[:40])

    def _answer(self) -> bytes:
        """The answer to the command that has waited longest for one."""
        command = self._unanswered.popleft()
        try:
            answer = self._lines.readline()
        except OSError as error:
            raise TargetLost(f"QEMU's qtest broke: {error}") from error
        if not answer.startswith(b"OK"):
            raise TargetLost(f"QEMU's qtest answered {answer!r} to {command!r}")
        return answer[3:].strip()
