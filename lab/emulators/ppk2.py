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
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.emulators.energy_model import EnergyModel, Float64Array
from lab.emulators.fault_options import add_fault_options, fault_arguments, faults_of
from lab.emulators.load import (
    Load,
    ScriptedLoad,
    UInt8Array,
    add_arguments,
    arguments_of_model,
    arguments_of_script,
    load_of,
)
from lab.emulators.meter_process import MeterProcess, Ports, serve
from lab.emulators.meters import StartedMeter
from lab.errors import ConfigError

if TYPE_CHECKING:
    from lab.meter_config import MeterConfig

SAMPLE_RATE_HZ = 100_000
ROLL_S = 5e-3

_FULL_SCALE = 0x3FFF
_LOGIC = 24
"""First bit of the logic inputs in a word."""
_CHUNK_SAMPLES = 16384
_SPLIT_PAUSE_S = 0.05
_RANGE_TOP_A = (50e-6, 500e-6, 5e-3, 60e-3)

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
        disconnects: how often that happens; 0 means with every stream.
        stuck_after: after so many samples the logic inputs stay as they are, until the meter starts anew.
        bounce_every: every so many rising edges of D0 the input falls once more, for a sample.
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
    disconnects: int = 0
    stuck_after: int = 0
    bounce_every: int = 0
    metadata: str = "whole"


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
        words: UInt32Array = field | ranges.astype(np.uint32) << 14 | counter << 18 | logic.astype(np.uint32) << _LOGIC
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
    """The meter's behaviour, without its ports: commands in, bytes out.

    Args:
        load: what it measures.
        seed: of the converter's dither.
        roll_samples: quiet samples shown before the first and after the last marker.
        faults: what it does wrong.
        newest: has the load told the marker's last word, before a stream ends.
    """

    def __init__(
        self, load: Load, *, seed: int, roll_samples: int, faults: Faults, newest: Callable[[], None]
    ) -> None:
        self._load = load
        self._seed = seed
        self._roll = roll_samples
        self._faults = faults
        self._newest = newest
        self._commands = bytearray()
        self._disconnected = 0
        self.reset()

    def reset(self) -> None:
        """Power-on state."""
        self._converter = Converter(self._seed)
        self._mode = 2
        self._powered = False
        self.streaming = False
        self._cursor: int | None = None
        self._end: int | None = None
        self._later: tuple[float, bytes] | None = None
        self._commands.clear()
        self.output = bytearray()
        self._silent = False
        self.vanished = False
        self._new_stream()

    def command(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._commands += data
        self._work()

    def marked(self) -> None:
        """The marker changed."""
        edge = self._load.due(SAMPLE_RATE_HZ)
        if self.streaming and self._cursor is None:
            self._cursor = max(edge - self._roll, 0)
        elif not self.streaming:
            self._load.forget((edge - self._roll - 1) / SAMPLE_RATE_HZ)

    def fill(self) -> None:
        """Have something in ``output`` if there is anything to say."""
        if self._later is not None and time.monotonic() >= self._later[0]:
            self.output += self._later[1]
            self._later = None
        while len(self.output) < _CHUNK_SAMPLES and self._sample(_CHUNK_SAMPLES):
            pass
        if self._end is not None and (self._cursor is None or self._cursor >= self._end):
            self.streaming, self._cursor, self._end = False, None, None
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
        if command == 0x06 and not self.streaming:
            self.streaming = True
            self._new_stream()
            self._cursor = None if self._load.follows_marker else 0
        elif command == 0x07 and self.streaming:
            self._newest()
            roll = self._roll if self._load.follows_marker else 0
            self._end = self._load.due(SAMPLE_RATE_HZ) + roll if self._cursor is not None else 0
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
        if self._silent or self.vanished:
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
        due = self._load.due(SAMPLE_RATE_HZ) if self._end is None else self._end
        begin, end_ = self._cursor, min(due, self._cursor + most)
        if end_ <= begin:
            return False
        shown = self._load.samples(begin, end_, SAMPLE_RATE_HZ)
        current = shown.current_a if self._powered else np.zeros_like(shown.current_a)
        self.output += self._spoil(self._converter.words(current, shown.bits))
        self._cursor = end_
        self._load.forget((end_ - self._roll - 1) / SAMPLE_RATE_HZ)
        return True

    def _new_stream(self) -> None:
        """What a fault remembers of a stream."""
        self._sent = self._rises = 0
        self._high = self._bouncing = False
        self._held: int | None = None

    def _spoil(self, words: UInt32Array) -> bytes:
        faults = self._faults
        number = np.arange(self._sent, self._sent + words.size)
        self._sent += words.size
        self._spoil_inputs(words, number)
        vanishes = faults.disconnects == 0 or self._disconnected < faults.disconnects
        limit = faults.silent_after or (faults.disconnect_after if vanishes else 0)
        if limit and self._sent >= limit:
            words, number = words[number < limit], number[number < limit]
            self._silent = faults.silent_after > 0
            self._disconnected += not self._silent and not self.vanished
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


    def _spoil_inputs(self, words: UInt32Array, number: npt.NDArray[np.int_]) -> None:
        """Let the logic inputs bounce and get stuck, in place."""
        faults = self._faults
        if faults.bounce_every:
            high = (words >> _LOGIC & 1).astype(np.bool_)
            rises = np.flatnonzero(high & ~np.concatenate(([self._high], high[:-1])))
            chosen = rises[(self._rises + np.arange(rises.size)) % faults.bounce_every == faults.bounce_every - 1]
            # A bounce at the end of a piece shows in the next one.
            falls = np.concatenate((chosen + 1, [0] if self._bouncing else [])).astype(np.intp)
            words[falls[falls < words.size]] &= ~np.uint32(1 << _LOGIC)
            self._bouncing = bool((falls >= words.size).any())
            self._rises += rises.size
            self._high = bool(high[-1])
        stuck = number >= faults.stuck_after
        if faults.stuck_after and stuck.any():
            self._held = int(words[stuck][0] >> _LOGIC) if self._held is None else self._held
            words[stuck] = words[stuck] & ((1 << _LOGIC) - 1) | np.uint32(self._held << _LOGIC)


class EmulatedPpk2:
    """An emulated PPK2 in a process of its own; use it as a context manager, or :meth:`start` and :meth:`stop`.

    Args:
        folder: where its socket, its port's link and its log are made; must exist.
        clock_hz: rate of the cycle counter in the marker frames.
        load: of the board; a script is played from its begin with each stream and needs no marker.
        seed: of the converter's dither.
        roll_s: quiet time shown before the first and after the last marker, seconds.
        faults: what it does wrong.
    """

    def __init__(
        self,
        folder: Path,
        clock_hz: int,
        load: EnergyModel | ScriptedLoad,
        *,
        seed: int = 0,
        roll_s: float = ROLL_S,
        faults: Faults = Faults(),
    ) -> None:
        self._folder = folder
        self._clock_hz = clock_hz
        self._load = load
        self._seed = seed
        self._roll_s = roll_s
        self._faults = faults
        self._process = MeterProcess("the emulated PPK2", "lab.emulators.ppk2", folder, "ppk2")

    @property
    def marker_path(self) -> Path:
        """UNIX socket that listens for the board's second UART."""
        return self._process.marker_path

    @property
    def port(self) -> str:
        """The meter's serial port: a link that stays right when the meter reboots."""
        return str(self._process.link)

    @property
    def pid(self) -> int:
        """Process number.

        Raises:
            EmulatorError: not started.
        """
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
        if isinstance(self._load, ScriptedLoad):
            arguments = arguments_of_script(self._load, self._folder / "ppk2.npy")
        else:
            arguments = arguments_of_model(self._load, self._clock_hz)
        arguments += ["--link", self.port, "--seed", str(self._seed), "--roll", str(self._roll_s)]
        arguments += fault_arguments(self._faults)
        self._process.start(arguments)

    def stop(self) -> None:
        """End the process; safe to call twice."""
        self._process.stop()


def peer(config: MeterConfig, folder: Path, clock_hz: int, model: EnergyModel, stack: ExitStack) -> StartedMeter:
    """The emulated PPK2 of a bench entry, started; see :func:`lab.emulators.meters.start_meter`."""
    # The process of the meter needs no models, which take a third of its start.
    from lab.meter_config import Ppk2Config

    if not isinstance(config, Ppk2Config):
        raise ConfigError(f"a PPK2 was asked to be a meter of kind {config.kind!r}")
    running = stack.enter_context(EmulatedPpk2(folder, clock_hz, model))
    return StartedMeter(running.marker_path, running.port, config.model_copy(update={"port": running.port}))


def main() -> None:
    """Run the emulated meter until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.ppk2", description="An emulated Nordic PPK2")
    add_arguments(parser)
    parser.add_argument("--link", type=Path, required=True, help="symbolic link to make to the PTY")
    parser.add_argument("--seed", type=int, default=0, help="seed of the converter's dither")
    parser.add_argument("--roll", type=float, default=ROLL_S, help="quiet time at both ends of a stream, s")
    add_fault_options(parser, Faults)
    options = parser.parse_args()
    load = load_of(options)
    ports = Ports(options.marker, options.link, load)
    meter = Meter(
        load,
        seed=options.seed,
        roll_samples=round(options.roll * SAMPLE_RATE_HZ),
        faults=faults_of(options, Faults),
        newest=lambda: ports.take_markers(meter),
    )
    serve(ports, meter)


if __name__ == "__main__":
    main()
