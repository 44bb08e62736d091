"""The standard input and output of a process as a byte stream."""

from __future__ import annotations

import os
import select
import subprocess

from lab.errors import TransportError


class ProcessStream:
    """A child's pipes as a byte stream.

    Args:
        process: started with both pipes.
        name: what to call it in errors.
    """

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process must be started with pipes for standard input and output")
        self.name = name
        self._process = process
        self._input = process.stdin
        self._output = process.stdout

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        try:
            self._input.write(data)
            self._input.flush()
        except (OSError, ValueError) as error:
            raise self._broken(str(error)) from error

    def read(self, timeout_s: float) -> bytes:
        """Return what has arrived; wait up to ``timeout_s`` for the first byte."""
        if self._output.closed:
            raise self._broken("its pipe is closed")
        ready, _, _ = select.select([self._output], [], [], timeout_s)
        if not ready:
            return b""
        data = os.read(self._output.fileno(), 65536)
        if not data:
            raise self._broken("it closed its output")
        return data

    def close(self) -> None:
        """Close both pipes; safe to call twice."""
        for pipe in (self._input, self._output):
            try:
                pipe.close()
            except OSError:
                # Flushing into a pipe whose reader died; the process is gone either way.
                continue

    def _broken(self, what: str) -> TransportError:
        status = self._process.poll()
        ended = "" if status is None else f" (it ended with status {status})"
        return TransportError(f"{self.name} broke: {what}{ended}", transient=True)
