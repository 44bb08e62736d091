"""Memory that processor and GPU of a Jetson share: ``RAM used/totalMB`` in what ``tegrastats`` tells.

Nothing counts what a process has on the GPU there without root, so the peak is that of the whole device, and what it
rose by since the watch began is the nearest to a run's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lab.transports.remote import Remote, RemoteProcess
from measurements.environment import MemoryFigure

METRIC = "peak_ram.unified"
INTERVAL_MS = 500
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_FIRST_S = 10.0
_MB = 1 << 20


def ram_bytes(line: str) -> int | None:
    """What a line of tegrastats says is used, bytes; None where it says nothing."""
    match = _RAM.search(line)
    return None if match is None else int(match[1]) * _MB


def figure_of(used_bytes: Sequence[int]) -> MemoryFigure | None:
    """The figure of all lines since a watch began; None without any."""
    if not used_bytes:
        return None
    peak = max(used_bytes)
    note = (
        f"RAM of the whole device, which its GPU shares, as tegrastats told it every {INTERVAL_MS} ms; "
        f"{(peak - used_bytes[0]) // _MB} MB more than when the run began"
    )
    return MemoryFigure(METRIC, peak, note)


class UnifiedMemory:
    """A ``tegrastats`` that runs on the device as long as this.

    Args:
        remote: the device.

    Raises:
        TransportError: the connection broke.
    """

    def __init__(self, remote: Remote) -> None:
        self._process: RemoteProcess = remote.start(["tegrastats", "--interval", str(INTERVAL_MS)])
        self._part = b""
        self._used: list[int] = []
        self._take(_FIRST_S)

    def figure(self) -> MemoryFigure | None:
        """The peak so far; None where tegrastats told nothing, as where it is not installed.

        Raises:
            TransportError: the connection broke.
        """
        while self._take(0.0):
            pass
        return figure_of(self._used)

    def close(self) -> None:
        """End it; safe to call twice."""
        self._process.kill()
        self._process.close()

    def _take(self, timeout_s: float) -> bool:
        """Read what has come; whether anything had."""
        if self._process.poll() is not None:
            return False
        data = self._process.read(timeout_s)
        *lines, self._part = (self._part + data).split(b"\n")
        known = [ram_bytes(line.decode(errors="replace")) for line in lines]
        self._used += [used for used in known if used is not None]
        return bool(data)
