"""Aligning a power trace with what the device says it did: marker windows and region passes.

The marker (logic input D0) is high inside the measured region. A window runs from the first high sample to the first
low one; each true edge lies within the one sample period before the sample that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError
from measurements.record import Trace
from measurements.regions import INFERENCE, RegionPass

MARKER_BIT = 0
TOLERANCE_SAMPLES = 2.0
# Two quartz oscillators of ±50 ppm each: matters from windows of 10,000 samples on.
CLOCK_TOLERANCE = 100e-6


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
        MeterError: the trace begins or ends inside a window.
    """
    lost = np.isnan(trace.current_a)
    high = _held((trace.logic & (1 << bit)) != 0, lost)
    if high.size and (high[0] or high[-1]):
        place = "begins" if high[0] else "ends"
        raise MeterError(
            f"the trace {place} while the marker (D{bit}) is high: the window is cut off",
            hint="start the meter before the job and stop it after its end; check the marker's wiring and idle level",
        )
    edges = np.flatnonzero(np.diff(high)) + 1
    lost_before = np.concatenate(([0], np.cumsum(lost)))
    return tuple(
        Window(int(start), int(stop), int(lost_before[stop] - lost_before[start]))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    )


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
        MeterError: they disagree; says in what.
    """
    own = [one for one in passes if one.region in regions]
    windows = find_windows(trace)
    if len(windows) != len(own):
        raise MeterError(
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
    seen_s: npt.NDArray[np.float64],
    told_s: npt.NDArray[np.float64],
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
    raise MeterError(
        f"pass {k} of {region!r} {what} {seen_s[k]:.9g} s{after} in the trace and {told_s[k]:.9g} s by the device's "
        f"clock; {wrong.size} of {seen_s.size} passes differ by more than {TOLERANCE_SAMPLES:g} samples of {dt_s:g} s",
        hint="check the clock rate that the device reports, and the trace for lost samples at the edges",
    )


def _shortest(trace: Trace, own: Sequence[RegionPass], clock_hz: float) -> str:
    if not own:
        return ""
    shortest_s = min(one.end - one.begin for one in own) / clock_hz
    return f"; the shortest pass is {shortest_s / trace.dt_s:.3g} samples long" if shortest_s < 3 * trace.dt_s else ""
