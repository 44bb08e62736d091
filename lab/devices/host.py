"""The machine the lab runs on: the same runner and the same generated C as a local process."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

from lab.artifact import Artifact
from lab.devices.base import Identity, ResetKind, Rung
from lab.emulators.process import end, spawn
from lab.errors import ConfigError, Crash, ProtocolError
from lab.events import Event, Hello, Job
from lab.transports.stdio import ProcessStream
from lab.wire import Session


class Host:
    """The runner as a child process, spoken to over its standard input and output."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: ProcessStream | None = None
        self._session: Session | None = None
        self._artifact: Artifact | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def deploy(self, artifact: Artifact) -> Hello:
        """Start the runner and open a session with it."""
        if artifact.board != self.identity.board:
            raise ConfigError(
                f"{self.identity.name} is a {self.identity.board}; the image was built for {artifact.board}",
                hint=f"build it with board={self.identity.board!r}",
            )
        self._end()
        self._artifact = artifact
        self._process = spawn(
            [artifact.path], cwd=artifact.path.parent, log=self._log, stdin_pipe=True, stdout_pipe=True
        )
        self._stream = ProcessStream(self._process, f"runner process {self._process.pid}")
        self._session = Session(self._stream, board_is_alive=self._check_alive)
        return self._session.open(build_id=artifact.build_id, ask=False)

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job; a runner that dies is a crash, with what it said last."""
        if self._session is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        if self._session.unfinished_job:
            self._session.open(build_id=self._deployed().build_id)
        self._session.put_all(job.all_blobs)
        yield from self._session.run(job, silence_s)

    def reset(self, kind: ResetKind) -> Hello:
        """Start the runner anew; a process knows one kind of reset."""
        return self.deploy(self._deployed())

    def recover(self) -> Rung:
        """Start the runner anew."""
        self.reset("power")
        return "re-deploy"

    def meter(self) -> None:
        """A process has no supply of its own."""

    def close(self) -> None:
        """End the runner; safe to call twice."""
        self._end()
        self._log.close()

    def _deployed(self) -> Artifact:
        if self._artifact is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        return self._artifact

    def _check_alive(self) -> None:
        status = None if self._process is None else self._process.poll()
        if status is not None:
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - 2000))
            words = self._log.read().decode(errors="replace").strip()
            raise Crash(f"the runner process ended with status {status}: {words or '(it said nothing)'}")

    def _end(self) -> None:
        self._session = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._process is not None:
            end(self._process)
            self._process = None
