"""Energy, charge and power per pass through a region, from a power trace with a marker.

``E = Σ v·i·dt`` over the samples of a window, in float64; net energy takes off what the device would have used idling
for as long, with the idle power of the quiet next to the windows in the same trace. Both are reported. Samples just
after an edge are skipped while the meter settles; windows with more than 0.1 % lost samples are refused, the default
threshold of EEMBC's EnergyRunner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError
from measurements.capture import Window, match_windows
from measurements.record import Record, Source, Trace
from measurements.regions import INFERENCE, RegionPass
from measurements.statistics import make_record

MAX_LOST_FRACTION = 1e-3
GUARD_SAMPLES = 5
MIN_QUIET_SAMPLES = 10
SHORT_WINDOW_SAMPLES = 100

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WindowEnergy:
    """Figures of every window of a trace, float64 arrays of shape (windows,).

    Attributes:
        duration_s: seconds.
        charge_c: coulomb.
        energy_j: gross energy, joule.
        peak_w: greatest power of one sample, watt.
        idle_w: idle power next to the window, watt; NaN where the trace has no quiet.
        lost_fraction: lost samples inside all windows, 0..1.
    """

    duration_s: FloatArray
    charge_c: FloatArray
    energy_j: FloatArray
    peak_w: FloatArray
    idle_w: FloatArray
    lost_fraction: float

    @property
    def net_j(self) -> FloatArray:
        """Gross energy less idle power times duration, joule."""
        return self.energy_j - self.idle_w * self.duration_s

    def of(self, windows: Sequence[int]) -> WindowEnergy:
        """The figures of some windows."""
        chosen = np.array(windows, int)
        return WindowEnergy(
            self.duration_s[chosen],
            self.charge_c[chosen],
            self.energy_j[chosen],
            self.peak_w[chosen],
            self.idle_w[chosen],
            self.lost_fraction,
        )

    def summed(self, groups: Sequence[Sequence[int]]) -> WindowEnergy:
        """The figures of groups of windows, each as if it were one window without what lies between."""
        parts = [self.of(group) for group in groups]
        duration = np.array([part.duration_s.sum() for part in parts])
        idle_j = np.array([(part.idle_w * part.duration_s).sum() for part in parts])
        return WindowEnergy(
            duration,
            np.array([part.charge_c.sum() for part in parts]),
            np.array([part.energy_j.sum() for part in parts]),
            np.array([part.peak_w.max() for part in parts]),
            idle_j / duration,
            self.lost_fraction,
        )


def measure_windows(trace: Trace, windows: Sequence[Window], quiet_s: float = 2e-3) -> WindowEnergy:
    """Integrate a trace over windows.

    The current of a lost sample is taken to be the mean of those seen in its window.

    Args:
        trace: the power trace.
        windows: at least one, in order, apart from each other.
        quiet_s: how long the device is known to be quiet before the first and after the last window; a gap between
            windows counts as quiet only if it is as long. Each window takes its idle power from the nearest quiet on
            either side.

    Raises:
        MeterError: more than 0.1 % of the samples inside the windows were lost, or a window lost all of them.
    """
    current = trace.current_a.astype(np.float64)
    lost = np.isnan(current)
    start = np.array([window.start for window in windows])
    stop = np.array([window.stop for window in windows])
    samples = (stop - start).astype(np.float64)
    seen = samples - np.array([window.lost for window in windows])
    lost_fraction = float((samples - seen).sum() / samples.sum())
    if lost_fraction > MAX_LOST_FRACTION or not seen.all():
        raise MeterError(
            f"{int((samples - seen).sum())} of {int(samples.sum())} samples inside the windows were lost "
            f"({lost_fraction:.2%}); at most {MAX_LOST_FRACTION:.1%} is allowed",
            hint="connect the meter to a USB port of its own, lighten the load on the host, or repeat the measurement",
            transient=True,
        )
    bounds = np.column_stack((start, stop)).ravel()
    padded = np.append(np.where(lost, 0.0, current), 0.0)
    mean_a = np.add.reduceat(padded, bounds)[::2] / seen
    peak_a = np.maximum.reduceat(np.append(np.where(lost, -np.inf, current), 0.0), bounds)[::2]
    duration = samples * trace.dt_s
    return WindowEnergy(
        duration_s=duration,
        charge_c=mean_a * duration,
        energy_j=trace.voltage_v * mean_a * duration,
        peak_w=trace.voltage_v * peak_a,
        idle_w=trace.voltage_v * _idle_current(current, start, stop, round(quiet_s / trace.dt_s)),
        lost_fraction=lost_fraction,
    )


def _idle_current(
    current: FloatArray, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], quiet: int
) -> FloatArray:
    """Mean idle current next to each window, ampere: over the nearest quiet stretch on either side of it."""
    windows = start.size
    stretches: list[FloatArray] = []
    for gap in range(windows + 1):
        begin = int(stop[gap - 1]) + GUARD_SAMPLES if gap else max(0, int(start[0]) - quiet)
        # The edge lies within the sample before the first high one.
        end = int(start[gap]) - 1 if gap < windows else min(current.size, int(stop[-1]) + quiet)
        inner = 0 < gap < windows
        usable = current[begin:end]
        usable = usable[np.isfinite(usable)]
        too_short = usable.size < MIN_QUIET_SAMPLES or (inner and start[gap] - stop[gap - 1] < quiet)
        stretches.append(np.empty(0) if too_short else usable)
    sums = np.array([stretch.sum() for stretch in stretches])
    counts = np.array([stretch.size for stretch in stretches])
    known = np.flatnonzero(counts)
    idle = np.full(windows, np.nan)
    for k in range(windows):
        near = [int(side[edge]) for side, edge in ((known[known <= k], -1), (known[known > k], 0)) if side.size]
        if near:
            idle[k] = sums[near].sum() / counts[near].sum()
    return idle


def energy_records(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    source: Source,
    region: str = INFERENCE,
    quiet_s: float = 2e-3,
) -> tuple[Record, ...]:
    """Records of a region, one repeat per pass, aligned by the marker.

    ``energy`` (J, gross), ``energy.net`` (J, less idle), ``charge`` (C), ``power`` (W, mean), ``power.peak`` and
    ``power.idle`` (W). ``energy.net`` and ``power.idle`` are left out where the trace has no quiet to measure.

    Args:
        trace: the power trace, from before the first pass to after the last.
        passes: what the device reported.
        clock_hz: rate of the device's clock, Hz.
        source: ``hardware``, ``emulated``, or ``modelled`` where an energy model stands behind an emulated meter.
        region: the region that raises the marker.
        quiet_s: quiet time before the first and after the last pass, seconds (``Job.quiet_us``).

    Raises:
        MeterError: the trace and the passes disagree, there is no pass, or too many samples were lost.
    """
    windows = match_windows(trace, passes, clock_hz, (region,))
    if not windows:
        raise MeterError(f"the device reports no pass through {region!r} and the trace shows none: nothing to measure")
    return window_records(region, measure_windows(trace, windows, quiet_s), source, edges_note(trace, windows))


def window_records(region: str, figures: WindowEnergy, source: Source, note: str) -> tuple[Record, ...]:
    """The records of :func:`energy_records` from the figures of a region's windows."""
    values = {
        "energy": ("J", figures.energy_j),
        "charge": ("C", figures.charge_c),
        "power": ("W", figures.energy_j / figures.duration_s),
        "power.peak": ("W", figures.peak_w),
    }
    if np.isfinite(figures.idle_w).all():
        values |= {"energy.net": ("J", figures.net_j), "power.idle": ("W", figures.idle_w)}
    else:
        note += "; no quiet next to the windows, so no idle power and no net energy"
    return tuple(
        make_record(
            region, metric, unit, source, series.tolist(),
            alignment="marker", lost_fraction=figures.lost_fraction, note=note,
        )
        for metric, (unit, series) in values.items()
    )  # fmt: skip


def edges_note(trace: Trace, windows: Sequence[Window]) -> str:
    """What the edges do to the figures: each is known to one sample, so a window's length to two."""
    samples = float(np.median([window.samples for window in windows]))
    note = f"edges ±1 sample of {trace.dt_s * 1e6:g} µs, a window's length ±{2 / samples:.2g} of itself"
    if samples < SHORT_WINDOW_SAMPLES:
        note += f"; windows are only {samples:g} samples long"
    return note
