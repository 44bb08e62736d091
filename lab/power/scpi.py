"""Supplies, source meters and multimeters that speak SCPI, as meters.

An instrument with a memory of its own (:class:`~lab.power.scpi_models.base.BufferedDialect`) takes samples at a fixed
period by its own clock. With ``trigger: external`` sample 0 is taken when the marker reaches its trigger input, and
the alignment is ``trigger``; with ``trigger: bus`` sample 0 begins with a command, whose round trip is the time
uncertainty. An instrument without one is asked at a fixed period of this computer's clock: a slot that was missed is
a lost sample.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, MeterError
from lab.meter_config import MeterConfig, ScpiConfig
from lab.power.base import Alignment, MeterInfo, RangeUncertainty, SampleBlock
from lab.power.scpi_models.base import AnyDialect, BufferedDialect, Family, PolledDialect, Readings, Setup
from lab.power.scpi_models.registry import MODELS
from lab.power.scpi_session import Float64Array, ScpiSession

Slots: TypeAlias = npt.NDArray[np.int64]

# A supply is at its limit when it gives this part of it: instruments regulate to about a thousandth.
_AT_LIMIT = 0.998
_LOOK_AGAIN_S = 0.02
# How far the number of samples may lie below what the period and this computer's clock say.
_PACE_RELATIVE = 0.01
_PACE_S = 0.5


@dataclass(frozen=True)
class ScpiReport:
    """What went wrong since ``start``.

    Attributes:
        missing: samples that never came, or slots in which the instrument was not asked in time.
        damaged: readings that were no numbers.
        doubled: readings that came twice; the second is left out.
        saturated: readings over the range, or at the current limit of the supply.
        errors: what the instrument's error queue held.
    """

    missing: int = 0
    damaged: int = 0
    doubled: int = 0
    saturated: int = 0
    errors: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, in words; nothing of a stream that came whole."""
        said = (
            (self.missing, f"{self.missing} samples never came, or were not asked for in time"),
            (self.damaged, f"{self.damaged} readings were no numbers and count as lost samples"),
            (self.doubled, f"{self.doubled} readings came twice and were left out"),
        )
        return (*(text for count, text in said if count), *(f"the instrument said: {error}" for error in self.errors))


class _Line:
    """Puts readings in their places and counts what is wrong with them.

    Args:
        setup: of the measurement.
        family: of the instrument.
        top_a: end of the highest range in use, ampere.
    """

    def __init__(self, setup: Setup, family: Family, top_a: float) -> None:
        self._setup = setup
        self._top_a = top_a
        self._limit_a = setup.limit_a * _AT_LIMIT if family.supplies else np.inf
        self._measures_voltage = family.measures_voltage
        self.next = 0
        self.report = ScpiReport()

    def place(self, readings: Readings) -> SampleBlock:
        """The block of readings that came together."""
        slots = self._slots(readings)
        keep = self._first_of_each(slots)
        doubled = int(slots.size - keep.size)
        begin = self.next
        size = int(slots[keep[-1]]) + 1 - begin if keep.size else 0
        current, over = self._judged(readings.current_a[keep])
        damaged = int(np.isnan(current).sum())
        at = slots[keep] - begin
        shown = np.full(size, np.nan, np.float32)
        shown[at] = current
        voltage = np.full(size, np.nan, np.float32) if self._measures_voltage else None
        if voltage is not None and readings.voltage_v is not None:
            voltage[at] = np.where(np.isinf(readings.voltage_v[keep]), np.nan, readings.voltage_v[keep])
        missing = size - keep.size
        self.next = begin + size
        self.report = replace(
            self.report,
            missing=self.report.missing + missing,
            damaged=self.report.damaged + damaged,
            doubled=self.report.doubled + doubled,
            saturated=self.report.saturated + over,
        )
        return SampleBlock(begin, shown, np.zeros(size, np.uint8), missing + damaged, over, voltage)

    def _slots(self, readings: Readings) -> Slots:
        if readings.time_s is None:
            return np.arange(self.next, self.next + readings.current_a.size, dtype=np.int64)
        # A reading whose time is damaged has no place: it goes before all others and is left out as doubled.
        return np.rint(np.nan_to_num(readings.time_s / self._setup.period_s, nan=-1.0)).astype(np.int64)

    def _first_of_each(self, slots: Slots) -> npt.NDArray[np.intp]:
        newest = np.maximum.accumulate(np.concatenate(([self.next - 1], slots)))
        return np.flatnonzero(slots > newest[:-1])

    def _judged(self, current_a: Float64Array) -> tuple[Float64Array, int]:
        """Readings over the range become the end of the range; how many there are, and at the supply's limit."""
        over = np.isinf(current_a)
        shown = np.where(over, np.copysign(self._top_a, current_a), current_a)
        limited = ~over & (np.abs(np.nan_to_num(current_a)) >= self._limit_a)
        return shown, int(over.sum() + limited.sum())


class _Recording(Protocol):
    """A running measurement."""

    @property
    def time_uncertainty_s(self) -> float: ...

    def read(self, timeout_s: float) -> Readings: ...

    def stop(self) -> Readings: ...


class _Buffered:
    """The instrument's own memory is emptied again and again."""

    def __init__(
        self, session: ScpiSession, dialect: BufferedDialect, setup: Setup, clock: Callable[[], float], check: bool
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._setup = setup
        self._clock = clock
        self._check = check and not setup.external_trigger
        self._came = 0
        self.time_uncertainty_s = 0.0
        dialect.arm(session, setup)
        session.check("arming the trigger")
        self._begin_s = clock()
        if not setup.external_trigger:
            dialect.trigger(session, setup)
            session.check("the trigger")
            self.time_uncertainty_s = clock() - self._begin_s + setup.period_s

    def read(self, timeout_s: float) -> Readings:
        deadline = self._clock() + timeout_s
        while not (readings := self._fetch()).current_a.size and self._clock() < deadline:
            time.sleep(min(_LOOK_AGAIN_S, timeout_s))
        return readings

    def stop(self) -> Readings:
        # An instrument that goes on measuring is never empty: once less came than could have, it was caught up with.
        family = self._dialect.family
        parts = [self._fetch()]
        while parts[-1].current_a.size >= family.at_once:
            parts.append(self._fetch())
        ended_s = self._clock()
        self._dialect.halt(self._session, self._setup)
        while family.keeps_memory and (rest := self._fetch()).current_a.size:
            parts.append(rest)
        expected = (ended_s - self._begin_s) / self._setup.period_s
        if self._check and self._came < expected * (1 - _PACE_RELATIVE) - _PACE_S / self._setup.period_s:
            raise MeterError(
                f"{self._session.resource}: {self._came} samples came in {ended_s - self._begin_s:.3g} s, "
                f"{expected:.0f} were expected at a period of {self._setup.period_s:g} s",
                hint="samples were lost at a place that is not known: measure with a longer period",
            )
        return _joined(parts)

    def _fetch(self) -> Readings:
        readings = self._dialect.fetch(self._session, self._setup)
        self._came += readings.current_a.size
        return readings


class _Polled:
    """The instrument is asked once in each slot of this computer's clock."""

    def __init__(
        self,
        session: ScpiSession,
        dialect: PolledDialect,
        setup: Setup,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._setup = setup
        self._clock = clock
        self._sleep = sleep
        self._next = 0
        self._longest_s = 0.0
        self._begin_s = clock()

    @property
    def time_uncertainty_s(self) -> float:
        """A value is taken somewhere in its slot, and may be as old as the longest answer took."""
        return self._setup.period_s + self._longest_s

    def read(self, timeout_s: float) -> Readings:
        period_s = self._setup.period_s
        now_s = self._clock() - self._begin_s
        slot = max(self._next, int(now_s / period_s))
        wait_s = slot * period_s - now_s
        if wait_s > timeout_s:
            self._sleep(timeout_s)
            return _joined([])
        if wait_s > 0:
            self._sleep(wait_s)
        asked_s = self._clock()
        current_a, voltage_v = self._dialect.measure(self._session, self._setup)
        self._longest_s = max(self._longest_s, self._clock() - asked_s)
        self._next = slot + 1
        voltage = None if voltage_v is None else np.array([voltage_v])
        return Readings(np.array([current_a]), voltage, np.array([slot * period_s]))

    def stop(self) -> Readings:
        return _joined([])


def _joined(parts: list[Readings]) -> Readings:
    if not parts:
        return Readings(np.empty(0), None, None)
    voltage = [part.voltage_v for part in parts if part.voltage_v is not None]
    times = [part.time_s for part in parts if part.time_s is not None]
    return Readings(
        np.concatenate([part.current_a for part in parts]),
        np.concatenate(voltage) if voltage else None,
        np.concatenate(times) if times else None,
    )


class ScpiMeter:
    """A SCPI instrument as :class:`lab.power.base.Meter`.

    Args:
        resource: VISA address.
        config: its settings.
        voltage_v: voltage to supply, or that the device runs at, volt.
        timeout_s: longest time for an answer, seconds.
        clock, sleep: this computer's clock, seconds.

    Raises:
        ConfigError: a period the instrument cannot keep.
    """

    def __init__(
        self,
        resource: str,
        config: ScpiConfig,
        voltage_v: float,
        *,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._dialect: AnyDialect = MODELS[config.model]()
        self._family: Family = self._dialect.family
        if config.period < self._family.shortest_period_s:
            raise ConfigError(
                f"{resource}: a period of {config.period:g} s asked of a {self._family.title}",
                hint=f"at least {self._family.shortest_period_s:g} s",
            )
        self._config = config
        self._setup = Setup(
            config.channel,
            voltage_v,
            config.limit_a,
            config.range_a,
            config.period,
            config.trigger == "external",
        )
        self._session = ScpiSession(resource, timeout_s)
        self._clock = clock
        self._sleep = sleep
        self._identity = ""
        self._recording: _Recording | None = None
        self._placed = _Line(self._setup, self._family, self._top_a)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> MeterInfo:
        """What the instrument is. Raises: MeterError: not open."""
        if not self._identity:
            raise MeterError(f"{self._session.resource}: not open", hint="call open(), or use it in a with statement")
        family, ranges = self._family, self._ranges()
        alignment: Alignment = "trigger" if self._setup.external_trigger else "host-time"
        recording = self._recording
        return MeterInfo(
            kind="scpi",
            identity=f"{self._identity}; class figures: {family.figures}",
            sample_rate_hz=1.0 / self._setup.period_s,
            voltage_v=self._setup.voltage_v,
            measures_voltage=family.measures_voltage,
            logic_inputs=0,
            relative_uncertainty=max(one.relative + one.offset_a / one.upto_a for one in ranges),
            emulated=self._config.emulated,
            ranges=ranges,
            voltage_uncertainty=family.voltage_uncertainty,
            alignment=alignment,
            time_uncertainty_s=self._setup.period_s if recording is None else recording.time_uncertainty_s,
        )

    @property
    def report(self) -> ScpiReport:
        """What went wrong since :meth:`start`; zeros before it."""
        return self._placed.report

    def open(self) -> MeterInfo:
        """Connect, make sure that it is the configured model, set it up and switch the supply on.

        Raises:
            ToolMissing: PyVISA is not installed.
            MeterError: it cannot be reached, is another model, or refuses a setting.
        """
        self._session.open()
        try:
            self._identify()
            self._session.write("*CLS")
            kept_s = self._dialect.prepare(self._session, self._setup)
            self._session.check("the setup")
            self._setup = replace(self._setup, period_s=kept_s)
            if self._family.supplies:
                self.set_output(True)
        except MeterError:
            self.close()
            raise
        return self.info

    def set_output(self, on: bool) -> None:
        """Switch the device's supply. It stays as it is when the connection is closed.

        Raises:
            ConfigError: the instrument is a multimeter.
            MeterError: it refuses.
        """
        if not self._family.supplies:
            raise ConfigError(
                f"{self._session.resource}: a {self._family.title} has no output that could be switched",
                hint="name a supply or another power switch",
            )
        self._dialect.set_output(self._session, self._setup, on)
        self._session.check(f"switching the output {'on' if on else 'off'}")

    def start(self) -> None:
        """Begin a record; sample 0 is the first one after this call, or after the trigger input.

        Raises:
            MeterError: not open, or the instrument refuses.
        """
        self._placed = _Line(self._setup, self._family, self._top_a)
        dialect = self._dialect
        if isinstance(dialect, PolledDialect):
            self._recording = _Polled(self._session, dialect, self._setup, self._clock, self._sleep)
        else:
            real_time = not self._config.emulated
            self._recording = _Buffered(self._session, dialect, self._setup, self._clock, real_time)

    def read(self, timeout_s: float) -> SampleBlock:
        """Samples that have come; an empty block after ``timeout_s`` without any.

        Raises:
            MeterError: not started, or the instrument failed.
        """
        return self._placed.place(self._started().read(timeout_s))

    def stop(self) -> SampleBlock:
        """End the record; the samples still on their way.

        Raises:
            MeterError: not started, the instrument failed, or samples were lost at an unknown place.
        """
        recording = self._started()
        rest = self._placed.place(recording.stop())
        errors = self._session.drain_errors()
        self._placed.report = replace(self._placed.report, errors=errors)
        if errors:
            raise MeterError(
                f"{self._session.resource}: the instrument has errors after the measurement: {'; '.join(errors)}",
                hint="what was measured may be wrong: repeat it",
            )
        return rest

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        self._session.close()
        self._identity = ""
        self._recording = None

    @property
    def _top_a(self) -> float:
        return self._ranges()[-1].upto_a

    def _ranges(self) -> tuple[RangeUncertainty, ...]:
        """Those that can be in use: with a fixed range that one, for currents of any size."""
        wanted = self._setup.range_a
        if wanted is None:
            return self._family.ranges
        return (next((one for one in self._family.ranges if one.upto_a >= wanted), self._family.ranges[-1]),)

    def _identify(self) -> None:
        answer = self._session.ask("*IDN?")
        if not re.match(self._family.identity, answer, re.IGNORECASE):
            raise MeterError(
                f"{self._session.resource}: it calls itself {answer[:80]!r}, which is no {self._family.title}",
                hint="correct resource: or model: of the meter in the bench file",
            )
        self._identity = answer

    def _started(self) -> _Recording:
        if self._recording is None:
            raise MeterError(f"{self._session.resource}: not started", hint="call start() first")
        return self._recording


def make(config: MeterConfig, voltage_v: float) -> ScpiMeter:
    """The instrument of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, ScpiConfig) or config.resource is None:
        raise ConfigError(f"a SCPI instrument with a resource was expected, found a meter of kind {config.kind!r}")
    return ScpiMeter(config.resource, config, voltage_v)
