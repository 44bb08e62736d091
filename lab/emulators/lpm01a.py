"""An emulated ST X-NUCLEO-LPM01A: the board's command lines and both data formats on a PTY, in device time.

Sample k of a stream is the mean current (or the energy) of the k-th period of device time since its begin. The rules
about time are those of :mod:`lab.emulators.ppk2`: device time goes on with the marker, a stream begins a little before
the first marker after its start, a stopped one goes on for as long; a scripted load is played from its begin. Bit 0 of
the marker is D7.

What is not confirmed on a board, and made up here: ``eventsrc d7 both``, events in the binary format (information
records with the text of the ASCII one), the time stamp before the first sample of each second, the text of overcurrent
in the ASCII format.

Run as a program it prints ``ready <pty>`` once it can be used, and ends with its standard input or on SIGTERM.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from lab.emulators.energy_model import EnergyModel, Float64Array
from lab.emulators.fault_options import add_fault_options, fault_arguments, faults_of
from lab.emulators.load import (
    Load,
    LoadSamples,
    ScriptedLoad,
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

HIGHEST_CURRENT_A = 50e-3
ROLL_SAMPLES = 10

_CHUNK_BYTES = 1 << 15
_UNITS = {"u": 1e-6, "m": 1e-3, "k": 1e3}
_NUMBER = re.compile(r"(\d+)(?:([umk])|([+-]\d{1,2}))?")
_CHOICES: dict[str, tuple[str, ...]] = {
    "acqmode": ("dyn", "stat"),
    "funcmode": ("optim", "high"),
    "output": ("current", "energy"),
    "format": ("ascii_dec", "bin_hexa"),
    "trigsrc": ("sw", "d7"),
    "pwrend": ("on", "off"),
    "eventsrc": ("d7 ris", "d7 fal", "d7 both"),
}
_RATES = (100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 500, 200, 100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class Faults:
    """What the emulated meter does wrong. Numbers are in samples since the start of the stream; 0 means never.

    Attributes:
        drop_every: of every so many samples the last one is not sent.
        corrupt_every: every so many samples a value is damaged.
        duplicate_every: every so many samples a value is sent twice.
        lose_byte_every: every so many samples one byte of a value is not sent.
        silent_after: after so many samples the meter says nothing any more.
        disconnect_after: after so many samples the port vanishes.
        lose_event_every: every so many events on D7 one is not sent.
        overcurrent_after: after so many samples it reports overcurrent and cuts the supply.
        refuse: the command that it answers with an error.
        identity: what it calls itself.
    """

    drop_every: int = 0
    corrupt_every: int = 0
    duplicate_every: int = 0
    lose_byte_every: int = 0
    silent_after: int = 0
    disconnect_after: int = 0
    lose_event_every: int = 0
    overcurrent_after: int = 0
    refuse: str = ""
    identity: str = "PowerShield"


class Converter:
    """Values as the two formats write them, with one step of dither before rounding down: means of many are exact."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def ascii(self, values: Float64Array) -> list[bytes]:
        """Lines ``mmmm-ee`` with four digits."""
        exponent, mantissa = self._split(values, 10.0, 1000.0, 99)
        return [b"%04d-%02d\r\n" % (m, e) for m, e in zip(mantissa, exponent, strict=True)]

    def binary(self, values: Float64Array) -> list[bytes]:
        """Words of a 4-bit exponent and a 12-bit mantissa."""
        exponent, mantissa = self._split(values, 16.0, 256.0, 14)
        return [(e << 12 | m).to_bytes(2, "big") for m, e in zip(mantissa, exponent, strict=True)]

    def _split(self, values: Float64Array, base: float, least: float, most: int) -> tuple[list[int], list[int]]:
        """Exponents and mantissas, value = mantissa / base**exponent with least <= mantissa < least * base."""
        positive = np.maximum(values, 1e-30)
        exponent = np.ceil(np.log(least / positive) / np.log(base) - 1e-12).clip(0, most)
        mantissa = np.floor(values * base**exponent + self._random.random(values.size))
        over = mantissa >= least * base
        mantissa[over] = least
        exponent[over] -= 1
        return exponent.astype(int).tolist(), mantissa.astype(int).tolist()


class Meter:
    """The board's behaviour, without its ports: lines in, bytes out.

    Args:
        load: what it measures.
        seed: of the converter's dither.
        faults: what it does wrong.
        newest: has the load told the marker's last word, before a stream ends.
    """

    def __init__(self, load: Load, *, seed: int, faults: Faults, newest: Callable[[], None]) -> None:
        self._load = load
        self._seed = seed
        self._faults = faults
        self._newest = newest
        self.reset()

    def reset(self) -> None:
        """Power-on state."""
        self._converter = Converter(self._seed)
        self._controlled = False
        self._settings = {name: choices[0] for name, choices in _CHOICES.items()} | {"eventsrc": "none"}
        self._rate = 100
        self._voltage_v = 3.3
        self._powered = False
        self.streaming = False
        self._cursor: int | None = None
        self._begin = 0
        self._end: int | None = None
        self._events = 0
        self._level = 0
        self._over = False
        self._silent = False
        self._commands = bytearray()
        self.output = bytearray()
        self.vanished = False

    def command(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._commands += data
        while self._end is None and (end := self._commands.find(b"\n")) >= 0:
            line = bytes(self._commands[:end]).decode("ascii", "replace").strip()
            del self._commands[: end + 1]
            if line and not self._silent and not self.vanished:
                self._do(line)

    def marked(self) -> None:
        """The marker changed."""
        edge = self._load.due(self._rate)
        if self.streaming and self._cursor is None:
            roll = 0 if self._settings["trigsrc"] == "d7" else ROLL_SAMPLES
            self._begin = self._cursor = max(edge - roll, 0)
        elif not self.streaming:
            self._load.forget((edge - ROLL_SAMPLES - 1) / self._rate)

    def wait_s(self) -> float | None:
        """Nothing ever happens by itself."""
        return None

    def fill(self) -> None:
        """Have something in ``output`` if there is anything to say."""
        while len(self.output) < _CHUNK_BYTES and self._sample():
            pass
        if self._end is not None and (self._cursor is None or self._cursor >= self._end):
            self.streaming, self._cursor, self._end = False, None, None
            self._say_end()
            self.command(b"")

    def _do(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == self._faults.refuse:
            self._refuse(line, "wrong parameter")
        elif name == "powershield":
            self._acknowledge(line, f"{self._faults.identity} present: 003A00165750500120303557")
        elif name == "version":
            self._acknowledge(line, "1.0.6")
        elif name in ("htc", "hrc"):
            self._controlled = name == "htc"
            self._acknowledge(line)
        elif name == "stop":
            self._stop(line)
        elif name == "psrst":
            self.vanished = True
        elif not self._controlled:
            self._refuse(line, "not in mode controlled by host")
        elif name == "start":
            self._start(line)
        else:
            self._set(line, name, argument)

    def _set(self, line: str, name: str, argument: str) -> None:
        value = _number(argument)
        if name in _CHOICES and argument in _CHOICES[name]:
            self._settings[name] = argument
        elif name == "volt" and 1.8 <= value <= 3.3:
            self._voltage_v = value
        elif name == "freq" and value in _RATES:
            self._rate = int(value)
        elif name == "pwr" and (state := argument.partition(" ")[0]) in ("on", "off", "auto"):
            self._powered = state != "off"
        elif not (name == "acqtime" and argument == "inf") and not (name == "trigdelay" and 0 <= value <= 30):
            self._refuse(line, "unknown command or wrong parameter")
            return
        self._acknowledge(line)

    def _acknowledge(self, line: str, value: str = "") -> None:
        self.output += f"\r\nPowerShield > ack {line}{' ' + value if value else ''}\r\n\r\n".encode("ascii", "replace")

    def _refuse(self, line: str, why: str) -> None:
        self.output += f"\r\nPowerShield > error {line}\r\nError detail: {why}\r\n\r\n".encode("ascii", "replace")

    def _start(self, line: str) -> None:
        if self._settings["output"] == "energy" and self._rate > 10_000:
            self._refuse(line, "frequency too high for output energy")
            return
        self._acknowledge(line)
        self.streaming = True
        self._events, self._level, self._over = 0, 0, False
        self._cursor = None
        if not self._load.follows_marker:
            self._begin = self._cursor = 0

    def _stop(self, line: str) -> None:
        if not self.streaming:
            self._refuse(line, "no acquisition on going")
            return
        self._newest()
        roll = ROLL_SAMPLES if self._load.follows_marker else 0
        self._end = self._load.due(self._rate) + roll if self._cursor is not None else 0

    def _say_end(self) -> None:
        if self._silent or self.vanished:
            return
        if self._binary:
            self.output += b"\xf0\xf4\xff\xff"
        else:
            self.output += b"end\r\n"
        self.output += b"\r\nsummary beg\r\nsummary end\r\nPowerShield > Acquisition completed\r\n\r\n"

    @property
    def _binary(self) -> bool:
        return self._settings["format"] == "bin_hexa"

    def _sample(self) -> bool:
        """Send the samples of the current second that are due; whether there were any."""
        if self._cursor is None:
            return False
        begin = self._cursor
        second = (begin - self._begin) // self._rate
        due = self._load.due(self._rate) if self._end is None else self._end
        end = min(due, self._begin + (second + 1) * self._rate, begin + 4096)
        if end <= begin:
            return False
        if begin == self._begin + second * self._rate:
            self._stamp(second * 1000)
        self._send(begin - self._begin, self._load.samples(begin, end, self._rate))
        self._cursor = end
        self._load.forget((end - ROLL_SAMPLES - 1) / self._rate)
        return True

    def _send(self, first: int, shown: LoadSamples) -> None:
        """One stretch between two time stamps."""
        faults = self._faults
        current = shown.current_a if self._powered else np.zeros_like(shown.current_a)
        over = current > HIGHEST_CURRENT_A
        number = np.arange(first, first + current.size)
        if faults.overcurrent_after:
            over |= number == faults.overcurrent_after
            current[number >= faults.overcurrent_after] = 0.0
        values = current.clip(0, HIGHEST_CURRENT_A)
        if self._settings["output"] == "energy":
            values = values * self._voltage_v / self._rate
        pieces = self._converter.binary(values) if self._binary else self._converter.ascii(values)
        for k, piece in enumerate(pieces):
            limit = faults.silent_after or faults.disconnect_after
            if limit and first + k >= limit:
                self._silent = faults.silent_after > 0
                self.vanished = not self._silent
            if self._silent or self.vanished:
                return
            self._event(int(shown.bits[k]) & 1)
            if over[k] and not self._over:
                self.output += b"\xf0\xf5\xff\xff" if self._binary else b"error: overcurrent\r\n"
            self._over = bool(over[k])
            self.output += self._spoil(first + k, piece)

    def _event(self, level: int) -> None:
        if level == self._level:
            return
        self._level = level
        edge = "ris" if level else "fal"
        if self._settings["eventsrc"] not in (f"d7 {edge}", "d7 both"):
            return
        text = f"event {self._events} {edge}".encode("ascii")
        self._events += 1
        if self._faults.lose_event_every and self._events % self._faults.lose_event_every == 0:
            return
        self.output += b"\xf0\xf2" + text + b"\xff\xff" if self._binary else text + b"\r\n"

    def _stamp(self, milliseconds: int) -> None:
        if self._silent or self.vanished:
            return
        if self._binary:
            self.output += b"\xf0\xf3" + milliseconds.to_bytes(4, "big") + b"\x05\xff\xff"
        else:
            # The zero byte is what boards send.
            self.output += b"TimeStamp: %03ds %03dms, buff 05%%\r\n\x00" % divmod(milliseconds, 1000)

    def _spoil(self, number: int, piece: bytes) -> bytes:
        faults = self._faults

        def hit(every: int) -> bool:
            return every > 0 and number % every == every - 1

        if hit(faults.drop_every):
            return b""
        if hit(faults.corrupt_every):
            piece = (b"\x1f" if self._binary else b"?") + piece[1:]
        if hit(faults.lose_byte_every):
            piece = piece[1:]
        return piece * 2 if hit(faults.duplicate_every) else piece


def _number(text: str) -> float:
    """A number as the board takes it: ``2m``, ``2-3`` or ``2``; not a number for anything else."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return float("nan")
    # 3300m is meant to be 3.3, not a rounding above it.
    return round(int(found[1]) * (_UNITS[found[2]] if found[2] else 10.0 ** int(found[3] or 0)), 9)


class EmulatedLpm01a:
    """An emulated LPM01A in a process of its own; use it as a context manager.

    Args:
        folder: where its socket, its port's link and its log are made; must exist.
        clock_hz: rate of the cycle counter in the marker frames.
        load: of the board; a script is played from its begin with each stream and needs no marker.
        seed: of the converter's dither.
        faults: what it does wrong.
    """

    def __init__(
        self,
        folder: Path,
        clock_hz: int,
        load: EnergyModel | ScriptedLoad,
        *,
        seed: int = 0,
        faults: Faults = Faults(),
    ) -> None:
        self._folder = folder
        self._clock_hz = clock_hz
        self._load = load
        self._seed = seed
        self._faults = faults
        self._process = MeterProcess("the emulated LPM01A", "lab.emulators.lpm01a", folder, "lpm01a")

    @property
    def marker_path(self) -> Path:
        """UNIX socket that listens for the board's second UART."""
        return self._process.marker_path

    @property
    def port(self) -> str:
        """The meter's serial port: a link that stays right when the meter reboots."""
        return str(self._process.link)

    def __enter__(self) -> Self:
        if isinstance(self._load, ScriptedLoad):
            arguments = arguments_of_script(self._load, self._folder / "lpm01a.npy")
        else:
            arguments = arguments_of_model(self._load, self._clock_hz)
        arguments += ["--link", self.port, "--seed", str(self._seed)]
        arguments += fault_arguments(self._faults)
        self._process.start(arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


def peer(config: MeterConfig, folder: Path, clock_hz: int, model: EnergyModel, stack: ExitStack) -> StartedMeter:
    """The emulated LPM01A of a bench entry, started; see :func:`lab.emulators.meters.start_meter`."""
    # The process of the meter needs no models, which take a third of its start.
    from lab.meter_config import Lpm01aConfig

    if not isinstance(config, Lpm01aConfig):
        raise ConfigError(f"an LPM01A was asked to be a meter of kind {config.kind!r}")
    running = stack.enter_context(EmulatedLpm01a(folder, clock_hz, model))
    return StartedMeter(running.marker_path, running.port, config.model_copy(update={"port": running.port}))


def main() -> None:
    """Run the emulated meter until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.lpm01a", description="An emulated ST LPM01A")
    add_arguments(parser)
    parser.add_argument("--link", type=Path, required=True, help="symbolic link to make to the PTY")
    parser.add_argument("--seed", type=int, default=0, help="seed of the converter's dither")
    add_fault_options(parser, Faults)
    options = parser.parse_args()
    load = load_of(options)
    ports = Ports(options.marker, options.link, load)
    meter = Meter(
        load,
        seed=options.seed,
        faults=faults_of(options, Faults),
        newest=lambda: ports.take_markers(meter),
    )
    serve(ports, meter)


if __name__ == "__main__":
    main()
