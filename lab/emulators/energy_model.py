"""The load an emulated board puts on its supply: two current levels, switched by the marker, with exact integrals.

A board idles at ``idle_current_a`` and draws ``active_current_a`` while marker bit 0 is high; each edge settles
exponentially (supply decoupling) with time constant ``settle_s``. Everything an emulated meter shows, and everything a
measurement of it is checked against, follows from these closed forms:

    i(t) = I + (i0 - I)·exp(-(t - t0)/τ)                       within a stretch that began at t0 with current i0
    q(t) = I·(t - t0) + (i0 - I)·τ·(1 - exp(-(t - t0)/τ))      charge since t0
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, EmulatorError

Float64Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Edge:
    """The marker changed at ``time_s`` (seconds of device time); ``active`` is its bit 0 from then on."""

    time_s: float
    active: bool


@dataclass(frozen=True)
class EnergyModel:
    """Currents of a board and where they come from.

    Attributes:
        voltage_v: supply voltage, volt.
        idle_current_a: current while marker bit 0 is low, ampere.
        active_current_a: current while it is high, ampere.
        settle_s: time constant of the edges, seconds; 0 for steps.
        source: data sheet, paper or measurement behind the numbers.

    Raises:
        ConfigError: a number no board can have.
    """

    voltage_v: float
    idle_current_a: float
    active_current_a: float
    settle_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("voltage_v", self.voltage_v, self.voltage_v > 0),
            ("idle_current_a", self.idle_current_a, self.idle_current_a >= 0),
            ("active_current_a", self.active_current_a, self.active_current_a >= 0),
            ("settle_s", self.settle_s, self.settle_s >= 0),
        ):
            if not (allowed and math.isfinite(value)):
                raise ConfigError(f"energy model: {name} is {value}", hint="give a finite value that is not negative")

    @property
    def idle_power_w(self) -> float:
        """Power with the marker low and settled, watt."""
        return self.voltage_v * self.idle_current_a

    def level_a(self, active: bool) -> float:
        """The settled current, ampere."""
        return self.active_current_a if active else self.idle_current_a

    def energy_j(self, active_s: float) -> float:
        """Gross energy, joule, of one active window of ``active_s`` seconds that begins from settled idle."""
        charge = self.active_current_a * active_s
        charge += (self.idle_current_a - self.active_current_a) * _settled_s(active_s, self.settle_s)
        return self.voltage_v * charge

    def net_energy_j(self, active_s: float) -> float:
        """:meth:`energy_j` less what idling would have taken in the same time, joule."""
        return self.energy_j(active_s) - self.idle_power_w * active_s

    def charge(self, begin_s: float, end_s: float, edges: Iterable[Edge]) -> float:
        """Charge, coulomb, drawn from ``begin_s`` to ``end_s`` by a board with this marker history."""
        before, after = LoadProfile(self, edges).charge(np.array([begin_s, end_s]))
        return float(after - before)

    def current(self, time_s: Float64Array, edges: Iterable[Edge]) -> Float64Array:
        """Current, ampere, at each time (shape (n,), seconds, not negative) of a board with this marker history."""
        return LoadProfile(self, edges).current(time_s)


class LoadProfile:
    """Current and charge of a board whose marker history grows. The board idles from time 0 to the first edge."""

    def __init__(self, model: EnergyModel, edges: Iterable[Edge] = ()) -> None:
        self._model = model
        self._begin_s = [0.0]
        self._level_a = [model.idle_current_a]
        self._start_a = [model.idle_current_a]
        self._charge_c = [0.0]
        self._arrays: tuple[Float64Array, Float64Array, Float64Array, Float64Array] | None = None
        for edge in edges:
            self.mark(edge)

    def mark(self, edge: Edge) -> None:
        """Append an edge.

        Raises:
            EmulatorError: it lies before the last one.
        """
        elapsed = edge.time_s - self._begin_s[-1]
        if elapsed < 0:
            raise EmulatorError(
                f"marker edge at {edge.time_s} s comes after one at {self._begin_s[-1]} s",
                hint="edges must be given in the order of their times",
            )
        level, start = self._level_a[-1], self._start_a[-1]
        settle_s = self._model.settle_s
        left = math.exp(-elapsed / settle_s) if settle_s else 0.0
        self._begin_s.append(edge.time_s)
        self._level_a.append(self._model.level_a(edge.active))
        self._start_a.append(level + (start - level) * left)
        self._charge_c.append(self._charge_c[-1] + level * elapsed + (start - level) * _settled_s(elapsed, settle_s))
        self._arrays = None

    def forget(self, before_s: float) -> None:
        """Drop the history that times from ``before_s`` on do not need. Charge keeps its zero."""
        keep = max(int(np.searchsorted(self._begin_s, before_s, side="right")) - 1, 0)
        for column in (self._begin_s, self._level_a, self._start_a, self._charge_c):
            del column[:keep]
        self._arrays = None

    def current(self, time_s: Float64Array) -> Float64Array:
        """Current, ampere, at each time (shape (n,), seconds)."""
        begin, level, start, _ = self._stretches(time_s)
        settle_s = self._model.settle_s
        if settle_s == 0:
            return level
        return level + (start - level) * np.exp(-np.maximum(time_s - begin, 0.0) / settle_s)

    def charge(self, time_s: Float64Array) -> Float64Array:
        """Charge, coulomb, drawn from time 0 to each time (shape (n,), seconds)."""
        begin, level, start, charge = self._stretches(time_s)
        elapsed = time_s - begin
        total = charge + level * elapsed
        settle_s = self._model.settle_s
        if settle_s:
            total -= (start - level) * settle_s * np.expm1(-np.maximum(elapsed, 0.0) / settle_s)
        return total

    def _stretches(self, time_s: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        if self._arrays is None:
            columns = (self._begin_s, self._level_a, self._start_a, self._charge_c)
            begin, level, start, charge = (np.array(column) for column in columns)
            self._arrays = (begin, level, start, charge)
        begin, level, start, charge = self._arrays
        at = np.maximum(np.searchsorted(begin, time_s, side="right") - 1, 0)
        return begin[at], level[at], start[at], charge[at]


def _settled_s(elapsed_s: float, settle_s: float) -> float:
    """Integral of exp(-t/τ) from 0 to ``elapsed_s``; 0 for a step."""
    return -settle_s * math.expm1(-elapsed_s / settle_s) if settle_s else 0.0
