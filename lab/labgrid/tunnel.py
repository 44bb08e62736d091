"""A port of another host on this one's loopback address, through SSH, which asks who is there."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import IO

from lab.child_environment import for_children
from lab.errors import ToolMissing, TransportError
from lab.system_packages import install

OPEN_S = 20.0
_POLL_S = 0.02
_OPEN = "lab-tunnel-open"


class Tunnel:
    """A forwarded port, by OpenSSH's client and what is set up for it (``~/.ssh/config``, agent, known hosts).

    Args:
        destination: ``user@host``.
        host, port: where to, as seen from there.

    Attributes:
        port: on this computer, loopback only.

    Raises:
        ToolMissing: there is no ``ssh``.
        TransportError: the host refuses, or is silent.
    """

    def __init__(self, destination: str, host: str, port: int) -> None:
        program = shutil.which("ssh")
        if program is None:
            raise ToolMissing("ssh is not installed, and a tunnel needs it", hint=install("openssh-client"))
        self._what = f"tunnel to {host}:{port} through {destination}"
        self.port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        # The local command runs once the port is open: trying it would open what is at its other end.
        command = [
            program, "-N", "-T", "-L", f"127.0.0.1:{self.port}:{host}:{port}", "-o", "BatchMode=yes",
            "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2",
            "-o", "PermitLocalCommand=yes", "-o", f"LocalCommand=echo {_OPEN}", "--", destination,
        ]  # fmt: skip
        self._process = _spawn_for_life(command, self._log)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it still stands."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + OPEN_S
        while _OPEN not in (words := self._words()):
            if not self.alive:
                raise TransportError(f"{self._what}: {words or 'ssh ended'}", hint="does plain `ssh` get there?")
            if time.monotonic() > deadline:
                raise TransportError(f"{self._what}: not open after {OPEN_S:g} s: {words}", transient=True)
            time.sleep(_POLL_S)

    def _words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-1000:].decode(errors="replace").strip()


def _spawn_for_life(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that ends with this process, however that ends.

    What the kernel watches is the thread that starts a child: this one stays for as long as the child does.
    """
    guard = shutil.which("setpriv")
    guarded = [*([guard, "--pdeathsig", "TERM", "--"] if guard else []), *command]
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        try:
            process = subprocess.Popen(
                guarded, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=for_children()
            )
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=keep, name="labgrid-tunnel", daemon=True).start()
    return started.result()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
