"""TEST HELPER: a device that speaks MLPerf Tiny's protocol from a script, and breaks it where it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from lab.power.base import MeterInfo, SampleBlock

Replies = Callable[[str], list[str] | None]
START_UP = ["m-timestamp-mode-performance", "m-lap-us-17", "m-init-done", "m-ready"]


@dataclass
class ScriptedDut:
    """A device in memory; also a :class:`lab.transports.base.ByteStream`.

    Attributes:
        model: what it says it is.
        elapsed_us: microseconds that an ``infer`` takes, from its number (0, 1, …) and its count.
        results: numbers of the results, from the bytes loaded.
        replies: looked at first: the lines for a command (without ``m-ready``), or None for the usual ones.
        timestamps: whether ``infer`` prints its two laps.
        on_infer: called with the number and the count of each ``infer``.
    """

    model: str = "kws01"
    elapsed_us: Callable[[int, int], int] = lambda number, count: 100_000 * count
    results: Callable[[bytes], Sequence[float]] = lambda data: [0.5] + [0.0] * 11
    replies: Replies = lambda command: None
    timestamps: bool = True
    on_infer: Callable[[int, int], None] = lambda number, count: None
    name: str = "scripted"
    commands: list[str] = field(default_factory=list)
    loads: list[bytes] = field(default_factory=list)
    pending: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    _announced: int = 0
    _data: bytes = b""
    _clock_us: int = 1000
    _infers: int = 0

    def say(self, *lines: str) -> None:
        self.said += "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    def write(self, data: bytes) -> None:
        self.pending += data
        while b"%" in self.pending:
            command, _, rest = bytes(self.pending).partition(b"%")
            self.pending = bytearray(rest)
            self.commands.append(command.decode())
            self._obey(command.decode())

    def read(self, timeout_s: float) -> bytes:
        taken, self.said = bytes(self.said), bytearray()
        return taken

    def close(self) -> None:
        pass

    def _obey(self, command: str) -> None:
        lines = self.replies(command)
        if lines is None:
            lines = [*self._usual(command), "m-ready"]
        self.say(*lines)

    def _usual(self, command: str) -> list[str]:
        words = command.split(" ")
        if words == ["name"]:
            return ["m-name-dut-[scripted]"]
        if words == ["profile"]:
            return ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", f"m-model-[{self.model}]"]
        if words[:2] == ["db", "load"]:
            self._announced, self._data = int(words[2]), b""
            return [f"m-[Expecting {words[2]} bytes]"]
        if words[0] == "db":
            self._data += bytes.fromhex(words[1])
            if len(self._data) == self._announced:
                self.loads.append(self._data)
                return ["m-load-done"]
            return []
        assert words[0] == "infer"
        return self._infer(int(words[1]), words[2])

    def _infer(self, count: int, warmups: str) -> list[str]:
        begin = self._clock_us
        self._clock_us += self.elapsed_us(self._infers, count)
        self.on_infer(self._infers, count)
        self._infers += 1
        laps = [f"m-lap-us-{begin}", f"m-lap-us-{self._clock_us}"] if self.timestamps else []
        results = ",".join(f"{result:.3f}" for result in self.results(self._data))
        head = [f"m-warmup-start-{warmups}", "m-warmup-done", f"m-infer-start-{count}"]
        return [*head, *laps, "m-infer-done", f"m-results-[{results}]"]


class Served:
    """The device behind a TCP port, as ``socket://`` URL, for one client after the other."""

    def __init__(self, dut: ScriptedDut) -> None:
        self._dut = dut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # Wakes accept(); close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._dut.read(0))
                    while data := connection.recv(4096):
                        self._dut.write(data)
                        connection.sendall(self._dut.read(0))


@dataclass
class ScriptedMeter:
    """A meter at 1 kS/s with the timestamp pin on logic input 7; :meth:`window` is what its stream shows next.

    Attributes:
        edges: samples at which the pin falls, from the number and seconds of the window.
        current_a: current in the window.
        lost, saturated: in every block.
        voltage_v: what it measures per sample; None where it measures none.
    """

    edges: Callable[[int, float], list[int]] = lambda number, seconds: [500, 500 + round(1000 * seconds)]
    current_a: float = 0.01
    lost: int = 0
    saturated: int = 0
    emulated: bool = False
    voltage_v: float | None = None
    starts: int = 0
    _next: SampleBlock | None = None
    _ready: threading.Event = field(default_factory=threading.Event)

    @property
    def info(self) -> MeterInfo:
        measures = self.voltage_v is not None
        return MeterInfo("scripted", "7", 1000.0, 3.0, measures, 8, 0.1, self.emulated, voltage_uncertainty=0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def open(self) -> MeterInfo:
        return self.info

    def start(self) -> None:
        self.starts += 1
        self._next = None
        self._ready.clear()

    def window(self, number: int, seconds: float) -> None:
        """The window that the device makes now: 0.5 s before it and 0.5 s after it at a tenth of the current."""
        count = 1000 + round(1000 * seconds)
        logic = np.full(count, 0x80, np.uint8)
        for edge in self.edges(number, seconds):
            logic[edge : edge + 2] = 0
        current = np.full(count, self.current_a / 10, np.float32)
        current[500:-500] = self.current_a
        measured = None if self.voltage_v is None else np.full(count, self.voltage_v, np.float32)
        self._next = SampleBlock(0, current, logic, self.lost, self.saturated, measured)
        self._ready.set()

    def read(self, timeout_s: float) -> SampleBlock:
        self._ready.wait(timeout_s)
        block, self._next = self._next, None
        return block or self._empty()

    def stop(self) -> SampleBlock:
        block, self._next = self._next, None
        return block or self._empty()

    def close(self) -> None:
        pass

    def _empty(self) -> SampleBlock:
        self._ready.clear()
        return SampleBlock(0, np.empty(0, np.float32), np.empty(0, np.uint8))
