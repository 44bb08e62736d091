"""The method against the truth: random loads whose energy is known in closed form, measured and compared.

A case is a device that sleeps at µA and works in regions with bursts up to 120 mA, whose edges lie anywhere in the
meter's samples. Half of the devices sleep between regions, the others go on with something that is not idle; on half of
them the supply's decoupling makes each edge settle; of half of them the meter measures the voltage, which then drops
under load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.meter_models import MeterErrors, RealisticMeter, ShownSamples, ideal_meter
from lab.events import RegionEvent
from measurements.energy import region_energy, window_records
from measurements.record import Record, Trace
from measurements.regions import INFERENCE
from measurements.uncertainty import MeterClass, RangeClass
from measurements.window_energy import WindowEnergy

RATES_HZ = (10_000, 50_000, 100_000)
CLOCKS_HZ = (16_000_000, 48_000_000, 64_000_000, 168_000_000)
QUIET_SAMPLES = 200
DEVICE_CLOCK_ERROR = 30e-6
"""Of the device's own clock, at most: that of a quartz."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A random load and what is known of it.

    Attributes:
        segments: the load's script.
        load: the load.
        edges_s: true begin and end of each pass, shape (passes, 2), seconds.
        idle_w: true idle power, watt.
        voltage_v: nominal supply voltage, volt.
        measures_voltage: whether the meter is to measure the voltage per sample.
        passes: what the device reports, by its own clock.
        clock_hz: nominal rate of that clock, Hz.
        sample_rate_hz: of the meter.
    """

    segments: tuple[Segment, ...]
    load: ScriptedLoad
    edges_s: FloatArray
    idle_w: float
    voltage_v: float
    measures_voltage: bool
    passes: tuple[RegionEvent, ...]
    clock_hz: int
    sample_rate_hz: int

    @property
    def quiet_s(self) -> float:
        """How long the device sleeps before its first and after its last region."""
        return QUIET_SAMPLES / self.sample_rate_hz

    @property
    def true_net_j(self) -> FloatArray:
        """Net energy of each pass in closed form, joule."""
        gross = np.array([self.load.truth(begin, end).energy_j for begin, end in self.edges_s])
        return np.asarray(gross - self.idle_w * (self.edges_s[:, 1] - self.edges_s[:, 0]))

    def trace(self, shown: ShownSamples) -> Trace:
        """What a meter showed, as a trace."""
        measured = shown.voltage_v if self.measures_voltage else None
        return Trace(0.0, 1.0 / self.sample_rate_hz, self.voltage_v, shown.current_a, shown.logic, 0, measured)


def run_cases(seeds: Iterable[int], measure: Callable[[Case, int], Verdict]) -> Summary:
    """Measure the case of each seed; ``measure`` takes the case and its seed."""
    return summarise([measure(random_case(seed), seed) for seed in seeds])


def random_case(seed: int) -> Case:
    """The case of a seed, the same every time."""
    random = np.random.default_rng(seed)
    rate = int(random.choice(RATES_HZ))
    dt_s = 1.0 / rate
    voltage = float(random.choice((1.8, 3.3, 5.0)))
    drops = bool(random.random() < 0.5)
    resistance = float(random.uniform(0.05, 0.3)) if drops else 0.0
    settle_s = float(random.uniform(0.1, 2.5)) * dt_s if random.random() < 0.5 else 0.0
    sleep_a = float(10 ** random.uniform(-6, -4))
    sleeps_between = bool(random.random() < 0.5)

    def segment(duration: float, current_a: float, bits: int) -> Segment:
        return Segment(duration * dt_s, current_a, bits, voltage - resistance * current_a, settle_s)

    levels = 10 ** random.uniform(-3.3, -0.92, int(random.integers(1, 6)))
    levels[random.integers(levels.size)] = random.uniform(0.08, 0.12)
    shares = random.dirichlet(np.full(levels.size, 2.0))
    length = 10 ** random.uniform(2, 3)
    gap_a = sleep_a if sleeps_between else float(random.uniform(1e-3, 20e-3))
    segments = [segment(QUIET_SAMPLES + 20 * float(random.random()), sleep_a, 0)]
    for number in range(int(random.integers(4, 17))):
        if number:
            shortest, longest = (1.05, 1.5) if sleeps_between else (0.2, 0.9)
            segments.append(segment(random.uniform(shortest, longest) * QUIET_SAMPLES, gap_a, 0))
        worked = length * random.normal(1.0, 0.01)
        segments += [segment(worked * share, level, 1) for share, level in zip(shares, levels, strict=True)]
    segments.append(segment(QUIET_SAMPLES + 20, sleep_a, 0))
    load = ScriptedLoad(segments)
    edges_s = np.array([time_s for time_s, _ in load.edges_s()]).reshape(-1, 2)
    clock_hz = int(random.choice(CLOCKS_HZ))
    actual_hz = clock_hz * (1 + DEVICE_CLOCK_ERROR * random.uniform(-1, 1))
    boot_s = float(random.uniform(0, 10))
    counts = np.floor((edges_s + boot_s) * actual_hz).astype(int)
    passes = tuple(RegionEvent(INFERENCE, k, int(begin), int(end)) for k, (begin, end) in enumerate(counts))
    idle_w = (voltage - resistance * sleep_a) * sleep_a
    return Case(tuple(segments), load, edges_s, idle_w, voltage, drops, passes, clock_hz, rate)


@dataclass(frozen=True)
class Verdict:
    """One case, measured.

    Attributes:
        region_error: of the region's median net energy, relative to the true one.
        window_errors: of the net energy of each window, relative, shape (passes,).
        stated: combined uncertainty of the region's net energy, relative; 0 for an ideal meter.
        windows_inside: how many windows lie within their own class limits.
    """

    region_error: float
    window_errors: FloatArray
    stated: float
    windows_inside: int

    @property
    def inside(self) -> bool:
        """Whether the region's error is within what is stated."""
        return abs(self.region_error) <= self.stated


def measure_ideal(case: Case) -> Verdict:
    """The case under an ideal meter."""
    trace = case.trace(ideal_meter(case.load, case.sample_rate_hz, case.load.due(case.sample_rate_hz)))
    return _verdict(case, trace, None)


def measure_realistic(case: Case, errors: MeterErrors, seed: int, beyond: float = 1.0) -> Verdict:
    """The case under one meter of a class, whose constants and noise follow from the seed.

    Args:
        case: the case.
        errors: the class, which is also what is stated.
        seed: of the meter.
        beyond: how many times worse than its class the meter is: what is stated must then be seen to fail.
    """
    meter = RealisticMeter(errors, np.random.default_rng(seed), beyond)
    # Its clock is off: it samples at another rate than it says.
    shown = _sampled(case, 1 + meter.rate_error)
    ranges = tuple(RangeClass(one.upto_a, one.relative, one.offset_a) for one in errors.ranges)
    voltage = errors.voltage if case.measures_voltage else 0.0
    return _verdict(case, case.trace(meter.show(shown)), MeterClass(ranges, voltage, errors.clock))


def _sampled(case: Case, rate_factor: float) -> ShownSamples:
    """What an ideal meter shows whose clock is off: the load, stretched in its time."""
    stretched = ScriptedLoad(
        [
            replace(one, duration_s=one.duration_s * rate_factor, settle_s=one.settle_s * rate_factor)
            for one in case.segments
        ]
    )
    return ideal_meter(stretched, case.sample_rate_hz, stretched.due(case.sample_rate_hz))


def _verdict(case: Case, trace: Trace, meter: MeterClass | None) -> Verdict:
    figures, note = region_energy(trace, case.passes, case.clock_hz, INFERENCE, case.quiet_s, meter)
    records = window_records(INFERENCE, figures, "emulated", note)
    net = next(record for record in records if record.metric == "energy.net")
    return judge(case, figures, net)


def judge(case: Case, figures: WindowEnergy, net: Record) -> Verdict:
    """Compare what was measured with the truth."""
    true = case.true_net_j
    median = float(np.median(true))
    off = np.abs(figures.net_j - true)
    within = 0 if figures.limits is None else int(np.count_nonzero(off <= figures.limits.net_j + figures.edge_net_j))
    stated = (net.combined_uncertainty or 0.0) / median
    return Verdict((net.median - median) / median, (figures.net_j - true) / true, stated, within)


@dataclass(frozen=True)
class Summary:
    """A table's row: many cases under one kind of meter.

    Attributes:
        cases, windows: how many.
        median_error, worst_error: of the region's net energy, relative, absolute value.
        worst_window_error: of single windows.
        inside, windows_inside: shares within what is stated, 0..1.
        median_stated: median of the stated uncertainty, relative.
    """

    cases: int
    windows: int
    median_error: float
    worst_error: float
    worst_window_error: float
    inside: float
    windows_inside: float
    median_stated: float


def summarise(verdicts: Sequence[Verdict]) -> Summary:
    """The row of some cases."""
    errors = np.abs([one.region_error for one in verdicts])
    windows = sum(one.window_errors.size for one in verdicts)
    return Summary(
        cases=len(verdicts),
        windows=windows,
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        worst_window_error=float(max(np.abs(one.window_errors).max() for one in verdicts)),
        inside=float(np.mean([one.inside for one in verdicts])),
        windows_inside=sum(one.windows_inside for one in verdicts) / windows,
        median_stated=float(np.median([one.stated for one in verdicts])),
    )
