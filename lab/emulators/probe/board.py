"""An emulated board with a debug probe: what a test, ``lab emulate`` or a deployment over SWD starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.emulators.probe.faults import LinkFaults
from lab.emulators.probe.registry import BoardEntry, Registration
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu, QemuMachine
from lab.transports.serial import SerialPort

_numbers = itertools.count(1)


@dataclass(frozen=True)
class ProbedMachine:
    """A board that can be emulated behind a probe.

    Attributes:
        machine: what QEMU emulates.
        board: kind of board, for people.
        core: its processor, such as ``cortex-m4f``.
        target: pyOCD's name of it (``pyocd_target`` of the board file); the probe tells it to pyOCD, so ``-t`` is not
            needed.
    """

    machine: QemuMachine
    board: str
    core: str
    target: str


class ProbedBoard:
    """A QEMU with empty memory, and the probe in front of it that every pyOCD on this host finds.

    A context manager: it is powered, held before its first instruction, and registered when it is entered; gone when
    it is left. What is programmed through the probe stays until the power is cut: RAM and flash alike, as QEMU keeps
    no flash in a file.

    Example::

        with ProbedBoard(machine) as board:
            session = ConnectHelper.session_with_chosen_probe(unique_id=board.unique_id)
            ...
            stream = board.open_serial()

    Args:
        machine: what to emulate.
        unique_id: what the probe calls itself; a free one by default.
        duplicate: allow another board with the same unique id, as cloned probes have.
        marker_socket: listening unix socket that takes the marker line, None where nobody listens to it.

    Attributes:
        unique_id: for pyOCD's ``unique_id=`` and ``-u``.
        faults: breaks the link to the board; see :class:`lab.emulators.probe.faults.LinkFaults`.

    Raises (when entered):
        ConfigError: the unique id is taken.
        ToolMissing: QEMU is not installed.
        EmulatorError: QEMU died at start.
    """

    def __init__(
        self,
        machine: ProbedMachine,
        unique_id: str = "",
        *,
        duplicate: bool = False,
        marker_socket: Path | None = None,
    ) -> None:
        self._machine = machine
        self._marker_socket = marker_socket
        self.unique_id = unique_id or f"emulated-{machine.board}-{os.getpid()}-{next(_numbers)}"
        self._duplicate = duplicate
        self._registration: Registration | None = None
        self._qemu: Qemu | None = None

    def __enter__(self) -> Self:
        entry = BoardEntry(self.unique_id, self._machine.board, self._machine.core, self._machine.target)
        self._registration = Registration(entry, duplicate=self._duplicate)
        try:
            self.power_on()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def faults(self) -> LinkFaults:
        """Breaks the link."""
        return LinkFaults(self._registered().listed.faults_path)

    @property
    def entry(self) -> BoardEntry:
        """What the registry says of it."""
        return self._registered().listed.entry

    @property
    def qemu(self) -> Qemu:
        """The emulator; a new one after each :meth:`power_on`."""
        if self._qemu is None:
            raise ValueError(f"board {self.unique_id} has no power")
        return self._qemu

    def power_on(self) -> None:
        """Power the board up: memory empty, core held. Does nothing to a board that has power."""
        if self._qemu is not None:
            return
        registration = self._registered()
        qemu = Qemu(self._machine.machine, None, debug=True, marker_socket=self._marker_socket)
        qemu.start()
        self._qemu = qemu
        gdb, qtest, control = (str(qemu.folder / name) for name in ("gdb", "qtest", "control"))
        registration.update(
            replace(self.entry, pid=qemu.pid, gdb=gdb, qtest=qtest, control=control, serial_url=qemu.serial_url)
        )

    def power_off(self) -> None:
        """Take the supply away: the probe stays, its target no longer answers. Safe to call twice."""
        if self._qemu is None:
            return
        self._registered().update(replace(self.entry, pid=0, gdb="", qtest="", control="", serial_url=""))
        self._qemu.stop()
        self._qemu = None

    @contextmanager
    def serial_on_pty(self) -> Iterator[PtyLink]:
        """The first UART on a PTY, which the registry then names as the board's port: programs may come and go there.

        Raises:
            TransportError: the UART cannot be opened.
        """
        with PtyLink(self.open_serial()) as link:
            before = self.entry
            self._registered().update(replace(before, serial_url=link.path))
            try:
                yield link
            finally:
                self._registered().update(before)

    def open_serial(self) -> SerialPort:
        """The board's first UART; open it again after a power cycle.

        Raises:
            TransportError: it cannot be opened.
        """
        return SerialPort(self.qemu.serial_url)

    def check_alive(self) -> None:
        """Return while the emulator runs.

        Raises:
            Crash: the core locked up, which QEMU answers by aborting; :meth:`power_off` and :meth:`power_on` help.
            EmulatorError: QEMU died for another reason.
        """
        self.qemu.check_alive()

    def close(self) -> None:
        """End the emulator and leave the registry; safe to call twice."""
        if self._qemu is not None:
            self._qemu.stop()
            self._qemu = None
        if self._registration is not None:
            self._registration.close()
            self._registration = None

    def _registered(self) -> Registration:
        if self._registration is None:
            raise ValueError("enter the board first: with ProbedBoard(...) as board")
        return self._registration
