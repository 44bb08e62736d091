"""An emulated Nordic PPK2: the meter's own protocol on a PTY, in a process of its own, in the device's virtual time.

The second UART of an emulated board connects to a UNIX socket and says when the marker changed (``docs/wire.md``).
An :class:`~lab.emulators.energy_model.EnergyModel` turns that history into a current, a model of the meter's converter
turns the current into words. Sample k is the mean current from k·10 µs to (k+1)·10 µs of device time and the marker
at its begin, whatever the wall clock does:

- device time is known up to the last marker frame, and no sample beyond that is sent while the stream runs;
- a stream begins ``roll_s`` before the first marker frame that arrives after its start, and when it is stopped the load
  seen last is taken to hold for another ``roll_s``, so that both ends show a quiet stretch and the last edge is seen;
- no sample is ever dropped because the host is slow; they wait, unlike those of a real meter;
- when the board disconnects or its cycle counter goes back, it was reset: it idles, and its new time 0 follows the last
  known time, so that the stream has no gap.

Run as a program it prints ``ready <pty>`` once it can be used, and ends with its standard input or on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.emulators.energy_model import Edge, EnergyModel, Float64Array, LoadProfile
from lab.emulators.process import end, spawn
from lab.errors import EmulatorError
from lab.wire import FrameDecoder

SAMPLE_RATE_HZ = 100_000
ROLL_S = 5e-3

_LONGEST_SOCKET_PATH = 107
_FULL_SCALE = 0x3FFF
_CHUNK_SAMPLES = 16384
_START_S = 20.0
_SPLIT_PAUSE_S = 0.05
_RANGE_TOP_A = (50e-6, 500e-6, 5e-3, 60e-3)

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
UInt32Array: TypeAlias = npt.NDArray[np.uint32]

# Constants of an imagined meter, of the size real ones have and far enough from the nominal ones that a client which
# ignores them is wrong by percents.
_CALIBRATION: Mapping[str, tuple[float, ...]] = {
    "R": (1003.3, 101.58, 10.31, 0.9632, 0.0558),
    "GS": (0.0, 104.2, 17.31, 2.375, 0.0711),
    "GI": (1.0, 0.9702, 0.9618, 0.9525, 0.9593),
    "O": (118.4, 79.9, 68.3, 54.7, 101.2),
    "S": (4.4e-8, 5.7e-7, 5.1e-6, 6.1e-5, 2.81e-3),
    "I": (-9.8e-8, -1.39e-6, 3.2e-5, -3.61e-4, -9.02e-3),
    "UG": (1.0, 1.01, 0.99, 1.005, 1.0),
}

# Bytes that follow a command. 0x01 to 0x12 without a meaning here are those of the first PPK, of which only the length
# matters (from Nordic's application; not checked on a meter).
_ARGUMENT_BYTES: Mapping[int, int] = {
    0x01: 2,
    0x02: 1,
    0x03: 2,
    0x04: 2,
    0x05: 2,
    0x08: 1,
    0x09: 1,
    0x0C: 1,
    0x0D: 2,
    0x0E: 2,
    0x0F: 2,
    0x11: 1,
    0x12: 12,
    0x25: 5,
}


@dataclass(frozen=True)
class Faults:
    """What the emulated meter does wrong. Numbers are in samples since the start of the stream; 0 means never.

    Attributes:
        drop_every, drop_count: of every ``drop_every`` samples the last ``drop_count`` are not sent.
        corrupt_every: every so many samples a word is damaged, its counter included.
        duplicate_every: every so many samples a word is sent twice.
        lose_byte_every: every so many samples one byte of a word is not sent.
        silent_after: after so many samples the meter says nothing any more.
        disconnect_after: after so many samples the port vanishes.
        metadata: ``whole``; ``split`` in two with a pause; ``truncated`` before its end; ``missing`` a value;
            ``uncalibrated``; ``nan``; ``silent``; ``garbage``.
    """

    drop_every: int = 0
    drop_count: int = 1
    corrupt_every: int = 0
    duplicate_every: int = 0
    lose_byte_every: int = 0
    silent_after: int = 0
    disconnect_after: int = 0
    metadata: str = "whole"


class Board:
    """What the meter knows of the board: its marker history, as time and as sample numbers."""

    def __init__(self, model: EnergyModel, clock_hz: int) -> None:
        self._profile = LoadProfile(model)
        self._clock_hz = clock_hz
        self._edge_s = [0.0]
        self._edge_bits = [0]
        self._epoch = 0
        self._last_cycles = 0
        self.known = 0

    def mark(self, cycles: int, bits: int) -> int:
        """The marker became ``bits`` at ``cycles``; returns the number of the sample that holds the edge."""
        if cycles < self._last_cycles:
            print(f"cycle counter went from {self._last_cycles} to {cycles}: taken for a reset", file=sys.stderr)
            self.restart()
        self._last_cycles = cycles
        self._append(self._epoch / SAMPLE_RATE_HZ + cycles / self._clock_hz, bits)
        self.known = self._epoch + cycles * SAMPLE_RATE_HZ // self._clock_hz
        return self.known

    def restart(self) -> None:
        """The board was reset: it idles, and its cycle 0 is the next whole sample."""
        self.known += 1
        self._epoch = self.known
        self._last_cycles = 0
        self._append(self._epoch / SAMPLE_RATE_HZ, 0)

    def samples(self, begin: int, end_: int) -> tuple[Float64Array, UInt8Array]:
        """Mean current, ampere, and marker bits of samples ``begin`` to ``end_`` (excluded)."""
        time_s = np.arange(begin, end_ + 1) / SAMPLE_RATE_HZ
        current = np.diff(self._profile.charge(time_s)) * SAMPLE_RATE_HZ
        at = np.searchsorted(np.array(self._edge_s), time_s[:-1], side="right") - 1
        return current, np.array(self._edge_bits, np.uint8)[np.maximum(at, 0)]

    def forget(self, before: int) -> None:
        """Samples before this number will not be asked for any more."""
        before_s = before / SAMPLE_RATE_HZ
        self._profile.forget(before_s)
        keep = max(int(np.searchsorted(self._edge_s, before_s, side="right")) - 1, 0)
        del self._edge_s[:keep], self._edge_bits[:keep]

    def _append(self, time_s: float, bits: int) -> None:
        self._profile.mark(Edge(time_s, bool(bits & 1)))
        self._edge_s.append(time_s)
        self._edge_bits.append(bits & 0xFF)


class Converter:
    """The meter's ranges and ADC: current in, words out, the inverse of Nordic's formula with its own calibration.

    One LSB of random dither before rounding down makes the mean of many samples exact however large the step is.
    """

    def __init__(self, seed: int) -> None:
        self._constants = {name: np.array(values) for name, values in _CALIBRATION.items()}
        self._random = np.random.default_rng(seed)
        self._counter = 0
        self.millivolts = 3000

    def set_gain(self, range_: int, gain: float) -> None:
        """Set the user gain of a range."""
        self._constants["UG"][range_] = gain

    def words(self, current_a: Float64Array, logic: UInt8Array) -> UInt32Array:
        """The words of consecutive samples."""
        ranges = np.searchsorted(_RANGE_TOP_A, current_a, side="left")
        r, gs, gi, o, s, i, ug = (self._constants[name][ranges] for name in ("R", "GS", "GI", "O", "S", "I", "UG"))
        wanted = current_a / ug - (s * (self.millivolts / 1000) + i)
        raw = 2 * wanted / (gi + np.sqrt(gi * gi + 4 * gs * wanted))
        adc = (raw * r * (163840 / 1.8) + o) / 4
        field = np.floor(adc + self._random.random(adc.size)).clip(0, _FULL_SCALE).astype(np.uint32)
        counter = (np.arange(adc.size, dtype=np.uint32) + np.uint32(self._counter)) & 63
        self._counter = (self._counter + adc.size) % 64
        words: UInt32Array = field | ranges.astype(np.uint32) << 14 | counter << 18 | logic.astype(np.uint32) << 24
        return words

    def metadata(self, fault: str, mode: int) -> bytes:
        """The answer to GET_META_DATA."""
        constants = {f"{name}{k}": f"{values[k]:.10g}" for name, values in self._constants.items() for k in range(5)}
        if fault == "nan":
            constants |= {"R1": "nan", "GS2": "-nan"}
        if fault == "missing":
            del constants["GI3"]
        lines = {"Calibrated": "0" if fault == "uncalibrated" else "1"}
        for name in ("R", "GS", "GI", "O"):
            lines |= {key: text for key, text in constants.items() if key[:-1] == name}
        lines |= {"VDD": str(self.millivolts), "HW": "9173", "mode": str(mode)}
        for name in ("S", "I", "UG"):
            lines |= {key: text for key, text in constants.items() if key[:-1] == name}
        text = "".join(f"{key}: {value}\n" for key, value in lines.items()) + "IA: 56\nEND\n"
        if fault == "truncated":
            text = text[: len(text) // 2]
        if fault == "garbage":
            text = "U-Boot 2024.01\r\n=> "
        return b"" if fault == "silent" else text.encode("ascii")


class Meter:
    """The meter's behaviour, without its ports: commands in, bytes out."""

    def __init__(
        self, board: Board, *, seed: int, roll_samples: int, faults: Faults, newest: Callable[[], None]
    ) -> None:
        self._board = board
        self._seed = seed
        self._roll = roll_samples
        self._faults = faults
        self._newest = newest
        self._commands = bytearray()
        self.reset()

    def reset(self) -> None:
        """Power-on state."""
        self._converter = Converter(self._seed)
        self._mode = 2
        self._powered = False
        self._streaming = False
        self._cursor: int | None = None
        self._end: int | None = None
        self._sent = 0
        self._later: tuple[float, bytes] | None = None
        self._commands.clear()
        self.output = bytearray()
        self._silent = False
        self.vanished = False

    def command(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._commands += data
        self._work()

    def mark(self, cycles: int, bits: int) -> None:
        """The marker changed."""
        edge = self._board.mark(cycles, bits)
        if self._streaming and self._cursor is None:
            self._cursor = max(edge - self._roll, 0)
        elif not self._streaming:
            self._board.forget(edge - self._roll - 1)

    def fill(self) -> None:
        """Have something in ``output`` if there is anything to say."""
        if self._later is not None and time.monotonic() >= self._later[0]:
            self.output += self._later[1]
            self._later = None
        while len(self.output) < _CHUNK_SAMPLES and self._sample(_CHUNK_SAMPLES):
            pass
        if self._end is not None and (self._cursor is None or self._cursor >= self._end):
            self._streaming, self._cursor, self._end = False, None, None
            self._work()

    def wait_s(self) -> float | None:
        """How long nothing will happen by itself; None for ever."""
        return None if self._later is None else max(self._later[0] - time.monotonic(), 0.0)

    def _work(self) -> None:
        while self._commands and self._end is None and self._later is None:
            size = 1 + _ARGUMENT_BYTES.get(self._commands[0], 0)
            if len(self._commands) < size:
                return
            command, arguments = self._commands[0], bytes(self._commands[1:size])
            del self._commands[:size]
            self._do(command, arguments)

    def _do(self, command: int, arguments: bytes) -> None:
        if command == 0x06 and not self._streaming:
            self._streaming, self._sent = True, 0
        elif command == 0x07 and self._streaming:
            self._newest()
            self._end = self._board.known + self._roll if self._cursor is not None else 0
        elif command == 0x0C:
            self._settle()
            self._powered = arguments[0] == 1
        elif command == 0x0D:
            self._settle()
            self._converter.millivolts = min(max(int.from_bytes(arguments, "big"), 800), 5000)
        elif command == 0x11:
            self._mode = arguments[0]
        elif command == 0x19:
            self._say(self._converter.metadata(self._faults.metadata, self._mode))
        elif command == 0x20:
            self.vanished = True
        elif command == 0x25 and arguments[0] < 5:
            self._settle()
            self._converter.set_gain(arguments[0], float(np.frombuffer(arguments, "<f4", 1, 1)[0]))

    def _say(self, text: bytes) -> None:
        if self._silent:
            return
        if self._faults.metadata == "split":
            half = len(text) // 2
            self.output += text[:half]
            self._later = (time.monotonic() + _SPLIT_PAUSE_S, text[half:])
        else:
            self.output += text

    def _settle(self) -> None:
        """Convert all samples up to now with the settings they were taken with."""
        while self._sample(_CHUNK_SAMPLES):
            pass

    def _sample(self, most: int) -> bool:
        """Convert up to ``most`` samples that are due; whether there were any."""
        if self._cursor is None:
            return False
        due = self._board.known if self._end is None else self._end
        begin, end_ = self._cursor, min(due, self._cursor + most)
        if end_ <= begin:
            return False
        current, logic = self._board.samples(begin, end_)
        if not self._powered:
            current = np.zeros_like(current)
        sent = self._spoil(self._converter.words(current, logic))
        self.output += sent
        self._cursor = end_
        self._board.forget(end_ - self._roll - 1)
        return True

    def _spoil(self, words: UInt32Array) -> bytes:
        faults = self._faults
        number = np.arange(self._sent, self._sent + words.size)
        self._sent += words.size
        limit = faults.silent_after or faults.disconnect_after
        if limit and self._sent >= limit:
            words, number = words[number < limit], number[number < limit]
            self._silent = faults.silent_after > 0
            self.vanished = not self._silent
        if faults.corrupt_every:
            words[number % faults.corrupt_every == faults.corrupt_every - 1] ^= 0x5A5A5A5A
        times = np.ones(words.size, np.intp)
        if faults.duplicate_every:
            times[number % faults.duplicate_every == faults.duplicate_every - 1] = 2
        if faults.drop_every:
            times[number % faults.drop_every >= faults.drop_every - faults.drop_count] = 0
        kept = np.ones((words.size, 4), np.bool_)
        if faults.lose_byte_every:
            kept[number % faults.lose_byte_every == faults.lose_byte_every - 1, 1] = False
        rows = words.astype("<u4").view(np.uint8).reshape(-1, 4)
        return np.repeat(rows, times, axis=0)[np.repeat(kept, times, axis=0)].tobytes()


class Ports:
    """The PTY, the marker socket and the loop that serves both."""

    def __init__(self, marker: Path, link: Path, meter: Callable[[Callable[[], None]], Meter], board: Board) -> None:
        self._link = link
        self._marker = marker
        self._board = board
        self._meter = meter(self._take_markers)
        self._frames = FrameDecoder()
        self._line: socket.socket | None = None
        self._arrived: list[tuple[int, int] | None] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(marker))
        self._listener.listen(4)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._open_pty()

    def serve(self) -> None:
        """Work until standard input ends."""
        print(f"ready {self._name}", flush=True)
        while True:
            for key, _ in self._selector.select(self._meter.wait_s()):
                if key.fd == sys.stdin.fileno() and not os.read(key.fd, 64):
                    return
            # Markers are fetched before commands are read, and used after them: a START that was written before a
            # marker is then always seen first. STOP fetches once more by itself.
            self._fetch_markers()
            self._meter.command(self._read_pty())
            self._use_markers()
            self._meter.fill()
            self._write_pty()

    def close(self) -> None:
        """Remove what others could find."""
        for path in (self._link, self._marker):
            path.unlink(missing_ok=True)

    def _open_pty(self) -> None:
        # The other end stays open here too, so that a client may come and go without a hang-up.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._name = os.ttyname(self._slave)
        fresh = self._link.with_name(self._link.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._name)
        fresh.rename(self._link)
        self._selector.register(self._master, selectors.EVENT_READ)

    def _replug(self) -> None:
        """The port vanishes; a new one appears under the same link."""
        self._selector.unregister(self._master)
        os.close(self._slave)
        os.close(self._master)
        self._meter.reset()
        self._open_pty()

    def _take_markers(self) -> None:
        self._fetch_markers()
        self._use_markers()

    def _use_markers(self) -> None:
        arrived, self._arrived = self._arrived, []
        for edge in arrived:
            if edge is None:
                self._board.restart()
            else:
                self._meter.mark(*edge)

    def _fetch_markers(self) -> None:
        if self._line is None:
            try:
                self._line, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._line.setblocking(False)
            self._selector.register(self._line, selectors.EVENT_READ)
            # A second board that connects now waits until this one has gone.
            self._selector.unregister(self._listener)
        gone = False
        while not gone:
            try:
                data = self._line.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            gone = not data
            for message in self._frames.feed(data):
                cycles, bits = message.get("c"), message.get("m")
                if isinstance(cycles, int) and isinstance(bits, int):
                    self._arrived.append((cycles, bits))
        if self._frames.garbage_bytes:
            print(f"{self._frames.garbage_bytes} bytes on the marker line were no frame", file=sys.stderr)
        self._selector.unregister(self._line)
        self._line.close()
        self._line = None
        self._frames = FrameDecoder()
        self._arrived.append(None)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _read_pty(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except BlockingIOError:
            return b""

    def _write_pty(self) -> None:
        output = self._meter.output
        while output:
            try:
                count = os.write(self._master, output[: 1 << 16])
            except BlockingIOError:
                break
            del output[:count]
            self._meter.fill()
        if self._meter.vanished and not output:
            self._replug()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if output else 0)
        self._selector.modify(self._master, events)


class EmulatedPpk2:
    """An emulated PPK2 in a process of its own; use it as a context manager, or :meth:`start` and :meth:`stop`.

    Args:
        folder: where its socket, its port's link and its log are made; must exist.
        clock_hz: rate of the cycle counter in the marker frames.
        model: load of the board.
        seed: of the converter's dither.
        roll_s: quiet time shown before the first and after the last marker, seconds.
        faults: what it does wrong.
    """

    def __init__(
        self,
        folder: Path,
        clock_hz: int,
        model: EnergyModel,
        *,
        seed: int = 0,
        roll_s: float = ROLL_S,
        faults: Faults = Faults(),
    ) -> None:
        self._folder = folder
        self._clock_hz = clock_hz
        self._model = model
        self._seed = seed
        self._roll_s = roll_s
        self._faults = faults
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def marker_path(self) -> Path:
        """UNIX socket that listens for the board's second UART."""
        return self._folder / "marker.sock"

    @property
    def port(self) -> str:
        """The meter's serial port: a link that stays right when the meter reboots."""
        return str(self._folder / "ppk2")

    @property
    def pid(self) -> int:
        """Process number.

        Raises:
            EmulatorError: not started.
        """
        if self._process is None:
            raise EmulatorError("the emulated PPK2 is not running", hint="call start() first")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            EmulatorError: it ended, or said nothing.
        """
        if len(os.fsencode(self.marker_path)) > _LONGEST_SOCKET_PATH:
            raise EmulatorError(
                f"{self.marker_path} is longer than the {_LONGEST_SOCKET_PATH} bytes of a UNIX socket's path",
                hint="use a folder with a shorter name, such as one made by tempfile.mkdtemp",
            )
        self.marker_path.unlink(missing_ok=True)
        self._log = (self._folder / "ppk2.log").open("wb")
        self._process = spawn(self._arguments(), cwd=Path.cwd(), log=self._log, stdin_pipe=True, stdout_pipe=True)
        try:
            self._wait_ready(self._process)
        except EmulatorError:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            end(process, grace_s=2.0)
        if self._log is not None:
            self._log.close()

    def _arguments(self) -> list[str]:
        model = self._model
        numbers = {
            "--marker": self.marker_path,
            "--link": self.port,
            "--clock-hz": self._clock_hz,
            "--voltage": model.voltage_v,
            "--idle": model.idle_current_a,
            "--active": model.active_current_a,
            "--settle": model.settle_s,
            "--seed": self._seed,
            "--roll": self._roll_s,
        }
        arguments = [sys.executable, "-m", "lab.emulators.ppk2"]
        for name, value in numbers.items():
            arguments += [name, str(value)]
        for fault in fields(Faults):
            arguments += [f"--{fault.name.replace('_', '-')}", str(getattr(self._faults, fault.name))]
        return arguments

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            raise EmulatorError("the emulated PPK2 was started without a pipe")
        ready = select.select([process.stdout], [], [], _START_S)[0]
        line = process.stdout.readline() if ready else b""
        if not line.startswith(b"ready "):
            log = (self._folder / "ppk2.log").read_text(errors="replace").strip()
            raise EmulatorError(f"the emulated PPK2 did not start: {log or 'it said nothing'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.ppk2", description="An emulated Nordic PPK2")
    parser.add_argument("--marker", type=Path, required=True, help="UNIX socket to listen on for marker frames")
    parser.add_argument("--link", type=Path, required=True, help="symbolic link to make to the PTY")
    parser.add_argument("--clock-hz", type=int, required=True, help="rate of the cycle counter, Hz")
    parser.add_argument("--voltage", type=float, required=True, help="supply voltage, V")
    parser.add_argument("--idle", type=float, required=True, help="current with the marker low, A")
    parser.add_argument("--active", type=float, required=True, help="current with the marker high, A")
    parser.add_argument("--settle", type=float, default=0.0, help="time constant of the edges, s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the converter's dither")
    parser.add_argument("--roll", type=float, default=ROLL_S, help="quiet time at both ends of a stream, s")
    for fault in fields(Faults):
        kind = str if fault.name == "metadata" else int
        parser.add_argument(f"--{fault.name.replace('_', '-')}", type=kind, default=fault.default)
    return parser


def main() -> None:
    """Run the emulated meter until standard input ends."""
    options = _parser().parse_args()
    faults = Faults(**{fault.name: getattr(options, fault.name) for fault in fields(Faults)})
    board = Board(EnergyModel(options.voltage, options.idle, options.active, options.settle), options.clock_hz)
    roll_samples = round(options.roll * SAMPLE_RATE_HZ)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminate)
    ports = Ports(
        options.marker,
        options.link,
        lambda newest: Meter(board, seed=options.seed, roll_samples=roll_samples, faults=faults, newest=newest),
        board,
    )
    with contextlib.closing(ports):
        ports.serve()


if __name__ == "__main__":
    main()
