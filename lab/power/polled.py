"""What meters share that the host polls: hwmon, RAPL, NVML, tegrastats, a phone's battery gauge.

A thread reads the source on an absolute schedule of the host's monotonic clock: sample k stands for the time from
t0 + k·T to t0 + (k + 1)·T and is read at its end. What the host could not do is lost, never made up:

- A slot that the thread came too late for, or whose reading took longer than one period, is a lost sample (NaN).
- A source that fails is a lost sample; after two seconds of it the meter has failed.
- A period below the interval at which the source updates its registers is refused: every reading would then be counted
  several times over. What is read twice all the same, since two clocks drift, is counted in :class:`PolledReport`.
  A gauge then shows what it showed before, as it did. A counter that has not moved does not mean 0 W: its slots wait
  for the next update, which tells the mean over all of them. The energy of a window is right either way.
- The first reading of a counter after lost slots covers them too, and nobody knows how much of it is whose: it is lost
  with them.
- A counter that goes back has wrapped; one that then says more power than there can be was reset: its samples are lost.

A sample may lie one period late (beyond that it is lost), and shows what the source last updated:
``time_uncertainty_s`` is one period and one update interval.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np

from lab.errors import LabError, MeterError
from lab.power.base import MeterInfo, RangeUncertainty, SampleBlock

SHORTEST_PERIOD_S = 0.01
"""The period where neither the bench nor the source says one: a busy host keeps it."""

_FAILING_S = 2.0
_STUCK_S = 2.0
_STUCK_SLOTS = 20
_FEW_STEPS = 10


@dataclass(frozen=True)
class Gauge:
    """What a source showed at one time.

    Attributes:
        current_a: ampere.
        voltage_v: volt.
        saturated: whether it was at the end of its range.
        update: which of the source's updates this is, where the source tells; else -1.
    """

    current_a: float
    voltage_v: float
    saturated: bool = False
    update: int = -1


@dataclass(frozen=True)
class Count:
    """What a counter stood at.

    Attributes:
        value: counts.
        voltage_v: volt, of a counter of charge.
    """

    value: int
    voltage_v: float = math.nan


@dataclass(frozen=True)
class Failed:
    """There was no reading this time; ``why`` in words."""

    why: str


Reading: TypeAlias = Gauge | Count | Failed


@dataclass(frozen=True)
class Counter:
    """What counts of a source mean.

    Attributes:
        of: ``energy`` or ``charge``.
        per_count: joule or coulomb.
        modulus: the count at which it begins at 0 again; 0 where it never does.
        most: more watt or ampere than there can be; says that a jump is no wrap.
        falls: whether it counts down what is left.
    """

    of: Literal["energy", "charge"]
    per_count: float
    modulus: int
    most: float
    falls: bool = False


@dataclass(frozen=True)
class SourceInfo:
    """What a source is.

    Attributes:
        identity: which one, in words.
        ranges: class uncertainty by size of current, smallest range first.
        update_s: interval at which it updates what is read, seconds; 0 where each reading is a new one.
        measures_voltage, measures_current, voltage_uncertainty: as in :class:`lab.power.base.MeterInfo`.
        counter: what its counts mean; None for a gauge.
        quantum_a: smallest step of its currents, ampere.
        notes: what a reader of the figures must know.
        extra_time_s: more that a sample may be late by, seconds: averaging inside the source.
        emulated: whether it is an emulated one.
    """

    identity: str
    ranges: tuple[RangeUncertainty, ...]
    update_s: float
    measures_voltage: bool = True
    measures_current: bool = True
    voltage_uncertainty: float = 0.0
    counter: Counter | None = None
    quantum_a: float = 0.0
    notes: tuple[str, ...] = ()
    extra_time_s: float = 0.0
    emulated: bool = False

    def period_s(self, wanted_s: float | None, shortest_s: float) -> float:
        """How often to read it, seconds.

        Args:
            wanted_s: what the bench says; None where it says nothing.
            shortest_s: the period of a source that says nothing either.

        Raises:
            MeterError: it updates more slowly than it is to be read.
        """
        if wanted_s is None:
            return max(shortest_s, self.update_s)
        if wanted_s < self.update_s * (1 - 1e-9):
            raise MeterError(
                f"{self.identity}: updates every {self.update_s * 1e3:.4g} ms; read every {wanted_s * 1e3:.4g} ms "
                "it would show each value several times",
                hint="leave period: out, or make it as long as that",
            )
        return wanted_s

    def meter_info(
        self, kind: str, period_s: float, voltage_v: float, *, notes: tuple[str, ...] = (), late_s: float = 0.0
    ) -> MeterInfo:
        """What a meter is that reads it every ``period_s``; ``late_s`` more seconds a sample may be late by."""
        return MeterInfo(
            kind=kind,
            identity="; ".join((self.identity, *self.notes, *notes)),
            sample_rate_hz=1.0 / period_s,
            voltage_v=voltage_v,
            measures_voltage=self.measures_voltage,
            logic_inputs=0,
            relative_uncertainty=max(one.relative for one in self.ranges),
            emulated=self.emulated,
            ranges=self.ranges,
            voltage_uncertainty=self.voltage_uncertainty,
            alignment="host-time",
            time_uncertainty_s=period_s + self.update_s + self.extra_time_s + late_s,
            measures_current=self.measures_current,
        )


class Source(Protocol):
    """Something that can be read at any time."""

    def open(self) -> SourceInfo:
        """Find it; raises :class:`lab.errors.MeterError` where it is not there or refuses."""

    def read(self) -> Reading:
        """What it shows now; raises :class:`lab.errors.MeterError` where it is gone for good."""

    def close(self) -> None:
        """Let it go; safe to call twice."""


class Clock(Protocol):
    """The host's clock; tests have one that does not wait."""

    def now(self) -> float:
        """Seconds, monotonic."""

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        """Return at ``time_s``, or as soon as ``stop`` is set."""


class HostClock:
    """``time.monotonic``."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        """Sleep."""
        stop.wait(max(0.0, time_s - time.monotonic()))


@dataclass(frozen=True)
class PolledReport:
    """How a stream went.

    Attributes:
        slots: samples since the start.
        missed: slots that the host came too late for.
        slow: readings that took longer than a period.
        failed: readings that the source failed to give.
        repeats: readings that were no new information: the source had not updated since the one before.
        jumps: counter readings that can only come from a reset.
        negative: samples below 0 A.
        saturated: samples at the end of the range.
        latest_s: how late a reading that was kept began at most, seconds.
        mean_current_a: of all samples that are not lost, ampere.
        quantum_a: smallest step of the source's currents, ampere.
    """

    slots: int = 0
    missed: int = 0
    slow: int = 0
    failed: int = 0
    repeats: int = 0
    jumps: int = 0
    negative: int = 0
    saturated: int = 0
    latest_s: float = 0.0
    mean_current_a: float = 0.0
    quantum_a: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, in words."""
        notes = []
        if self.quantum_a and abs(self.mean_current_a) < _FEW_STEPS * self.quantum_a:
            notes.append(
                f"the mean current of {self.mean_current_a * 1e3:.3g} mA is fewer than {_FEW_STEPS} steps of "
                f"{self.quantum_a * 1e3:.3g} mA: too small for this meter"
            )
        if self.negative:
            notes.append(f"{self.negative} samples are negative: is the shunt the other way round?")
        if self.repeats:
            notes.append(f"{self.repeats} of {self.slots} readings showed nothing new")
        lost = (
            (self.missed, "slots were missed: the host came too late"),
            (self.slow, "readings took longer than a period"),
            (self.failed, "readings were refused by the source"),
            (self.jumps, "readings of the counter can only come from a reset"),
        )
        notes += [f"{count} of {self.slots} {text}" for count, text in lost if count]
        return tuple(notes)


class SlotSeries:
    """Readings to samples.

    Args:
        info: the source.
        period_s: time of one slot, seconds.
        voltage_v: the voltage by which power is made current where the source tells only energy.
    """

    def __init__(self, info: SourceInfo, period_s: float, voltage_v: float) -> None:
        self._info = info
        self._period_s = period_s
        self._voltage_v = voltage_v
        self._next = 0
        self._first = 0
        self._current: list[float] = []
        self._voltage: list[float] = []
        self._saturated = 0
        self._last: Count | None = None
        self._last_update = -1
        # Slots since the counter last moved: True where it was read and stood still, False where the slot is lost.
        self._held: list[bool] = []
        self._sum_a = 0.0
        self._known = 0
        self.report = PolledReport(quantum_a=info.quantum_a)

    def begin(self, reading: Reading) -> None:
        """What a counter stands at when slot 0 begins.

        Raises:
            MeterError: it could not be read.
        """
        if isinstance(reading, Failed):
            raise MeterError(f"{self._info.identity}: cannot be read: {reading.why}", transient=True)
        if isinstance(reading, Count):
            self._last = reading

    def take(self, slot: int, reading: Reading) -> None:
        """The reading of a slot; slots since the last one were missed.

        Raises:
            MeterError: a counter stands still.
        """
        missed = slot - self._next
        self._next = slot + 1
        failed = isinstance(reading, Failed)
        self.report = replace(
            self.report, slots=self._next, missed=self.report.missed + missed, failed=self.report.failed + failed
        )
        if self._info.counter is None:
            self._lose(missed)
            self._take_gauge(reading)
        else:
            self._held += [False] * missed
            self._take_count(reading, self._info.counter)

    def end(self) -> None:
        """No more readings: what waits for an update that never came is lost."""
        self._lose(len(self._held))
        self._held.clear()

    def block(self) -> SampleBlock:
        """The samples that are complete since the last call."""
        current = np.array(self._current, np.float32)
        voltage = np.array(self._voltage, np.float32) if self._info.measures_voltage else None
        lost = int(np.count_nonzero(np.isnan(current)))
        block = SampleBlock(self._first, current, np.zeros(current.size, np.uint8), lost, self._saturated, voltage)
        self._first += current.size
        self._current, self._voltage, self._saturated = [], [], 0
        return block

    def _take_gauge(self, reading: Reading) -> None:
        if not isinstance(reading, Gauge):
            self._lose(1)
            return
        repeated = reading.update >= 0 and reading.update == self._last_update
        self._last_update = reading.update
        self._saturated += reading.saturated
        self.report = replace(
            self.report,
            repeats=self.report.repeats + repeated,
            saturated=self.report.saturated + reading.saturated,
        )
        self._append(reading.current_a, reading.voltage_v)

    def _take_count(self, reading: Reading, counter: Counter) -> None:
        last = self._last
        if not isinstance(reading, Count) or last is None:
            self._held.append(False)
            return
        if reading.value == last.value:
            self._held.append(True)
            self.report = replace(self.report, repeats=self.report.repeats + 1)
            self._refuse_stuck(counter)
            return
        self._last = reading
        held, self._held = [*self._held, True], []
        moved = (last.value - reading.value) if counter.falls else (reading.value - last.value)
        if moved < 0 and counter.modulus:
            moved %= counter.modulus
        mean = moved * counter.per_count / (len(held) * self._period_s)
        jumped = not -counter.most <= mean <= counter.most or (moved < 0 and not counter.falls)
        self.report = replace(self.report, jumps=self.report.jumps + jumped)
        if jumped or not all(held):
            # What was counted since the last reading is known, but not how much of it in which slot.
            self._lose(len(held))
            return
        voltage_v = self._voltage_v if counter.of == "energy" else reading.voltage_v
        current_a = mean / self._voltage_v if counter.of == "energy" else mean
        for _ in held:
            self._append(current_a, voltage_v)

    def _refuse_stuck(self, counter: Counter) -> None:
        still_s = len(self._held) * self._period_s
        if still_s < max(_STUCK_S, 10 * self._info.update_s) or len(self._held) < _STUCK_SLOTS:
            return
        unit = "W" if counter.of == "energy" else "A"
        raise MeterError(
            f"{self._info.identity}: its counter has not moved for {still_s:.1f} s: it is stuck, or the load is below "
            f"{counter.per_count / still_s:.2g} {unit}, too small for it",
            hint="is the device on, and is it behind this meter? A gauge or another meter sees smaller loads",
        )

    def _append(self, current_a: float, voltage_v: float) -> None:
        self._current.append(current_a)
        self._voltage.append(voltage_v)
        self._sum_a += current_a
        self._known += 1
        self.report = replace(
            self.report,
            negative=self.report.negative + (current_a < 0),
            mean_current_a=self._sum_a / self._known,
        )

    def _lose(self, count: int) -> None:
        self._current += [math.nan] * count
        self._voltage += [math.nan] * count


class PolledMeter:
    """A source that the host polls, as :class:`lab.power.base.Meter`.

    Args:
        kind: of the meter.
        source: what is read.
        voltage_v: the voltage the device runs at; power is made current by it where the source tells no current.
        period_s: time between readings, seconds; None: the source's own update interval, at least 10 ms.
        clock: the host's; tests have another.
    """

    def __init__(
        self, kind: str, source: Source, voltage_v: float, period_s: float | None, clock: Clock | None = None
    ) -> None:
        self._kind = kind
        self._source = source
        self._voltage_v = voltage_v
        self._wanted_s = period_s
        self._clock: Clock = clock or HostClock()
        self._about: SourceInfo | None = None
        self._period_s = 0.0
        self._series: SlotSeries | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._failure: MeterError | None = None
        self._failing = 0
        self.start_s = math.nan
        """When sample 0 began, seconds of the host's monotonic clock."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> MeterInfo:
        """What the meter is.

        Raises:
            MeterError: not open.
        """
        return self._opened().meter_info(self._kind, self._period_s, self._voltage_v)

    @property
    def report(self) -> PolledReport:
        """How the stream went so far.

        Raises:
            MeterError: it was not started.
        """
        return self._started().report

    def open(self) -> MeterInfo:
        """Find the source.

        Raises:
            MeterError: it is not there, refuses, or updates more slowly than it is to be read.
        """
        about = self._source.open()
        try:
            self._period_s = about.period_s(self._wanted_s, SHORTEST_PERIOD_S)
        except MeterError:
            self._source.close()
            raise
        self._about = about
        return self.info

    def start(self) -> None:
        """Start reading; sample 0 begins now.

        Raises:
            MeterError: not open, or the source cannot be read.
        """
        about = self._opened()
        self._failure = None
        self._failing = 0
        self._stopping.clear()
        series = SlotSeries(about, self._period_s, self._voltage_v)
        self.start_s = self._clock.now()
        if about.counter is not None:
            series.begin(self._source.read())
        self._series = series
        self._thread = threading.Thread(target=self._work, args=(series,), name=f"lab-{self._kind}", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has arrived; an empty block after ``timeout_s`` without data.

        Raises:
            MeterError: not started, or the source is gone and all that came before was read.
        """
        series = self._started()
        with self._progress:
            block = series.block()
            if not block.current_a.size and self._failure is None:
                self._progress.wait(timeout_s)
                block = series.block()
            if not block.current_a.size and self._failure is not None:
                raise self._failure
        return block

    def stop(self) -> SampleBlock:
        """Stop reading and return the samples not read yet.

        Raises:
            MeterError: not started, or the source failed; :meth:`read` gives what came before that.
        """
        series = self._started()
        self._end_thread()
        if self._failure is not None:
            raise self._failure
        series.end()
        return series.block()

    def close(self) -> None:
        """Let the source go; safe to call twice."""
        self._end_thread()
        self._source.close()
        self._about = None

    def _end_thread(self) -> None:
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _work(self, series: SlotSeries) -> None:
        slot = 0
        try:
            while not self._stopping.is_set():
                self._clock.wait_until(self.start_s + (slot + 1) * self._period_s, self._stopping)
                if not self._stopping.is_set():
                    slot = self._poll(series, slot)
        except LabError as error:
            with self._progress:
                self._failure = (
                    error if isinstance(error, MeterError) else MeterError(error.message, hint=error.hint)
                )
                self._progress.notify_all()

    def _poll(self, series: SlotSeries, slot: int) -> int:
        """Read the slot that is due; the number of the next one."""
        began = self._clock.now()
        slot = max(slot, math.floor((began - self.start_s) / self._period_s) - 1)
        late_s = began - self.start_s - (slot + 1) * self._period_s
        reading = self._source.read()
        slow = self._clock.now() - began > self._period_s
        if slow:
            reading = Failed("it took longer than a period")
        with self._progress:
            series.take(slot, reading)
            report = series.report
            series.report = replace(
                report,
                slow=report.slow + slow,
                failed=report.failed - slow,
                latest_s=report.latest_s if slow else max(report.latest_s, late_s),
            )
            self._progress.notify_all()
        self._give_up(reading)
        return slot + 1

    def _give_up(self, reading: Reading) -> None:
        if not isinstance(reading, Failed):
            self._failing = 0
            return
        self._failing += 1
        if self._failing >= 3 and self._failing * self._period_s >= _FAILING_S:
            raise MeterError(
                f"{self._opened().identity}: no reading for {self._failing * self._period_s:.1f} s: {reading.why}",
                transient=True,
            )

    def _opened(self) -> SourceInfo:
        if self._about is None:
            raise MeterError(
                f"{self._kind}: the meter is not open", hint="call open(), or use it in a with statement"
            )
        return self._about

    def _started(self) -> SlotSeries:
        if self._series is None:
            raise MeterError(f"{self._kind}: the stream was not started", hint="call start() first")
        return self._series
