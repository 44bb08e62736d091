"""An emulated meter with a serial port: its process, and the loop in it that serves a PTY and a marker socket."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from lab.emulators.load import MarkedLoad, MarkerSocket, ScriptedLoad
from lab.emulators.process import end, spawn
from lab.errors import EmulatorError

_LONGEST_SOCKET_PATH = 107
_START_S = 20.0
_PTY_LAG_S = 0.5


class SerialPeer(Protocol):
    """A meter's behaviour without its ports: commands in, bytes out.

    Attributes:
        output: bytes for the host; what was written is deleted from its front.
        vanished: it was unplugged or reboots; :meth:`reset` follows.
        streaming: whether a stream was started; markers that come before one are not shown.
    """

    output: bytearray
    vanished: bool
    streaming: bool

    def command(self, data: bytes) -> None:
        """Take bytes from the host."""

    def marked(self) -> None:
        """The marker changed: the load knows of more time."""

    def fill(self) -> None:
        """Have something in ``output`` if there is anything to say."""

    def wait_s(self) -> float | None:
        """How long nothing will happen by itself; None for ever."""

    def reset(self) -> None:
        """Power-on state."""


class Ports:
    """The PTY, the marker socket and the loop that serves both.

    Args:
        marker: UNIX socket to make.
        link: symbolic link to make to the PTY; it stays right when the meter reboots.
        load: is told the marker.
    """

    def __init__(self, marker: Path, link: Path, load: MarkedLoad | ScriptedLoad) -> None:
        self._link = link
        self._load = load
        self._selector = selectors.DefaultSelector()
        self._marker = MarkerSocket(marker, self._selector)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._open_pty()

    def serve(self, meter: SerialPeer) -> None:
        """Work until standard input ends."""
        print(f"ready {self._name}", flush=True)
        while True:
            for key, _ in self._selector.select(meter.wait_s()):
                if key.fd == sys.stdin.fileno() and not os.read(key.fd, 64):
                    return
            # Markers are fetched before commands are read, and used after them: a START that was written before a
            # marker is then seen first. STOP fetches once more by itself.
            self._marker.fetch()
            # The kernel carries bytes through a PTY in a worker of its own, which a busy computer lets wait; and what
            # comes first may be commands before START.
            while self._marker.waiting and not meter.streaming and select.select([self._master], [], [], _PTY_LAG_S)[0]:
                meter.command(self._read_pty())
            meter.command(self._read_pty())
            self._use_markers(meter)
            meter.fill()
            self._write_pty(meter)

    def take_markers(self, meter: SerialPeer) -> None:
        """Fetch and use what has come on the marker line."""
        self._marker.fetch()
        self._use_markers(meter)

    def close(self) -> None:
        """Remove what others could find."""
        self._link.unlink(missing_ok=True)
        self._marker.close()

    def _open_pty(self) -> None:
        import tty

        # The other end stays open here too, so that a client may come and go without a hang-up.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._name = os.ttyname(self._slave)
        fresh = self._link.with_name(self._link.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._name)
        fresh.rename(self._link)
        self._selector.register(self._master, selectors.EVENT_READ)

    def _replug(self, meter: SerialPeer) -> None:
        """The port vanishes; a new one appears under the same link."""
        self._selector.unregister(self._master)
        os.close(self._slave)
        os.close(self._master)
        meter.reset()
        self._open_pty()

    def _use_markers(self, meter: SerialPeer) -> None:
        for edge in self._marker.take():
            if not isinstance(self._load, MarkedLoad):
                continue
            if edge is None:
                self._load.restart()
            else:
                self._load.mark(*edge)
                meter.marked()

    def _read_pty(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except BlockingIOError:
            return b""

    def _write_pty(self, meter: SerialPeer) -> None:
        output = meter.output
        while output:
            try:
                count = os.write(self._master, output[: 1 << 16])
            except BlockingIOError:
                break
            del output[:count]
            meter.fill()
        if meter.vanished and not output:
            self._replug(meter)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if output else 0)
        self._selector.modify(self._master, events)


def serve(ports: Ports, meter: SerialPeer) -> None:
    """The life of a meter's process: until standard input ends or SIGTERM."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminate)
    with contextlib.closing(ports):
        ports.serve(meter)


class MeterProcess:
    """A program that is an emulated meter: prints ``ready …`` once it can be used, ends with its standard input.

    Args:
        title: what messages call it.
        module: the program, for ``python -m``.
        folder: where its socket, its port's link and its log are made; must exist.
        name: of the link and the log.
    """

    def __init__(self, title: str, module: str, folder: Path, name: str) -> None:
        self._title = title
        self._module = module
        self.marker_path = folder / "marker.sock"
        self.link = folder / name
        self.log_path = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process number.

        Raises:
            EmulatorError: not started.
        """
        if self._process is None:
            raise EmulatorError(f"{self._title} is not running", hint="call start() first")
        return self._process.pid

    def start(self, arguments: Sequence[str]) -> str:
        """Start the process and wait until it is ready; what it said after ``ready``.

        Raises:
            EmulatorError: it ended, or said nothing.
        """
        if len(os.fsencode(self.marker_path)) > _LONGEST_SOCKET_PATH:
            raise EmulatorError(
                f"{self.marker_path} is longer than the {_LONGEST_SOCKET_PATH} bytes of a UNIX socket's path",
                hint="use a folder with a shorter name, such as one made by tempfile.mkdtemp",
            )
        self.marker_path.unlink(missing_ok=True)
        self._log = self.log_path.open("wb")
        command = [sys.executable, "-m", self._module, "--marker", str(self.marker_path), *arguments]
        self._process = spawn(command, cwd=Path.cwd(), log=self._log, stdin_pipe=True, stdout_pipe=True)
        try:
            return self._wait_ready(self._process)
        except EmulatorError:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            end(process, grace_s=2.0)
        if self._log is not None:
            self._log.close()

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> str:
        if process.stdout is None:
            raise EmulatorError(f"{self._title} was started without a pipe")
        ready = select.select([process.stdout], [], [], _START_S)[0]
        line = process.stdout.readline() if ready else b""
        if not line.startswith(b"ready "):
            log = self.log_path.read_text(errors="replace").strip()
            raise EmulatorError(f"{self._title} did not start: {log or 'it said nothing'}")
        return line.decode().removeprefix("ready ").strip()
