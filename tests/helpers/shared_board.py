"""A runner as a process of this computer on a line that several processes write to, as to one serial port."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.toolchain import tiny_model

from lab.build import build
from lab.paths import cache_dir


@dataclass(frozen=True)
class SharedLine:
    """One end of the line, a byte stream; every process that was forked has it as well.

    What is written at once (up to 4096 bytes, PIPE_BUF) stays together. What is read is gone for all others.
    """

    name: str
    to_board: int
    from_board: int

    def write(self, data: bytes) -> None:
        """Write all of ``data``."""
        os.write(self.to_board, data)

    def read(self, timeout_s: float) -> bytes:
        """What has arrived, after at most ``timeout_s``."""
        select.select([self.from_board], [], [], timeout_s)
        try:
            return os.read(self.from_board, 1 << 16)
        except BlockingIOError:
            # Nothing came, or somebody else was quicker.
            return b""

    def drain(self) -> None:
        """Throw away what nobody read, as opening a serial port does."""
        while self.read(0.0):
            pass

    def close(self) -> None:
        """The line is the test's."""


@cache
def runner() -> Path:
    """The runner of this computer with the tiny model."""
    return build(tiny_model(), "host", cache=cache_dir(), test_jobs=True).path


@contextlib.contextmanager
def shared_board(name: str) -> Iterator[SharedLine]:
    """A runner that lives as long as the context, whoever comes and goes on its line."""
    board_in, to_board = os.pipe()
    from_board, board_out = os.pipe()
    os.set_blocking(from_board, False)
    try:
        with subprocess.Popen([runner()], stdin=board_in, stdout=board_out) as process:
            try:
                yield SharedLine(name, to_board, from_board)
            finally:
                process.kill()
    finally:
        for descriptor in (board_in, to_board, from_board, board_out):
            os.close(descriptor)
