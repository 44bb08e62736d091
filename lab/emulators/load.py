"""What loads the supply of an emulated meter, in device time, with the truth of any interval in closed form.

Two kinds of load:

- :class:`MarkedLoad`: a board's :class:`~lab.emulators.energy_model.EnergyModel` switched by its marker line
  (:class:`MarkerSocket`, ``docs/wire.md``). Device time is known up to the last marker frame and goes on with the
  next.
- :class:`ScriptedLoad`: segments with a current, a voltage and marker bits each, or a recorded trace. All of it is
  known at once; a stream of it begins at time 0.

A meter of rate f shows as sample k the mean from k/f to (k+1)/f and the marker bits at k/f.
"""

from __future__ import annotations

import argparse
import math
import selectors
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.emulators.energy_model import Edge, EnergyModel, Float64Array, LoadProfile
from lab.errors import ConfigError
from lab.wire_frames import FrameDecoder

UInt8Array: TypeAlias = npt.NDArray[np.uint8]

# Device time after a reset of the board goes on at the next multiple of this, so that samples of the usual rates begin
# where its cycle 0 is.
_GRID_HZ = 100_000
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class LoadSamples:
    """What an ideal meter shows of consecutive samples.

    Attributes:
        current_a: mean current of each sample, float64, shape (n,), ampere.
        voltage_v: energy of each sample over its charge, float64, shape (n,), volt: Σ v·i·dt is exact.
        bits: marker bits at its begin, uint8, shape (n,).
    """

    current_a: Float64Array
    voltage_v: Float64Array
    bits: UInt8Array


@dataclass(frozen=True)
class Truth:
    """What an interval of device time took, in closed form.

    Attributes:
        begin_s, end_s: the interval, seconds.
        charge_c: coulomb.
        energy_j: joule.
    """

    begin_s: float
    end_s: float
    charge_c: float
    energy_j: float

    @property
    def mean_current_a(self) -> float:
        """Ampere."""
        return self.charge_c / (self.end_s - self.begin_s)

    @property
    def mean_power_w(self) -> float:
        """Watt."""
        return self.energy_j / (self.end_s - self.begin_s)


class Load(Protocol):
    """What an emulated meter measures."""

    @property
    def follows_marker(self) -> bool:
        """Whether device time goes on with marker frames; else all is known at once."""

    def due(self, sample_rate_hz: int) -> int:
        """How many samples of this rate, from time 0, are known whole."""

    def samples(self, begin: int, end: int, sample_rate_hz: int) -> LoadSamples:
        """Samples ``begin`` to ``end`` (excluded), counted from time 0."""

    def truth(self, begin_s: float, end_s: float) -> Truth:
        """What the interval took."""

    def forget(self, before_s: float) -> None:
        """Times before this will not be asked for any more."""


class MarkedLoad:
    """A board with two current levels and a marker history that grows.

    Args:
        model: its load.
        clock_hz: rate of the cycle counter in the marker frames.
    """

    follows_marker = True

    def __init__(self, model: EnergyModel, clock_hz: int) -> None:
        self._model = model
        self._profile = LoadProfile(model)
        self._clock_hz = clock_hz
        self._edge_s = [0.0]
        self._edge_bits = [0]
        self._epoch = 0
        self._last_cycles = 0

    def mark(self, cycles: int, bits: int) -> None:
        """The marker became ``bits`` at ``cycles``."""
        if cycles < self._last_cycles:
            print(f"cycle counter went from {self._last_cycles} to {cycles}: taken for a reset", file=sys.stderr)
            self.restart()
        self._last_cycles = cycles
        self._append(self._epoch / _GRID_HZ + cycles / self._clock_hz, bits)

    def restart(self) -> None:
        """The board was reset: it idles, and its new time 0 follows the last known time without a gap."""
        self._epoch = self.due(_GRID_HZ) + 1
        self._last_cycles = 0
        self._append(self._epoch / _GRID_HZ, 0)

    def due(self, sample_rate_hz: int) -> int:
        """Samples up to the last marker frame; the one it lies in is not counted."""
        ticks = self._epoch * self._clock_hz + self._last_cycles * _GRID_HZ
        return ticks * sample_rate_hz // (_GRID_HZ * self._clock_hz)

    def samples(self, begin: int, end: int, sample_rate_hz: int) -> LoadSamples:
        """Beyond the last marker frame its state is taken to hold."""
        time_s = np.arange(begin, end + 1) / sample_rate_hz
        current = np.diff(self._profile.charge(time_s)) * sample_rate_hz
        at = np.searchsorted(np.array(self._edge_s), time_s[:-1], side="right") - 1
        bits = np.array(self._edge_bits, np.uint8)[np.maximum(at, 0)]
        return LoadSamples(current, np.full(current.size, self._model.voltage_v), bits)

    def truth(self, begin_s: float, end_s: float) -> Truth:
        """What the interval took; it must not begin in what was forgotten."""
        before, after = self._profile.charge(np.array([begin_s, end_s]))
        charge_c = float(after - before)
        return Truth(begin_s, end_s, charge_c, charge_c * self._model.voltage_v)

    def forget(self, before_s: float) -> None:
        """Drop the history that times from ``before_s`` on do not need."""
        self._profile.forget(before_s)
        keep = max(int(np.searchsorted(self._edge_s, before_s, side="right")) - 1, 0)
        del self._edge_s[:keep], self._edge_bits[:keep]

    def _append(self, time_s: float, bits: int) -> None:
        self._profile.mark(Edge(time_s, bool(bits & 1)))
        self._edge_s.append(time_s)
        self._edge_bits.append(bits & 0xFF)


@dataclass(frozen=True)
class Segment:
    """A stretch of a script.

    Attributes:
        duration_s: how long it lasts, seconds.
        current_a: the current it settles to, ampere.
        bits: marker bits.
        voltage_v: supply voltage, volt.
        settle_s: time constant with which the current leaves that of the segment before; 0 for a step.
    """

    duration_s: float
    current_a: float
    bits: int = 0
    voltage_v: float = 3.3
    settle_s: float = 0.0


class ScriptedLoad:
    """Segments one after another; the last one goes on for ever.

    With level I, first current i0 and time constant τ of a segment that began at t0 (see
    :mod:`lab.emulators.energy_model`): q(t) = I·(t - t0) + (i0 - I)·τ·(1 - exp(-(t - t0)/τ)), and energy is the voltage
    of the segment times that.

    Args:
        segments: at least one.

    Raises:
        ConfigError: no segment, or one with a number that cannot be.
    """

    follows_marker = False

    def __init__(self, segments: Sequence[Segment]) -> None:
        columns = [(s.duration_s, s.current_a, s.voltage_v, s.settle_s, s.bits) for s in segments]
        self._set(np.array(columns, np.float64).reshape(-1, 5))

    @classmethod
    def recorded(
        cls,
        current_a: npt.ArrayLike,
        sample_rate_hz: float,
        voltage_v: float | npt.ArrayLike,
        bits: npt.ArrayLike = 0,
    ) -> Self:
        """A recorded trace: each value holds for one sample of the recording.

        Args:
            current_a: shape (n,), ampere.
            sample_rate_hz: of the recording.
            voltage_v: one for all, or shape (n,), volt.
            bits: marker bits, one for all or shape (n,).
        """
        current = np.asarray(current_a, np.float64)
        rows = np.zeros((current.size, 5))
        for column, value in enumerate((1.0 / sample_rate_hz, current, voltage_v, 0.0, bits)):
            rows[:, column] = value
        load = cls.__new__(cls)
        load._set(rows)
        return load

    @classmethod
    def read(cls, path: Path) -> Self:
        """What :meth:`write` wrote."""
        load = cls.__new__(cls)
        load._set(np.load(path, allow_pickle=False))
        return load

    def write(self, path: Path) -> None:
        """To an ``.npy`` file: rows of duration, current, voltage, time constant, bits."""
        np.save(path, self._rows)

    @property
    def duration_s(self) -> float:
        """Length of all segments, seconds."""
        return float(self._begin_s[-1] + self._rows[-1, 0])

    def edges_s(self, bit: int = 0) -> list[tuple[float, bool]]:
        """Times, seconds, at which a marker bit changes, and what it becomes."""
        level = (self._bits >> bit & 1).astype(np.int8)
        changes = np.flatnonzero(np.diff(level, prepend=np.int8(0)))
        return [(float(self._begin_s[k]), bool(level[k])) for k in changes]

    def due(self, sample_rate_hz: int) -> int:
        """Samples up to the end of the script."""
        # Sums of durations that are meant to be whole samples may lie a rounding below.
        return math.floor(self.duration_s * sample_rate_hz + 1e-6)

    def samples(self, begin: int, end: int, sample_rate_hz: int) -> LoadSamples:
        """Samples of the script, whose last segment goes on after its end."""
        time_s = np.arange(begin, end + 1) / sample_rate_hz
        charge, energy = self._integrals(time_s)
        q, e = np.diff(charge), np.diff(energy)
        # A time that is meant to be the begin of a segment may lie a rounding below it.
        at = self._at(time_s + _ROUNDING_S)
        at, mixed = at[:-1], (at[:-1] != at[1:]) & (q > 0)
        voltage = self._rows[at, 2]
        voltage[mixed] = e[mixed] / q[mixed]
        return LoadSamples(q * sample_rate_hz, voltage, self._bits[at])

    def truth(self, begin_s: float, end_s: float) -> Truth:
        """What the interval took."""
        charge, energy = self._integrals(np.array([begin_s, end_s]))
        return Truth(begin_s, end_s, float(charge[1] - charge[0]), float(energy[1] - energy[0]))

    def forget(self, before_s: float) -> None:
        """Nothing: a script is played again with each stream."""

    def _set(self, rows: Float64Array) -> None:
        duration, level, voltage, settle, bits = rows.T
        if not rows.size or not np.isfinite(rows).all() or (duration <= 0).any() or (rows < 0).any():
            raise ConfigError(
                "a scripted load needs at least one segment, each longer than 0 s, with no negative number",
                hint="look at the durations, currents, voltages, time constants and bits",
            )
        self._rows = rows
        self._bits = bits.astype(np.uint8)
        self._begin_s = np.concatenate(([0.0], np.cumsum(duration)[:-1]))
        start = level.copy()
        for k in np.flatnonzero(settle[1:]) + 1:
            left = math.exp(-duration[k - 1] / settle[k - 1]) if settle[k - 1] else 0.0
            start[k] = level[k - 1] + (start[k - 1] - level[k - 1]) * left
        self._start_a = start
        charges = self._within(np.arange(level.size), duration)
        self._charge_c = np.concatenate(([0.0], np.cumsum(charges)[:-1]))
        self._energy_j = np.concatenate(([0.0], np.cumsum(charges * voltage)[:-1]))

    def _at(self, time_s: Float64Array) -> npt.NDArray[np.intp]:
        return np.maximum(np.searchsorted(self._begin_s, time_s, side="right") - 1, 0)

    def _within(self, at: npt.NDArray[np.intp], elapsed_s: Float64Array) -> Float64Array:
        """Charge since the begin of each segment."""
        level, settle = self._rows[at, 1], self._rows[at, 3]
        charge: Float64Array = level * elapsed_s
        soft = settle > 0
        tau = settle[soft]
        charge[soft] -= (self._start_a[at][soft] - level[soft]) * tau * np.expm1(-elapsed_s[soft] / tau)
        return charge

    def _integrals(self, time_s: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Charge and energy from time 0 to each time."""
        at = self._at(time_s)
        charge = self._within(at, time_s - self._begin_s[at])
        return self._charge_c[at] + charge, self._energy_j[at] + self._rows[at, 2] * charge


class MarkerSocket:
    """Listens for the second UART of an emulated board, one at a time.

    Args:
        path: the UNIX socket to make.
        selector: is told what to wait for.
    """

    def __init__(self, path: Path, selector: selectors.BaseSelector) -> None:
        self._path = path
        self._selector = selector
        self._frames = FrameDecoder()
        self._line: socket.socket | None = None
        self._arrived: list[tuple[int, int] | None] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """Close both sockets and remove the path."""
        for one in (self._line, self._listener):
            if one is not None:
                one.close()
        self._path.unlink(missing_ok=True)

    @property
    def waiting(self) -> bool:
        """Whether :meth:`take` has something."""
        return bool(self._arrived)

    def take(self) -> list[tuple[int, int] | None]:
        """What :meth:`fetch` found since the last call: cycles and bits; None where the board went away."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def fetch(self) -> None:
        """Read what has come, of one board after the other."""
        while (line := self._line or self._accept()) is not None and self._read(line):
            self._hang_up(line)

    def _accept(self) -> socket.socket | None:
        try:
            self._line, _ = self._listener.accept()
        except BlockingIOError:
            return None
        self._line.setblocking(False)
        self._selector.register(self._line, selectors.EVENT_READ)
        # A second board that connects now waits until this one has gone.
        self._selector.unregister(self._listener)
        return self._line

    def _read(self, line: socket.socket) -> bool:
        """Take what has come of a board; whether it went away."""
        while True:
            try:
                data = line.recv(1 << 16)
            except BlockingIOError:
                return False
            except ConnectionError:
                data = b""
            if not data:
                return True
            for message in self._frames.feed(data):
                cycles, bits = message.get("c"), message.get("m")
                if isinstance(cycles, int) and isinstance(bits, int):
                    self._arrived.append((cycles, bits))

    def _hang_up(self, line: socket.socket) -> None:
        if self._frames.garbage_bytes:
            print(f"{self._frames.garbage_bytes} bytes on the marker line were no frame", file=sys.stderr)
        self._selector.unregister(line)
        line.close()
        self._line = None
        self._frames = FrameDecoder()
        self._arrived.append(None)
        self._selector.register(self._listener, selectors.EVENT_READ)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a peer that say what its load is."""
    parser.add_argument("--marker", type=Path, required=True, help="UNIX socket to listen on for marker frames")
    parser.add_argument("--script", type=Path, help="play this file (ScriptedLoad.write); the next four do not matter")
    parser.add_argument("--clock-hz", type=int, default=1_000_000, help="rate of the cycle counter, Hz")
    parser.add_argument("--voltage", type=float, default=3.3, help="supply voltage, V")
    parser.add_argument("--idle", type=float, default=0.0, help="current with the marker low, A")
    parser.add_argument("--active", type=float, default=0.0, help="current with the marker high, A")
    parser.add_argument("--settle", type=float, default=0.0, help="time constant of the edges, s")


def load_of(options: argparse.Namespace) -> MarkedLoad | ScriptedLoad:
    """The load that options of :func:`add_arguments` mean."""
    if options.script is not None:
        return ScriptedLoad.read(options.script)
    model = EnergyModel(options.voltage, options.idle, options.active, options.settle)
    return MarkedLoad(model, options.clock_hz)


def arguments_of_model(model: EnergyModel, clock_hz: int) -> list[str]:
    """Options of :func:`add_arguments` for a board's model."""
    numbers = {
        "--clock-hz": clock_hz,
        "--voltage": model.voltage_v,
        "--idle": model.idle_current_a,
        "--active": model.active_current_a,
        "--settle": model.settle_s,
    }
    return [text for name, value in numbers.items() for text in (name, str(value))]


def arguments_of_script(script: ScriptedLoad, path: Path) -> list[str]:
    """Options of :func:`add_arguments` for a script, which is written to ``path``."""
    script.write(path)
    return ["--script", str(path)]
