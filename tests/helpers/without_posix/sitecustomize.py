"""Takes from a Python on Linux what Python has not on Windows, where third-party packages allow it.

Used as a folder of PYTHONPATH. Packages that choose by the platform's name are imported before: their Windows half is
theirs to test. The kernel's lock, which filelock reaches by LockFileEx there, is flock with its rules.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn, Protocol

MODULES = frozenset(
    # The last one is not of the system: the extra emulate-pip does not bring it.
    {"fcntl", "termios", "tty", "pty", "resource", "grp", "pwd", "readline", "syslog", "crypt", "pyocd"}
)
NAMES = {
    os: (
        "fork", "forkpty", "openpty", "killpg", "getpgid", "setsid", "getuid", "geteuid", "getgid", "mkfifo", "mknod",
        "chown", "fchmod", "set_blocking", "ttyname", "sched_getaffinity", "getloadavg", "nice",
        "major", "minor", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "lockf", "pread", "EX_OK",
    ),
    socket: ("AF_UNIX", "TCP_QUICKACK", "MSG_DONTWAIT"),
    signal: ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGALRM", "SIGHUP", "SIGUSR1", "setitimer", "ITIMER_REAL"),
    time: ("clock_gettime", "clock_gettime_ns", "CLOCK_MONOTONIC", "CLOCK_REALTIME", "tzset"),
}  # fmt: skip
ERROR_PRIVILEGE_NOT_HELD = 1314


class Finder(Protocol):
    """What is used of a finder of ``sys.meta_path``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Where a module is; None where this finder has none."""
        ...


class Without:
    """A finder that does not find what is missing."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the finder's own."""
        return None if name in MODULES else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> object:
        return getattr(self._finder, name)


def refuse_link(*arguments: object, **options: object) -> NoReturn:
    """Nobody but an administrator makes links."""
    error = OSError(errno.EINVAL, "a required privilege is not held by the client")
    error.winerror = ERROR_PRIVILEGE_NOT_HELD  # type: ignore[attr-defined]
    raise error


def lock_descriptor(descriptor: int, *, blocking: bool = True, poll_interval: float = 0.05) -> bool:
    """What filelock does on Windows: exclusive, and waiting is trying again."""
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if not blocking:
            return False
        time.sleep(poll_interval)


def take_away() -> None:
    """Make this process poorer."""
    import subprocess

    import filelock
    import serial.tools.list_ports

    assert serial.tools.list_ports

    subprocess.Popen.kill = subprocess.Popen.terminate  # type: ignore[method-assign]  # so it is there
    filelock.lock_descriptor = lock_descriptor
    for module, names in NAMES.items():
        for name in names:
            vars(module).pop(name, None)
    os.symlink = refuse_link
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    # The encoding of the system is another one there: none may be left to it.
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(lab|measurements|fixtures)(\.|$)")


if __name__ == "sitecustomize":
    take_away()
