"""A microcontroller behind a debug probe as a target: real boards and emulated ones alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from lab.artifact import Artifact
from lab.devices.base import RegionCount
from lab.devices.emulated_mcu import QemuCounter
from lab.emulators.probe.board import ProbedBoard
from lab.errors import ConfigError, EmulatorError, LabError, ProbeError
from lab.events import Job
from lab.transports.base import ByteStream
from lab.transports.rtt import SYMBOL, RttStream
from lab.transports.swd_image import Image, read_image
from lab.transports.swd_log import PROBE_LOG
from lab.transports.swd_settings import SwdSettings, open_swd

if TYPE_CHECKING:
    from lab.transports.swd import Swd

# That the probe's link breaks is often the first sign of an emulator that dies.
_DEATH_NOTICE_TRIES = 10
_DEATH_NOTICE_S = 0.05


class SwdTarget:
    """A board behind a debug probe as a target of :class:`lab.devices.mcu.Mcu`.

    Between deployments, resets and looks at the core the probe is let go of and the debug unit is off, unless the
    runner's line goes through the probe: a debug unit that is on draws current, which a power meter would count.

    Args:
        settings: how the board is reached.
        open_line: opens the board's serial port; None where the runner's line goes through the probe (RTT).
        board: the emulated board behind a virtual probe; None for hardware.
        counter: counts exactly on an instance of its own, None where nobody can.
    """

    def __init__(
        self,
        settings: SwdSettings,
        open_line: Callable[[], ByteStream] | None,
        *,
        board: ProbedBoard | None = None,
        counter: QemuCounter | None = None,
    ) -> None:
        self._settings = settings
        self._open_line = open_line
        self._board = board
        self._counter = counter
        self._swd: Swd | None = None
        self._rtt: RttStream | None = None

    @property
    def memory(self) -> SwdTarget:
        """The probe, as a way to place blobs where the firmware names a place for them."""
        return self

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in the board's RAM while the core runs."""
        with self._attached() as swd:
            swd.write_memory(address, data)

    def load(self, artifact: Artifact) -> ByteStream:
        """Flash the image, read it back, and hold the core at its first instruction.

        Raises:
            ConfigError: the image does not suit the board; nothing was written.
            ProbeError: the probe or the board was lost, or flash does not hold what was written.
            TransportError: the serial port cannot be opened.
        """
        self._let_go()
        image = read_image(artifact.path)
        try:
            self._swd = open_swd(self._settings)
        except ProbeError:
            if not self._revived():
                raise
            self._swd = open_swd(self._settings)
        try:
            self._swd.flash(image)
            return self._rtt_stream(self._swd, image) if self._open_line is None else self._open_line()
        except LabError:
            self._let_go()
            raise

    def _rtt_stream(self, swd: Swd, image: Image) -> RttStream:
        if SYMBOL not in image.symbols:
            raise ConfigError(
                f"{image.path} has no line through the probe (no symbol {SYMBOL})",
                hint="build it with console='rtt', or give the device a serial port in place of rtt: true",
            )
        self._rtt = RttStream(swd, image.symbols[SYMBOL], f"RTT over {self._settings.unique_id}")
        self._rtt.forget()
        return self._rtt

    def release(self) -> bool:
        """Let the core run; the firmware says ``hello`` by itself."""
        if self._swd is None:
            raise ProbeError("nothing is deployed", hint="call deploy() first")
        self._swd.resume()
        if self._rtt is None:
            self._let_go()
        return True

    def reset(self) -> bool:
        """Reset core and peripherals; False where an emulated board has died, which only power helps."""
        try:
            self.check_alive()
        except LabError:
            return False
        with self._attached() as swd:
            swd.reset("system", halt=True)
            if self._rtt is not None:
                self._rtt.forget()
            swd.resume()
        return True

    def check_alive(self) -> None:
        """Raise the right error when the board is known to be dead; a real one tells nothing by itself."""
        # One that was switched off is not dead, it only does not answer.
        if self._board is not None and self._board.entry.pid:
            self._board.check_alive()

    def core(self) -> SwdTarget:
        """The core, for a look at it."""
        return self

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Halt the core for as long as the context lasts; it goes on as it was.

        Raises:
            ProbeError: the probe or the board does not answer.
        """
        with self._attached() as swd, swd.halted():
            held, self._swd = self._swd, swd
            try:
                yield
            finally:
                self._swd = held

    def registers(self) -> Mapping[str, int]:
        """Core registers; see :meth:`lab.transports.swd.Swd.registers`."""
        with self._attached() as swd:
            return swd.registers()

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory, also while the core runs."""
        with self._attached() as swd:
            return swd.read_memory(address, size)

    @contextlib.contextmanager
    def _attached(self) -> Iterator[Swd]:
        if self._swd is not None:
            yield self._swd
            return
        with open_swd(self._settings, "attach") as swd:
            yield swd

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job on an emulator of its own and count.

        Raises:
            EmulatorError: the board is hardware, or the counting plug-in was not built.
        """
        if self._counter is None:
            raise EmulatorError(f"{self._settings.unique_id}: loads and stores can be counted in QEMU only")
        return self._counter.count(artifact, job)

    def evidence(self) -> Mapping[str, str]:
        """What pyOCD said of its probes; see :class:`lab.devices.base.Evident`."""
        return {"probe": PROBE_LOG.text()}

    def close(self) -> None:
        """Let go of the board, which goes on running; safe to call twice."""
        self._let_go()

    def _let_go(self) -> None:
        self._rtt = None
        if self._swd is not None:
            self._swd.close()
            self._swd = None

    def _revived(self) -> bool:
        """Whether an emulated board had died, and has power again; a real one outlives what runs on it."""
        if self._board is None:
            return False
        for _ in range(_DEATH_NOTICE_TRIES):
            try:
                self.check_alive()
            except LabError:
                self._board.power_off()
                self._board.power_on()
                return True
            time.sleep(_DEATH_NOTICE_S)
        return False
