"""TEST HELPER: a client of MLPerf Tiny's serial protocol, written from its description; shares no code with the lab.

It does what the public client does on its port: pyserial at 115200 baud, one byte at a time, a command without a
newline, lines until ``m-ready``. Unlike it, it insists on every byte: lines end with CR LF and are printable ASCII.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import serial

COMMAND_S = 5.0
INFER_S = 30.0
BYTES_PER_COMMAND = 31


class MlperfClient:
    """One open port."""

    def __init__(self, path: str) -> None:
        self._port = serial.serial_for_url(path, baudrate=115200, timeout=0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._port.close()

    def send(self, text: str) -> None:
        self._port.write(text.encode("latin-1"))

    def line(self, timeout_s: float) -> str:
        """The next line without its CR LF."""
        deadline = time.monotonic() + timeout_s
        received = bytearray()
        while not received.endswith(b"\n"):
            assert time.monotonic() < deadline, f"no line within {timeout_s} s, only {bytes(received)!r}"
            received += self._port.read(1)
        assert received.endswith(b"\r\n"), f"{bytes(received)!r} does not end with CR LF"
        line = received[:-2].decode("ascii")
        assert line.isprintable(), f"{line!r} has control characters"
        return line

    def until_ready(self, timeout_s: float = COMMAND_S) -> list[str]:
        """The lines before ``m-ready``."""
        lines: list[str] = []
        while (line := self.line(timeout_s)) != "m-ready":
            lines.append(line)
        return lines

    def command(self, text: str, timeout_s: float = COMMAND_S) -> list[str]:
        self.send(text + "%")
        return self.until_ready(timeout_s)

    def load(self, data: bytes) -> None:
        """``db load`` and as many ``db`` commands as 31 bytes each make."""
        assert self.command(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
        for at in range(0, len(data), BYTES_PER_COMMAND):
            done = at + BYTES_PER_COMMAND >= len(data)
            answer = self.command(f"db {data[at : at + BYTES_PER_COMMAND].hex()}")
            assert answer == (["m-load-done"] if done else [])

    def infer(self, count: int, warmups: int) -> tuple[list[int], list[float]]:
        """The microseconds of the timestamps (none in energy mode) and the results."""
        lines = self.command(f"infer {count} {warmups}", INFER_S)
        laps = [line for line in lines if line.startswith("m-lap-us-")]
        expected = [f"m-warmup-start-{warmups}", "m-warmup-done", f"m-infer-start-{count}", *laps, "m-infer-done"]
        assert lines[:-1] == expected
        return [int(lap.removeprefix("m-lap-us-")) for lap in laps], results_in(lines[-1])


def results_in(line: str) -> list[float]:
    """The numbers of an ``m-results-[…]`` line, each of which has three decimals."""
    assert line.startswith("m-results-[")
    assert line.endswith("]")
    texts = line.removeprefix("m-results-[").removesuffix("]").split(",")
    assert all(len(text.partition(".")[2]) == 3 for text in texts)
    return [float(text) for text in texts]
