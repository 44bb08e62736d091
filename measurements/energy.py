"""Energy, charge and power per pass through a region, from a power trace with a marker.

``E = Σ v·i·dt`` over the samples of a window, in float64; net energy takes off what the device would have used idling
for as long, with the idle power of the quiet next to the windows in the same trace. Both are reported.

Edges lie inside samples (:mod:`measurements.integrator`). How far an edge may lie from where it was taken to be is
carried into the uncertainty (:mod:`measurements.uncertainty`). Windows that do not hold what they should are rejected
(:mod:`measurements.rejection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from measurements.capture import Edges, Window, locate_edges, match_windows, seen_edges
from measurements.integrator import Integrator
from measurements.quiet import Quiet, find_quiet
from measurements.record import Alignment, Record, Source, Trace
from measurements.regions import INFERENCE, RegionPass
from measurements.rejection import MeasurementRejected, check_idle, rejected
from measurements.statistics import make_record
from measurements.sums import FloatArray, IntArray, ratio, segment_sums
from measurements.uncertainty import MeterClass
from measurements.window_energy import ClassLimits, WindowEnergy

MAX_LOST_FRACTION = 1e-3
SHORT_WINDOW_SAMPLES = 100
_FEWEST = 4


def measure_windows(
    trace: Trace,
    windows: Sequence[Window],
    quiet_s: float = 2e-3,
    edges: Edges | None = None,
    meter: MeterClass | None = None,
    framed: bool = False,
) -> WindowEnergy:
    """Integrate a trace over windows.

    The current of a lost sample is taken to be the mean of those seen in its window.

    Args:
        trace: the power trace.
        windows: at least one, in order, apart from each other.
        quiet_s: how long the device is known to be quiet before the first and after the last window; a gap between
            windows counts as quiet only if it is as long. Each window takes its idle power from the nearest quiet on
            either side.
        edges: where in their samples the edges lie; without them, what the samples show.
        meter: the meter's class; without it no limits are worked out.
        framed: the trace is of a job of the runner, which is quiet before its first region and at the trace's end, and
            nowhere else for certain: after each region it sends what came out.

    Raises:
        MeasurementRejected: more than 0.1 % of the samples inside the windows were lost, or a window lost all of them.
    """
    lost = _check_lost(windows)
    whole = Integrator(trace, windows, seen_edges(windows) if edges is None else edges)
    quiet = find_quiet(whole, round(quiet_s / trace.dt_s), framed)
    edge_j, edge_net_j = _at_edges(whole)
    power = np.append(np.where(whole.seen, whole.power, -np.inf), -np.inf)
    bounds = np.column_stack((whole.start, whole.stop)).ravel()
    figures = WindowEnergy(
        duration_s=whole.duration_s,
        charge_c=whole.inside(whole.current),
        energy_j=whole.inside(whole.power),
        peak_w=np.maximum.reduceat(power, bounds)[::2],
        idle_w=quiet.mean(whole.power, whole.seen),
        idle_step_w=quiet.step(whole.power, whole.seen),
        idle_noise_w=quiet.noise(whole.power, whole.seen),
        edge_j=edge_j,
        edge_net_j=edge_net_j,
        lost_fraction=lost,
    )
    if meter is None:
        return figures
    return _with_limits(figures, whole, quiet, meter)


def _check_lost(windows: Sequence[Window]) -> float:
    samples = sum(window.samples for window in windows)
    lost = sum(window.lost for window in windows)
    if lost > MAX_LOST_FRACTION * samples or any(window.lost == window.samples for window in windows):
        raise rejected(
            "lost-samples",
            f"{lost} of {samples} samples inside the windows were lost ({lost / samples:.2%}); at most "
            f"{MAX_LOST_FRACTION:.1%} is allowed",
            hint="connect the meter to a USB port of its own, lighten the load on the host, or repeat the measurement",
            transient=True,
        )
    return lost / samples


def _with_limits(figures: WindowEnergy, whole: Integrator, quiet: Quiet, meter: MeterClass) -> WindowEnergy:
    """The figures with what the class allows of them; see :mod:`measurements.uncertainty` for what adds up how."""
    level = np.where(whole.seen, whole.current, 0.0)
    ranges = meter.range_of(level)
    windows = figures.duration_s.size
    gross, net, idle = np.zeros(windows), np.zeros(windows), np.zeros(windows)
    voltage = ratio(np.abs(figures.energy_j), np.abs(figures.charge_c))
    for number, one in enumerate(meter.ranges):
        chosen = ranges == number
        # Energy and time that each window, and its quiet, spent in this range.
        energy = whole.inside(whole.power, chosen)
        spent = whole.inside(np.ones(level.size), chosen)
        rest_w = np.nan_to_num(quiet.mean(np.where(chosen, whole.power, 0.0), whole.seen))
        resting = np.nan_to_num(quiet.mean(chosen.astype(np.float64), whole.seen))
        offset_w = one.offset_a * voltage
        gross += one.relative * np.abs(energy) + offset_w * spent
        net += one.relative * np.abs(energy - rest_w * figures.duration_s)
        net += offset_w * np.abs(spent - resting * figures.duration_s)
        idle += one.relative * rest_w + offset_w * resting
    unsteady = _at_changes(whole, ranges)
    scale = meter.voltage + meter.clock
    noise_j = np.nan_to_num(figures.idle_noise_w) * figures.duration_s
    gross += scale * np.abs(figures.energy_j) + unsteady
    net += scale * np.abs(np.nan_to_num(figures.net_j)) + unsteady + noise_j
    idle += meter.voltage * np.nan_to_num(figures.idle_w) + np.nan_to_num(figures.idle_noise_w)
    top = meter.range_of(figures.peak_w / voltage)
    relative = np.array([one.relative for one in meter.ranges])[top]
    offset_a = np.array([one.offset_a for one in meter.ranges])[top]
    limits = ClassLimits(
        energy_j=gross,
        net_j=net,
        charge_c=(gross - meter.voltage * np.abs(figures.energy_j)) / voltage,
        power_w=gross / figures.duration_s,
        peak_w=(relative + meter.voltage) * figures.peak_w + offset_a * voltage,
        idle_w=idle,
    )
    return replace(figures, limits=limits)


def _at_changes(whole: Integrator, ranges: IntArray) -> FloatArray:
    """What the samples at changes of range may be wrong by: one sample each of the step that changed it, joule."""
    step = np.abs(np.diff(np.where(whole.seen, whole.power, 0.0), prepend=0.0))
    changes = np.diff(ranges, prepend=ranges[0]) != 0
    changes &= whole.seen & np.append(False, whole.seen[:-1])
    begin, end = np.maximum(whole.start - 1, 0), np.minimum(whole.stop + 1, ranges.size)
    return segment_sums(np.where(changes, step, 0.0), begin, end) * whole.dt_s


def _at_edges(whole: Integrator) -> tuple[FloatArray, FloatArray]:
    """How far gross and net energy of each window may be off by where its edges lie, joule; shape (windows,) each.

    In a window of fewer than three whole samples no level shows: there the end may hold all that its sample has above
    the level behind it, or nothing of that.
    """
    edge_s = whole.reach * whole.dt_s
    inner, outer = _edge_levels(whole)
    gross = (edge_s * np.maximum(inner, outer)).sum(axis=0)
    net = (edge_s * np.abs(inner - outer)).sum(axis=0)
    short = whole.stop - whole.start < _FEWEST
    behind = whole.settled.of(whole.power)
    taken = whole.end_part(whole.power) - behind * whole.ends
    rest = whole.level(whole.power, whole.stop - 1, later=False) - behind - taken
    unknown = np.where(short, np.maximum(np.abs(taken), np.abs(rest)) * whole.dt_s, 0.0)
    return np.maximum(gross, unknown), np.maximum(net, unknown)


def _edge_levels(whole: Integrator) -> tuple[FloatArray, FloatArray]:
    """Power inside and outside of both edges of each window: two arrays of shape (2, windows), watt.

    Beyond the trace nothing is known; none is taken to flow there, which makes the step as large as it can be.
    """
    inner = (whole.level(whole.power, whole.start, later=True), whole.level(whole.power, whole.stop - 2, later=False))
    before = whole.level(whole.power, whole.start - 2, later=False)
    after = whole.level(whole.power, whole.stop, later=True)
    outer = (np.where(whole.start < 1, 0.0, before), np.where(whole.stop >= whole.seen.size, 0.0, after))
    return np.array(inner), np.array(outer)


def energy_records(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    source: Source,
    region: str = INFERENCE,
    quiet_s: float = 2e-3,
    meter: MeterClass | None = None,
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
        meter: the meter's class, for the class uncertainty of the records.

    Raises:
        MeasurementRejected: the trace and the passes disagree, there is no pass, too many samples were lost, or the
            idle power is not stable.
    """
    figures, note = region_energy(trace, passes, clock_hz, region, quiet_s, meter)
    return window_records(region, figures, source, note)


def region_energy(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    region: str = INFERENCE,
    quiet_s: float = 2e-3,
    meter: MeterClass | None = None,
    *,
    framed: bool = False,
) -> tuple[WindowEnergy, str]:
    """The figures behind :func:`energy_records`, one window per pass, and what its edges do to them.

    Args:
        trace, passes, clock_hz, region, quiet_s, meter: as there.
        framed: as for :func:`measure_windows`.

    Raises:
        MeasurementRejected: as there.
    """
    windows = match_windows(trace, passes, clock_hz, (region,))
    if not windows:
        raise rejected(
            "marker-edges",
            f"the device reports no pass through {region!r} and the trace shows none: nothing to measure",
        )
    own = [one for one in passes if one.region == region]
    edges = locate_edges(trace, windows, own, clock_hz)
    figures = measure_windows(trace, windows, quiet_s, edges, meter, framed)
    refuse_unstable_idle(figures)
    return figures, edges_note(trace, windows, edges)


def marked_energy(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    regions: tuple[str, ...],
    source: Source,
    quiet_s: float = 2e-3,
    meter: MeterClass | None = None,
) -> tuple[tuple[Record, ...], WindowEnergy]:
    """Records of several regions that raise the same marker, and the figures of all passes together.

    Args:
        trace: the power trace of a job of the runner.
        passes: through these regions only, in order; at least one.
        clock_hz, source, quiet_s, meter: as for :func:`energy_records`.
        regions: those that the job marks.

    Returns:
        Records by region, in the order of ``regions``, and one window per pass, in the order of ``passes``.

    Raises:
        MeasurementRejected: as there.
    """
    windows = match_windows(trace, passes, clock_hz, regions)
    edges = locate_edges(trace, windows, passes, clock_hz)
    figures = measure_windows(trace, windows, quiet_s, edges, meter, framed=True)
    refuse_unstable_idle(figures)
    records: list[Record] = []
    for region in regions:
        places = [place for place, one in enumerate(passes) if one.region == region]
        if places:
            note = edges_note(trace, [windows[place] for place in places], edges.of(places))
            records += window_records(region, figures.of(places), source, note)
    return tuple(records), figures


def refuse_unstable_idle(figures: WindowEnergy) -> None:
    """Raise where the idle power next to the windows moved by more than net energy can bear.

    Raises:
        MeasurementRejected: ``idle-unstable``.
    """
    reasons = check_idle(figures.idle_step_w, figures.idle_noise_w, figures.duration_s, figures.net_j)
    if reasons:
        raise MeasurementRejected(
            reasons, hint="does the device still do something when it should be quiet (a radio, a debugger, a LED)?"
        )


def window_records(
    region: str,
    figures: WindowEnergy,
    source: Source,
    note: str,
    alignment: Alignment = "marker",
    *,
    charge: bool = True,
) -> tuple[Record, ...]:
    """The records of :func:`energy_records` from the figures of a region's windows.

    Args:
        region, source, note, alignment: of the records.
        figures: one repeat per window.
        charge: whether the meter measured current; one of power or energy alone tells no charge.
    """
    values = {
        "energy": ("J", figures.energy_j),
        "power": ("W", figures.energy_j / figures.duration_s),
        "power.peak": ("W", figures.peak_w),
    }
    if charge:
        values |= {"charge": ("C", figures.charge_c)}
    if np.isfinite(figures.idle_w).all():
        values |= {"energy.net": ("J", figures.net_j), "power.idle": ("W", figures.idle_w)}
    else:
        note += "; no quiet next to the windows, so no idle power and no net energy"
    return tuple(
        make_record(
            region, metric, unit, source, series.tolist(),
            alignment=alignment, lost_fraction=figures.lost_fraction, note=note,
            class_uncertainty=None if figures.limits is None else figures.limits.median(metric),
            unsure=figures.edge_median(metric),
        )
        for metric, (unit, series) in values.items()
    )  # fmt: skip


def edges_note(trace: Trace, windows: Sequence[Window], edges: Edges | None = None) -> str:
    """What the edges do to the figures: the marker shows each to one sample, the device's clock to a part of one."""
    samples = float(np.median([window.samples for window in windows]))
    note = f"edges ±1 sample of {trace.dt_s * 1e6:g} µs, a window's length ±{2 / samples:.2g} of itself"
    if edges is not None:
        note += f"; by the device's clock ±{float(np.median(edges.half_width)):.2g} sample"
    if samples < SHORT_WINDOW_SAMPLES:
        note += f"; windows are only {samples:g} samples long"
    return note
