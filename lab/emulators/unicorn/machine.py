"""A board on Unicorn as an emulator of the lab: a thread of this process runs the core."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from elftools.elf.elffile import ELFFile

from lab.emulators.base import FaultKind
from lab.emulators.unicorn import unicorn_version
from lab.emulators.unicorn.boards import BOARDS, Lines, UnicornBoard, Wired
from lab.emulators.unicorn.bus import SerialLine
from lab.emulators.unicorn.core import Core
from lab.errors import ConfigError, EmulatorError, LabError, TransportError

T = TypeVar("T")
_ANSWER_S = 10.0


class UnicornStream:
    """The wire of a board on Unicorn: a byte stream inside this process."""

    def __init__(self, name: str, line: SerialLine) -> None:
        self.name = name
        self._line = line
        self._bytes = bytearray()
        self._changed = threading.Condition()
        self._broken = ""
        line.sent = self._take

    def write(self, data: bytes) -> None:
        """Put bytes on the wire."""
        if self._broken:
            raise TransportError(f"{self.name}: {self._broken}")
        self._line.arrive(data)

    def read(self, timeout_s: float) -> bytes:
        """What has arrived; waits up to ``timeout_s`` for the first byte."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes or self._broken, timeout_s)
            data = bytes(self._bytes)
            self._bytes.clear()
        if not data and self._broken:
            raise TransportError(f"{self.name}: {self._broken}")
        return data

    def close(self) -> None:
        """Nobody listens any more; safe to call twice."""
        self._line.sent = lambda data: None

    def break_off(self, why: str) -> None:
        """The board is gone: what it said can still be read."""
        with self._changed:
            self._broken = why
            self._changed.notify_all()

    def _take(self, data: bytes) -> None:
        with self._changed:
            self._bytes += data
            self._changed.notify_all()


class Unicorn:
    """One emulated board; implements :class:`lab.emulators.base.McuEmulator`.

    Args:
        peripherals: which board, a key of :data:`lab.emulators.unicorn.boards.BOARDS`.
        firmware: ELF to run.
        marker_socket: listening unix socket that takes the marker line, or None.

    Raises:
        ConfigError: there is no such board.
    """

    kind = "unicorn"
    faults: frozenset[FaultKind] = frozenset(
        ("power-cut", "flip-ram", "flip-flash", "nmi", "watchdog", "frozen-clock")
    )

    def __init__(self, peripherals: str, firmware: Path, *, marker_socket: Path | None = None) -> None:
        if peripherals not in BOARDS:
            raise ConfigError(
                f"Unicorn has no peripherals {peripherals!r}; allowed: {', '.join(sorted(BOARDS))}",
                hint="docs/without-qemu.md says what each of them models",
            )
        self.version = unicorn_version()
        self._name = peripherals
        self._board: UnicornBoard = BOARDS[peripherals]()
        self._firmware = firmware
        self._marker_socket = marker_socket
        self._lines = Lines(SerialLine(received=self._bytes_arrived), SerialLine())
        self._stream: UnicornStream | None = None
        self._core: Core | None = None
        self._wired: Wired | None = None
        self._thread: threading.Thread | None = None
        self._requests: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ends = self._held = self._supply_cut = False
        self._failure: LabError | None = None

    def __enter__(self) -> Unicorn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Power the board up with the core held; its RAM is empty.

        Raises:
            ConfigError: the image does not lie in the board's memories.
            EmulatorError: the marker line's socket cannot be reached.
        """
        self.stop()
        self._lines = Lines(SerialLine(received=self._bytes_arrived), SerialLine())
        board = self._board
        self._core = Core(self._name, board.cpu, board.memories, board.ns_per_instruction, board.boot)
        self._wired = self._board.wire(self._lines, self._core)
        self._core.attach(self._wired.mapped)
        _load(self._core, self._firmware, self._name)
        self._core.reset()
        if self._marker_socket is not None:
            self._lines.marker.sent = _connected(self._marker_socket)
        self._ends = self._held = self._supply_cut = False
        self._failure = None

    def open_serial(self) -> UnicornStream:
        """The board's first UART; the stream opened last has it."""
        self._powered()
        self._stream = UnicornStream(f"{self._name} in Unicorn", self._lines.wire)
        return self._stream

    def release(self) -> None:
        """Let the core run."""
        self._powered()
        self._held = False
        if self._thread is not None:
            self._wake()
        else:
            self._thread = threading.Thread(target=self._run, name=f"unicorn {self._name}", daemon=True)
            self._thread.start()

    def hold(self) -> None:
        """Stop the core where it is."""
        self._powered()
        self._held = True
        self._ask(lambda: None)

    def reset(self) -> None:
        """Reset as the reset pin would; the stream stays open."""
        self._ask(self._powered().reset)

    def check_alive(self) -> None:
        """Return while the core can run.

        Raises:
            Crash: it locked up.
            EmulatorError: the firmware did what the model cannot follow, or the board has no supply.
        """
        if self._supply_cut:
            raise EmulatorError(f"{self._name} has no power: its supply was cut", hint="deploy again", transient=True)
        if self._failure is not None:
            raise self._failure
        self._powered()

    def registers(self) -> Mapping[str, int]:
        """Core registers as they are now."""
        return self._ask(self._powered().registers)

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        return self._powered().read(address, size)

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in memory, flash too."""
        core = self._powered()
        core.write(address, data)
        if any(one.flash and one.address <= address < one.address + one.bytes for one in self._board.memories):
            self._ask(lambda: core.code_changed(address & ~3, len(data) + 4))

    def stop(self) -> None:
        """End the emulation; safe to call twice."""
        self._ends = True
        if self._core is not None:
            self._wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._lines.marker.sent(b"")
        if self._stream is not None:
            self._stream.break_off("the board has no supply")
        self._core = self._wired = None

    def power_cut(self) -> None:
        """Take the supply away; :meth:`start` powers the board up again, with empty RAM."""
        self._powered()
        self._supply_cut = True
        self.stop()

    def flip_bit(self, address: int, bit: int) -> None:
        """Invert a bit of RAM or flash."""
        if not 0 <= bit <= 7:
            raise ConfigError(f"a byte has bits 0 to 7, found {bit}")
        core = self._powered()

        def flip() -> None:
            value = core.read(address, 1)[0]
            core.write(address, bytes((value ^ 1 << bit,)))
            core.code_changed(address & ~3, 4)

        self._ask(flip)

    def raise_nmi(self) -> None:
        """Raise the non-maskable interrupt."""
        self._ask(self._powered().pend_nmi)

    def bite_watchdog(self) -> None:
        """Reset as the watchdog would."""
        self._ask(self._powered().request_reset)

    def freeze_clock(self) -> None:
        """Stop the clock the firmware measures with."""
        self._ask(self._powered().clock.freeze)

    # ---- the core's thread ----

    def _run(self) -> None:
        core = self._powered()
        try:
            while not self._ends:
                core.resume()
                while self._requests:
                    self._requests.popleft()()
                if core.reset_requested:
                    core.reset()
                if self._held or (core.sleeping and not core.wakes()):
                    with self._changed:
                        self._changed.wait_for(self._has_news)
                else:
                    core.run()
        except LabError as error:
            self._failure = error
        finally:
            if not self._ends:
                self._failure = self._failure or EmulatorError(f"{self._name}: the thread of the core broke off")
                if self._stream is not None:
                    self._stream.break_off(self._failure.message)
            while self._requests:
                self._requests.popleft()()

    def _has_news(self) -> bool:
        core = self._core
        return bool(self._ends or self._requests or (core is not None and core.interrupted))

    def _ask(self, action: Callable[[], T]) -> T:
        """Have the core's thread do something between two instructions."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return action()
        answers: list[T] = []
        done = threading.Event()

        def act() -> None:
            answers.append(action())
            done.set()

        self._requests.append(act)
        self._wake()
        if not done.wait(_ANSWER_S):
            raise EmulatorError(f"{self._name}: the core did not stop within {_ANSWER_S:.0f} s", transient=True)
        return answers[0]

    def _wake(self) -> None:
        self._powered().interrupt()
        with self._changed:
            self._changed.notify_all()

    def _bytes_arrived(self) -> None:
        wired = self._wired
        if wired is not None and wired.listens():
            self._requests.append(wired.arrived)
            self._wake()

    def _powered(self) -> Core:
        if self._core is None:
            raise EmulatorError(
                f"{self._name}: the board has no supply", hint="start() powers it up", transient=True
            )
        return self._core


def _load(core: Core, firmware: Path, board: str) -> None:
    """Place the segments of an ELF where the board boots from.

    Raises:
        ConfigError: a segment lies outside the board's memories, or the file is no ELF for Arm.
    """
    with firmware.open("rb") as stream:
        image = ELFFile(stream)
        if image["e_machine"] != "EM_ARM":
            raise ConfigError(f"{firmware} is for {image['e_machine']}, {board} is an Arm core")
        for segment in image.iter_segments("PT_LOAD"):
            data = segment.data()
            if not data:
                continue
            try:
                core.write(int(segment["p_paddr"]), data)
            except EmulatorError as error:
                raise ConfigError(f"{firmware}: {error.message}", hint=f"was it built for {board}?") from error


def _connected(path: Path) -> Callable[[bytes], None]:
    """A way to send to a listening unix socket; an empty message closes it."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(path))
    except OSError as error:
        line.close()
        raise EmulatorError(f"the marker line cannot be opened at {path}: {error}") from error

    def send(data: bytes) -> None:
        if not data:
            line.close()
            return
        try:
            line.sendall(data)
        except OSError as error:
            raise EmulatorError(f"the marker line broke: {error}", transient=True) from error

    return send
