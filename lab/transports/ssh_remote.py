"""A device behind SSH as a :class:`lab.transports.remote.Remote`."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import paramiko

from lab.config_fields import reveal
from lab.connection_config import SshHost
from lab.errors import HostKeyChanged, TransportError
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
from lab.transports.ssh_connect import Connection

_CHUNK = 1 << 20
_PACKET = 1 << 15
_TAIL = 2000
_PROBE_S = 30.0
_WRITE_S = 60.0
_SLICE_S = 1.0
# Complaints are looked for so often: they share a window with the output, which is 2 MiB, and would fill it.
_TAKE_S = 0.05
_END_S = 5.0
_GRACE_S = 1.0
_KILL_S = 15.0
_EXEC_TRIES = 5
_DROPBEAR = "dropbear"
_LONGEST_PAUSE_S = 5.0


class SshProcess:
    """A command that runs on the device; see :class:`lab.transports.remote.RemoteProcess`.

    Args:
        connection: on which it was started.
        channel: its own.
        program: the program's name, for errors.
        mark: by which it is found and killed; empty where it ends with its channel.
    """

    def __init__(self, connection: Connection, channel: paramiko.Channel, program: str, mark: str) -> None:
        self.name = f"{program} on {connection.name}"
        self._connection = connection
        self._channel = channel
        self._mark = mark
        self._complaints: deque[bytes] = deque(maxlen=64)

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        at, deadline = 0, time.monotonic() + _WRITE_S
        while at < len(data):
            self._channel.settimeout(_SLICE_S)
            try:
                at += self._channel.send(data[at : at + _PACKET])
            except TimeoutError:
                self._drain()
                if time.monotonic() > deadline:
                    raise no_input(self.name, _WRITE_S) from None
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._ended() from error

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte."""
        self._drain()
        data = self._receive(timeout_s)
        if data == b"":
            raise self._ended()
        return data or b""

    def _receive(self, timeout_s: float) -> bytes | None:
        """What has arrived, None where nothing came in time, empty at the end."""
        self._channel.settimeout(max(timeout_s, 0.0))
        try:
            return self._channel.recv(_CHUNK)
        except TimeoutError:
            return None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._connection.lost(error) from error

    def end_input(self) -> None:
        """Close its standard input; what it prints can still be read."""
        # It may have ended already, and the connection with it: that shows in what is read.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def poll(self) -> int | None:
        """Its status, None while it runs."""
        self._drain()
        return self._status() if self._channel.exit_status_ready() else None

    def wait(self, timeout_s: float) -> int:
        """Its status, once it ends; what it prints meanwhile is left to be read.

        Raises:
            TransportError: it did not end in time, or the connection broke.
        """
        deadline = time.monotonic() + timeout_s
        while not self._channel.status_event.wait(max(0.0, min(_SLICE_S, deadline - time.monotonic()))):
            self._drain()
            if time.monotonic() >= deadline:
                raise not_in_time(self.name, timeout_s)
        return self._status()

    def finish(self, stdin: bytes, deadline: float) -> Finished | None:
        """Feed it, take all it prints and wait for its end; None where that did not come in time."""
        if stdin:
            threading.Thread(target=self._feed, args=(stdin,), daemon=True).start()
        else:
            self.end_input()
        output, errors = bytearray(), bytearray()
        while (data := self._receive(min(_TAKE_S, deadline - time.monotonic()))) != b"":
            if data is None and time.monotonic() >= deadline:
                return None
            output += data or b""
            self._take_errors(errors)
        # A command may close its output and go on.
        while not self._channel.status_event.wait(max(0.0, min(_TAKE_S, deadline - time.monotonic()))):
            self._take_errors(errors)
            if time.monotonic() >= deadline:
                return None
        self._take_errors(errors)
        self._channel.close()
        return Finished(self._status(), bytes(output), bytes(errors))

    def stderr_tail(self) -> str:
        """The last of what it complained, at most 2,000 characters."""
        self._drain()
        return b"".join(self._complaints).decode(errors="replace")[-_TAIL:]

    def kill(self) -> None:
        """End it and all processes it started; safe to call when it has ended."""
        if self._mark and not self._channel.closed and self._connection.transport.is_active():
            with contextlib.suppress(TransportError):
                _sweep(self._connection, self._mark)
                self._channel.status_event.wait(_END_S)
        self._channel.close()

    def close(self) -> None:
        """End its input, give it a moment to end by itself, then kill it; safe to call twice."""
        if not self._channel.closed:
            self.end_input()
            self._channel.status_event.wait(_GRACE_S)
        self.kill()

    def _feed(self, data: bytes) -> None:
        # A command need not read all it is given; that it ended is for the reader to see.
        with contextlib.suppress(TransportError):
            self.write(data)
        self.end_input()

    def _take_errors(self, errors: bytearray) -> None:
        while self._channel.recv_stderr_ready():
            errors += self._channel.recv_stderr(_CHUNK)

    def _drain(self) -> None:
        """Take what it complained: what lies there unread would hold up its output in the end."""
        while self._channel.recv_stderr_ready():
            self._complaints.append(self._channel.recv_stderr(_PACKET))

    def _status(self) -> int:
        status = self._channel.exit_status
        if status < 0:
            raise self._connection.lost(EOFError(f"its server ended {self.name} without a status"))
        return status

    def _ended(self) -> TransportError:
        """Why no more comes: it ended, or the connection did."""
        self._channel.status_event.wait(_END_S)
        if self._channel.exit_status < 0:
            return self._connection.lost()
        return ended_with(self.name, self._channel.exit_status, self.stderr_tail())


class Ssh:
    """A connection to a device over SSH; see :class:`lab.transports.remote.Remote`.

    Threads may share it: each command has a channel of its own.

    Args:
        config: who, where and with which keys.
        origin: ``file:line`` of the entry, for errors.

    Attributes:
        name: ``user@host:port``.
    """

    def __init__(self, config: SshHost, origin: str = "") -> None:
        self._config = config
        self._origin = origin
        self._mark = new_mark()
        self._numbers = itertools.count()
        self._living: set[SshProcess] = set()
        self._connection, self._around = self._connect()
        self.name = self._connection.name
        # Dropbear (2022.83) mixes up its channels, and dies, where one opens in the moment in which another closes.
        alone = _DROPBEAR in self._connection.transport.remote_version
        self._turn: contextlib.AbstractContextManager[object] = threading.Lock() if alone else contextlib.nullcontext()

    @property
    def folder(self) -> str:
        """Where the lab keeps its files on the device, absolute."""
        return str(PurePosixPath(self._around.home, reveal(self._config.folder)))

    @property
    def boot_id(self) -> str:
        """The kernel's name for this boot; changes when the device reboots, empty where its system does not tell."""
        return self._around.boot_id

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        """Run a command to its end, whatever its status.

        Raises:
            ConfigError: no program can be given such arguments.
            TransportError: it did not end within ``timeout_s``: it and its process group were killed.
        """
        with self._turn:
            return self._run(argv, timeout_s, stdin)

    def _run(self, argv: Sequence[str], timeout_s: float, stdin: bytes) -> Finished:
        deadline = time.monotonic() + timeout_s
        process = self._start(argv)
        finished = process.finish(stdin, deadline)
        if finished is None:
            process.kill()
            raise overdue(process.name, argv, timeout_s)
        return finished

    def start(self, argv: Sequence[str]) -> SshProcess:
        """Start a command that is spoken to while it runs.

        Raises:
            ConfigError, TransportError: as :meth:`run`.
        """
        process = self._start(argv)
        self._living = {one for one in self._living if not one._channel.closed} | {process}
        return process

    def terminal(self, kind: str, columns: int, rows: int) -> SshProcess:
        """Start the user's shell in a terminal of a kind (``TERM``) and size, for people.

        Raises:
            TransportError: the connection broke, or the server gives no terminals.
        """
        try:
            channel = self._connection.open_channel()
            channel.get_pty(kind, columns, rows)
            channel.invoke_shell()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._connection.lost(error) from error
        return SshProcess(self._connection, channel, "shell", "")

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        """Put a file on the device, whole or not at all; see :func:`lab.transports.remote_push.push_file`."""
        return push_file(self, source, destination, executable=executable)

    def pull(self, source: str, destination: Path) -> None:
        """Fetch a file; see :func:`lab.transports.remote_push.pull_file`."""
        pull_file(self, source, destination)

    def reconnect(self, timeout_s: float) -> None:
        """Connect anew, waiting until the device is back; what was running is lost, and killed where it still runs.

        Raises:
            HostKeyChanged, HostKeyUnknown, ConfigError: at once; waiting does not help.
            TransportError: it did not come back in time, with what was in the way last.
        """
        self._connection.close()
        self._living.clear()
        # Servers that just booted let nobody in for a while (pam_nologin): that is waited for as well.
        self._connection, self._around = until_back(
            lambda _: self._connect(), timeout_s, longest_pause_s=_LONGEST_PAUSE_S, hopeless=HostKeyChanged
        )
        _sweep(self._connection, self._mark)

    def close(self) -> None:
        """End all that runs and close the connection; safe to call twice."""
        if self._living and self._connection.transport.is_active():
            with contextlib.suppress(TransportError):
                _sweep(self._connection, self._mark)
        self._living.clear()
        self._connection.close()

    def __enter__(self) -> Ssh:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> tuple[Connection, Surroundings]:
        connection = Connection(self._config, self._origin)
        with contextlib.ExitStack() as opened:
            opened.callback(connection.close)
            answer = _run_line(connection, probe_line(), _PROBE_S)
            around = parse_probe(answer.stdout, answer.stderr, connection.name)
            opened.pop_all()
        return connection, around

    def _start(self, argv: Sequence[str]) -> SshProcess:
        mark = numbered(self._mark, next(self._numbers))
        line = command_line(argv, mark, self._around.own_session)
        return SshProcess(self._connection, _exec(self._connection, line), argv[0], mark)


def _exec(connection: Connection, line: str) -> paramiko.Channel:
    """A channel on which the server runs a line."""
    why: Exception | None = None
    for _ in range(_EXEC_TRIES):
        try:
            channel = connection.open_channel()
            channel.exec_command(os.fsencode(line))
            return channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            why = error
        # Dropbear (2022.83) may close a new channel while it ends another; it then has run nothing, or it would have
        # said so first (RFC 4254, 6.5).
        if not connection.transport.is_active():
            raise connection.lost(why) from why
    raise TransportError(
        f"{connection.name} lets its user in and runs no commands: {why}",
        hint="does its authorized_keys or sshd_config force a command, or allow file transfers only?",
    )


def _run_line(connection: Connection, line: str, limit_s: float) -> Finished:
    """Have the user's shell run a line of our own, unmarked."""
    process = SshProcess(connection, _exec(connection, line), "the shell", "")
    finished = process.finish(b"", time.monotonic() + limit_s)
    if finished is None:
        raise unanswered(process.name, limit_s)
    return finished


def _sweep(connection: Connection, mark: str) -> None:
    """Kill all processes that carry a mark."""
    _run_line(connection, kill_line(mark), _KILL_S)
