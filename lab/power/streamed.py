"""Meters that are part of a device reached over a network: read there, by a loop of its own, and streamed here.

Asking for each reading over the network would give the rate of its round trips, and samples as late as those. So a
shell script runs on the device that reads, says the device's time since boot, and waits; nothing has to be installed.

- The two clocks are matched before each stream: the device answers with its time some times, and each answer says that
  its clock was at that time between the asking and the answer; all answers together leave an interval, whose half is
  part of ``time_uncertainty_s``. ``/proc/uptime`` counts hundredths of a second, cut off, which the interval knows.
- A reading stands for the time since the one before, by the device's clock; samples are that, on an even grid whose
  period is the mean one that the loop keeps, found by a trial when the meter is opened.
- Where readings fail, or come after more than three periods, the samples between are lost, never made up. Of counters
  the mean of the whole gap is known and kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, TypeVar

import numpy as np

from lab.errors import MeterError, TransportError
from lab.power.base import MeterInfo, SampleBlock
from lab.power.polled import Count, Counter, Failed, Gauge, PolledReport, Reading, SourceInfo
from lab.transports.remote import Remote, RemoteProcess

SHORTEST_PERIOD_S = 0.05
"""The period where neither the bench nor the source says one; the device's clock is read in steps of 10 ms."""
TICK_S = 0.01
"""Step of ``/proc/uptime``, seconds."""

_PINGS = 12
_TRIAL = 8
_TRIAL_S = 1.0
_ANSWER_S = 15.0
_GAP_PERIODS, _GAP_S = 3.0, 0.05
_SILENT_S, _FAILING_S, _STUCK_S = 5.0, 2.0, 2.0

_T = TypeVar("_T")

LoopKind: TypeAlias = Literal["files", "command", "lines"]

_HEAD = 'set -f; LC_ALL=C; export LC_ALL; PATH="$PATH:/usr/sbin:/sbin"; p=$1; shift\n' + (
    'while read -r word && [ "$word" != go ]; do read -r t _ </proc/uptime; echo "@ $t"; done\n'
)
_BODIES: dict[LoopKind, str] = {
    # Only what is built into the shell but for the wait: as fast as the device can.
    "files": 'while :; do l=; for f in "$@"; do v=; read -r v <"$f"; [ -n "$v" ] || v=!; l="$l $v"; done 2>/dev/null; '
    'read -r t _ </proc/uptime; echo "$t$l"; sleep "$p"; done\n',
    "command": 'while :; do o=$("$@" 2>&1 </dev/null); read -r t _ </proc/uptime; echo "$t" $o; sleep "$p"; done\n',
    "lines": '"$@" 2>&1 </dev/null | while IFS= read -r l; do read -r t _ </proc/uptime; echo "$t $l"; done\n',
}


@dataclass(frozen=True)
class Loop:
    """What runs on a device.

    Attributes:
        kind: ``files`` reads files, ``command`` runs a program again and again, ``lines`` one that goes on printing.
        words: the files, or the program and its arguments.
    """

    kind: LoopKind
    words: tuple[str, ...]

    def argv(self, period_s: float) -> list[str]:
        """The command that runs it."""
        return ["sh", "-c", _HEAD + _BODIES[self.kind], "sh", f"{period_s:g}", *self.words]


class StreamSource(Protocol):
    """Something on a device that a loop reads."""

    def open(self) -> SourceInfo:
        """Find it; raises :class:`lab.errors.MeterError` where it is not there or refuses."""

    def loop(self) -> Loop:
        """What reads it; after :meth:`open`."""

    def take(self, text: str) -> Reading:
        """A line of the loop without its time; raises :class:`lab.errors.MeterError` where it is gone for good."""

    def close(self) -> None:
        """Let it go; safe to call twice."""


class Timeline:
    """Readings at the device's times to samples on an even grid.

    Args:
        info: the source.
        period_s: of the grid, seconds.
        voltage_v: the voltage by which power is made current where the source tells only energy.
        begin_s: the device's time at which sample 0 begins, seconds.
    """

    def __init__(self, info: SourceInfo, period_s: float, voltage_v: float, begin_s: float) -> None:
        self._info = info
        self._period_s = period_s
        self._voltage_v = voltage_v
        self._begin_s = begin_s
        self._last_s = begin_s
        self._last: Count | None = None
        self._filled = 0
        self._first = 0
        self._current: list[float] = []
        self._voltage: list[float] = []
        self._saturated = 0
        self._sum_a, self._known = 0.0, 0
        self._failing_since_s: float | None = None
        self.report = PolledReport(quantum_a=info.quantum_a)

    def take(self, time_s: float, reading: Reading) -> None:
        """A reading that ended at a time of the device's clock.

        Raises:
            MeterError: the clock went back, readings fail for seconds, or a counter stands still.
        """
        if time_s < self._last_s - TICK_S and self.report.slots:
            raise MeterError(f"{self._info.identity}: the device's time since boot went back: it has booted anew")
        self.report = replace(self.report, slots=self.report.slots + 1)
        if isinstance(reading, Failed):
            self._fail(time_s, reading)
        elif isinstance(reading, Gauge):
            self._gauge(time_s, reading)
        else:
            self._count(time_s, reading, self._counter())

    def block(self) -> SampleBlock:
        """The samples that are complete since the last call."""
        current = np.array(self._current, np.float32)
        voltage = np.array(self._voltage, np.float32) if self._info.measures_voltage else None
        lost = int(np.count_nonzero(np.isnan(current)))
        block = SampleBlock(self._first, current, np.zeros(current.size, np.uint8), lost, self._saturated, voltage)
        self._first += current.size
        self._current, self._voltage, self._saturated = [], [], 0
        return block

    def _counter(self) -> Counter:
        if self._info.counter is None:
            raise MeterError(f"{self._info.identity}: a gauge told a count")
        return self._info.counter

    def _fail(self, time_s: float, reading: Failed) -> None:
        self.report = replace(self.report, failed=self.report.failed + 1)
        self._failing_since_s = time_s if self._failing_since_s is None else self._failing_since_s
        if time_s - self._failing_since_s >= _FAILING_S:
            raise MeterError(
                f"{self._info.identity}: no reading for {time_s - self._failing_since_s:.1f} s: {reading.why}",
                transient=True,
            )
        if self._info.counter is None:
            self._fill(time_s, math.nan, math.nan)

    def _gauge(self, time_s: float, reading: Gauge) -> None:
        self._failing_since_s = None
        gap = time_s - self._last_s > max(_GAP_PERIODS * self._period_s, self._period_s + _GAP_S)
        self._saturated += reading.saturated
        self.report = replace(
            self.report,
            missed=self.report.missed + gap,
            saturated=self.report.saturated + reading.saturated,
        )
        self._fill(time_s, *((math.nan, math.nan) if gap else (reading.current_a, reading.voltage_v)))

    def _count(self, time_s: float, reading: Count, counter: Counter) -> None:
        self._failing_since_s = None
        last, elapsed_s = self._last, time_s - self._last_s
        if last is None:
            self._last = reading
            self._fill(time_s, math.nan, math.nan)
            return
        if elapsed_s <= 0:
            return
        if reading.value == last.value:
            # It has not been updated yet, which does not mean that nothing flows.
            self.report = replace(self.report, repeats=self.report.repeats + 1)
            self._refuse_stuck(elapsed_s)
            return
        self._last = reading
        moved = (last.value - reading.value) if counter.falls else (reading.value - last.value)
        if moved < 0 and counter.modulus:
            moved %= counter.modulus
        mean = moved * counter.per_count / elapsed_s
        if not -counter.most <= mean <= counter.most or (moved < 0 and not counter.falls):
            self.report = replace(self.report, jumps=self.report.jumps + 1)
            self._fill(time_s, math.nan, math.nan)
            return
        of_energy = counter.of == "energy"
        self._fill(time_s, mean / self._voltage_v if of_energy else mean,
                   self._voltage_v if of_energy else reading.voltage_v)  # fmt: skip

    def _refuse_stuck(self, still_s: float) -> None:
        if still_s >= max(_STUCK_S, 10 * self._info.update_s, 20 * self._period_s):
            raise MeterError(
                f"{self._info.identity}: its counter has not moved for {still_s:.1f} s: it is stuck, or the load is "
                "too small for it",
                hint="is the device on? A gauge or another meter sees smaller loads",
            )

    def _fill(self, time_s: float, current_a: float, voltage_v: float) -> None:
        """Samples whose middle lies between the last reading and this one."""
        upto = max(self._filled, math.floor((time_s - self._begin_s) / self._period_s + 0.5))
        count = upto - self._filled
        self._filled, self._last_s = upto, time_s
        self._current += [current_a] * count
        self._voltage += [voltage_v] * count
        if math.isfinite(current_a):
            self._sum_a += current_a * count
            self._known += count
            negative = count if current_a < 0 else 0
            mean_a = self._sum_a / self._known if self._known else 0.0
            self.report = replace(self.report, negative=self.report.negative + negative, mean_current_a=mean_a)


class StreamedMeter:
    """A source on a device, as :class:`lab.power.base.Meter`.

    Args:
        kind: of the meter.
        source: what is read.
        remote: the device.
        voltage_v: the voltage the device runs at; power is made current by it where the source tells no current.
        period_s: time between readings, seconds; None: the source's own update interval, at least 50 ms.
        clock: this computer's, seconds.
    """

    def __init__(
        self,
        kind: str,
        source: StreamSource,
        remote: Remote,
        voltage_v: float,
        period_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._source = source
        self._remote = remote
        self._voltage_v = voltage_v
        self._wanted_s = period_s
        self._clock = clock
        self._about: SourceInfo | None = None
        self._period_s = 0.0
        self._asked_s = 0.0
        self._process: RemoteProcess | None = None
        self._part = b""
        self._offset_s, self._offset_error_s = 0.0, 0.0
        self._timeline: Timeline | None = None
        self._heard_s = 0.0

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
        about = self._opened()
        rate = f"read on the device {1 / self._period_s:.3g} times a second"
        late_s = TICK_S + self._offset_error_s
        return about.meter_info(self._kind, self._period_s, self._voltage_v, notes=(rate,), late_s=late_s)

    @property
    def report(self) -> PolledReport:
        """How the stream went so far.

        Raises:
            MeterError: it was not started.
        """
        return self._started().report

    def open(self) -> MeterInfo:
        """Find the source, and how fast the device can read it.

        Raises:
            MeterError: it is not there, refuses, updates more slowly than it is to be read, or cannot be read.
        """
        about = self._reached(self._source.open)
        try:
            self._asked_s = about.period_s(self._wanted_s, SHORTEST_PERIOD_S)
            self._period_s = max(self._asked_s, self._reached(self._trial))
            self._reached(self._prepare)
        except MeterError:
            self.close()
            raise
        self._about = about
        return self.info

    def start(self) -> None:
        """Start reading; sample 0 begins now.

        Raises:
            MeterError: not open, or the connection broke.
        """
        about = self._opened()
        if self._process is None:
            self._reached(self._prepare)
        now_s = self._clock()
        self._timeline = Timeline(about, self._period_s, self._voltage_v, now_s + self._offset_s)
        self._heard_s = now_s
        self._reached(lambda: self._running().write(b"go\n"))

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has arrived; an empty block after ``timeout_s`` without data.

        Raises:
            MeterError: not started, the connection broke, or the source failed.
        """
        timeline = self._started()
        lines = self._reached(lambda: self._lines(timeout_s))
        for time_s, text in lines:
            timeline.take(time_s, self._source.take(text))
        if lines:
            self._heard_s = self._clock()
        elif self._clock() - self._heard_s > max(_SILENT_S, 10 * self._period_s):
            raise MeterError(
                f"{self._opened().identity}: nothing came from the device for {self._clock() - self._heard_s:.1f} s",
                transient=True,
            )
        return timeline.block()

    def stop(self) -> SampleBlock:
        """Stop reading and return the samples not read yet.

        Raises:
            MeterError: not started, or the connection broke.
        """
        timeline = self._started()
        for time_s, text in self._reached(lambda: self._lines(0.0)):
            timeline.take(time_s, self._source.take(text))
        self._end()
        return timeline.block()

    def close(self) -> None:
        """End the loop; safe to call twice."""
        self._end()
        self._source.close()
        self._about = None

    def _prepare(self) -> None:
        """A loop that waits for its word, its device's clock matched with this one's."""
        self._end()
        self._process = self._remote.start(self._source.loop().argv(self._asked_s))
        low_s, high_s = -math.inf, math.inf
        nearest_s, nearest_error_s = 0.0, math.inf
        for _ in range(_PINGS):
            asked_s = self._clock()
            self._process.write(b"ping\n")
            told_s = self._answer()
            answered_s = self._clock()
            # The device's clock was at `told_s`, or up to a tick later, at some time between the two.
            least_s, most_s = told_s - answered_s, told_s + TICK_S - asked_s
            low_s, high_s = max(low_s, least_s), min(high_s, most_s)
            if (most_s - least_s) / 2 < nearest_error_s:
                nearest_s, nearest_error_s = (least_s + most_s) / 2, (most_s - least_s) / 2
        # Clocks that do not keep step, as an emulator's with this computer's, leave no interval.
        together = low_s <= high_s
        self._offset_s = (low_s + high_s) / 2 if together else nearest_s
        self._offset_error_s = (high_s - low_s) / 2 if together else nearest_error_s

    def _trial(self) -> float:
        """The mean time between readings that the device keeps, seconds."""
        self._prepare()
        self._running().write(b"go\n")
        times: list[float] = []
        begin_s = self._clock()
        while len(times) < _TRIAL and (len(times) < 2 or self._clock() - begin_s < _TRIAL_S):
            lines = self._lines(_ANSWER_S)
            if not lines:
                raise MeterError(f"{self._kind}: nothing came from {self._remote.name} in {_ANSWER_S:g} s")
            for time_s, text in lines:
                reading = self._source.take(text)
                if isinstance(reading, Failed):
                    raise MeterError(f"{self._kind} on {self._remote.name}: cannot be read: {reading.why}")
                times.append(time_s)
        self._end()
        return (times[-1] - times[0]) / (len(times) - 1)

    def _answer(self) -> float:
        deadline = self._clock() + _ANSWER_S
        while self._clock() < deadline:
            for line in self._split(_ANSWER_S):
                mark, _, told = line.partition(" ")
                if mark == "@":
                    return float(told)
        raise MeterError(f"{self._kind}: {self._remote.name} did not tell its time", transient=True)

    def _lines(self, timeout_s: float) -> list[tuple[float, str]]:
        """Time and text of the lines that have come."""
        found = []
        for line in self._split(timeout_s):
            told, _, text = line.partition(" ")
            try:
                found.append((float(told), text))
            except ValueError as error:
                raise MeterError(f"{self._kind}: {self._remote.name} said {line[:80]!r} and no time") from error
        return found

    def _split(self, timeout_s: float) -> list[str]:
        process = self._running()
        try:
            data = process.read(timeout_s)
        except TransportError:
            status = process.poll()
            if status is None:
                raise
            words = process.stderr_tail().strip()
            raise MeterError(
                f"{self._kind}: what reads it on {self._remote.name} ended with status {status}: {words or 'no words'}",
                transient=True,
            ) from None
        *lines, self._part = (self._part + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _end(self) -> None:
        process, self._process, self._part = self._process, None, b""
        if process is not None:
            try:
                process.kill()
                process.close()
            except TransportError:
                # The connection is gone, and the loop ends where it cannot write.
                return

    def _reached(self, work: Callable[[], _T]) -> _T:
        """Do it; a connection that breaks is a failure of the meter."""
        try:
            return work()
        except TransportError as error:
            raise MeterError(
                f"{self._kind}: {error.message}", hint=error.hint, transient=error.transient
            ) from error

    def _running(self) -> RemoteProcess:
        if self._process is None:
            raise MeterError(f"{self._kind}: the stream was not started", hint="call start() first")
        return self._process

    def _opened(self) -> SourceInfo:
        if self._about is None:
            raise MeterError(
                f"{self._kind}: the meter is not open", hint="call open(), or use it in a with statement"
            )
        return self._about

    def _started(self) -> Timeline:
        if self._timeline is None:
            raise MeterError(f"{self._kind}: the stream was not started", hint="call start() first")
        return self._timeline


def words_of(text: str, count: int) -> Sequence[str] | Failed:
    """The words of a loop over so many files; :class:`Failed` where one could not be read."""
    words = text.split()
    if len(words) != count or "!" in words:
        return Failed(f"a file could not be read: {text.strip()[:60]!r}")
    return words
