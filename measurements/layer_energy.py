"""Energy of each layer by regression: a trace of many passes, and when each layer ran inside a pass.

A profiled pass tells when each layer begins and ends; a metered pass is not profiled, since the marks cost time. Layers
are often shorter than a meter's sample, so no window can be cut out of the trace for them. But every sample of every
pass is a sum: the time that each layer had of it times that layer's power. With the passes' begins known to a fraction
of a sample and falling differently between the samples, the sums of many passes have one solution, by least squares:

    p_k = Σ_l  share_kl · P_l + noise        share_kl: part of sample k's period in which layer l ran

What the model cannot know goes into the noise: supplies that settle, power that changes within a layer. The interval of
each power is that of linear regression (Student's t, 95 %), with the noise taken from what is left over; noise that
neighbouring samples share makes it too narrow, so it is widened by what the left-overs' own correlation says (effective
number of samples, G. Bartlett's formula for a first-order autoregression). Where passes keep step with the samples, how
far all of them may lie from where they were taken to be is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, MeterError
from measurements.capture import locate_edges, match_windows
from measurements.record import Record, Source, Trace
from measurements.regions import ENERGY_LAYER, INFERENCE, LAYER, TRAINING_LAYER, RegionPass, by_region
from measurements.segmentation import power_of
from measurements.statistics import make_record
from measurements.uncertainty import MeterClass

FloatArray = npt.NDArray[np.float64]

_MARGIN_SAMPLES = 1
_WORST_CONDITION = 1e8
_MOST_SHARES = 1 << 23
"""Numbers in the system of equations, at most: 64 MiB. More passes than that takes are left out."""


@dataclass(frozen=True)
class LayerTime:
    """When a layer ran, seconds after the begin of its pass."""

    name: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class LayerEnergy:
    """Energy of one layer in one pass.

    Attributes:
        name: from :class:`LayerTime`.
        duration_s: seconds.
        energy_j: joule; at least 0.
        ci_low_j, ci_high_j: 95 % interval, joule.
    """

    name: str
    duration_s: float
    energy_j: float
    ci_low_j: float
    ci_high_j: float

    @property
    def power_w(self) -> float:
        """Mean power while it ran, watt."""
        return self.energy_j / self.duration_s


def layer_energies(
    trace: Trace, begins_s: Sequence[float], layers: Sequence[LayerTime], stretch: float = 1.0
) -> tuple[LayerEnergy, ...]:
    """Energy of each layer, from all passes together.

    Args:
        trace: the trace of the passes.
        begins_s: when each pass began, seconds after sample 0, to a fraction of a sample
            (:func:`measurements.capture.locate_edges`).
        layers: when each layer ran within a pass, in order, apart from each other.
        stretch: length of a metered pass as a part of the profiled one, whose marks cost time.

    Raises:
        ConfigError: layers or passes that overlap, none at all, or passes outside the trace.
        MeterError: the passes do not tell the layers apart: too few of them, or layers far shorter than a sample whose
            passes all begin at the same place in a sample.
    """
    begin = np.array([layer.begin_s for layer in layers]) * stretch
    end = np.array([layer.end_s for layer in layers]) * stretch
    starts = np.array(sorted(begins_s))
    _check(trace, starts, begin, end)
    shares, power = _equations(trace, starts, begin, end)
    gram = shares.T @ shares
    scale = np.sqrt(np.diag(gram))
    if not (scale > 0).all() or np.linalg.cond(gram / np.outer(scale, scale)) > _WORST_CONDITION:
        blurred = [layer.name for layer, size in zip(layers, [*scale], strict=False) if size == 0]
        raise MeterError(
            f"{starts.size} passes of {len(layers)} layers do not tell the layers apart"
            + (f"; nothing was seen of {', '.join(blurred)}" if blurred else ""),
            hint="meter more passes, at intervals that are no multiple of the sample period, or join short layers",
        )
    return _solved(shares, power, gram, layers, (end - begin))


def marked_layer_energies(
    trace: Trace,
    passes: Sequence[RegionPass],
    profiled: Sequence[RegionPass],
    clock_hz: float,
    layer_names: Sequence[str] = (),
    region: str = INFERENCE,
) -> tuple[LayerEnergy, ...]:
    """Energy of each layer from a marked trace of plain passes and one profiled pass.

    A pass without marks is taken to be the layers back to back, each as long, relative to the others, as in the
    profiled one.

    Args:
        trace: of the metered passes, with the marker on D0.
        passes: what the device reported of the trace: every region that raised the marker. Of others than ``region``
            only the windows are looked at.
        profiled: what it reported of the profiled pass, regions ``layer`` (or ``train.layer``), of those in ``region``.
        clock_hz: rate of the device's clock, Hz.
        layer_names: names of the schedule's layers.
        region: whose passes they are parts of.

    Raises:
        MeterError: the trace and the passes disagree, or as :func:`layer_energies`.
        ConfigError: as :func:`layer_energies`.
    """
    own = [one for one in passes if one.region == region]
    parts = tuple(f"{kind}/" for kind in (LAYER, TRAINING_LAYER))
    groups = {name: group for name, group in by_region(profiled, layer_names).items() if name.startswith(parts)}
    marked = match_windows(trace, passes, clock_hz, tuple({one.region for one in passes}))
    windows = [window for window, one in zip(marked, passes, strict=True) if one.region == region]
    if not windows or not groups:
        raise ConfigError(f"{len(windows)} passes of {len(groups)} layers: at least one of each is needed")
    edges = locate_edges(trace, windows, own, clock_hz)
    begins_s = (edges.begin_low + edges.begin_high) / 2 * trace.dt_s
    lengths = np.array([sum(one.end - one.begin for one in group) for group in groups.values()], np.float64)
    ends_s = np.cumsum(lengths) / lengths.sum() * float(np.median(edges.duration)) * trace.dt_s
    limits = [0.0, *ends_s.tolist()]
    layers = [LayerTime(name, *limit) for name, limit in zip(groups, pairwise(limits), strict=True)]
    samples = float(np.median(edges.duration)) + 2 * _MARGIN_SAMPLES + 2
    begins_s = begins_s[: max(1, int(_MOST_SHARES / samples / (len(layers) + 1)))]
    unsure_s = float(np.max(edges.begin_high - edges.begin_low)) / 2 * trace.dt_s
    found = layer_energies(trace, begins_s.tolist(), layers)
    shifted = [layer_energies(trace, (begins_s + shift).tolist(), layers) for shift in (-unsure_s, unsure_s)]
    return tuple(_widened(one, others) for one, *others in zip(found, *shifted, strict=True))


def _widened(one: LayerEnergy, others: Sequence[LayerEnergy]) -> LayerEnergy:
    """A layer's interval with how far other places of all passes, as far off as they may be, move its energy."""
    further_j = max(abs(other.energy_j - one.energy_j) for other in others)
    return replace(one, ci_low_j=max(one.ci_low_j - further_j, 0.0), ci_high_j=one.ci_high_j + further_j)


def layer_energy_records(
    energies: Sequence[LayerEnergy], source: Source, voltage_v: float, meter: MeterClass, note: str = ""
) -> tuple[Record, ...]:
    """A record ``energy.layer`` (J, gross, of one pass) of each layer, its region ``layer/<number> <name>`` (training:
    ``train.layer/…``).

    The interval is that of the regression (type A); the class uncertainty is what the meter's constants do to a current
    of the layer's mean power (:mod:`measurements.uncertainty`).

    Args:
        energies: from :func:`marked_layer_energies`, which names layers like that.
        source, note: of the records.
        voltage_v: supply voltage.
        meter: the meter's class.
    """
    said = "; ".join(part for part in ("regression over single passes, marks of a profiled one", note) if part)
    records = []
    for one in energies:
        used = meter.ranges[int(meter.range_of(np.array(one.power_w / voltage_v)))]
        limit_j = (used.relative + meter.voltage + meter.clock) * one.energy_j
        limit_j += used.offset_a * voltage_v * one.duration_s
        record = make_record(
            one.name, ENERGY_LAYER, "J", source, [one.energy_j],
            alignment="marker", note=said, class_uncertainty=limit_j,
        )  # fmt: skip
        records.append(replace(record, ci_low=one.ci_low_j, ci_high=one.ci_high_j, note=said))
    return tuple(records)


def _check(trace: Trace, starts: FloatArray, begin: FloatArray, end: FloatArray) -> None:
    if not starts.size or not begin.size:
        raise ConfigError(f"{starts.size} passes of {begin.size} layers: at least one of each is needed")
    if (end <= begin).any() or (begin[1:] < end[:-1]).any():
        raise ConfigError("layers must be given in order, each longer than nothing, and may not overlap")
    if (np.diff(starts) < end[-1]).any():
        raise ConfigError(f"passes begin less than their length of {end[-1]:g} s apart")
    duration_s = trace.current_a.size * trace.dt_s
    if starts[0] < 0 or starts[-1] + end[-1] > duration_s:
        raise ConfigError(f"passes from {starts[0]:g} to {starts[-1] + end[-1]:g} s lie outside the {duration_s:g} s")


def _equations(
    trace: Trace, starts: FloatArray, begin: FloatArray, end: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Shares of layers, of what lies outside of them (last column), and powers; of the samples around all passes."""
    power = power_of(trace)
    length = math.ceil(end[-1] / trace.dt_s) + 1 + 2 * _MARGIN_SAMPLES
    rows, values = [], []
    for start in starts / trace.dt_s:
        first = math.floor(start) - _MARGIN_SAMPLES
        numbers = np.arange(max(first, 0), min(first + length, power.size))
        low = (start + begin / trace.dt_s)[np.newaxis]
        high = (start + end / trace.dt_s)[np.newaxis]
        periods = numbers[:, np.newaxis]
        overlap = np.clip(np.minimum(high, periods + 1) - np.maximum(low, periods), 0.0, None)
        rest = 1.0 - overlap.sum(axis=1, keepdims=True)
        seen = np.isfinite(power[numbers])
        rows.append(np.hstack((overlap, rest))[seen])
        values.append(power[numbers][seen])
    return np.concatenate(rows), np.concatenate(values)


def _solved(
    shares: FloatArray, power: FloatArray, gram: FloatArray, layers: Sequence[LayerTime], duration_s: FloatArray
) -> tuple[LayerEnergy, ...]:
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import nnls
    from scipy.stats import t as student

    factor = cho_factor(gram)
    powers = np.asarray(cho_solve(factor, shares.T @ power))
    left_over = power - shares @ powers
    freedom = power.size - powers.size
    if freedom < 1:
        raise MeterError(f"{power.size} samples are too few for {powers.size} powers", hint="meter more passes")
    lag = float((left_over[1:] * left_over[:-1]).sum() / max(float((left_over**2).sum()), 1e-300))
    # Samples that repeat their neighbours' error tell less than their number says.
    shared = (1 + max(lag, 0.0)) / (1 - min(max(lag, 0.0), 0.99))
    variance = float((left_over**2).sum()) / freedom * shared
    spread = np.sqrt(np.maximum(np.diag(cho_solve(factor, np.eye(powers.size))), 0.0) * variance)
    half = float(student.ppf(0.975, max(freedom / shared, 1.0))) * spread
    if (powers < 0).any():
        # No layer gives energy back: the best solution without negative powers, from the same equations.
        root = np.linalg.cholesky(gram).T
        best, _ = nnls(root, np.linalg.solve(root.T, shares.T @ power))
        half = np.maximum(half, np.abs(best - powers))
        powers = np.asarray(best)
    return tuple(
        LayerEnergy(
            layer.name,
            float(seconds),
            float(watts * seconds),
            float(max(watts - width, 0.0) * seconds),
            float((watts + width) * seconds),
        )
        for layer, seconds, watts, width in zip(layers, duration_s, powers[:-1], half[:-1], strict=True)
    )
