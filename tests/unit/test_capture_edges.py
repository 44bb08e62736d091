"""Edges inside samples: by the marker, by the device's clock, after a trigger and by the host's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.events import RegionEvent
from measurements.capture import find_windows, host_window, locate_edges, match_windows, seen_edges, trigger_windows
from measurements.energy import measure_windows
from measurements.record import Trace
from measurements.rejection import MeasurementRejected
from measurements.uncertainty import MeterClass, RangeClass

DT = 1e-3
CLOCK_HZ = 1e6
VOLTS, IDLE_A, ACTIVE_A = 2.0, 1e-3, 50e-3


def shown(edges: npt.NDArray[np.float64], size: int, active_a: float = ACTIVE_A, idle_a: float = IDLE_A) -> Trace:
    """What an ideal meter shows of windows with these edges, in samples, shape (n, 2)."""
    number = np.arange(size + 1)
    begins, ends = edges.T[:, :, None]
    active = np.diff(np.clip(number - begins, 0.0, ends - begins).sum(axis=0))
    high = (np.searchsorted(edges.ravel(), number[:-1], side="right") % 2) == 1
    current = idle_a + (active_a - idle_a) * active
    return Trace(0.0, DT, VOLTS, current.astype(np.float32), high.astype(np.uint8))


def told(edges: npt.NDArray[np.float64], drift: float = 0.0, boot: float = 70.0) -> list[RegionEvent]:
    counts = np.rint((edges + boot) * (1 + drift) * DT * CLOCK_HZ).astype(int)
    return [RegionEvent("inference", k, int(begin), int(end)) for k, (begin, end) in enumerate(counts)]


def place(first: float, lengths: Sequence[float], gap: float) -> npt.NDArray[np.float64]:
    begins = first + np.concatenate(([0.0], np.cumsum(np.array(lengths[:-1]) + gap)))
    return np.column_stack((begins, begins + np.array(lengths)))


LENGTHS = st.lists(st.floats(20.0, 90.0), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(first=st.floats(30.1, 60.0), lengths=LENGTHS, gap=st.floats(15.0, 40.0), drift=st.floats(-90e-6, 90e-6))
def test_true_edges_lie_where_they_are_said_to_lie(
    first: float, lengths: list[float], gap: float, drift: float
) -> None:
    edges = place(first, lengths, gap)
    trace = shown(edges, int(edges[-1, 1]) + 40)
    passes = told(edges, drift)
    windows = match_windows(trace, passes, CLOCK_HZ)
    found = locate_edges(trace, windows, passes, CLOCK_HZ)
    counted = 2e-3  # the device's clock counts thousandths of a sample
    assert (found.begin_low - counted <= edges[:, 0]).all()
    assert (edges[:, 0] <= found.begin_high + counted).all()
    assert (found.end_low - counted <= edges[:, 1]).all()
    assert (edges[:, 1] <= found.end_high + counted).all()
    by_marker = seen_edges(windows)
    assert (found.half_width <= by_marker.half_width).all()
    assert by_marker.half_width == pytest.approx(0.5)
    assert found.duration == pytest.approx(edges[:, 1] - edges[:, 0], abs=0.01)


def test_many_edges_that_do_not_keep_step_narrow_each_other_down() -> None:
    edges = place(40.3, [50.0 + 0.37 * k for k in range(40)], 21.7)
    trace = shown(edges, int(edges[-1, 1]) + 40)
    passes = told(edges)
    found = locate_edges(trace, find_windows(trace), passes, CLOCK_HZ)
    assert found.half_width.max() < 0.05


def test_edges_that_keep_step_with_the_samples_stay_unknown_to_their_sample() -> None:
    edges = place(40.3, [50.0] * 10, 20.0)
    trace = shown(edges, int(edges[-1, 1]) + 40)
    found = locate_edges(trace, find_windows(trace), told(edges), CLOCK_HZ)
    assert found.half_width.min() > 0.4


def test_a_lost_sample_before_an_edge_is_no_witness() -> None:
    edges = place(40.3, [50.2, 61.9, 47.5], 23.3)
    trace = shown(edges, int(edges[-1, 1]) + 40)
    whole = locate_edges(trace, find_windows(trace), told(edges), CLOCK_HZ)
    current, logic = trace.current_a.copy(), trace.logic.copy()
    begin = find_windows(trace)[1].start
    current[begin], logic[begin] = np.nan, 0
    lost = replace(trace, current_a=current, logic=logic, lost=1)
    windows = find_windows(lost)
    assert windows[1].start == begin + 1
    found = locate_edges(lost, windows, told(edges), CLOCK_HZ)
    assert found.begin_low[1] - 2e-3 <= edges[1, 0] <= found.begin_high[1] + 2e-3
    assert found.half_width[0] >= whole.half_width[0]


@settings(max_examples=40, deadline=None)
@given(first=st.floats(30.1, 40.0), lengths=LENGTHS, active=st.floats(2e-3, 0.4))
def test_energy_of_steps_does_not_depend_on_where_in_its_sample_an_edge_lies(
    first: float, lengths: list[float], active: float
) -> None:
    edges = place(first, lengths, 25.0)
    trace = shown(edges, int(edges[-1, 1]) + 40, active)
    figures = measure_windows(trace, find_windows(trace), quiet_s=20 * DT)
    length_s = (edges[:, 1] - edges[:, 0]) * DT
    assert figures.net_j == pytest.approx(VOLTS * (active - IDLE_A) * length_s, rel=1e-5)
    assert figures.energy_j == pytest.approx(VOLTS * active * length_s, rel=1e-5)
    assert figures.duration_s == pytest.approx(length_s, rel=1e-4)


def test_a_framed_trace_takes_its_idle_power_from_its_begin_and_end_alone() -> None:
    edges = place(60.5, [50.0, 50.0], 40.0)
    trace = shown(edges, 400)
    current = trace.current_a.copy()
    current[112:149] = 20e-3  # sends its result after the first window
    current[203:330] = 20e-3  # and after the last, for longer than the quiet
    busy = replace(trace, current_a=current)
    windows = find_windows(busy)
    framed = measure_windows(busy, windows, 40 * DT, framed=True)
    assert framed.idle_w == pytest.approx(VOLTS * IDLE_A)
    assert np.abs(framed.idle_step_w).max() < 1e-9
    assert measure_windows(busy, windows, 35 * DT).idle_w[1] > 5 * VOLTS * IDLE_A


# Without a marker


def unmarked(trace: Trace) -> Trace:
    return replace(trace, logic=np.zeros_like(trace.logic))


def test_after_a_trigger_the_devices_clock_places_all_edges() -> None:
    edges = place(0.0, [50.4, 61.3, 47.9], 23.3)
    trace = unmarked(shown(edges, int(edges[-1, 1]) + 60))
    windows, found = trigger_windows(trace, told(edges), CLOCK_HZ)
    assert [(window.start, window.stop) for window in windows] == [(0, 51), (74, 135), (159, 207)]
    figures = measure_windows(trace, windows, 40 * DT, found, MeterClass((RangeClass(1.0, 0.0),)), framed=True)
    true_j = VOLTS * (ACTIVE_A - IDLE_A) * (edges[:, 1] - edges[:, 0]) * DT
    assert (np.abs(figures.net_j - true_j) <= figures.edge_net_j).all()
    # Half a sample at each edge, and 100 ppm of the clocks.
    assert figures.edge_net_j == pytest.approx(VOLTS * (ACTIVE_A - IDLE_A) * DT, rel=0.04)


def test_a_triggered_trace_that_ends_too_soon_is_rejected() -> None:
    edges = place(0.0, [50.0, 61.0], 23.3)
    trace = unmarked(shown(edges, 120))
    with pytest.raises(MeasurementRejected, match=r"\(marker-edges\).*the trace holds 120 samples"):
        trigger_windows(trace, told(edges), CLOCK_HZ)


def test_the_hosts_window_holds_the_run_for_certain_and_states_what_it_does_not_know() -> None:
    edges = np.array([[200.0, 700.0]])
    trace = unmarked(shown(edges, 1000))
    window, found = host_window(trace, 190.4 * DT, 711.6 * DT, uncertainty_s=15 * DT)
    assert (window.start, window.stop) == (175, 727)
    assert found.half_width == pytest.approx(15.0)
    figures = measure_windows(trace, [window], 150 * DT, found, MeterClass((RangeClass(1.0, 0.0),)), framed=True)
    true_j = VOLTS * (ACTIVE_A - IDLE_A) * 500 * DT
    assert figures.net_j[0] == pytest.approx(true_j, rel=1e-5)
    assert figures.duration_s[0] == pytest.approx(552 * DT)


@pytest.mark.parametrize(("begin", "end"), [(10, 700), (190, 990)])
def test_a_run_that_the_meter_did_not_see_whole_is_rejected(begin: int, end: int) -> None:
    trace = unmarked(shown(np.array([[200.0, 700.0]]), 1000))
    with pytest.raises(MeasurementRejected, match=r"of the host's clock, the trace from 0\.000 to 1\.000 s"):
        host_window(trace, begin * DT, end * DT, uncertainty_s=15 * DT)
