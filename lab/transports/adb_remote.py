"""A phone behind ADB as a :class:`lab.transports.remote.Remote`.

Commands go through the shell service, version 2, of the phone's daemon (since Android 7): packets of an id, a length
and data carry standard input, output and errors apart, binary clean, and the exit status (AOSP,
packages/modules/adb/shell_protocol.h).
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from lab.config_fields import reveal
from lab.connection_config import AdbDevice
from lab.errors import PhoneUnauthorized, TransportError
from lab.transports.adb_server import AdbServer
from lab.transports.remote import Finished, Pushed
from lab.transports.remote_command import (
    Surroundings,
    command_line,
    kill_line,
    new_mark,
    numbered,
    parse_probe,
    probe_line,
)
from lab.transports.remote_push import pull_file, push_file
from lab.transports.remote_waits import ended_with, no_input, not_in_time, overdue, unanswered, until_back

_HEAD = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN, _WINDOW = range(6)
_CHUNK = 1 << 18
_PACKET = 1 << 16
_TAIL = 2000
_READY_S = 5.0
_PROBE_S = 30.0
_WRITE_S = 60.0
_END_S = 5.0
_GRACE_S = 1.0
_KILL_S = 15.0
_LONGEST_PAUSE_S = 2.0


class AdbProcess:
    """A command that runs on a phone; see :class:`lab.transports.remote.RemoteProcess`.

    Args:
        phone: where it runs.
        link: the connection of its shell service.
        program: its name, for errors.
        mark: by which it is found and killed; empty where it ends with its connection.
    """

    def __init__(self, phone: Adb, link: socket.socket, program: str, mark: str) -> None:
        self.name = f"{program} on {phone.name}"
        self._phone = phone
        self._link = link
        link.settimeout(_WRITE_S)
        self._mark = mark
        self._ended = False
        self._status: int | None = None
        self._pending = bytearray()
        self._output = bytearray()
        self._errors = bytearray()
        self._taking = threading.RLock()
        self._sending = threading.Lock()

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        for at in range(0, len(data), _PACKET):
            self._send(_STDIN, data[at : at + _PACKET])

    def end_input(self) -> None:
        """Close its standard input; what it prints can still be read."""
        # It may have ended already, and the connection with it: that shows in what is read.
        with contextlib.suppress(TransportError):
            self._send(_CLOSE_STDIN, b"")

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte."""
        with self._taking:
            self._take_until(lambda: bool(self._output), time.monotonic() + timeout_s)
            data = bytes(self._output)
            self._output.clear()
            if data or not self.is_over:
                return data
        raise self._over()

    def poll(self) -> int | None:
        """Its status, None while it runs."""
        with self._taking:
            self._take_until(lambda: False, time.monotonic())
            return self._ended_with() if self.is_over else None

    def wait(self, timeout_s: float) -> int:
        """Its status, once it ends; what it prints meanwhile is left to be read.

        Raises:
            TransportError: it did not end in time, or the connection broke.
        """
        with self._taking:
            self._take_until(lambda: False, time.monotonic() + timeout_s)
            if not self.is_over:
                raise not_in_time(self.name, timeout_s)
            return self._ended_with()

    def finish(self, stdin: bytes, deadline: float) -> Finished | None:
        """Feed it, take all it prints and wait for its end; None where that did not come in time."""
        if stdin:
            threading.Thread(target=self._feed, args=(stdin,), daemon=True).start()
        else:
            self.end_input()
        with self._taking:
            self._take_until(lambda: False, deadline)
            if not self.is_over:
                return None
            return Finished(self._ended_with(), bytes(self._output), bytes(self._errors))

    def stderr_tail(self) -> str:
        """The last of what it complained, at most 2,000 characters."""
        with self._taking:
            self._take_until(lambda: False, time.monotonic())
            return self._errors.decode(errors="replace")[-_TAIL:]

    def kill(self) -> None:
        """End it and all processes it started; safe to call when it has ended."""
        if self._mark and not self.is_over:
            with contextlib.suppress(TransportError):
                self._phone.sweep(self._mark)
                self.wait(_END_S)
        self.drop()

    def close(self) -> None:
        """End its input, give it a moment to end by itself, then kill it; safe to call twice."""
        if not self.is_over:
            self.end_input()
            with contextlib.suppress(TransportError):
                self.wait(_GRACE_S)
        self.kill()

    def drop(self) -> None:
        """Let go of its connection; safe to call twice."""
        self._ended = True
        # Who waits for it in another thread is woken up.
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def resize(self, columns: int, rows: int) -> None:
        """Tell a terminal its size."""
        self._send(_WINDOW, f"{rows}x{columns},0x0\0".encode())

    @property
    def is_over(self) -> bool:
        """Whether it ended, or its connection did."""
        return self._ended or self._status is not None

    def _ended_with(self) -> int:
        if self._status is None:
            raise self._phone.lost()
        return self._status

    def _feed(self, data: bytes) -> None:
        # A command need not read all it is given; that it ended is for the reader to see.
        with contextlib.suppress(TransportError):
            self.write(data)
        self.end_input()

    def _send(self, kind: int, data: bytes) -> None:
        with self._sending:
            if self.is_over:
                raise self._over()
            try:
                self._link.sendall(_HEAD.pack(kind, len(data)) + data)
            except TimeoutError:
                # Part of a packet may have left: nothing can follow it.
                self.drop()
                raise no_input(self.name, _WRITE_S) from None
            except OSError as error:
                raise self._over() from error

    def _over(self) -> TransportError:
        """Why nothing more comes or goes: it ended, or the connection did."""
        with self._taking:
            self._take_until(lambda: False, time.monotonic() + _END_S)
            if self._status is None:
                return self._phone.lost()
            return ended_with(self.name, self._status, self._errors.decode(errors="replace")[-_TAIL:])

    def _take_until(self, enough: Callable[[], bool], deadline: float) -> None:
        """Take packets until there is enough, it is over or the time is."""
        while not enough() and not self.is_over:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                if not select.select([self._link], [], [], left_s)[0]:
                    return
                data = self._link.recv(_CHUNK)
            except (OSError, ValueError):
                # Reset by the server, or let go of by another thread.
                data = b""
            self._ended = self._ended or not data
            self._pending += data
            self._unpack()

    def _unpack(self) -> None:
        at = 0
        while len(self._pending) - at >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._pending, at)
            if len(self._pending) - at < _HEAD.size + size:
                break
            data = self._pending[at + _HEAD.size : at + _HEAD.size + size]
            at += _HEAD.size + size
            if kind == _STDOUT:
                self._output += data
            elif kind == _STDERR:
                self._errors += data
            elif kind == _EXIT:
                self._status = data[0] if data else None
        del self._pending[:at]


class Adb:
    """A connection to a phone; see :class:`lab.transports.remote.Remote`.

    Threads may share it: each command has a connection of its own.

    Args:
        config: which phone.
        origin: ``file:line`` of the entry, for errors.

    Attributes:
        name: ``phone`` and its serial number or address.
    """

    def __init__(self, config: AdbDevice, origin: str = "") -> None:
        self._config = config
        self._address = config.address or ""
        self._serial = config.serial or self._address
        self.name = f"phone {self._serial}"
        self._mark = new_mark()
        self._numbers = itertools.count()
        self._living: set[AdbProcess] = set()
        self._forwards: list[int] = []
        self._server = AdbServer()
        try:
            self._around = self._connect(_READY_S)
        except TransportError as error:
            error.message = f"{origin}: {error.message}" if origin else error.message
            raise

    @property
    def folder(self) -> str:
        """Where the lab keeps its files on the phone, absolute."""
        return str(PurePosixPath(self._around.home, reveal(self._config.folder)))

    @property
    def boot_id(self) -> str:
        """The kernel's name for this boot; changes when the phone reboots, empty where it does not tell."""
        return self._around.boot_id

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        """Run a command to its end, whatever its status.

        Raises:
            ConfigError: no program can be given such arguments.
            TransportError: it did not end within ``timeout_s``: it and its process group were killed.
        """
        deadline = time.monotonic() + timeout_s
        process = self._start(argv)
        try:
            finished = process.finish(stdin, deadline)
            if finished is None:
                process.kill()
                raise overdue(process.name, argv, timeout_s)
            return finished
        finally:
            process.drop()

    def start(self, argv: Sequence[str]) -> AdbProcess:
        """Start a command that is spoken to while it runs.

        Raises:
            ConfigError, TransportError: as :meth:`run`.
        """
        process = self._start(argv)
        self._living = {one for one in self._living if not one.is_over} | {process}
        return process

    def terminal(self, kind: str, columns: int, rows: int) -> AdbProcess:
        """Start a shell in a terminal of a kind (``TERM``) and size, for people.

        Raises:
            TransportError: the connection broke.
        """
        process = AdbProcess(self, self._server.open(self._serial, f"shell,v2,TERM={kind},pty:"), "shell", "")
        process.resize(columns, rows)
        return process

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        """Put a file on the phone, whole or not at all; see :func:`lab.transports.remote_push.push_file`."""
        return push_file(self, source, destination, executable=executable)

    def pull(self, source: str, destination: Path) -> None:
        """Fetch a file; see :func:`lab.transports.remote_push.pull_file`."""
        pull_file(self, source, destination)

    def forward(self, port: int) -> int:
        """Pass a TCP port of this computer, on 127.0.0.1, on to a port of the phone until :meth:`close`; gives the
        port here.

        Raises:
            TransportError: the connection broke.
        """
        here = self._server.forward(self._serial, port)
        self._forwards.append(here)
        return here

    def reconnect(self, timeout_s: float) -> None:
        """Connect anew, waiting until the phone is back; what was running is lost, and killed where it still runs.

        Raises:
            PhoneUnauthorized: at once; waiting does not help.
            TransportError: it did not come back in time, with what was in the way last.
        """
        self._let_go()
        self._around = until_back(
            self._connect_anew, timeout_s, longest_pause_s=_LONGEST_PAUSE_S, hopeless=PhoneUnauthorized
        )
        self.sweep(self._mark)

    def close(self) -> None:
        """End all that runs and close the connection; safe to call twice.

        A phone by its address stays connected to the ADB server: others may use it.
        """
        if any(not one.is_over for one in self._living):
            with contextlib.suppress(TransportError):
                self.sweep(self._mark)
        for here in self._forwards:
            self._server.end_forward(self._serial, here)
        self._forwards.clear()
        self._let_go()

    def sweep(self, mark: str) -> None:
        """Kill all processes on the phone that carry a mark.

        Raises:
            TransportError: the connection broke.
        """
        self._run_line(kill_line(mark), _KILL_S)

    def lost(self) -> TransportError:
        """The error of a connection that broke: what the server says of the phone, where it knows."""
        try:
            self._server.wait_for(self._serial, 0.0)
        except TransportError as error:
            return error
        return TransportError(f"connection to {self.name} lost", transient=True)

    def __enter__(self) -> Adb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect_anew(self, left_s: float) -> Surroundings:
        if self._address:
            self._server.disconnect(self._address)
        return self._connect(min(_READY_S, left_s))

    def _connect(self, timeout_s: float) -> Surroundings:
        if self._address:
            self._server.connect(self._address)
        self._server.wait_for(self._serial, timeout_s)
        answer = self._run_line(probe_line(), _PROBE_S)
        return parse_probe(answer.stdout, answer.stderr, self.name)

    def _start(self, argv: Sequence[str]) -> AdbProcess:
        mark = numbered(self._mark, next(self._numbers))
        line = command_line(argv, mark, self._around.own_session)
        return self._process(line, argv[0], mark)

    def _process(self, line: str, program: str, mark: str) -> AdbProcess:
        return AdbProcess(self, self._server.open(self._serial, f"shell,v2,raw:{line}"), program, mark)

    def _run_line(self, line: str, limit_s: float) -> Finished:
        """Have the phone's shell run a line of our own, unmarked."""
        process = self._process(line, "the shell", "")
        try:
            finished = process.finish(b"", time.monotonic() + limit_s)
        finally:
            process.drop()
        if finished is None:
            raise unanswered(process.name, limit_s)
        return finished

    def _let_go(self) -> None:
        for process in self._living:
            process.drop()
        self._living.clear()
