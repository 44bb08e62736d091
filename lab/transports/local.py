"""This computer as a :class:`lab.transports.remote.Remote`: the same code sets up and reads it as any other device."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from lab.child_environment import for_children
from lab.errors import ConfigError, DiskFull, InfrastructureError, TransportError
from lab.transports.remote import Finished, Pushed
from lab.transports.remote_command import MARK, check_arguments, kill_line, new_mark, numbered
from lab.transports.remote_push import MAKE_ROOM, replaced
from lab.transports.stdio import ProcessStream

_CHUNK = 1 << 18
_TAIL = 2000
_END_S = 5.0
_GRACE_S = 1.0
# What shells say for a program that is not there, and one that cannot be run (POSIX, Shell Command Language, 2.8.2).
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class LocalProcess:
    """A command that runs on this computer; see :class:`lab.transports.remote.RemoteProcess`.

    Args:
        argv: the command.
        folder: where it starts.
        mark: in its environment, by which all it started is found.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, argv: Sequence[str], folder: Path, mark: str) -> None:
        self.name = f"{argv[0]} on this computer"
        self._mark = mark
        self._process = _spawn(argv, folder, mark)
        self._stream = ProcessStream(self._process, self.name)
        self._complaints: deque[bytes] = deque(maxlen=64)
        self._taker = threading.Thread(target=self._take_errors, daemon=True)
        self._taker.start()

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        self._stream.write(data)

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte."""
        try:
            return self._stream.read(timeout_s)
        except TransportError:
            # Its end is seen at its output a moment before it can be waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            raise

    def end_input(self) -> None:
        """Close its standard input; what it prints can still be read."""
        if self._process.stdin is not None:
            # What was still to be written has no reader any more.
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def poll(self) -> int | None:
        """Its status, None while it runs."""
        status = self._process.poll()
        return None if status is None else _as_shells_say(status)

    def wait(self, timeout_s: float) -> int:
        """Its status, once it ends.

        Raises:
            TransportError: it did not end in time.
        """
        try:
            return _as_shells_say(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"{self.name} did not end within {timeout_s:g} s", transient=True) from error

    def stderr_tail(self) -> str:
        """The last of what it complained, at most 2,000 characters."""
        if self._process.poll() is not None:
            self._taker.join(_END_S)
        return b"".join(self._complaints).decode(errors="replace")[-_TAIL:]

    def kill(self) -> None:
        """End it and all processes it started; safe to call when it has ended."""
        _kill(self._mark, self._process)
        self._stream.close()

    def close(self) -> None:
        """End its input, give it a moment to end by itself, then kill it; safe to call twice."""
        self.end_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()

    def _take_errors(self) -> None:
        pipe = cast("IO[bytes]", self._process.stderr)
        with pipe:
            while data := os.read(pipe.fileno(), _TAIL):
                self._complaints.append(data)


class LocalRemote:
    """This computer; see :class:`lab.transports.remote.Remote`.

    Args:
        folder: where commands start and what destinations are relative to; the user's home where left out.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.name = "this computer"
        self._folder = folder or Path.home()
        self._mark = new_mark()
        self._numbers = itertools.count()
        self._living: list[LocalProcess] = []

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        """Run a command to its end, whatever its status.

        Raises:
            ConfigError: no program can be given such arguments.
            TransportError: it did not end within ``timeout_s``: it and all it started were killed.
        """
        check_arguments(argv)
        mark = numbered(self._mark, next(self._numbers))
        try:
            process = _spawn(argv, self._folder, mark)
        except OSError as error:
            return _not_started(argv[0], error)
        try:
            output, complaint = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill(mark, process)
            process.communicate()
            raise TransportError(
                f"{argv[0]} on this computer did not end within {timeout_s:g} s; it and what it started were killed: "
                f"{shlex.join(argv)[:200]}",
                transient=True,
            ) from error
        return Finished(_as_shells_say(process.returncode), output, complaint)

    def start(self, argv: Sequence[str]) -> LocalProcess:
        """Start a command that is spoken to while it runs.

        Raises:
            ConfigError: no program can be given such arguments.
            TransportError: there is no such program, or it cannot be run here.
        """
        check_arguments(argv)
        try:
            process = LocalProcess(argv, self._folder, numbered(self._mark, next(self._numbers)))
        except OSError as error:
            raise TransportError(f"{argv[0]} on this computer cannot be started: {error.strerror}") from error
        self._living = [*(one for one in self._living if one.poll() is None), process]
        return process

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        """Copy a file, whole or not at all, unless it lies there already.

        Raises:
            ConfigError: the source cannot be read, or the destination is no name of a file.
            DiskFull: no room.
            InfrastructureError: the destination cannot be written.
        """
        check_arguments(("push", destination))
        target = self._folder / destination
        mode = 0o755 if executable else 0o644
        try:
            digest, size = _digest(source)
        except OSError as error:
            raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
        try:
            if target.is_file() and target.stat().st_size == size and _digest(target)[0] == digest:
                target.chmod(mode)
                return Pushed(str(target), size, 0)
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as file, replaced(target, mode) as write:
                while data := file.read(_CHUNK):
                    write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"{target}: {size} bytes do not fit: {error.strerror}", hint=MAKE_ROOM) from error
            raise InfrastructureError(f"{target}: cannot be written: {error.strerror}") from error
        return Pushed(str(target), size, size)

    def pull(self, source: str, destination: Path) -> None:
        """Copy a file; the destination appears whole or not at all.

        Raises:
            TransportError: it is not there, or may not be read.
            ConfigError: the destination cannot be written, or the source is no name of a file.
        """
        check_arguments(("pull", source))
        try:
            data = (self._folder / source).read_bytes()
        except OSError as error:
            raise TransportError(f"{source} on this computer: {error.strerror}") from error
        try:
            with replaced(destination) as write:
                write(data)
        except OSError as error:
            raise ConfigError(f"{destination}: cannot be written: {error.strerror}") from error

    def reconnect(self, timeout_s: float) -> None:
        """End what runs: there is no connection that could be lost."""
        self.close()

    def close(self) -> None:
        """End all that runs; safe to call twice."""
        for process in self._living:
            process.kill()
        self._living.clear()


def _spawn(argv: Sequence[str], folder: Path, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=for_children(**{MARK: mark}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _as_shells_say(status: int) -> int:
    return 128 - status if status < 0 else status


def _not_started(program: str, error: OSError) -> Finished:
    missing = error.errno == errno.ENOENT
    return Finished(_NOT_FOUND if missing else _NOT_EXECUTABLE, b"", f"{program}: {error.strerror}".encode())


def _kill(mark: str, process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its group and all that carries its mark."""
    # A group whose leader was waited for may be somebody else's by now.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(("sh", "-c", kill_line(mark)), stdin=subprocess.DEVNULL, check=False)
    process.wait()


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
