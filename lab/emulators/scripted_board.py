"""A board without a processor: it sends the marker frames of a given job, so that a meter can be checked by itself.

What it draws is the energy model of the emulated meter it is connected to, so the truth of each pass is known in
closed form (:mod:`lab.emulators.energy_model`).
"""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.errors import EmulatorError
from lab.events import Job, RegionEvent
from lab.wire_frames import encode_frame

CLOCK_HZ = 1_000_000
_CONNECT_S = 5.0
_TAIL_S = 1.1


class ScriptedBoard:
    """Passes of a fixed length, told on the marker line of an emulated meter (``docs/wire.md``).

    Args:
        marker_path: UNIX socket of the meter.
        pass_s: length of each pass, seconds.
        region: what the passes are called.
    """

    def __init__(self, marker_path: Path, pass_s: float, region: str = "inference") -> None:
        self._marker_path = marker_path
        self._pass_cycles = round(pass_s * CLOCK_HZ)
        self._region = region
        self._cycles = 0
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(_CONNECT_S)

    def __enter__(self) -> Self:
        try:
            self._line.connect(str(self._marker_path))
        except OSError as error:
            self._line.close()
            raise EmulatorError(f"{self._marker_path}: no emulated meter listens there: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def wait(self, seconds: float, *, active: bool = False) -> None:
        """Let device time pass; ``active`` is what the board does from its end on."""
        self._cycles += round(seconds * CLOCK_HZ)
        self._mark(int(active))

    def run(self, job: Job) -> list[RegionEvent]:
        """Quiet, then ``count`` times ``repeats`` passes with quiet after each; what a device would report of them."""
        quiet = job.quiet_us * CLOCK_HZ // 1_000_000
        events = []
        self._mark(0)
        self._cycles += quiet
        for index in range(job.count * job.repeats):
            begin = self._cycles
            self._mark(1)
            self._cycles += self._pass_cycles
            self._mark(0)
            events.append(RegionEvent(self._region, index, begin, self._cycles))
            self._cycles += quiet
        # Meters send what they have in parts of up to a second; the last part must hold the quiet after the last pass.
        self._cycles += round(_TAIL_S * CLOCK_HZ)
        self._mark(0)
        return events

    def _mark(self, bits: int) -> None:
        try:
            self._line.sendall(encode_frame({"c": self._cycles, "m": bits}))
        except OSError as error:
            raise EmulatorError(f"{self._marker_path}: the emulated meter went away: {error}") from error
