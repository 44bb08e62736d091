"""What ``lab meter watch`` adds up and shows, and what ``import`` says of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.bench import Bench
from lab.calibrations import Calibration, Usable
from lab.commands.meter_stream import Stream
from lab.commands.meter_trace import described
from lab.commands.meter_watch import Totals, watch_stream
from lab.errors import DeviceError, MeterError
from lab.paths import default_config
from lab.power.base import MeterInfo, SampleBlock
from measurements.record import Trace
from measurements.uncertainty import RangeCorrection

INFO = MeterInfo("ppk2", "a meter", 1000.0, 3.0, False, 8, 0.1, True)
UNCALIBRATED = Usable(None)


class Played:
    """A meter that plays blocks and counts what is asked of it."""

    def __init__(self, blocks: list[SampleBlock], info: MeterInfo = INFO) -> None:
        self.info = info
        self.asked: list[str] = []
        self._blocks = iter(blocks)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *error: object) -> None: ...

    def open(self) -> MeterInfo:
        return self.info

    def start(self) -> None:
        self.asked.append("start")

    def read(self, timeout_s: float) -> SampleBlock:
        return next(self._blocks, block([]))

    def stop(self) -> SampleBlock:
        self.asked.append("stop")
        return block([])

    def close(self) -> None: ...


def block(values: list[float], logic: int = 0, voltage: list[float] | None = None) -> SampleBlock:
    current = np.array(values, np.float32)
    lost = int(np.isnan(current).sum())
    measured = None if voltage is None else np.array(voltage, np.float32)
    return SampleBlock(0, current, np.full(current.size, logic, np.uint8), lost, voltage_v=measured)


def stream(meter: Played, usable: Usable = UNCALIBRATED, work: Callable[[], None] | None = None) -> Stream:
    return Stream(Bench.load(default_config()).get("m4f"), meter, usable, work)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), min_size=1, max_size=5))
def test_totals_are_the_sums_however_the_stream_is_cut(parts: list[list[float]]) -> None:
    totals = Totals(1000.0, 3.0)
    for part in parts:
        totals.add(block(part))
    everything = np.array([value for part in parts for value in part], np.float32).astype(np.float64)
    assert totals.charge_c == pytest.approx(everything.sum() / 1000, rel=1e-12)
    assert totals.energy_j == pytest.approx(3 * everything.sum() / 1000, rel=1e-12)
    assert totals.peak_a == everything.max()
    assert totals.seconds == pytest.approx(everything.size / 1000)


def test_lost_samples_are_counted_and_nothing_takes_their_place() -> None:
    totals = Totals(1000.0, 3.0)
    totals.add(block([1e-3, float("nan"), 3e-3]))
    assert (totals.samples, totals.lost) == (3, 1)
    assert totals.charge_c == pytest.approx(4e-6)
    assert totals.shown_a == pytest.approx(2e-3)
    totals.add(block([float("nan")]))
    assert totals.lost == 2
    assert totals.shown_a == pytest.approx(2e-3), "nothing new was seen"


def test_the_measured_voltage_goes_before_the_told_one() -> None:
    totals = Totals(1000.0, 3.0)
    totals.add(block([1e-3, 2e-3], voltage=[2.0, 4.0]))
    assert totals.energy_j == pytest.approx((2e-3 + 8e-3) / 1000, rel=1e-6)
    assert totals.shown_v == 3.0


def test_a_meter_of_power_alone_shows_no_charge() -> None:
    totals = Totals(1000.0, 3.0)
    totals.add(block([1e-3]))
    assert {"current", "peak", "charge"} & set(totals.figures(charge=True))
    assert not {"current", "peak", "charge"} & set(totals.figures(charge=False))


def test_lines_come_as_often_as_asked_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Played([block([1e-3] * 10)] * 7)
    totals = watch_stream(stream(meter), 0.065, 0.02)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "m4f: ppk2 (a meter), emulated, its current is modelled"
    assert [line.split("  ")[0] for line in lines] == ["time 20 ms", "time 40 ms", "time 60 ms", "time 65 ms"]
    assert totals.samples == 65
    assert meter.asked == ["start", "stop"]


def test_lines_do_not_depend_on_how_blocks_come(capsys: pytest.CaptureFixture[str]) -> None:
    currents = [1e-3] * 30 + [float("nan")] * 2 + [3e-3] * 33
    whole = watch_stream(stream(Played([block(currents)])), 0.065, 0.02)
    _, *lines = capsys.readouterr().out.splitlines()
    pieces = [block(currents[at : at + 5]) for at in range(0, 65, 5)]
    cut = watch_stream(stream(Played(pieces)), 0.065, 0.02)
    _, *others = capsys.readouterr().out.splitlines()

    def sums(line: str) -> list[str]:
        return [part for part in line.split("  ") if part.startswith(("time", "charge", "energy", "lost", "peak"))]

    assert [sums(line) for line in lines] == [sums(line) for line in others]
    assert [line.split("  ")[0] for line in lines] == ["time 20 ms", "time 40 ms", "time 60 ms", "time 65 ms"]
    assert (whole.lost, cut.lost) == (2, 2)


def test_on_a_terminal_the_figures_stand_in_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    watch_stream(stream(Played([block([1e-3] * 10)] * 3)), 0.03, 0.01)
    shown = capsys.readouterr().out
    assert "90 µJ" in shown
    assert "energy" in shown


def test_samples_are_corrected_and_the_marker_becomes_bit_0() -> None:
    calibration = Calibration("a meter", "2026-01-01", (RangeCorrection(1.0, 1.1, 1e-4, 0.0, 0.0),), ())
    chosen = stream(Played([block([1e-3] * 4, logic=0b101)]), Usable(calibration))
    meter = chosen.entry.meter
    assert meter is not None
    wired = meter.model_copy(update={"marker_input": 2})
    config = chosen.entry.config.model_copy(update={"meter": wired})
    (found,) = replace(chosen, entry=replace(chosen.entry, config=config)).blocks(0.004)
    assert found.current_a == pytest.approx([1.2e-3] * 4, rel=1e-5)
    assert found.logic.tolist() == [1, 1, 1, 1]
    assert found.logic.dtype == np.uint8


def test_what_fails_beneath_the_meter_ends_the_stream_and_the_meter_is_stopped() -> None:
    def work() -> None:
        raise DeviceError("the board crashed")

    endless: Iterator[SampleBlock] = iter(lambda: block([1e-3]), None)
    meter = Played([])
    meter._blocks = endless
    with pytest.raises(DeviceError, match="the board crashed"):
        for _ in stream(meter, work=work).blocks(None):
            pass
    assert meter.asked == ["start", "stop"]


def test_a_meter_that_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.commands.meter_stream._SILENT_S", 0.0)
    with pytest.raises(MeterError, match="m4f: the meter showed nothing"):
        list(stream(Played([])).blocks(1.0))


def test_what_is_said_of_a_trace() -> None:
    current = np.array([1e-3] * 50 + [np.nan] * 2 + [3e-3] * 48, np.float32)
    logic = np.array([0] * 20 + [1] * 30 + [0] * 50, np.uint8)
    lines = described(Trace(0.0, 1e-3, 2.0, current, logic, 2))
    assert lines[0] == "samples    100, 2 lost, 1 kHz"
    assert "194 µC" in lines[3]
    assert "388 µJ" in lines[4]
    assert lines[5] == "windows    1 on D0"
    cut = described(Trace(0.0, 1e-3, 2.0, current, np.ones(100, np.uint8), 2))
    assert "cut off" in cut[5]
