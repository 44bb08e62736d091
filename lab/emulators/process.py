"""Child processes that never outlive the lab, not even when it is killed with -9."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.child_environment import for_children
from lab.errors import EmulatorError, ToolMissing
from lab.system_packages import install


@dataclass(frozen=True)
class _Request:
    args: tuple[str, ...]
    cwd: Path
    log: IO[bytes]
    stdin_pipe: bool
    stdout_pipe: bool
    environment: Mapping[str, str] | None
    answer: Future[subprocess.Popen[bytes]]


class _Spawner:
    """Starts every child from one thread that lives as long as the process.

    Linux sends the parent-death signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), so a child
    started from a short-lived worker thread would be killed at once with it.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, request: _Request) -> subprocess.Popen[bytes]:
        with self._lock:
            # A fork of the lab (a pytest plugin, multiprocessing) inherits the object but not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="lab-spawner", daemon=True)
                self._thread.start()
        self._requests.put(request)
        return request.answer.result()

    def _serve(self) -> None:
        while True:
            request = self._requests.get()
            try:
                request.answer.set_result(
                    subprocess.Popen(
                        request.args,
                        cwd=request.cwd,
                        env=for_children() if request.environment is None else dict(request.environment),
                        stdin=subprocess.PIPE if request.stdin_pipe else subprocess.DEVNULL,
                        stdout=subprocess.PIPE if request.stdout_pipe else request.log,
                        stderr=request.log,
                        start_new_session=True,
                    )
                )
            except OSError as error:
                request.answer.set_exception(error)


_spawner = _Spawner()


def spawn(
    args: Sequence[str | Path],
    *,
    cwd: Path,
    log: IO[bytes],
    stdin_pipe: bool = False,
    stdout_pipe: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when this process dies.

    Args:
        args: program and arguments.
        cwd: working directory.
        log: open binary file for standard error, and for standard output unless ``stdout_pipe``.
        stdin_pipe, stdout_pipe: whether to connect these to pipes; standard input is ``/dev/null`` otherwise.
        environment: whole environment of the child; None for this process's without its secrets.

    Raises:
        ToolMissing: the program, or util-linux's ``setpriv``, is not installed.
        EmulatorError: the system refused to start it.
    """
    program = str(args[0])
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(f"{program} is not installed", hint="`lab doctor` says how to get it")
    guard = shutil.which("setpriv")
    if guard is None:
        way_out = install("util-linux") if sys.platform == "linux" else "it exists on Linux only"
        raise ToolMissing("setpriv is not installed", hint=way_out)
    request = _Request(
        (guard, "--pdeathsig", "KILL", "--", os.path.abspath(found), *map(str, args[1:])),
        cwd,
        log,
        stdin_pipe,
        stdout_pipe,
        environment,
        Future(),
    )
    try:
        return _spawner.start(request)
    except OSError as error:
        raise EmulatorError(f"{program} could not be started: {error}", transient=True) from error


def end(process: subprocess.Popen[bytes], *, grace_s: float = 0.0) -> int:
    """End a child and return its exit status; asks with SIGTERM first where ``grace_s`` is positive."""
    if process.poll() is None and grace_s > 0:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    elif process.poll() is None:
        process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # What was still to be written has no reader any more.
            with contextlib.suppress(OSError):
                pipe.close()
    return status
