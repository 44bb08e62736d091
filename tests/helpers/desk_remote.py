"""A remote device that is a folder and processes of this computer; its connection can be cut and its files spoilt."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.errors import InfrastructureError, TransportError
from lab.transports.remote import Finished, Pushed
from lab.transports.stdio import ProcessStream


class DeskProcess(ProcessStream):
    """A process, killed with its group; breaks when the connection is cut."""

    def __init__(self, remote: DeskRemote, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            list(argv), cwd=remote.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            start_new_session=True, env=remote.environment,
        )  # fmt: skip
        super().__init__(self.process, f"{argv[0]} on {remote.name}")
        self._remote = remote

    def write(self, data: bytes) -> None:
        self._remote.check()
        super().write(data)

    def read(self, timeout_s: float) -> bytes:
        self._remote.check()
        return super().read(timeout_s)

    def poll(self) -> int | None:
        self._remote.check()
        status = self.process.poll()
        return status if status is None or status >= 0 else 128 - status

    def wait(self, timeout_s: float) -> int:
        self.process.wait(timeout_s)
        return self.poll() or 0

    def stderr_tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 2000))
        return self._stderr.read().decode(errors="replace")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        super().close()
        self.kill()


class DeskRemote:
    """This computer as a remote.

    Args:
        home: the user's folder there.
        answers: commands that are answered by the test in place of this computer, by their first words.
    """

    def __init__(self, home: Path, answers: dict[tuple[str, ...], Callable[[], Finished]] | None = None) -> None:
        self.name = "desk"
        self.home = home
        self.environment = {**os.environ, "HOME": str(home)}
        self.answers = answers or {}
        self.connected = True
        self.comes_back = True
        self.full = False
        self.said: list[tuple[str, ...]] = []
        self.sent: list[str] = []
        self.processes: list[DeskProcess] = []
        self.reconnections = 0

    def check(self) -> None:
        if not self.connected:
            raise TransportError(f"{self.name}: the connection is lost", transient=True)

    def cut(self, *, comes_back: bool = True) -> None:
        """Break the connection; what ran over it ends."""
        self.connected, self.comes_back = False, comes_back
        self._end_all()

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        self.check()
        self.said.append(tuple(argv))
        for words, answer in self.answers.items():
            if tuple(argv[: len(words)]) == words:
                return answer()
        done = subprocess.run(
            list(argv), cwd=self.home, input=stdin, capture_output=True, timeout=timeout_s, check=False,
            env=self.environment,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(self, argv: Sequence[str]) -> DeskProcess:
        self.check()
        self.processes.append(DeskProcess(self, argv))
        return self.processes[-1]

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        self.check()
        if self.full:
            raise InfrastructureError(f"{self.name}: no room for {source.name}", hint="free some space there")
        target = self.home / destination
        size = source.stat().st_size
        if target.exists() and _digest(target) == _digest(source):
            return Pushed(str(target), size, 0)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if executable else 0o644)
        self.sent.append(str(target.relative_to(self.home)))
        return Pushed(str(target), size, size)

    def pull(self, source: str, destination: Path) -> None:
        self.check()
        shutil.copyfile(self.home / source, destination)

    def reconnect(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if not self.comes_back and time.monotonic() < deadline:
            raise TransportError(f"{self.name} did not come back", transient=True)
        self._end_all()
        self.connected = True
        self.reconnections += 1

    def close(self) -> None:
        self._end_all()
        self.connected = False

    def _end_all(self) -> None:
        for process in self.processes:
            process.kill()
        self.processes.clear()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
