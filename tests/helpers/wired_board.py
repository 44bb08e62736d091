"""An emulated board that the lab takes for hardware: flashed by somebody else, behind a serial line that may fail."""

from __future__ import annotations

import os
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.rfc2217_server import Rfc2217Server
from helpers.toolchain import machine_of

from lab.artifact import Artifact
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu
from lab.inventory import Device as Entry
from lab.inventory import load_bench
from lab.paths import config_dir
from lab.transports.base import ByteStream

BOARD = "mps2-an386"
BY_ID = "DESK0001"
_PIECE_BYTES = 256
_RATES = {getattr(termios, f"B{rate}"): rate for rate in (115200, 230400, 460800, 921600)}

Damage = Callable[[bytes], bytes]


def unharmed(data: bytes) -> bytes:
    """What a good line makes of bytes."""
    return data


@dataclass
class FaultyLine:
    """A board's UART, whose bytes pass in small pieces.

    Attributes:
        stream: the UART.
        to_host, to_board: what becomes of a piece.
        stuck: what the transmitter says for ever, whatever the board does; empty while it works.
    """

    stream: ByteStream
    to_host: Damage = unharmed
    to_board: Damage = unharmed
    stuck: bytes = b""
    name: str = "line"
    _waiting: bytes = b""

    def read(self, timeout_s: float) -> bytes:
        if self.stuck:
            self.stream.read(timeout_s)
            return self.stuck * _PIECE_BYTES
        self._waiting = self._waiting or self.stream.read(timeout_s)
        piece, self._waiting = self._waiting[:_PIECE_BYTES], self._waiting[_PIECE_BYTES:]
        return self.to_host(piece)

    def write(self, data: bytes) -> None:
        self.stream.write(self.to_board(data))

    def close(self) -> None:
        self.stream.close()


@dataclass(frozen=True)
class Attached:
    """A serial port as the system lists it."""

    device: str
    serial_number: str | None = BY_ID
    vid: int | None = 0x0483
    pid: int | None = 0x374B
    location: str | None = "1-2"
    interface: str | None = None
    description: str = "a board"


@dataclass
class WiredBoard:
    """The board, its line and its port.

    Attributes:
        folder: takes the bench file.
        attached: the serial ports of this computer, for the lister.
    """

    folder: Path
    attached: list[Attached] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _taken: list[int] = field(default_factory=list)

    def flash(self, image: Artifact) -> None:
        """Somebody flashes the board by hand."""
        self.close()
        self._qemu = self._stack.enter_context(Qemu(machine_of(BOARD), image.path))
        self._qemu.release()
        self.plug_in()

    def plug_in(self) -> None:
        """The board's port appears, under a name that was not used before."""
        self.line = FaultyLine(self._qemu.open_serial())
        self._link = PtyLink(self.line)
        self._link.__enter__()
        self.attached.append(Attached(self._link.path))

    def unplug(self) -> None:
        """The port vanishes, and its name stays taken."""
        self._taken.append(os.open(self._link.path, os.O_RDWR | os.O_NOCTTY))
        self.attached.clear()
        self._link.__exit__(None, None, None)

    def freeze_clock(self) -> None:
        """The board's timers stop, until it is reset."""
        self._qemu.freeze_clock()

    @property
    def baud(self) -> int:
        """The rate of the host's end, bits per second."""
        return _RATES[termios.tcgetattr(self._link._slave)[5]]

    def entry(self, reset: str = "") -> Entry:
        """Its entry of a bench file, by the number of its USB serial port or at an address with a reset line."""
        reached = reset or f"{{by_id: {BY_ID}}}"
        boards = self.folder / "boards"
        if not boards.exists():
            boards.symlink_to(config_dir() / "boards")
        path = self.folder / "bench.yaml"
        path.write_text(f"devices:\n  desk: {{board: {BOARD}, serial: {reached}}}\n")
        return load_bench(path).devices["desk"]

    @contextmanager
    def reset_line(self, pressed: Callable[[], None]) -> Iterator[str]:
        """The port behind RFC 2217, its control line wired to the reset pin; yields ``serial:`` of the bench file.

        Args:
            pressed: what a reset does besides.
        """
        levels = [False]

        def drive(line: str, asserted: bool) -> None:
            if line == "rts":
                levels.append(asserted)
                if levels[-2:] == [True, False]:
                    self._qemu.reset()
                    pressed()

        with Rfc2217Server(self._link.path, drive) as server:
            yield f"{{port: '{server.url}', max_baud: 115200, reset: {{line: rts, pulse_s: 0.01}}}}"

    def close(self) -> None:
        """No board, no port."""
        if self.attached:
            self.unplug()
        for descriptor in self._taken:
            os.close(descriptor)
        self._taken.clear()
        self._stack.close()
