"""A way to a server that can be cut, can go silent, or can lose all after so many bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self


class TcpProxy:
    """Listens on a port of 127.0.0.1 and passes on to another, one client after the other or at once.

    Args:
        host, port: where to.
        cut_after: bytes from the client after which each connection is cut; None for never.

    Attributes:
        port: where it listens.
        connections: how many were made.
        forwarded: bytes from clients so far.
    """

    def __init__(self, host: str, port: int, cut_after: int | None = None) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after = cut_after
        self.connections = 0
        self.forwarded = 0
        self._silent = threading.Event()
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections at once, as a router that restarts does."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def fall_silent(self) -> None:
        """Keep connections open and pass nothing on, as a cable that was pulled does."""
        self._silent.set()

    def lead_to(self, host: str, port: int) -> None:
        """Pass on to another server from the next connection on."""
        self._target = (host, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self.connections += 1
                self._open += [client, server]
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        peers = {client: server, server: client}
        taken = 0
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if source is client:
                        taken += len(data)
                        self.forwarded += len(data)
                    if not data or (self.cut_after is not None and taken > self.cut_after):
                        return
                    if not self._silent.is_set():
                        peers[source].sendall(data)
