"""A phone's ADB daemon in Python, speaking the real protocol to a real ADB server, with the faults of real phones.

After AOSP's packages/modules/adb/protocol.txt and shell_protocol.h: messages of six little-endian words and data;
streams opened by name, each write acknowledged before the next.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from types import TracebackType
from typing import Literal, Self, TypeAlias

Fault: TypeAlias = Literal["unauthorized", "offline", "garbage"]

_MESSAGE = struct.Struct("<6I")
_CNXN, _AUTH, _OPEN, _OKAY, _WRTE, _CLSE = (int.from_bytes(name, "little") for name in
                                            (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))  # fmt: skip
_VERSION, _MOST_BYTES = 0x01000001, 1 << 18
_TOKEN = 1
_PACKET = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_BANNER = b"device::ro.product.name=peer;ro.product.model=Peer;ro.product.device=peer;features=shell_v2,cmd"


class AdbPeer:
    """A phone on 127.0.0.1 that runs commands in this computer's shell.

    Args:
        fault: ``unauthorized`` asks for a key and trusts none, ``offline`` never answers, ``garbage`` answers nonsense.
        break_after: bytes of the host's after which the connection is cut; None for never.

    Attributes:
        address: where it listens, ``host:port``.
        connections: how many were made.
    """

    def __init__(self, fault: Fault | None = None, break_after: int | None = None) -> None:
        self.fault: Fault | None = fault
        self.break_after = break_after
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, as a phone that reboots does."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._links.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._links.append(link)
            threading.Thread(target=_Link(self, link).serve, daemon=True).start()


class _Link:
    """One connection of the ADB server."""

    def __init__(self, peer: AdbPeer, link: socket.socket) -> None:
        self._peer = peer
        self._link = link
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._taken = 0

    def serve(self) -> None:
        with self._link, contextlib.suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = _MESSAGE.unpack(self._exactly(_MESSAGE.size))
                self._answer(command, first, second, self._exactly(size))
        for stream in self._streams.values():
            stream.end()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = _MESSAGE.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._sending:
            self._link.sendall(head + data)

    def forget(self, own: int) -> None:
        self._streams.pop(own, None)

    def _answer(self, command: int, first: int, second: int, data: bytes) -> None:
        fault = self._peer.fault
        if fault == "garbage":
            self._link.sendall(bytes(range(256)) * 8)
        elif fault == "unauthorized":
            # The host signs the token with each key it has, then sends its public key for somebody to look at.
            if command == _CNXN or (command == _AUTH and first == 2):
                self.send(_AUTH, _TOKEN, 0, bytes(20))
        elif fault == "offline":
            return
        elif command == _CNXN:
            self.send(_CNXN, _VERSION, _MOST_BYTES, _BANNER)
        elif command == _OPEN:
            own = max(self._streams, default=0) + 1
            self._streams[own] = _Stream(self, own, first, data.rstrip(b"\0"))
        elif (stream := self._streams.get(second)) is not None:
            stream.take(command, data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self._link.recv(size - len(data))
            if not got:
                raise EOFError
            data += got
        self._taken += size
        if self._peer.break_after is not None and self._taken > self._peer.break_after:
            raise EOFError
        return data


class _Stream:
    """One service: `shell,v2,raw:` with a command, or `tcp:` with a port."""

    def __init__(self, link: _Link, own: int, other: int, service: bytes) -> None:
        self._link, self._own, self._other = link, own, other
        self._room = threading.Semaphore(0)
        self._inbox = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        name, _, rest = service.partition(b":")
        link.send(_OKAY, own, other)
        self._room.release()
        if name.startswith(b"tcp"):
            self._socket = socket.create_connection(("127.0.0.1", int(rest)))
            threading.Thread(target=self._serve_socket, args=(self._socket,), daemon=True).start()
        else:
            self._process = subprocess.Popen(
                ("sh", "-c", rest) if rest else ("sh",),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            self._feeding: list[bytes | None] = []
            self._fed = threading.Semaphore(0)
            threading.Thread(target=self._serve_command, args=(self._process,), daemon=True).start()

    def take(self, command: int, data: bytes) -> None:
        if command == _OKAY:
            self._room.release()
        elif command == _CLSE:
            self._link.forget(self._own)
            self.end()
        elif self._socket is not None:
            self._socket.sendall(data)
            self._link.send(_OKAY, self._own, self._other)
        else:
            self._feeding.append(data)
            self._fed.release()

    def end(self) -> None:
        self._room.release()
        if self._socket is not None:
            self._socket.close()
        elif self._process is not None:
            # A daemon closes its end and lets the command go on, as Android's does.
            self._feeding.append(None)
            self._fed.release()

    def _write(self, data: bytes) -> None:
        self._room.acquire()
        self._link.send(_WRTE, self._own, self._other, data)

    def _serve_socket(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := link.recv(1 << 14):
                self._write(data)
            self._link.send(_CLSE, self._own, self._other)

    def _serve_command(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            threading.Thread(target=self._copy, args=(_STDOUT, process.stdout.fileno())),
            threading.Thread(target=self._copy, args=(_STDERR, process.stderr.fileno())),
        ]
        threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        status = process.wait()
        # As wait(2) has it: 128 + n for signal n.
        code = status if status >= 0 else 128 - status
        with contextlib.suppress(OSError):
            self._write(_PACKET.pack(_EXIT, 1) + bytes([code & 0xFF]))
            self._link.send(_CLSE, self._own, self._other)
        process.stdout.close()
        process.stderr.close()

    def _copy(self, kind: int, source: int) -> None:
        while data := os.read(source, 1 << 14):
            with contextlib.suppress(OSError):
                self._write(_PACKET.pack(kind, len(data)) + data)

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        with process.stdin, contextlib.suppress(OSError):
            while self._fed.acquire() and (data := self._feeding.pop(0)) is not None:
                if not self._feed_packets(pipe, data):
                    return
                self._link.send(_OKAY, self._own, self._other)

    def _feed_packets(self, pipe: int, data: bytes) -> bool:
        """Pass on what packets hold; False once the input is to be closed."""
        self._inbox += data
        while len(self._inbox) >= _PACKET.size:
            kind, size = _PACKET.unpack_from(self._inbox)
            if len(self._inbox) < _PACKET.size + size:
                break
            body, self._inbox = self._inbox[_PACKET.size : _PACKET.size + size], self._inbox[_PACKET.size + size :]
            if kind == _CLOSE_STDIN:
                return False
            while kind == _STDIN and body:
                # A command that reads no more has closed its end: what is left is dropped, and acknowledged.
                try:
                    body = body[os.write(pipe, body) :]
                except BrokenPipeError:
                    break
        return True
