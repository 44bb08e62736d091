"""What all polled meters share: the schedule, what is lost, and what a counter tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from helpers.virtual_clock import VirtualClock, stream
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators.load import ScriptedLoad, Segment
from lab.errors import MeterError, ToolMissing
from lab.power.base import MeterInfo, RangeUncertainty
from lab.power.polled import (
    Count,
    Counter,
    Failed,
    Gauge,
    PolledMeter,
    Reading,
    SlotSeries,
    SourceInfo,
)

_RANGES = (RangeUncertainty(1.0, 0.01, 1e-3),)
_GAUGE = SourceInfo("a gauge", _RANGES, update_s=0.0, quantum_a=1e-3)
_COUNTER = SourceInfo(
    "a counter",
    _RANGES,
    update_s=0.0,
    measures_voltage=False,
    measures_current=False,
    counter=Counter("energy", 1e-6, 0, 1000.0),
)


class Told:
    """A source that gives what a function says of the number of the reading."""

    def __init__(self, about: SourceInfo, tell: Callable[[int], Reading]) -> None:
        self._about = about
        self._tell = tell
        self.readings = 0
        self.closed = 0

    def open(self) -> SourceInfo:
        return self._about

    def read(self) -> Reading:
        reading = self._tell(self.readings)
        self.readings += 1
        return reading

    def close(self) -> None:
        self.closed += 1


def _constant(_: int) -> Gauge:
    return Gauge(0.1, 3.3)


def test_readings_keep_an_absolute_schedule() -> None:
    """Where each reading takes some time, the next one is not later for it: 3000 periods do not drift."""
    clock = VirtualClock(30.0)
    times: list[float] = []

    def tell(number: int) -> Gauge:
        times.append(clock.elapsed())
        clock.pass_time(0.004)
        return Gauge(number * 1e-6, 3.3)

    meter = PolledMeter("told", Told(_GAUGE, tell), 3.3, 0.01, clock)
    with meter:
        block = stream(meter, clock)
    assert np.array(times) == pytest.approx(np.arange(1, block.current_a.size + 1) * 0.01, abs=1e-9)
    assert block.current_a.size == 3000
    assert block.lost == meter.report.missed == 0
    assert block.voltage_v is not None
    assert block.voltage_v == pytest.approx(3.3)
    assert meter.start_s == pytest.approx(clock.begin_s)


def test_slots_the_host_missed_are_lost_samples() -> None:
    """Wait 10 wakes 35 ms late: slots 10, 11 and 12 are lost, the reading then made is that of slot 13."""
    clock = VirtualClock(0.3, late_s={10: 0.035})
    meter = PolledMeter("told", Told(_GAUGE, lambda number: Gauge(number * 1e-3, 3.3)), 3.3, 0.01, clock)
    with meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [10, 11, 12]
    assert block.lost == meter.report.missed == 3
    assert block.current_a[13] == pytest.approx(10e-3)
    assert block.current_a.size == 30
    assert block.voltage_v is not None
    assert np.isnan(block.voltage_v[10:13]).all()


def test_a_reading_within_its_slot_is_kept_and_its_lateness_told() -> None:
    clock = VirtualClock(0.3, late_s={10: 0.006})
    meter = PolledMeter("told", Told(_GAUGE, _constant), 3.3, 0.01, clock)
    with meter:
        block = stream(meter, clock)
        assert meter.report.latest_s < meter.info.time_uncertainty_s
    assert block.lost == 0
    assert meter.report.latest_s == pytest.approx(0.006)


def test_a_reading_longer_than_a_period_is_lost() -> None:
    clock = VirtualClock(0.3)

    def tell(number: int) -> Gauge:
        if number == 5:
            clock.pass_time(0.011)
        return Gauge(0.1, 3.3)

    meter = PolledMeter("told", Told(_GAUGE, tell), 3.3, 0.01, clock)
    with meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [5]
    assert (meter.report.slow, meter.report.failed, meter.report.missed) == (1, 0, 0)


def test_a_failed_reading_is_a_lost_sample() -> None:
    clock = VirtualClock(0.3)
    source = Told(_GAUGE, lambda number: Failed("busy") if number in (3, 7) else Gauge(0.1, 3.3))
    meter = PolledMeter("told", source, 3.3, 0.01, clock)
    with meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [3, 7]
    assert meter.report.failed == block.lost == 2


def test_a_source_that_fails_for_two_seconds_has_failed() -> None:
    clock = VirtualClock(10.0)
    source = Told(_GAUGE, lambda number: Failed("bus busy") if number > 20 else Gauge(0.1, 3.3))
    with PolledMeter("told", source, 3.3, 0.1, clock) as meter:
        with pytest.raises(MeterError, match=r"a gauge: no reading for 2\.0 s: bus busy"):
            stream(meter, clock)
        assert source.readings == 41


def test_what_came_before_the_failure_can_still_be_read() -> None:
    clock = VirtualClock(10.0)

    def tell(number: int) -> Gauge:
        if number == 8:
            raise MeterError("gone")
        return Gauge(0.1, 3.3)

    with PolledMeter("told", Told(_GAUGE, tell), 3.3, 0.1, clock) as meter:
        with pytest.raises(MeterError, match="gone"):
            stream(meter, clock)
        with pytest.raises(MeterError, match="gone"):
            meter.stop()
        assert meter.report.slots == 8


def test_a_tool_that_vanishes_is_a_failure_too() -> None:
    """Whatever of the lab's errors ends the thread, the reader learns of it."""
    clock = VirtualClock(10.0)

    def tell(number: int) -> Gauge:
        if number == 3:
            raise ToolMissing("adb is not installed", hint="install it")
        return Gauge(0.1, 3.3)

    with PolledMeter("told", Told(_GAUGE, tell), 3.3, 0.1, clock) as meter:
        with pytest.raises(MeterError, match="adb is not installed") as caught:
            stream(meter, clock)
        assert caught.value.hint == "install it"


class LoadCounter:
    """An energy counter that follows a load and is updated every ``update_s``."""

    def __init__(self, load: ScriptedLoad, clock: VirtualClock, update_s: float) -> None:
        self._load = load
        self._clock = clock
        self._update_s = update_s

    def open(self) -> SourceInfo:
        counter = Counter("energy", 1e-6, 1 << 32, 1e4)
        return SourceInfo("a load", _RANGES, self._update_s, measures_voltage=False, counter=counter)

    def read(self) -> Count:
        updated_s = math.floor(self._clock.elapsed() / self._update_s + 1e-9) * self._update_s
        return Count(int(self._load.truth(0.0, updated_s).energy_j * 1e6) % (1 << 32) if updated_s else 0)

    def close(self) -> None:
        pass


@settings(max_examples=60)
@given(
    loads=st.lists(st.tuples(st.floats(0.05, 2.0), st.floats(0.01, 1.0)), min_size=1, max_size=12),
    update_s=st.floats(0.02, 0.1),
    factor=st.floats(1.0, 3.0),
    late_s=st.dictionaries(st.integers(0, 60), st.floats(0.0, 0.4), max_size=6),
    begin=st.floats(0.0, 0.9),
    length=st.floats(0.0, 1.0),
    after_gap=st.booleans(),
)
def test_any_window_lies_within_the_time_uncertainty_that_is_stated(
    loads: list[tuple[float, float]],
    update_s: float,
    factor: float,
    late_s: dict[int, float],
    begin: float,
    length: float,
    after_gap: bool,
) -> None:
    """Random loads, periods that do and do not keep step, a host that is late: the closed form bounds the energy.

    The window shifted and widened by the stated uncertainty holds the least and the most that can be shown.
    """
    load = ScriptedLoad([Segment(duration_s, current_a, voltage_v=5.0) for duration_s, current_a in loads])
    clock = VirtualClock(6.0, late_s=late_s)
    with PolledMeter("told", LoadCounter(load, clock, update_s), 5.0, update_s * factor, clock) as meter:
        period_s = update_s * factor
        block = stream(meter, clock)
        unsure_s = meter.info.time_uncertainty_s
    size = block.current_a.size
    lost = np.flatnonzero(np.isnan(block.current_a[: size // 2]))
    first = int(lost[-1]) + 1 if after_gap and lost.size else int(begin * size)
    end = min(first + max(1, int(length * size)), size)
    shown = block.current_a[first:end].astype(np.float64)
    known = np.isfinite(shown)
    if not known.all():
        assert block.lost >= np.count_nonzero(~known)
        return
    energy_j = shown.sum() * 5.0 * period_s
    begin_s, end_s = first * period_s, end * period_s
    most = load.truth(max(0.0, begin_s - unsure_s), end_s + unsure_s).energy_j
    inner = (begin_s + unsure_s, end_s - unsure_s)
    least = load.truth(*inner).energy_j if inner[1] > inner[0] else 0.0
    assert least - 3e-6 <= energy_j * (1 + 1e-6) + 1e-6
    assert energy_j <= most * (1 + 1e-6) + 3e-6


def test_a_period_below_the_update_interval_is_refused() -> None:
    about = SourceInfo("a slow chip", _RANGES, update_s=0.035)
    source = Told(about, _constant)
    with pytest.raises(MeterError, match=r"a slow chip: updates every 35 ms; read every 10 ms") as caught:
        PolledMeter("told", source, 3.3, 0.01).open()
    assert "leave period: out" in caught.value.hint
    assert source.closed == 1


@pytest.mark.parametrize(("update_s", "period_s"), [(0.0, 0.01), (0.001, 0.01), (0.035, 0.035)])
def test_the_period_is_by_default_the_update_interval(update_s: float, period_s: float) -> None:
    info = PolledMeter("told", Told(SourceInfo("it", _RANGES, update_s), _constant), 3.3, None).open()
    assert info == MeterInfo(
        kind="told",
        identity="it",
        sample_rate_hz=1 / period_s,
        voltage_v=3.3,
        measures_voltage=True,
        logic_inputs=0,
        relative_uncertainty=0.01,
        emulated=False,
        ranges=_RANGES,
        alignment="host-time",
        time_uncertainty_s=period_s + update_s,
    )


def _series(about: SourceInfo, readings: Sequence[Reading | None], period_s: float = 0.1) -> SlotSeries:
    """Readings of consecutive slots, None for a missed one, after one of 0 at the begin."""
    series = SlotSeries(about, period_s, 5.0)
    series.begin(Count(0) if about.counter else Gauge(0.0, 0.0))
    for slot, reading in enumerate(readings):
        if reading is not None:
            series.take(slot, reading)
    return series


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=60))
def test_a_counter_s_energy_is_neither_lost_nor_made_up(steps: list[int]) -> None:
    """Also where it stands still: the samples up to its last movement add up to what it counted."""
    counts = np.cumsum(steps)
    moved = np.flatnonzero(np.diff(counts, prepend=0))
    # More than nineteen readings without a movement are a stuck counter; see below.
    if np.diff(np.concatenate(([-1], moved, [counts.size]))).max() >= 20:
        return
    series = _series(_COUNTER, [Count(int(count)) for count in counts])
    block = series.block()
    energy_j = block.current_a.astype(np.float64).sum() * 5.0 * 0.1
    assert energy_j == pytest.approx(counts[-1] * 1e-6, rel=1e-5)
    assert block.current_a.size == (moved[-1] + 1 if moved.size else 0)
    assert series.report.repeats == counts.size - moved.size
    series.end()
    rest = series.block()
    assert rest.lost == rest.current_a.size == counts.size - block.current_a.size


@given(
    st.integers(1000, 10_000),
    st.lists(st.integers(1, 900), min_size=1, max_size=60),
    st.integers(0, 999),
)
def test_wraps_are_followed(modulus: int, steps: list[int], first: int) -> None:
    about = SourceInfo(
        "wraps", _RANGES, 0.0, measures_voltage=False, counter=Counter("energy", 1.0, modulus, math.inf)
    )
    series = SlotSeries(about, 1.0, 1.0)
    series.begin(Count(first))
    for slot, count in enumerate(np.cumsum(steps) + first):
        series.take(slot, Count(int(count) % modulus))
    assert series.block().current_a.tolist() == steps


def test_a_reading_that_shows_nothing_new_is_no_sample_of_0_w() -> None:
    """A counter that moves every other reading: each pair of slots has the mean, no 0 and no double."""
    series = _series(_COUNTER, [Count(0), Count(200_000), Count(200_000), Count(400_000)])
    assert series.block().current_a == pytest.approx([0.2] * 4)
    assert series.report.repeats == 2
    assert "2 of 4 readings showed nothing new" in series.report.notes


@pytest.mark.parametrize("gap", [None, Failed("busy")])
def test_missed_slots_of_a_counter_are_lost_with_the_reading_that_covers_them(gap: Failed | None) -> None:
    """1.2 J in three slots, of which two were not seen: 0.8 W in each would be made up."""
    series = _series(_COUNTER, [Count(100_000), gap, gap, Count(1_300_000), Count(1_400_000)])
    block = series.block()
    assert block.current_a == pytest.approx([0.2, math.nan, math.nan, math.nan, 0.2], nan_ok=True)
    assert block.lost == 3
    assert series.report.missed + series.report.failed == 2


@pytest.mark.parametrize("value", [3, 10**12])
def test_a_reset_is_not_taken_for_energy(value: int) -> None:
    """A counter that fell or leapt by more power than there can be: that slot is lost, the ones after it count on."""
    series = _series(_COUNTER, [Count(100_000), Count(value), Count(value + 100_000)])
    assert series.block().current_a == pytest.approx([0.2, math.nan, 0.2], nan_ok=True)
    assert series.report.jumps == 1


def test_a_counter_that_stands_still_is_refused() -> None:
    with pytest.raises(MeterError, match=r"a counter: its counter has not moved for 2\.0 s: it is stuck, or the load"):
        _series(_COUNTER, [Count(100), *[Count(100)] * 20])


def test_a_counter_of_charge_that_falls() -> None:
    """A battery: what left it is the current, at the voltage read with it."""
    about = SourceInfo("left", _RANGES, 0.0, counter=Counter("charge", 3.6, 0, 100.0, falls=True))
    series = SlotSeries(about, 2.0, 5.0)
    series.begin(Count(1000, 4.0))
    for slot, (left, voltage_v) in enumerate([(999, 3.9), (997, 3.8), (998, 3.8)]):
        series.take(slot, Count(left, voltage_v))
    block = series.block()
    assert block.current_a == pytest.approx([1.8, 3.6, -1.8])
    assert block.voltage_v == pytest.approx([3.9, 3.8, 3.8])


def test_a_gauge_that_tells_its_updates() -> None:
    """A repeat keeps the value that was shown, and is counted."""
    readings = [Gauge(0.1, 3.3, update=1), Gauge(0.1, 3.3, update=1), Gauge(0.1, 3.3, update=2)]
    series = _series(_GAUGE, readings)
    assert series.block().current_a == pytest.approx([0.1] * 3)
    assert series.report.repeats == 1


def test_a_current_of_few_steps_and_negative_ones_are_noted() -> None:
    few = _series(_GAUGE, [Gauge(0.004, 3.3)] * 3).report
    assert any("4 mA is fewer than 10 steps of 1 mA" in note for note in few.notes)
    negative = _series(_GAUGE, [Gauge(-0.4, 3.3, saturated=True), Gauge(0.4, 3.3)])
    assert negative.report.negative == negative.report.saturated == negative.block().saturated == 1
    assert any("is the shunt the other way round" in note for note in negative.report.notes)
    assert _series(_GAUGE, [Gauge(0.4, 3.3)] * 3).report.notes == ()


def test_a_source_that_cannot_be_read_at_the_start() -> None:
    with (
        PolledMeter("told", Told(_COUNTER, lambda _: Failed("busy")), 5.0, 0.1) as meter,
        pytest.raises(MeterError, match="cannot be read: busy"),
    ):
        meter.start()


def test_calls_out_of_order_say_so() -> None:
    source = Told(_GAUGE, _constant)
    meter = PolledMeter("told", source, 3.3, 0.01)
    with pytest.raises(MeterError, match="not open"):
        meter.start()
    meter.open()
    for call in (lambda: meter.read(0.0), meter.stop, lambda: meter.report):
        with pytest.raises(MeterError, match="not started"):
            call()
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        _ = meter.info


def test_a_second_stream_begins_at_0() -> None:
    clock = VirtualClock(1.0)
    with PolledMeter("told", Told(_GAUGE, _constant), 3.3, 0.1, clock) as meter:
        for _ in range(2):
            block = stream(meter, clock)
            assert (block.first, block.current_a.size) == (0, 10)
            clock.run_on(1.0)


def test_the_host_s_own_clock() -> None:
    """However late the host is, samples come, each slot once."""
    with PolledMeter("told", Told(_GAUGE, _constant), 3.3, 0.01) as meter:
        meter.start()
        size = 0
        while size < 3:
            block = meter.read(5.0)
            assert block.first == size
            size += block.current_a.size
        last = meter.stop()
    assert last.first == size
    assert meter.report.slots == size + last.current_a.size
