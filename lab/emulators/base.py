"""What every emulator offers, whichever program does the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from lab.connection_config import AdbDevice, SshHost
from lab.transports.base import ByteStream

FaultKind: TypeAlias = Literal["power-cut", "flip-ram", "flip-flash", "nmi", "watchdog", "frozen-clock"]


@dataclass(frozen=True)
class Preparation:
    """What is done in a guest once, after its boot, and is there at every start from then on.

    Attributes:
        key: names what comes of it; another key makes another saved state.
        title: for the terminal.
        work: does it, given how root logs in.
    """

    key: str
    title: str
    work: Callable[[SshHost], None]


class LinuxEmulator(Protocol):
    """An emulated device with an operating system, for one user; reached only through SSH or ADB.

    Attributes:
        kind: the emulator, as ``emulator.kind`` of a board file names it.
        version: program and version, for the provenance of a run.
    """

    kind: str
    version: str

    def start(self) -> SshHost | AdbDevice:
        """Start from a clean state and wait until it can be logged in to; says how it is reached.

        Raises:
            ToolMissing: a program or the image is missing; says how to get it.
            EmulatorError: it does not start; carries its own words.
        """

    def check_alive(self) -> None:
        """Return while it runs.

        Raises:
            Crash: its kernel panicked; carries the console's last words.
            EmulatorError: the emulator died for reasons of its own.
        """

    def console(self) -> str:
        """What its console said so far."""

    def power_cut(self) -> None:
        """Take the supply away: no clean-up; :meth:`start` powers it up again."""

    def stop(self) -> None:
        """End it and remove what it left; safe to call twice."""


class McuEmulator(Protocol):
    """One emulated microcontroller, for one user.

    Order of calls: :meth:`start` (the core is held before its first instruction), :meth:`open_serial`,
    :meth:`release`; then anything, in any order; :meth:`stop` at the end, also after a failure.

    Attributes:
        kind: the emulator, as ``emulator.kind`` of a board file names it.
        version: program and version, for the provenance of a run.
        faults: the faults this one can inject; asking for another raises :class:`lab.errors.ConfigError`.
    """

    kind: str
    version: str
    faults: frozenset[FaultKind]

    def start(self) -> None:
        """Start with the core held.

        Raises:
            ToolMissing: the emulator is not installed; says how to get it.
            EmulatorError: it died at start; carries its own words.
        """

    def open_serial(self) -> ByteStream:
        """The board's first UART."""

    def release(self) -> None:
        """Let the core run."""

    def hold(self) -> None:
        """Stop the core where it is, until :meth:`release`."""

    def reset(self) -> None:
        """Reset as the reset pin would; the serial stream stays open."""

    def check_alive(self) -> None:
        """Return while the emulator runs.

        Raises:
            Crash: the core locked up.
            EmulatorError: the emulator died for reasons of its own.
        """

    def registers(self) -> Mapping[str, int]:
        """Core registers as they are now, lower-case names (``r0`` … ``sp lr pc xpsr``)."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of the guest's memory."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in the guest's memory."""

    def stop(self) -> None:
        """End the emulator and remove what it left; safe to call twice."""

    def power_cut(self) -> None:
        """Take the supply away: no clean-up, RAM is lost; :meth:`start` powers the board up again."""

    def flip_bit(self, address: int, bit: int) -> None:
        """Invert bit 0–7 of a byte of RAM or flash while the core runs."""

    def raise_nmi(self) -> None:
        """Raise the non-maskable interrupt."""

    def bite_watchdog(self) -> None:
        """Reset as the board's watchdog would when it is not fed."""

    def freeze_clock(self) -> None:
        """Stop the clock the firmware measures with until the next reset, the core goes on."""
