"""An inner pytest session that tells when it has reached a place and waits there, to be sent signals."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

REACH = '''
import os
import time

def reach(word):
    """Tell the test outside, and wait for a signal."""
    with open(os.environ["REACHED"], "w") as told:
        told.write(word + "\\n")
    while True:
        time.sleep(0.05)

def reach_and_go_on(word):
    """Tell the test outside, and wait until it says so."""
    with open(os.environ["REACHED"], "w") as told:
        told.write(word + "\\n")
    with open(os.environ["GO_ON"]) as told:
        told.read()
'''
"""For the inner session's files."""

_LONGEST_S = 120.0


class InnerSession:
    """A context manager; kills what is left at its end.

    Args:
        folder: holds the tests.
        environment: whole environment.
        arguments: for pytest, or for ``program``.
        program: what Python runs in place of pytest.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *arguments: str, program: Path | None = None
    ) -> None:
        self._folder = folder
        # Sockets lie in there, and their paths have to be short; pytest's own folders are not, in a worker of xdist.
        self._temporary = Path(tempfile.mkdtemp(prefix="inner-"))
        for name in ("reached", "go_on"):
            os.mkfifo(folder / name)
        self._reached = os.open(folder / "reached", os.O_RDWR | os.O_NONBLOCK)
        self._environment = {
            **environment, "REACHED": str(folder / "reached"), "GO_ON": str(folder / "go_on"),
            "TMPDIR": str(self._temporary),
        }  # fmt: skip
        started = ["-m", "pytest", "-p", "no:cacheprovider"] if program is None else [str(program)]
        self._command = [sys.executable, *started, *arguments]
        self._log = (folder / "output").open("wb")
        self.children: set[int] = set()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=self._folder, env=self._environment, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        return self

    def __exit__(self, *ending: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        os.close(self._reached)
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Process id of pytest."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it printed."""
        return (self._folder / "output").read_text(errors="replace")

    def wait_for(self, word: str) -> None:
        """Wait until it says that it is somewhere; notes which processes it has then."""
        ready = select.select([self._reached], [], [], _LONGEST_S)[0]
        said = os.read(self._reached, 100).decode().strip() if ready else "nothing"
        assert said == word, f"it said {said!r}, expected {word!r}:\n{self.output}"
        self.children |= descendants(self._process.pid)

    def wait_printed(self, text: str) -> None:
        """Wait until it has printed something."""
        until = time.monotonic() + _LONGEST_S
        while text not in self.output:
            assert time.monotonic() < until, f"it never printed {text!r}:\n{self.output}"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to pytest's own process, and to no other."""
        os.kill(self._process.pid, number)

    def go_on(self) -> None:
        """Let it go on from where it waits."""
        with (self._folder / "go_on").open("w"):
            pass

    def ended(self) -> int:
        """Its exit status."""
        return self._process.wait(_LONGEST_S)

    def left_over(self) -> list[str]:
        """Processes it had that still run, and files it left in the folder for temporary ones."""
        alive = [f"process {pid}: {_command(pid)}" for pid in self.children if _command(pid)]
        return alive + [str(path) for path in self._temporary.glob("lab-*")]


def descendants(ancestor: int) -> set[int]:
    """Processes below one (proc(5): the parent is the second field behind the name)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [ancestor]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return set(found[1:])


def _command(pid: int) -> str:
    """Command line of a process that runs; empty for one that ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
