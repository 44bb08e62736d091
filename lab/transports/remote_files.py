"""Files and commands of a device with an operating system, at the seams where meters and sensors read."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Sequence

from lab.errors import MeterError, TransportError
from lab.transports.remote import Remote, RemoteProcess
from lab.transports.remote_command import new_mark

_ANSWER_S = 15.0
_COMMAND_S = 30.0

# What other C libraries (musl, bionic) and shells say for the same numbers.
_OTHER_WORDS = {"Resource busy": errno.EBUSY, "I/O error": errno.EIO, "Not permitted": errno.EPERM}


def _numbers() -> dict[str, int]:
    """The kernel's numbers by what ``strerror`` calls them."""
    return {**{os.strerror(number): number for number in errno.errorcode}, **_OTHER_WORDS}


class RemoteFiles:
    """Files of a device, read through one shell that stays: a read costs a round trip and no new command on it.

    It satisfies :class:`lab.power.sysfs.Files`. Threads may share it.

    Args:
        remote: the device.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._lock = threading.Lock()
        self._shell: RemoteProcess | None = None
        self._word = f"lab-{new_mark()}"
        self._counts = itertools.count()
        self._known = _numbers()

    def read_text(self, path: str) -> str:
        """The whole of a file.

        Raises:
            OSError: with the kernel's number.
            TransportError: the connection broke.
        """
        text = self.read_many((path,))[0]
        if isinstance(text, OSError):
            raise text
        return text

    def read_many(self, paths: Sequence[str]) -> list[str | OSError]:
        """The whole of several files, in one round trip; what could not be read is the error in its place.

        Raises:
            TransportError: the connection broke.
        """
        answers = self._ask([f"cat -- {shlex.quote(path)}" for path in paths])
        return [
            _decode(output) if status == 0 else self._error(output, path)
            for path, (status, output) in zip(paths, answers, strict=True)
        ]

    def names(self, folder: str) -> Sequence[str]:
        """Names in a folder, sorted.

        Raises:
            OSError: with the kernel's number; EIO where the device names what is a path.
            TransportError: the connection broke.
        """
        # The dot makes a link to a folder the folder, and a file an error.
        status, output = self._ask([f"ls -1A -- {shlex.quote(folder.rstrip('/') + '/.')}"])[0]
        if status:
            raise self._error(output, folder)
        found = sorted(name for name in _decode(output).split("\n") if name)
        for name in found:
            if "/" in name or name in (".", ".."):
                # No folder holds such a name: whoever joins it to a path would leave the folder.
                raise OSError(errno.EIO, f"the device names {name!r} in it, which is a path", folder)
        return found

    def resolve(self, path: str) -> str:
        """The path without symbolic links; as it is where it leads nowhere.

        Raises:
            TransportError: the connection broke.
        """
        status, output = self._ask([f"readlink -f -- {shlex.quote(path)}"])[0]
        return _decode(output).removesuffix("\n") if status == 0 and output else path

    def close(self) -> None:
        """End the shell; the next read starts another. Safe to call twice."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    def _ask(self, lines: Sequence[str]) -> list[tuple[int, bytes]]:
        """Status of each command and what it printed, complaints included."""
        if not lines:
            return []
        with self._lock:
            if self._shell is None:
                self._shell = self._remote.start(("sh",))
                self._shell.write(b"LC_ALL=C; export LC_ALL\n")
            word = f"{self._word}-{next(self._counts)}"
            script = "".join(f"{line} </dev/null 2>&1; printf '\\n{word} %d\\n' $?\n" for line in lines)
            try:
                self._shell.write(script.encode())
                return self._answers(self._shell, re.compile(rf"\n{word} (\d+)\n".encode()), len(lines))
            except TransportError:
                self._end()
                raise

    def _answers(self, shell: RemoteProcess, end: re.Pattern[bytes], count: int) -> list[tuple[int, bytes]]:
        answers: list[tuple[int, bytes]] = []
        pending, deadline = b"", time.monotonic() + _ANSWER_S
        while len(answers) < count:
            data = shell.read(max(0.0, deadline - time.monotonic()))
            if not data:
                raise TransportError(f"{shell.name} did not answer within {_ANSWER_S:g} s", transient=True)
            pending += data
            while (found := end.search(pending)) is not None:
                answers.append((int(found[1]), pending[: found.start()]))
                pending = pending[found.end() :]
        return answers

    def _error(self, output: bytes, path: str) -> OSError:
        said = _decode(output).strip().rsplit("\n", 1)[-1]
        words = said.rsplit(": ", 1)[-1]
        return OSError(self._known.get(words, errno.EIO), words or "cannot be read", path)


def shell_of(remote: Remote) -> Callable[[Sequence[str]], str]:
    """A device's shell as the battery meter of :mod:`lab.power.android` wants it.

    The function raises :class:`lab.errors.MeterError` (transient) where the device cannot be reached.
    """

    def run(arguments: Sequence[str]) -> str:
        try:
            return remote.run(arguments, timeout_s=_COMMAND_S).stdout.decode(errors="replace")
        except TransportError as error:
            raise MeterError(error.message, hint=error.hint, transient=error.transient) from error

    return run


def _decode(data: bytes) -> str:
    return data.decode(errors="replace")
