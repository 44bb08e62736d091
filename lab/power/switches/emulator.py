"""The supply of an emulated board: its emulator is killed, and started again."""

from __future__ import annotations

from collections.abc import Callable

from lab.emulators.base import McuEmulator
from lab.errors import EmulatorError, LabError


class EmulatorOutlet:
    """The emulator of a board; also its witness: a process that runs is a board with power.

    Args:
        running: the emulator of the board; None while nothing is deployed.
    """

    def __init__(self, running: Callable[[], McuEmulator | None]) -> None:
        self._running = running
        self.title = "the emulated board's supply"

    def set(self, on: bool) -> None:
        """Power up (the core is held until the next deployment), or cut the supply."""
        emulator = self._running()
        if emulator is None:
            raise EmulatorError("no emulator is running: nothing is deployed", hint="call deploy() first")
        if on and not self.powered():
            emulator.start()
        elif not on:
            emulator.power_cut()

    def state(self) -> bool | None:
        """It does not tell; the witness does."""
        return None

    def powered(self) -> bool:
        """Whether the emulator runs."""
        emulator = self._running()
        if emulator is None:
            return False
        try:
            emulator.check_alive()
        except LabError:
            return False
        return True

    def close(self) -> None:
        """Nothing is held."""
