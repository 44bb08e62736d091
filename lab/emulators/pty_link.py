"""A PTY in front of an emulated board's UART, for programs that know serial ports by their path only."""

from __future__ import annotations

import os
import select
import threading
from types import TracebackType
from typing import Self

from lab.errors import TransportError
from lab.transports.base import ByteStream

_WAIT_S = 0.05


class PtyLink:
    """Passes bytes both ways between a PTY and a byte stream, until it is left.

    Example::

        with Qemu(machine, image) as qemu, PtyLink(SerialPort(qemu.serial_url)) as link:
            qemu.release()
            print(link.path)

    What the board says while nobody has the PTY open waits there; most programs throw it away when they open it.

    Args:
        stream: the board's UART; closed with the link.

    Attributes:
        path: of the PTY.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        import tty

        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._to_board, self._to_pty)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._stream.close()
        os.close(self._master)
        # Held open until now: a PTY without an open end forgets what waits in it.
        os.close(self._slave)

    def _to_board(self) -> None:
        while not self._ending.is_set():
            ready, _, _ = select.select([self._master], [], [], _WAIT_S)
            if ready:
                try:
                    self._stream.write(os.read(self._master, 4096))
                except TransportError:
                    return

    def _to_pty(self) -> None:
        waiting = b""
        while not self._ending.is_set():
            try:
                waiting = waiting or self._stream.read(_WAIT_S)
            except TransportError:
                return
            _, writable, _ = select.select([], [self._master] if waiting else [], [], 0 if not waiting else _WAIT_S)
            if writable:
                waiting = waiting[os.write(self._master, waiting) :]
