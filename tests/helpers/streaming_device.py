"""A device in memory whose loop is scripted: its clock is this one's and an offset, cut off as /proc/uptime is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.errors import TransportError
from lab.transports.local import LocalRemote
from lab.transports.remote import Finished, Pushed, RemoteProcess


class Clock:
    """This computer's clock, which goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class LoopProcess:
    """A loop that answers pings and, once it was told to go, prints what the script gives at each of its periods."""

    name = "scripted loop"

    def __init__(self, device: StreamingDevice, period_s: float) -> None:
        self._device = device
        self._period_s = period_s
        self._answers = b""
        self._next_s = math.inf
        self.killed = False

    def write(self, data: bytes) -> None:
        device = self._device
        device.check()
        if data == b"ping\n":
            there, back = next(device.delays)
            device.clock.now_s += there
            self._answers += f"@ {device.uptime():.2f}\n".encode()
            device.clock.now_s += back
        else:
            self._next_s = device.clock.now_s

    def read(self, timeout_s: float) -> bytes:
        device = self._device
        device.check()
        data, self._answers = self._answers, b""
        if data:
            return data
        if device.ended is not None:
            raise TransportError("the loop has ended")
        if timeout_s and device.clock.now_s < self._next_s:
            device.clock.now_s += min(timeout_s, self._next_s - device.clock.now_s)
        while self._next_s <= device.clock.now_s + 1e-9:
            told = device.says(self._next_s)
            if told is not None:
                data += f"{math.floor((self._next_s + device.offset_s) * 100) / 100:.2f} {told}\n".encode()
            self._next_s += self._period_s
        return data

    def poll(self) -> int | None:
        return self._device.ended

    def wait(self, timeout_s: float) -> int:
        return self._device.ended or 0

    def stderr_tail(self) -> str:
        return "sh: it went wrong"

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        pass


class StreamingDevice:
    """A remote with a scripted loop.

    Args:
        says: what the loop prints at a time of this computer's clock; None: nothing.
        offset_s: by how much the device's clock is ahead.
        period_s: what the loop keeps.
        delays: seconds there and back of each ping, over and over.
    """

    name = "device"

    def __init__(
        self,
        says: Callable[[float], str | None],
        offset_s: float = 0.0,
        period_s: float = 0.1,
        delays: Sequence[tuple[float, float]] = ((0.001, 0.001),),
    ) -> None:
        self.clock = Clock()
        self.says = says
        self.offset_s = offset_s
        self.period_s = period_s
        self.ended: int | None = None
        self.broken = False
        self.processes: list[LoopProcess] = []
        self.delays = self._forever(delays)

    @staticmethod
    def _forever(delays: Sequence[tuple[float, float]]):  # type: ignore[no-untyped-def]
        while True:
            yield from delays

    def uptime(self) -> float:
        return math.floor((self.clock.now_s + self.offset_s) * 100) / 100

    def check(self) -> None:
        if self.broken:
            raise TransportError("device: the connection broke", transient=True)

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        self.check()
        return Finished(0, b"", b"")

    def start(self, argv: Sequence[str]) -> RemoteProcess:
        self.check()
        process = LoopProcess(self, self.period_s)
        self.processes.append(process)
        return process

    def push(self, source: Path, destination: str, *, executable: bool = False) -> Pushed:
        raise NotImplementedError

    def pull(self, source: str, destination: Path) -> None:
        raise NotImplementedError

    def reconnect(self, timeout_s: float) -> None:
        self.broken = False

    def close(self) -> None:
        pass


class WithPrograms(LocalRemote):
    """This computer, with programs of a test's own.

    Args:
        folder: takes them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def program(self, name: str, script: str) -> str:
        """Install one; its path."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def _found(self, argv: Sequence[str]) -> list[str]:
        own = self.folder / argv[0]
        return [str(own) if own.is_file() else argv[0], *argv[1:]]

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"") -> Finished:
        return super().run(self._found(argv), timeout_s=timeout_s, stdin=stdin)
