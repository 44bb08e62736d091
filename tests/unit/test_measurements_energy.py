"""Windows and energy against closed forms: square waves, exponential settling, lost samples, bad alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError
from lab.events import RegionEvent
from measurements.capture import find_windows, match_windows
from measurements.energy import energy_records, measure_windows
from measurements.record import Record, Trace
from measurements.rejection import MeasurementRejected

DT = 1e-5
CLOCK_HZ = 100e6
IDLE_A, ACTIVE_A, VOLTS = 1e-3, 25e-3, 3.3


def edges_s(lengths_s: Sequence[float], gap_s: float, begin_s: float = 5e-3) -> npt.NDArray[np.float64]:
    """Begin and end of each pass, shape (n, 2)."""
    begins = begin_s + np.concatenate(([0.0], np.cumsum(np.asarray(lengths_s[:-1]) + gap_s)))
    return np.column_stack((begins, begins + np.asarray(lengths_s)))


def square(edges: npt.NDArray[np.float64], active_a: float = ACTIVE_A, idle_a: float = IDLE_A) -> Trace:
    """A meter's view of a device that draws one current inside the passes and another outside.

    Each sample is the mean current from its begin to the next one's, with the marker at its begin.
    """
    time_s = np.arange(round((edges[-1, 1] + 5e-3) / DT) + 1) * DT
    begins, ends = edges.T[:, :, None]
    active_s = np.clip(time_s - begins, 0.0, ends - begins).sum(axis=0)
    current = idle_a + (active_a - idle_a) * np.diff(active_s) / DT
    high = (np.searchsorted(edges.ravel(), time_s[:-1], side="right") % 2) == 1
    return Trace(0.0, DT, VOLTS, current.astype(np.float32), high.astype(np.uint8))


def passes_of(edges: npt.NDArray[np.float64], offset_s: float = 0.0) -> list[RegionEvent]:
    return [
        RegionEvent("inference", k, round((begin + offset_s) * CLOCK_HZ), round((end + offset_s) * CLOCK_HZ))
        for k, (begin, end) in enumerate(edges)
    ]


def by_metric(records: Sequence[Record]) -> dict[str, Record]:
    return {record.metric: record for record in records}


def lose(trace: Trace, where: npt.NDArray[np.int64] | list[int]) -> Trace:
    current, logic = trace.current_a.copy(), trace.logic.copy()
    current[where], logic[where] = np.nan, 0
    return replace(trace, current_a=current, logic=logic, lost=len(where))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.floats(2e-3, 9e-3), min_size=1, max_size=5),
    gap=st.floats(1e-4, 4e-3),
    active=st.floats(2e-3, 0.5),
    offset=st.floats(0.0, 10.0),
)
def test_a_square_wave_gives_its_closed_form(lengths: list[float], gap: float, active: float, offset: float) -> None:
    edges = edges_s(lengths, gap)
    figures = by_metric(energy_records(square(edges, active), passes_of(edges, offset), CLOCK_HZ, "modelled"))
    for k, length in enumerate(lengths):
        # Wherever in their samples the edges lie; the device's clock counts 10 ns.
        assert figures["energy"].raw[k] == pytest.approx(VOLTS * active * length, rel=2e-5)
        assert figures["energy.net"].raw[k] == pytest.approx(VOLTS * (active - IDLE_A) * length, rel=2e-5)
        assert figures["charge"].raw[k] == pytest.approx(active * length, rel=2e-5)
        assert figures["power"].raw[k] == pytest.approx(VOLTS * active, rel=2e-5)
        assert figures["power.peak"].raw[k] == pytest.approx(VOLTS * active, rel=1e-6)
        assert figures["power.idle"].raw[k] == pytest.approx(VOLTS * IDLE_A, rel=1e-6)
    assert {record.alignment for record in figures.values()} == {"marker"}
    assert {record.source for record in figures.values()} == {"modelled"}
    assert {figures[name].unit for name in ("energy", "energy.net")} == {"J"}


def settling(settle_s: float, length: float) -> tuple[Trace, npt.NDArray[np.float64]]:
    """One pass whose edges settle exponentially."""
    edges = edges_s([length], 1e-3, begin_s=5e-3)
    begin, end = edges[0]
    time_s = np.arange(round(40e-3 / DT)) * DT
    rise = ACTIVE_A + (IDLE_A - ACTIVE_A) * np.exp(-(time_s - begin) / settle_s)
    reached = ACTIVE_A + (IDLE_A - ACTIVE_A) * np.exp(-length / settle_s)
    fall = IDLE_A + (reached - IDLE_A) * np.exp(-(time_s - end) / settle_s)
    current = np.where(time_s < begin, IDLE_A, np.where(time_s < end, rise, fall))
    logic = ((time_s >= begin) & (time_s < end)).astype(np.uint8)
    return Trace(0.0, DT, VOLTS, current.astype(np.float32), logic), edges


@pytest.mark.parametrize("settle_s", [20e-6, 200e-6])
def test_exponential_settling_gives_its_closed_form(settle_s: float) -> None:
    length = 8e-3
    trace, edges = settling(settle_s, length)
    figures = by_metric(energy_records(trace, passes_of(edges), CLOCK_HZ, "modelled"))
    charge = ACTIVE_A * length + (IDLE_A - ACTIVE_A) * settle_s * (1 - np.exp(-length / settle_s))
    assert figures["charge"].median == pytest.approx(charge, rel=5e-3)
    assert figures["energy"].median == pytest.approx(VOLTS * charge, rel=5e-3)


def test_quiet_that_still_settles_is_not_idle() -> None:
    trace, edges = settling(1e-3, 8e-3)
    with pytest.raises(MeasurementRejected, match=r"\(idle-unstable\): idle power next to a window differs") as caught:
        energy_records(trace, passes_of(edges), CLOCK_HZ, "modelled")
    assert [one.reason for one in caught.value.rejections] == ["idle-unstable"]


def test_each_window_takes_the_idle_power_next_to_it() -> None:
    edges = edges_s([4e-3, 4e-3, 4e-3], 6e-3)
    trace = square(edges)
    current = trace.current_a.copy()
    drift = np.linspace(1e-3, 3e-3, current.size).astype(np.float32)
    current[trace.logic == 0] = drift[trace.logic == 0]
    idle = measure_windows(replace(trace, current_a=current), find_windows(trace)).idle_w
    middle = [float(np.interp((begin + end) / 2 / DT, np.arange(drift.size), drift)) for begin, end in edges]
    assert idle[1] == pytest.approx(VOLTS * middle[1], rel=0.02)
    assert idle[0] < idle[1] < idle[2]


def test_a_short_gap_between_windows_is_no_quiet() -> None:
    edges = edges_s([4e-3, 4e-3], 1e-3)
    trace = square(edges)
    current = trace.current_a.copy()
    current[round(edges[0, 1] / DT) + 1 : round(edges[1, 0] / DT)] = 12e-3  # sends its results, is not idle
    figures = measure_windows(replace(trace, current_a=current), find_windows(trace), quiet_s=2e-3)
    np.testing.assert_allclose(figures.idle_w, VOLTS * IDLE_A, rtol=1e-6)


def test_only_the_quiet_next_to_the_passes_counts_as_idle() -> None:
    edges = edges_s([4e-3], 1e-3, begin_s=20e-3)
    trace = square(edges)
    current = trace.current_a.copy()
    current[: round(17e-3 / DT)] = 40e-3  # receives the samples
    figures = measure_windows(replace(trace, current_a=current), find_windows(trace), quiet_s=2e-3)
    np.testing.assert_allclose(figures.idle_w, VOLTS * IDLE_A, rtol=1e-6)


def test_without_quiet_there_is_no_net_energy_and_the_note_says_so() -> None:
    high = np.array([0] * 3 + [1] * 50 + [0] * 4, dtype=np.uint8)
    trace = Trace(0.0, DT, VOLTS, np.where(high, ACTIVE_A, IDLE_A).astype(np.float32), high)
    records = by_metric(energy_records(trace, [RegionEvent("inference", 0, 0, 50_000)], CLOCK_HZ, "hardware"))
    assert set(records) == {"energy", "charge", "power", "power.peak"}
    assert "no quiet next to the windows" in records["energy"].note
    assert "windows are only 50 samples long" in records["energy"].note
    assert "edges ±1 sample of 10 µs, a window's length ±0.04 of itself" in records["energy"].note


def test_a_float32_trace_of_many_samples_is_summed_in_double_precision() -> None:
    high = np.zeros(4_000_000, dtype=np.uint8)
    high[1000:-1000] = 1
    current = np.full(high.size, 0.1, dtype=np.float32)
    trace = Trace(0.0, DT, 1.0, current, high)
    figures = measure_windows(trace, find_windows(trace))
    assert figures.energy_j[0] == pytest.approx(float(np.float32(0.1)) * 3_998_000 * DT, rel=1e-12)


@given(st.sets(st.integers(510, 1290), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_lost_samples_inside_a_window_split_nothing_and_cost_no_energy(lost: set[int]) -> None:
    edges = edges_s([8e-3] * 5, 5e-3)
    trace = square(edges)
    broken = lose(trace, sorted(lost))
    windows = find_windows(broken)
    assert [(w.start, w.stop) for w in windows] == [(w.start, w.stop) for w in find_windows(trace)]
    assert [w.lost for w in windows] == [len(lost), 0, 0, 0, 0]
    figures, reference = measure_windows(broken, windows), measure_windows(trace, find_windows(trace))
    np.testing.assert_allclose(figures.energy_j, reference.energy_j, rtol=1e-9)
    assert figures.lost_fraction == pytest.approx(len(lost) / sum(w.samples for w in windows))


def test_a_lost_sample_at_an_edge_moves_it_by_no_more_than_itself() -> None:
    trace = square(edges_s([8e-3] * 2, 5e-3))
    first, second = find_windows(trace)
    assert find_windows(lose(trace, [first.start]))[0].start == first.start + 1
    assert find_windows(lose(trace, [second.stop]))[1].stop == second.stop + 1


def test_too_many_lost_samples_are_refused() -> None:
    edges = edges_s([10e-3] * 2, 5e-3)
    trace = square(edges)
    within = np.arange(600, 603)
    with pytest.raises(MeterError, match=r"3 of 2000 samples inside the windows were lost \(0\.15%\)") as caught:
        energy_records(lose(trace, within), passes_of(edges), CLOCK_HZ, "hardware")
    assert caught.value.transient
    record = energy_records(lose(trace, within[:2]), passes_of(edges), CLOCK_HZ, "hardware")[0]
    assert record.lost_fraction == pytest.approx(0.001)
    outside = lose(trace, np.arange(100, 140))
    assert energy_records(outside, passes_of(edges), CLOCK_HZ, "hardware")[0].lost_fraction == 0.0


@pytest.mark.parametrize("level", [0, 1])
def test_a_window_that_is_cut_off_is_named(level: int) -> None:
    logic = np.array([level] * 10 + [0, 1, 1, 0] + [1 - level] * 10, dtype=np.uint8)
    trace = Trace(0.0, DT, VOLTS, np.full(logic.size, 1e-3, np.float32), logic)
    with pytest.raises(MeterError, match=f"the trace {'begins' if level else 'ends'} while the marker"):
        find_windows(trace)


def test_other_logic_inputs_do_not_matter() -> None:
    edges = edges_s([2e-3], 1e-3)
    trace = square(edges)
    noisy = replace(trace, logic=trace.logic | np.uint8(0xF0))
    assert find_windows(noisy) == find_windows(trace)
    assert find_windows(replace(trace, logic=trace.logic << np.uint8(3)), bit=3) == find_windows(trace)


def test_an_empty_trace_has_no_window() -> None:
    nothing = Trace(0.0, DT, VOLTS, np.empty(0, np.float32), np.empty(0, np.uint8))
    assert find_windows(nothing) == ()
    with pytest.raises(MeterError, match="nothing to measure"):
        energy_records(nothing, [], CLOCK_HZ, "hardware")


def test_a_different_number_of_windows_is_named_with_both_counts() -> None:
    edges = edges_s([4e-3] * 3, 3e-3)
    with pytest.raises(MeterError, match="the trace shows 3 marker windows and the device reports 2 passes"):
        match_windows(square(edges), passes_of(edges)[:2], CLOCK_HZ)


def test_passes_shorter_than_a_sample_are_named_as_such() -> None:
    trace = square(edges_s([4e-3], 1e-3))
    short = [RegionEvent("inference", k, k * 10_000, k * 10_000 + 300) for k in range(2)]
    with pytest.raises(MeterError, match=r"shortest pass is 0\.3 samples long"):
        match_windows(trace, short, CLOCK_HZ)


def test_other_regions_are_ignored() -> None:
    edges = edges_s([4e-3], 1e-3)
    layers = [RegionEvent("layer", k, 0, 10) for k in range(3)]
    assert len(match_windows(square(edges), [*layers, *passes_of(edges)], CLOCK_HZ)) == 1


@pytest.mark.parametrize(("samples_off", "fits"), [(-2.5, False), (-1.0, True), (0.9, True), (1.4, True), (3.1, False)])
def test_durations_must_agree_within_two_samples(samples_off: float, fits: bool) -> None:
    edges = edges_s([4e-3, 5e-3], 3e-3)
    told = passes_of(edges)
    told[1] = replace(told[1], end=told[1].end + round(samples_off * DT * CLOCK_HZ))
    if fits:
        assert len(match_windows(square(edges), told, CLOCK_HZ)) == 2
        return
    with pytest.raises(MeterError, match=r"pass 1 of 'inference' lasts 0\.005\d* s in the trace and 0\.00\d+ s by the"):
        match_windows(square(edges), told, CLOCK_HZ)


def test_passes_in_another_place_are_named() -> None:
    edges = edges_s([4e-3, 4e-3, 4e-3], 3e-3)
    told = passes_of(edges)
    told[1] = replace(told[1], begin=told[1].begin + 100_000, end=told[1].end + 100_000)
    with pytest.raises(MeterError, match="pass 1 of 'inference' begins"):
        match_windows(square(edges), told, CLOCK_HZ)


def test_a_wrong_clock_rate_is_found() -> None:
    edges = edges_s([8e-3], 1e-3)
    with pytest.raises(MeterError, match="check the clock rate"):
        match_windows(square(edges), passes_of(edges), CLOCK_HZ * 1.02)
    assert match_windows(square(edges), passes_of(edges), CLOCK_HZ * (1 + 5e-5))
