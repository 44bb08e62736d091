"""Aligning a power trace with what the device says it did: marker windows and region passes.

The marker (logic input D0) is high inside the measured region. A window runs from the first high sample to the first
low one; each true edge lies within the one sample period before the sample that shows it.

Where in that sample is known better: the device's own clock says how far all edges of a trace lie apart, so one offset
between the two clocks must put every edge into its own sample. The more edges, and the less they keep step with the
samples, the narrower the offsets that do (:func:`locate_edges`).

A meter without a logic input starts on a trigger (:func:`trigger_windows`) or is aligned by the host's clock
(:func:`host_window`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from measurements.record import Trace
from measurements.regions import INFERENCE, RegionPass
from measurements.rejection import rejected

MARKER_BIT = 0
TOLERANCE_SAMPLES = 2.0
# Two quartz oscillators of ±50 ppm each: matters from windows of 10,000 samples on.
CLOCK_TOLERANCE = 100e-6
_HALVINGS = 40
_DRIFTS = 17

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Samples ``[start, stop)`` of a trace during which the marker was high; ``lost`` of them were lost."""

    start: int
    stop: int
    lost: int

    @property
    def samples(self) -> int:
        """Samples inside, lost ones counted."""
        return self.stop - self.start


def find_windows(trace: Trace, bit: int = MARKER_BIT) -> tuple[Window, ...]:
    """Windows in which logic input ``bit`` was high, in order.

    A lost sample (NaN current) shows no logic level; it takes that of the last sample seen before it.

    Raises:
        MeasurementRejected: the trace begins or ends inside a window.
    """
    lost = np.isnan(trace.current_a)
    high = _held((trace.logic & (1 << bit)) != 0, lost)
    if high.size and (high[0] or high[-1]):
        place = "begins" if high[0] else "ends"
        raise rejected(
            "marker-edges",
            f"the trace {place} while the marker (D{bit}) is high: the window is cut off",
            hint="start the meter before the job and stop it after its end; check the marker's wiring and idle level",
        )
    edges = np.flatnonzero(np.diff(high)) + 1
    lost_before = np.concatenate(([0], np.cumsum(lost)))
    return tuple(
        Window(int(start), int(stop), int(lost_before[stop] - lost_before[start]))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    )


@dataclass(frozen=True)
class Edges:
    """Where windows begin and end, in samples and fractions of one: float64 arrays, shape (windows,).

    Attributes:
        begin_low, begin_high: the begin lies between these.
        end_low, end_high: likewise the end.
        duration: length by the device's clock, in samples; NaN where it is not known.
        margin: how much further off each edge may be, in samples: where windows were widened by it.
    """

    begin_low: FloatArray
    begin_high: FloatArray
    end_low: FloatArray
    end_high: FloatArray
    duration: FloatArray
    margin: float = 0.0

    @property
    def half_width(self) -> FloatArray:
        """How far an edge of each window may lie from the middle of its interval, in samples: the mean of both."""
        return (self.begin_high - self.begin_low + self.end_high - self.end_low) / 4 + self.margin

    def of(self, windows: Sequence[int]) -> Edges:
        """The edges of some windows."""
        chosen = np.array(windows, int)
        return Edges(
            self.begin_low[chosen],
            self.begin_high[chosen],
            self.end_low[chosen],
            self.end_high[chosen],
            self.duration[chosen],
            self.margin,
        )


def seen_edges(windows: Sequence[Window]) -> Edges:
    """Edges as the marker alone shows them: each within one sample."""
    start = np.array([window.start for window in windows], np.float64)
    stop = np.array([window.stop for window in windows], np.float64)
    return Edges(start - 1, start, stop - 1, stop, np.full(start.size, np.nan))


def locate_edges(trace: Trace, windows: Sequence[Window], passes: Sequence[RegionPass], clock_hz: float) -> Edges:
    """Edges to a fraction of a sample, from all windows of a trace and the times that the device reports.

    Args:
        trace: the power trace.
        windows: its windows, at least one.
        passes: one per window, as :func:`match_windows` found them to agree.
        clock_hz: rate of the device's clock, Hz.
    """
    shown = np.array([(window.start, window.stop) for window in windows], np.float64)
    told = np.array([(one.begin, one.end) for one in passes]) / clock_hz / trace.dt_s
    told -= told[0, 0]
    # An edge before which a sample was lost was perhaps shown late: it tells nothing.
    known = np.isfinite(trace.current_a[np.maximum(shown.astype(np.intp) - 1, 0)])
    drifts = _drifts(shown[known], told[known]) if known.any() else np.zeros(1)
    low, high = (np.full(shown.shape, limit) for limit in (np.inf, -np.inf))
    for drift in drifts:
        place = told * (1 + drift)
        first, last = _offsets(shown[known], place[known]) if known.any() else (-1.0, 1.0)
        low, high = np.minimum(low, place + min(first, last)), np.maximum(high, place + max(first, last))
    low = np.where(known, np.clip(low, shown - 1, shown), low)
    high = np.where(known, np.clip(high, shown - 1, shown), high)
    return Edges(low[:, 0], high[:, 0], low[:, 1], high[:, 1], told[:, 1] - told[:, 0])


def _offsets(shown: FloatArray, place: FloatArray) -> tuple[float, float]:
    """Between which offsets every edge lies in its own sample, (shown - 1, shown]; the wrong way round if nowhere."""
    lag = shown - place
    return float(lag.max() - 1), float(lag.min())


def _drifts(shown: FloatArray, told: FloatArray) -> FloatArray:
    """Differences of the two clocks' rates at which some offset fits, from the least to the greatest; else the best.

    How well a rate fits (the width of the offsets it leaves) is a concave function of the rate.
    """

    def room(drift: float) -> float:
        first, last = _offsets(shown, told * (1 + drift))
        return last - first

    low, high = -CLOCK_TOLERANCE, CLOCK_TOLERANCE
    for _ in range(_HALVINGS):
        third = (high - low) / 3
        if room(low + third) < room(high - third):
            low += third
        else:
            high -= third
    best = (low + high) / 2
    if room(best) < 0:
        return np.array([best])
    limits = []
    for outside in (-CLOCK_TOLERANCE, CLOCK_TOLERANCE):
        inside = best
        if room(outside) >= 0:
            limits.append(outside)
            continue
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if room(middle) >= 0 else (inside, middle)
        limits.append(inside)
    return np.linspace(limits[0], limits[1], _DRIFTS)


def trigger_windows(trace: Trace, passes: Sequence[RegionPass], clock_hz: float) -> tuple[tuple[Window, ...], Edges]:
    """Windows of a meter whose sample 0 was triggered by the begin of the first pass; the device's clock does the rest.

    Each edge is known to one sample: the trigger's own, and the clocks' 100 ppm.

    Raises:
        MeasurementRejected: the trace ends before the last pass.
    """
    told = np.array([(one.begin, one.end) for one in passes]) / clock_hz / trace.dt_s
    told -= told[0, 0]
    if told[-1, 1] > trace.current_a.size:
        raise rejected(
            "marker-edges",
            f"the trace holds {trace.current_a.size} samples from its trigger on and the last pass ends at sample "
            f"{told[-1, 1]:.1f} by the device's clock: the window is cut off",
            hint="let the meter run until the device has ended its job; check what triggers it",
        )
    near = np.column_stack((np.ceil(told[:, 0]), np.ceil(told[:, 1]))).astype(int)
    slack = 0.5 + CLOCK_TOLERANCE * told
    edges = Edges(
        told[:, 0] - slack[:, 0],
        told[:, 0] + slack[:, 0],
        told[:, 1] - slack[:, 1],
        told[:, 1] + slack[:, 1],
        told[:, 1] - told[:, 0],
    )
    return tuple(_window(trace, int(start), int(stop)) for start, stop in near), edges


def host_window(trace: Trace, begin_s: float, end_s: float, uncertainty_s: float) -> tuple[Window, Edges]:
    """The window of a run by the host's clock, widened so that it holds the run for certain.

    Args:
        trace: the power trace; ``t0_s`` and the times are of the host's clock.
        begin_s, end_s: the run lies between these, seconds.
        uncertainty_s: how far a sample's time may be off: the meter's own, plus that of the transport.

    Raises:
        MeasurementRejected: the trace does not hold all of it.
    """
    begin = (begin_s - uncertainty_s - trace.t0_s) / trace.dt_s
    end = (end_s + uncertainty_s - trace.t0_s) / trace.dt_s
    if begin < 0 or end > trace.current_a.size:
        raise rejected(
            "marker-edges",
            f"the run lies from {begin_s:.3f} to {end_s:.3f} s (±{uncertainty_s:g} s) of the host's clock, the trace "
            f"from {trace.t0_s:.3f} to {trace.t0_s + trace.current_a.size * trace.dt_s:.3f} s: the window is cut off",
            hint="let the meter run before the job and after it",
        )
    start, stop = math.floor(begin), math.ceil(end)
    begins, ends, length = (np.array([float(place)]) for place in (start, stop, stop - start))
    return _window(trace, start, stop), Edges(begins, begins, ends, ends, length, uncertainty_s / trace.dt_s)


def _window(trace: Trace, start: int, stop: int) -> Window:
    return Window(start, stop, int(np.count_nonzero(np.isnan(trace.current_a[start:stop]))))


def _held(level: npt.NDArray[np.bool_], lost: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Levels with those of lost samples replaced by the last one seen; low before the first sample seen."""
    seen = np.maximum.accumulate(np.where(lost, -1, np.arange(level.size)))
    return np.where(seen >= 0, level[np.maximum(seen, 0)], False).astype(np.int8)


def match_windows(
    trace: Trace, passes: Sequence[RegionPass], clock_hz: float, regions: tuple[str, ...] = (INFERENCE,)
) -> tuple[Window, ...]:
    """The marker windows of a trace, one per pass through any of ``regions``, in the same order.

    Windows and passes must agree in number, in duration and in distance from the first one, each within two samples and
    100 ppm of the two clocks.

    Args:
        trace: the power trace.
        passes: what the device reported; other regions are ignored.
        clock_hz: rate of the device's clock, Hz.
        regions: the regions that raise the marker.

    Raises:
        MeasurementRejected: they disagree; says in what.
    """
    own = [one for one in passes if one.region in regions]
    windows = find_windows(trace)
    if len(windows) != len(own):
        raise rejected(
            "marker-edges",
            f"the trace shows {len(windows)} marker windows and the device reports {len(own)} passes through "
            f"{', '.join(map(repr, regions))}"
            f"{_shortest(trace, own, clock_hz)}",
            hint="check the marker's wiring, that the meter ran for the whole job, and that nothing else drives D0",
        )
    if own:
        seen = np.array([(window.start, window.stop) for window in windows]) * trace.dt_s
        told = np.array([(one.begin, one.end) for one in own]) / clock_hz
        _compare("lasts", seen[:, 1] - seen[:, 0], told[:, 1] - told[:, 0], trace.dt_s, own)
        _compare("begins", seen[:, 0] - seen[0, 0], told[:, 0] - told[0, 0], trace.dt_s, own)
    return windows


def _compare(
    what: str,
    seen_s: FloatArray,
    told_s: FloatArray,
    dt_s: float,
    own: Sequence[RegionPass],
) -> None:
    allowed = TOLERANCE_SAMPLES * dt_s * (1 + 1e-9) + CLOCK_TOLERANCE * told_s
    wrong = np.flatnonzero(np.abs(seen_s - told_s) > allowed)
    if wrong.size == 0:
        return
    k = int(wrong[0])
    after = " after the first" if what == "begins" else ""
    region = own[k].region
    raise rejected(
        "clock-drift",
        f"pass {k} of {region!r} {what} {seen_s[k]:.9g} s{after} in the trace and {told_s[k]:.9g} s by the device's "
        f"clock; {wrong.size} of {seen_s.size} passes differ by more than {TOLERANCE_SAMPLES:g} samples of {dt_s:g} s",
        hint="check the clock rate that the device reports, and the trace for lost samples at the edges",
    )


def _shortest(trace: Trace, own: Sequence[RegionPass], clock_hz: float) -> str:
    if not own:
        return ""
    shortest_s = min(one.end - one.begin for one in own) / clock_hz
    return f"; the shortest pass is {shortest_s / trace.dt_s:.3g} samples long" if shortest_s < 3 * trace.dt_s else ""
