"""What a family of SCPI instruments must say of itself: buffered ones and ones that are polled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from lab.power.base import RangeUncertainty
from lab.power.scpi_session import Float64Array, ScpiSession


@dataclass(frozen=True)
class Setup:
    """How a measurement is set up.

    Attributes:
        channel: output, 1…
        voltage_v: voltage to supply, or that the device runs at, volt.
        limit_a: current limit of a supply, ampere.
        range_a: fixed range, ampere; None for automatic ranging.
        period_s: time from sample to sample that is asked for, seconds.
        external_trigger: a record begins with the trigger input, not with a command.
    """

    channel: int
    voltage_v: float
    limit_a: float
    range_a: float | None
    period_s: float
    external_trigger: bool


@dataclass(frozen=True)
class Readings:
    """What an instrument gave.

    Attributes:
        current_a: float64, shape (n,), ampere; NaN where damaged, ±inf where over the range.
        voltage_v: the same for the voltage, volt; None where it is not measured.
        time_s: when each was taken, seconds since the trigger; None where the instrument does not say and samples
            follow each other at its period.
    """

    current_a: Float64Array
    voltage_v: Float64Array | None = None
    time_s: Float64Array | None = None


@dataclass(frozen=True)
class Family:
    """Facts of a family.

    Attributes:
        title: for messages.
        identity: what ``*IDN?`` must match, a regular expression.
        supplies: whether it feeds the device.
        measures_voltage: whether each sample has a measured voltage.
        ranges: class uncertainty of the current.
        figures: where the class uncertainties come from, for the record.
        voltage_uncertainty: class uncertainty of the voltage at 3.3 V, relative.
        shortest_period_s: least time from sample to sample, seconds.
        at_once: of an instrument with memory, the most readings that one ``fetch`` takes.
        keeps_memory: whether readings can still be fetched after ``halt``.
    """

    title: str
    identity: str
    supplies: bool
    measures_voltage: bool
    ranges: tuple[RangeUncertainty, ...]
    figures: str
    voltage_uncertainty: float
    shortest_period_s: float
    at_once: int = 0
    keeps_memory: bool = True


class Dialect(Protocol):
    """What all families offer."""

    @property
    def family(self) -> Family:
        """Facts."""

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Set everything up, output included; returns the period it will keep, seconds."""

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the supply; called only where the family ``supplies``."""


class BufferedDialect(Dialect, Protocol):
    """Takes samples by its own clock into its own memory."""

    def arm(self, session: ScpiSession, setup: Setup) -> None:
        """Empty the memory and wait for the trigger."""

    def trigger(self, session: ScpiSession, setup: Setup) -> None:
        """Begin; called only where the trigger is not the input."""

    def fetch(self, session: ScpiSession, setup: Setup) -> Readings:
        """What has come since the last call.

        Raises:
            MeterError: the memory ran full, or the answer makes no sense.
        """

    def halt(self, session: ScpiSession, setup: Setup) -> None:
        """End the record; where the family ``keeps_memory`` the rest can still be fetched."""


@runtime_checkable
class PolledDialect(Dialect, Protocol):
    """Gives one value for each question."""

    def measure(self, session: ScpiSession, setup: Setup) -> tuple[float, float | None]:
        """Ampere and volt; ±inf over the range."""


AnyDialect: TypeAlias = BufferedDialect | PolledDialect
