"""A serial port behind a network, by RFC 2217: pyserial's own server side on a real PTY."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import serial
from serial.rfc2217 import PortManager


class _WithLines(serial.Serial):
    """A PTY as if it had the control lines of a UART: what is set is kept, in order."""

    def __init__(self, path: str, drives: Callable[[str, bool], None]) -> None:
        self._drives = drives
        super().__init__(path, timeout=0)

    def _update_dtr_state(self) -> None:
        self._drives("dtr", bool(self._dtr_state))

    def _update_rts_state(self) -> None:
        self._drives("rts", bool(self._rts_state))

    cts = dsr = ri = cd = property(lambda _: False)


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(data)


class Rfc2217Server:
    """Serves a terminal to one client after the other.

    Args:
        path: the terminal.
        on_line: called with the line's name and whether it was asserted.

    Attributes:
        url: for pyserial.
        lines: every change of a control line, in order.
        port: the terminal as the server has it open.
    """

    def __init__(self, path: str, on_line: Callable[[str, bool], None] = lambda name, asserted: None) -> None:
        self.lines: list[tuple[str, bool]] = []
        self._on_line = on_line
        self.port = _WithLines(path, self._changed)
        self.lines.clear()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._listener.close()
        self.port.close()

    def _changed(self, name: str, asserted: bool) -> None:
        self.lines.append((name, asserted))
        self._on_line(name, asserted)

    def _serve(self) -> None:
        while not self._ending.is_set():
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            connection, _ = self._listener.accept()
            with connection:
                self._pass(connection, PortManager(self.port, _Connection(connection)))

    def _pass(self, connection: socket.socket, manager: PortManager) -> None:
        descriptor = self.port.fileno()
        while not self._ending.is_set():
            ready, _, _ = select.select([connection, descriptor], [], [], 0.05)
            with contextlib.suppress(ConnectionError):
                if connection in ready:
                    data = connection.recv(4096)
                    if not data:
                        return
                    self.port.write(b"".join(manager.filter(data)))
                if descriptor in ready:
                    connection.sendall(b"".join(manager.escape(os.read(descriptor, 4096))))
