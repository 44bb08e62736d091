"""Power rails of an Nvidia Jetson as its program ``tegrastats`` tells them, one line per interval.

A line has a name and ``now/mean`` for each rail, in milliwatt: without a unit up to JetPack 4 (``VDD_IN 4067/4067``),
with ``mW`` from JetPack 5 on (``VDD_IN 4761mW/4778mW``), with a date before it from JetPack 5 on. Only the first
number is used: the second is the mean since the program began. Some rails have names that also stand for temperatures
(``GPU@37.5C``) or engines (``GPU 0/0``, ``RAM 1/2MB``, ``SWAP 0/2MB``), so a rail is a name and two whole numbers
with nothing behind them.

Nano: POM_5V_IN is the whole module; TX2, Xavier NX, Orin NX and Nano: VDD_IN. AGX Xavier and AGX Orin have no rail of
the whole: add their rails up. Behind it are INA3221, whose shunts and tolerances Nvidia does not give: 5 % and 20 mA
at 5 V are taken here. Reading hwmon on the Jetson itself gives the same with its time; see :mod:`lab.power.hwmon`.

Lines come when they come: a slot shows the newest line. A slot without a new one repeats the last (counted as a
repeat), the next such slot is lost. Currents are power over the voltage that the bench names.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import MeterConfig, TegrastatsConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Clock, Failed, Gauge, PolledMeter, Reading, SourceInfo
from lab.power.streamed import Loop, StreamedMeter
from lab.transports.remote import Remote

RELATIVE, OFFSET_A = 0.05, 20e-3
_MOST_A = 20.0
_RAIL = re.compile(r"(?<![\w@])([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
_ENDED_GRACE_S = 2.0


def parse_rails(line: str) -> dict[str, float]:
    """Rail to power now, watt. Rails named ``NC`` are not connected and left out.

    Example::

        parse_rails("GR3D_FREQ 0% VDD_IN 4761mW/4778mW VDD_SOC 1428mW/1428mW") == {"VDD_IN": 4.761, "VDD_SOC": 1.428}
    """
    return {name: int(now) * 1e-3 for name, now, _ in _RAIL.findall(line) if name != "NC"}


class Lines(Protocol):
    """Where lines come from."""

    def drain(self) -> list[str]:
        """The whole lines that have come since the last call; raises MeterError where there will be no more."""

    def first(self) -> str:
        """Wait for one line and give it; raises MeterError where none comes."""

    def close(self) -> None:
        """Let it go; safe to call twice."""


class ProgramLines:
    """A ``tegrastats`` that runs as long as this.

    Args:
        program: its name or path.
        interval_s: seconds between lines.

    Raises:
        ToolMissing: it is not installed.
    """

    def __init__(self, program: str, interval_s: float) -> None:
        try:
            self._process = subprocess.Popen(
                [program, "--interval", str(round(interval_s * 1e3))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ToolMissing(
                f"{program}: {error.strerror}", hint="it is part of JetPack and runs on a Jetson only"
            ) from error
        self._program = program
        self._part = b""

    def drain(self) -> list[str]:
        """New lines.

        Raises:
            MeterError: the program has ended.
        """
        output = self._output()
        os.set_blocking(output.fileno(), False)
        data = output.read()
        return self._split(data)

    def first(self) -> str:
        """The first line.

        Raises:
            MeterError: the program ended without one.
        """
        output = self._output()
        os.set_blocking(output.fileno(), True)
        line = output.readline()
        if not line:
            self._ended()
        return line.decode(errors="replace")

    def close(self) -> None:
        """End the program; safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_ENDED_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output().close()

    def _split(self, data: bytes | None) -> list[str]:
        if data == b"":
            self._ended()
        *lines, self._part = (self._part + (data or b"")).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _output(self) -> IO[bytes]:
        if self._process.stdout is None:
            raise MeterError(f"{self._program}: has no output")
        return self._process.stdout

    def _ended(self) -> None:
        raise MeterError(
            f"{self._program}: ended with status {self._process.wait(_ENDED_GRACE_S)}",
            hint="another tegrastats may run: `tegrastats --stop`",
            transient=True,
        )


class FileLines:
    """A file that ``tegrastats --logfile`` writes: its lines from now on.

    Args:
        path: of the file.

    Raises:
        MeterError: it is not there.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise MeterError(f"{path}: {error.strerror}", hint="start tegrastats --logfile first") from error
        self._path = path
        self._part = b""

    def first(self) -> str:
        """The last line that is there; reading begins after it.

        Raises:
            MeterError: there is none.
        """
        *lines, self._part = self._file.read().split(b"\n")
        if not lines:
            raise MeterError(f"{self._path}: holds no line yet", hint="is tegrastats running?", transient=True)
        return lines[-1].decode(errors="replace")

    def drain(self) -> list[str]:
        """New lines."""
        *lines, self._part = (self._part + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


class TegrastatsSource:
    """The sum of some rails.

    Args:
        config: which.
        voltage_v: by which power is made current.
    """

    def __init__(self, config: TegrastatsConfig, voltage_v: float) -> None:
        self._config = config
        self._voltage_v = voltage_v
        self._lines: Lines | None = None
        self._count = 0
        self._power_w = 0.0
        self._stale = 0

    def open(self) -> SourceInfo:
        """Start the program or open the file, and look for the rails in the first line.

        Raises:
            MeterError: there is no line, or it has no such rail.
            ToolMissing: the program is not installed.
        """
        config = self._config
        lines = ProgramLines(config.program, config.period) if config.file is None else FileLines(Path(config.file))
        self._lines = lines
        try:
            found = parse_rails(lines.first())
            check_rails(config, found)
        except MeterError:
            self.close()
            raise
        self._power_w = sum(found[rail] for rail in config.rails)
        self._stale = 0
        return about(config, self._voltage_v)

    def read(self) -> Reading:
        """The newest line's power.

        Raises:
            MeterError: the program has ended.
        """
        if self._lines is None:
            raise MeterError("tegrastats: not open", hint="call open() first")
        lines = self._lines.drain()
        self._count += len(lines)
        self._stale = 0 if lines else self._stale + 1
        if self._stale > 1:
            return Failed("no new line")
        if lines:
            found = parse_rails(lines[-1])
            if not all(rail in found for rail in self._config.rails):
                return Failed(f"a line without {', '.join(self._config.rails)}: {lines[-1][:60]!r}")
            self._power_w = sum(found[rail] for rail in self._config.rails)
        return Gauge(self._power_w / self._voltage_v, self._voltage_v, update=self._count)

    def close(self) -> None:
        """End the program, or close the file; safe to call twice."""
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.close()


class RemoteTegrastats:
    """The same from a ``tegrastats`` that runs on the device; see :class:`lab.power.streamed.StreamSource`.

    Args:
        config: which rails.
        voltage_v: by which power is made current.
    """

    def __init__(self, config: TegrastatsConfig, voltage_v: float) -> None:
        self._config = config
        self._voltage_v = voltage_v

    def open(self) -> SourceInfo:
        """What it is; whether it has the rails is seen in its first line."""
        return about(self._config, self._voltage_v)

    def loop(self) -> Loop:
        """The program."""
        config = self._config
        return Loop("lines", (config.program, "--interval", str(round(config.period * 1e3))))

    def take(self, text: str) -> Reading:
        """A line's power.

        Raises:
            MeterError: it has other rails.
        """
        found = parse_rails(text)
        if not found:
            return Failed(f"no line of tegrastats: {text[:80]!r}")
        check_rails(self._config, found)
        return Gauge(sum(found[rail] for rail in self._config.rails) / self._voltage_v, self._voltage_v)

    def close(self) -> None:
        """Nothing is held open."""


def about(config: TegrastatsConfig, voltage_v: float) -> SourceInfo:
    """What a sum of rails is."""
    return SourceInfo(
        identity=f"tegrastats {'+'.join(config.rails)}",
        ranges=(RangeUncertainty(_MOST_A, RELATIVE, OFFSET_A * 5.0 / voltage_v),),
        update_s=config.period,
        measures_voltage=False,
        measures_current=False,
        quantum_a=1e-3 / voltage_v,
    )


def check_rails(config: TegrastatsConfig, found: Mapping[str, float]) -> None:
    """Make sure that a line has the rails that are asked for.

    Raises:
        MeterError: lists those it has.
    """
    if missing := [rail for rail in config.rails if rail not in found]:
        raise MeterError(
            f"tegrastats: no rail {', '.join(missing)}; its line has: {', '.join(found) or 'no rail at all'}",
            hint="write rails: of those; the sum of all of them where none is the whole module",
        )


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> StreamedMeter:
    """The tegrastats meter of a device; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, TegrastatsConfig):
        raise ConfigError(f"tegrastats was asked to be a meter of kind {config.kind!r}")
    return StreamedMeter("tegrastats", RemoteTegrastats(config, voltage_v), remote, voltage_v, config.period)


def tegrastats_meter(config: TegrastatsConfig, voltage_v: float, clock: Clock | None = None) -> PolledMeter:
    """A meter that reads tegrastats."""
    return PolledMeter("tegrastats", TegrastatsSource(config, voltage_v), voltage_v, config.period, clock)


def make(config: MeterConfig, voltage_v: float) -> PolledMeter:
    """The tegrastats meter of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, TegrastatsConfig):
        raise ConfigError(f"tegrastats was asked to be a meter of kind {config.kind!r}")
    return tegrastats_meter(config, voltage_v)
