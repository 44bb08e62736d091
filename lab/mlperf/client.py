"""The client's side of MLPerf Tiny's serial protocol.

A command is ASCII and ends with ``%``; the device answers with lines that end with CR LF, the last one ``m-ready``.
Lines that begin with ``e-`` are errors.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from lab.errors import Crash, Hang, ProtocolError
from lab.transports.base import ByteStream

COMMAND_S = 5.0
INFER_S = 30.0
READY = "m-ready"

_ATTEMPTS = 3
_LONGEST_LINE = 1 << 16
_NOISE_LINES = 64
_START_UP = ("m-timestamp-mode-", "m-init-done")


@dataclass(frozen=True)
class Identity:
    """What a device says of itself: vendor's name, protocol profile, benchmark id."""

    name: str
    profile: str
    model: str


@dataclass(frozen=True)
class Inference:
    """The answer to ``infer``.

    Attributes:
        laps_us: the timestamps, microseconds of the device's clock; none in energy mode.
        results: the numbers of ``m-results``.
    """

    laps_us: tuple[int, ...]
    results: tuple[float, ...]


class Dut:
    """A device that speaks the protocol.

    Args:
        stream: its serial port.
        bytes_per_command: most bytes one ``db`` command carries.
        infer_s: how long ``infer`` may take between two lines, seconds of this host.
        command_s: the same for every other command.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        bytes_per_command: int = 31,
        infer_s: float = INFER_S,
        command_s: float = COMMAND_S,
    ) -> None:
        self._stream = stream
        self._bytes_per_command = bytes_per_command
        self._infer_s = infer_s
        self._command_s = command_s
        self._received = bytearray()

    def identify(self) -> Identity:
        """Find the device, whatever it was doing: start-up lines and remains of earlier commands are skipped.

        Raises:
            Hang: nothing came.
            ProtocolError: what came is not this protocol.
        """
        name = self._find_name()
        lines = self.command("profile")
        profile = _bracketed("m-profile-", lines)
        model = _bracketed("m-model-", lines)
        if profile is None or model is None:
            raise self._broken("profile", f"{lines}", "m-profile-[…] and m-model-[…]")
        return Identity(name, profile, model)

    def load(self, data: bytes) -> None:
        """Put the input of the next inference into the device's buffer.

        Raises:
            DeviceError: the device is silent, refuses, or does not count as the host does.
        """
        expecting = f"m-[Expecting {len(data)} bytes]"
        lines = self.command(f"db load {len(data)}")
        if lines != [expecting]:
            raise self._broken(f"db load {len(data)}", f"{lines}", expecting)
        for begin in range(0, len(data), self._bytes_per_command):
            end = begin + self._bytes_per_command
            lines = self.command(f"db {data[begin:end].hex()}")
            expected = ["m-load-done"] if end >= len(data) else []
            if lines != expected:
                raise self._broken(f"db … (bytes {begin} to {min(end, len(data))})", f"{lines}", f"{expected}")

    def infer(self, count: int, warmups: int) -> Inference:
        """Run ``count`` inferences of what is loaded, after ``warmups`` that are not timed.

        Raises:
            DeviceError: the device is silent, refuses, or leaves out one of the protocol's lines.
        """
        command = f"infer {count} {warmups}"
        lines = self.command(command, self._infer_s)
        laps = [line for line in lines if line.startswith("m-lap-us-")]
        head = [f"m-warmup-start-{warmups}", "m-warmup-done", f"m-infer-start-{count}", *laps, "m-infer-done"]
        if lines[:-1] != head:
            raise self._broken(command, f"{lines}", f"{head} and m-results-[…]")
        return Inference(tuple(self._lap(lap) for lap in laps), self._results(lines[-1]))

    def command(self, text: str, timeout_s: float | None = None) -> list[str]:
        """Send a command; the lines of its answer without ``m-ready``.

        Args:
            text: without the ``%``.
            timeout_s: longest wait for each line.

        Raises:
            Hang: a line did not come in time.
            Crash: the device started anew.
            ProtocolError: it answered with an error, or with what is no line of the protocol.
        """
        self._send(text)
        lines: list[str] = []
        while (line := self._line(text, timeout_s or self._command_s)) != READY:
            if line.startswith(_START_UP):
                raise Crash(f"{self._stream.name}: the device started anew during {text!r}: it said {line!r}")
            if line.startswith("e-"):
                raise ProtocolError(f"{self._stream.name}: {text!r} was answered {line!r}")
            if line and not line.startswith("m-"):
                raise self._broken(text, repr(line), "lines that begin with m- or e-")
            lines += [line] if line else []
        return lines

    def _find_name(self) -> str:
        silence: Hang | None = None
        for _ in range(_ATTEMPTS):
            self._send("name")
            try:
                return self._skip_to_name()
            except Hang as error:
                # What the line held before may have spoilt the command.
                silence = error
        raise Hang(f"{silence}", hint="is it powered, is this its port, and is the baud rate right?")

    def _skip_to_name(self) -> str:
        seen: list[str] = []
        while len(seen) < _NOISE_LINES:
            try:
                line = self._line("name", self._command_s)
            except ProtocolError as error:
                seen.append(str(error))
                continue
            name = _bracketed("m-name-dut-", [line])
            if name is None:
                seen.append(line)
                continue
            if self._line("name", self._command_s) != READY:
                raise self._broken("name", "something else after the name", READY)
            return name
        raise self._broken("name", f"{_NOISE_LINES} other lines, the last {seen[-1]!r}", "m-name-dut-[…]")

    def _send(self, text: str) -> None:
        self._stream.write(f"{text}%".encode("ascii"))

    def _line(self, command: str, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Hang(
                    f"{self._stream.name}: no line within {timeout_s:g} s after {command!r}; "
                    f"received since the last one: {bytes(self._received[:40])!r}"
                )
            self._received += self._stream.read(left_s)
            if len(self._received) > _LONGEST_LINE and b"\n" not in self._received:
                begin = bytes(self._received[:40])
                self._received.clear()
                raise self._broken(command, f"{_LONGEST_LINE} bytes without a line's end, {begin!r}", "lines")
        raw, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        try:
            line = raw.decode("ascii").strip("\r\0")
        except UnicodeDecodeError:
            line = ""
        if not line.isprintable() or (raw.strip(b"\r\0") and not line):
            raise self._broken(command, f"{raw[:40]!r}", "printable ASCII (is the baud rate right?)")
        return line

    def _lap(self, line: str) -> int:
        digits = line.removeprefix("m-lap-us-")
        if not re.fullmatch("[0-9]+", digits):
            raise self._broken("infer", repr(line), "m-lap-us- and a whole number")
        return int(digits)

    def _results(self, line: str) -> tuple[float, ...]:
        text = _bracketed("m-results-", [line])
        try:
            # The public reference of vww01 puts a comma behind the last number.
            numbers = tuple(float(part) for part in (text or "").removesuffix(",").split(","))
        except ValueError as error:
            raise self._broken("infer", repr(line), "m-results-[…] with numbers") from error
        if not all(math.isfinite(number) for number in numbers):
            raise self._broken("infer", repr(line), "finite numbers")
        return numbers

    def _broken(self, command: str, found: str, allowed: str) -> ProtocolError:
        return ProtocolError(f"{self._stream.name}: {command!r} was answered {found}; expected {allowed}")


def _bracketed(prefix: str, lines: list[str]) -> str | None:
    """The text between the brackets of the line with this prefix."""
    for line in lines:
        found = re.fullmatch(re.escape(prefix) + r"\[([^\]]*)\]", line)
        if found:
            return found[1]
    return None


