"""Meters read on the device: readings at the device's times become samples at this computer's; nothing is made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.streaming_device import StreamingDevice
from hypothesis import given
from hypothesis import strategies as st

from lab.doctor import availability
from lab.errors import MeterError
from lab.inventory import load_bench
from lab.power.base import RangeUncertainty, SampleBlock, join
from lab.power.polled import Count, Counter, Failed, Gauge, Reading, SourceInfo
from lab.power.streamed import TICK_S, Loop, StreamedMeter, Timeline, words_of

GAUGE = SourceInfo("gauge", (RangeUncertainty(10.0, 0.01),), update_s=0.0)
ENERGY = replace(GAUGE, identity="counter", measures_voltage=False, counter=Counter("energy", 1e-6, 1 << 32, 100.0))
PERIOD_S = 0.1


def samples(info: SourceInfo, readings: list[tuple[float, Reading]], begin_s: float = 0.0) -> SampleBlock:
    line = Timeline(info, PERIOD_S, 5.0, begin_s)
    for time_s, reading in readings:
        line.take(time_s, reading)
    return line.block()


# Readings to samples.


@given(st.lists(st.tuples(st.floats(0.08, 0.13), st.floats(0.0, 5.0)), min_size=5, max_size=60), st.floats(0, 1e5))
def test_charge_of_a_gauge_is_that_of_its_steps(steps: list[tuple[float, float]], begin_s: float) -> None:
    """A reading stands for the time since the one before: the closed form is a sum of rectangles."""
    time_s, readings, charge_c = begin_s, [], 0.0
    for elapsed_s, current_a in steps:
        time_s += elapsed_s
        readings.append((time_s, Gauge(current_a, 5.0)))
        charge_c += current_a * elapsed_s
    block = samples(GAUGE, list(readings), begin_s)
    assert block.lost == 0
    assert abs(block.current_a.size * PERIOD_S - (time_s - begin_s)) <= PERIOD_S
    # Each edge between two readings lies in one sample, which is the one or the other.
    jumps = np.abs(np.diff([0.0, *(current_a for _, current_a in steps), 0.0]))
    assert abs(float(block.current_a.sum()) * PERIOD_S - charge_c) <= jumps.sum() * PERIOD_S / 2 + 1e-3


@given(
    st.lists(st.tuples(st.floats(0.02, 0.5), st.floats(0.5, 50.0)), min_size=5, max_size=40), st.integers(0, 2**32 - 1)
)
def test_energy_of_a_counter_is_kept_also_where_it_wraps(steps: list[tuple[float, float]], first: int) -> None:
    time_s, value = 0.0, first
    readings: list[tuple[float, Reading]] = [(0.0, Count(value))]
    for elapsed_s, power_w in steps:
        time_s += elapsed_s
        value = (value + round(power_w * elapsed_s * 1e6)) % (1 << 32)
        readings.append((time_s, Count(value)))
    block = samples(ENERGY, readings)
    energy_j = sum(elapsed_s * power_w for elapsed_s, power_w in steps)
    jumps = np.abs(np.diff([0.0, *(power_w for _, power_w in steps), 0.0]))
    measured_j = float(np.nansum(block.current_a)) * 5.0 * PERIOD_S
    assert abs(measured_j - energy_j) <= jumps.sum() * PERIOD_S / 2 + 0.01
    assert block.lost == 0


def test_what_was_not_read_is_lost() -> None:
    times_s = [0.1, 0.2, 0.3, 1.0, 1.1]
    block = samples(GAUGE, [(time_s, Gauge(1.0, 5.0)) for time_s in times_s])
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert block.lost == 7
    failed = samples(GAUGE, [(0.1, Gauge(1.0, 5.0)), (0.2, Failed("busy")), (0.3, Gauge(2.0, 5.0))])
    assert np.isnan(failed.current_a).tolist() == [False, True, False]
    counter = samples(ENERGY, [(0.0, Count(0)), (0.1, Failed("busy")), (0.2, Count(200_000))])
    assert counter.current_a == pytest.approx([0.2, 0.2]), "what was counted meanwhile is known"


def test_a_counter_that_waits_for_its_update() -> None:
    """It moves every second reading: the mean over both is what is known."""
    readings: list[tuple[float, Reading]] = [(0.1 * k, Count(500_000 * (k // 2))) for k in range(9)]
    block = samples(ENERGY, readings)
    assert block.current_a == pytest.approx([0.5] * 8)
    with pytest.raises(MeterError, match=r"counter: its counter has not moved for 2\.0 s: it is stuck"):
        samples(ENERGY, [(0.1 * k, Count(7)) for k in range(30)])


def test_a_counter_that_was_reset_is_lost_there() -> None:
    no_wrap = replace(ENERGY, counter=Counter("energy", 1e-6, 0, 100.0))
    block = samples(no_wrap, [(0.0, Count(900_000)), (0.1, Count(1_000_000)), (0.2, Count(5)), (0.3, Count(100_005))])
    assert np.isnan(block.current_a).tolist() == [False, True, False]


def test_readings_that_fail_for_seconds_and_a_device_that_boots() -> None:
    with pytest.raises(MeterError, match=r"gauge: no reading for 2\.0 s: busy"):
        samples(GAUGE, [(0.1 * k, Failed("busy")) for k in range(30)])
    with pytest.raises(MeterError, match="time since boot went back: it has booted anew"):
        samples(GAUGE, [(500.0, Gauge(1.0, 5.0)), (3.0, Gauge(1.0, 5.0))], 500.0)


def test_words_of_a_line() -> None:
    assert words_of("12 13", 2) == ["12", "13"]
    assert isinstance(words_of("12 !", 2), Failed)
    assert isinstance(words_of("12", 2), Failed)


# The stream.


class Milliamperes:
    """A source whose loop prints milliampere."""

    def __init__(self, update_s: float = 0.0) -> None:
        self._update_s = update_s
        self.closed = 0

    def open(self) -> SourceInfo:
        return replace(GAUGE, update_s=self._update_s)

    def loop(self) -> Loop:
        return Loop("files", ("/a",))

    def take(self, text: str) -> Reading:
        return Failed(text) if text == "!" else Gauge(int(text) * 1e-3, 5.0)

    def close(self) -> None:
        self.closed += 1


def meter_of(device: StreamingDevice, period_s: float | None = PERIOD_S, update_s: float = 0.0) -> StreamedMeter:
    return StreamedMeter("test", Milliamperes(update_s), device, 5.0, period_s, device.clock)


def constant(milliampere: int) -> Callable[[float], str]:
    return lambda now_s: str(milliampere)


@given(
    st.floats(-500, 5000),
    st.lists(st.tuples(st.floats(1e-4, 0.05), st.floats(1e-4, 0.05)), min_size=12, max_size=12),
)
def test_the_devices_clock_is_where_the_meter_says_it_is(offset_s: float, delays: list[tuple[float, float]]) -> None:
    device = StreamingDevice(constant(1), offset_s, delays=delays)
    with meter_of(device) as meter:
        error_s = meter._offset_error_s
        assert abs(meter._offset_s - offset_s) <= error_s + 1e-6
        assert error_s <= (min(there + back for there, back in delays) + TICK_S) / 2 + 1e-6
        assert meter.info.time_uncertainty_s == pytest.approx(PERIOD_S + TICK_S + error_s, abs=TICK_S / 4)


@pytest.mark.parametrize("offset_s", [0.0, 12345.678, -900.0])
def test_a_step_is_where_it_was(offset_s: float) -> None:
    """The load rises at a known time of this computer's clock; the device's own clock plays no part."""
    device = StreamingDevice(constant(100), offset_s, period_s=0.05)
    with meter_of(device, 0.05) as meter:
        meter.start()
        begin_s = device.clock.now_s
        device.says = lambda now_s: "900" if now_s >= begin_s + 2.0 else "100"
        block = join([meter.read(0.1) for _ in range(80)])
        first = int(np.argmax(block.current_a > 0.5))
        assert abs(first * 0.05 - 2.0) <= meter.info.time_uncertainty_s
        assert block.current_a[:first] == pytest.approx(0.1)
        assert block.current_a[first:] == pytest.approx(0.9)


def test_the_rate_is_the_one_the_device_keeps() -> None:
    device = StreamingDevice(constant(100), period_s=0.14)
    with meter_of(device) as meter:
        assert meter.info.sample_rate_hz == pytest.approx(1 / 0.14, rel=0.02)
        assert "read on the device 7.1" in meter.info.identity
        meter.start()
        block = join([meter.read(0.2) for _ in range(40)])
        assert block.lost == 0
        assert block.current_a == pytest.approx(0.1)


def test_a_period_below_the_sources_is_refused_and_its_own_taken() -> None:
    device = StreamingDevice(constant(1), period_s=0.25)
    with pytest.raises(MeterError, match=r"gauge: updates every 250 ms; read every 100 ms it would show"):
        meter_of(device, 0.1, update_s=0.25).open()
    with meter_of(device, None, update_s=0.25) as meter:
        assert meter.info.sample_rate_hz == pytest.approx(4.0, rel=0.02)


def test_streams_are_one_after_the_other() -> None:
    device = StreamingDevice(constant(250))
    with meter_of(device) as meter:
        for _ in range(3):
            meter.start()
            blocks = [meter.read(0.2) for _ in range(10)]
            block = join([*blocks, meter.stop()])
            assert block.first == 0
            assert block.current_a == pytest.approx(0.25)
    assert all(process.killed for process in device.processes)


def test_a_connection_that_breaks_keeps_what_came() -> None:
    device = StreamingDevice(constant(250))
    with meter_of(device) as meter:
        meter.start()
        assert join([meter.read(0.2) for _ in range(5)]).current_a.size >= 4
        device.broken = True
        with pytest.raises(MeterError, match="test: device: the connection broke") as caught:
            meter.read(0.2)
        assert caught.value.transient
        device.broken = False
        meter.stop()


def test_a_loop_that_ends_and_one_that_says_nothing() -> None:
    device = StreamingDevice(constant(250))
    with meter_of(device) as meter:
        meter.start()
        meter.read(0.2)
        device.ended = 127
        with pytest.raises(MeterError, match="what reads it on device ended with status 127: sh: it went wrong"):
            meter.read(0.2)
    silent = StreamingDevice(constant(250))
    with meter_of(silent) as meter:
        meter.start()
        silent.says = lambda now_s: None
        for _ in range(50):
            meter.read(0.1)
        with pytest.raises(MeterError, match=r"nothing came from the device for 5\.\d s"):
            join([meter.read(0.1) for _ in range(10)])


def test_a_source_that_cannot_be_read_is_found_when_it_is_opened() -> None:
    device = StreamingDevice(lambda now_s: "!")
    with pytest.raises(MeterError, match="test on device: cannot be read: !"):
        meter_of(device).open()
    assert all(process.killed for process in device.processes)


def test_calls_out_of_order_are_told() -> None:
    meter = meter_of(StreamingDevice(constant(1)))
    for call in (lambda: meter.info, lambda: meter.start()):
        with pytest.raises(MeterError, match="the meter is not open"):
            call()
    for call in (lambda: meter.read(0.0), lambda: meter.stop(), lambda: meter.report):
        with pytest.raises(MeterError, match="the stream was not started"):
            call()
    meter.close()
    meter.close()


def test_the_mean_is_told() -> None:
    device = StreamingDevice(constant(3))
    with meter_of(device) as meter:
        meter.start()
        for _ in range(10):
            meter.read(0.2)
        assert meter.report.mean_current_a == pytest.approx(3e-3)
        assert not math.isnan(meter.report.latest_s)


def test_a_meter_that_is_asked_on_the_device_needs_no_package_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.power.registry.find_spec", lambda name: None)
    path = tmp_path / "bench.yaml"
    ssh = "ssh: {host: there.example, user: lab, key: /key}"
    path.write_text(
        f"devices:\n  far: {{board: jetson-nano, {ssh}, meter: {{kind: nvml}}}}\n"
        f"  near: {{board: jetson-nano, {ssh}, meter: {{kind: nvml, read_on: lab}}}}\n"
    )
    devices = load_bench(path).devices
    assert "nvml meter" not in availability(devices["far"])
    assert "a package that its nvml meter needs is not installed" in availability(devices["near"])
