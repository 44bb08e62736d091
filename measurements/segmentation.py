"""Regions of a power trace without markers: where the level of its power changes.

Three steps, none of which looks at a sample more than a fixed number of times:

1. Candidates: for windows of several widths, the difference of the means left and right of each sample, in units of
   the noise; every local maximum that noise alone would not show (moving sums, B. Eichinger and C. Kirch, "A MOSUM
   procedure for the estimation of multiple random change points", Bernoulli 24, 2018).
2. The best of all ways to choose change points among the candidates: least squares plus a penalty per change, by
   dynamic programming (optimal partitioning, B. Jackson et al., IEEE Signal Processing Letters 12, 2005; PELT of
   R. Killick et al., JASA 107, 2012, is the same with pruning, which few candidates do not need). The penalty is that
   of the Bayesian information criterion, 2·σ²·ln n, times a factor. The first samples of a region, in which the level
   is still on its way (an edge lies inside a sample; supplies settle), are not held against it.
3. Neighbours whose levels differ by less than the least step are one region, and each change is moved to the sample
   that parts its two neighbours best.

:mod:`measurements.changepoints` solves another task: few, noisy, skewed nights with outliers, at the price of a
permutation test per change; here there are millions of samples with a noise that can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from measurements.record import Trace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MAD_TO_SIGMA = 1.4826
_WIDTHS = 8
_PENALTY_FACTOR = 3.0
_MOST_CANDIDATES = 4000
_SIGMA_FLOOR = 1e-9


@dataclass(frozen=True)
class Segment:
    """Samples ``[start, stop)`` of a trace around one level.

    Attributes:
        start, stop: samples.
        power_w: mean power of the samples seen, watt.
        duration_s: seconds.
    """

    start: int
    stop: int
    power_w: float
    duration_s: float

    @property
    def energy_j(self) -> float:
        """Mean power times duration, joule."""
        return self.power_w * self.duration_s


@dataclass(frozen=True)
class Agreement:
    """Change points found, compared with the true ones.

    Attributes:
        matched: pairs of one found and one true change within the tolerance.
        found, true: how many there are.
        errors: int64, found less true place of each pair, samples.
    """

    matched: int
    found: int
    true: int
    errors: IntArray

    @property
    def precision(self) -> float:
        """Share of the changes found that are true; 1 where none was found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the true changes that were found; 1 where there are none."""
        return self.matched / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 1 where there is nothing to find and nothing was found."""
        both = self.found + self.true
        return 2 * self.matched / both if both else 1.0

    @property
    def mean_error_samples(self) -> float:
        """Mean distance of matched changes, samples; 0 without any."""
        return float(np.abs(self.errors).mean()) if self.errors.size else 0.0


def power_of(trace: Trace) -> FloatArray:
    """Power of each sample, watt, float64 (n,); NaN where lost."""
    voltage = trace.voltage_v if trace.measured_v is None else trace.measured_v
    return np.asarray(trace.current_a.astype(np.float64) * voltage)


def segment(
    trace: Trace, *, shortest_s: float, least_step: float = 0.02, settle_s: float = 0.0
) -> tuple[Segment, ...]:
    """Cut a trace into regions of one level each.

    Args:
        trace: the trace; its marker is not looked at.
        shortest_s: the shortest region worth finding, seconds; at least three samples are taken.
        least_step: smallest change of level between neighbours, as a share of the greater one.
        settle_s: time constant with which levels change; three of them, and one sample, are taken for the way.

    Raises:
        ConfigError: fewer samples than two of the shortest regions hold, or not one that was not lost.
    """
    power = _filled(power_of(trace))
    way = 1 + math.ceil(3 * settle_s / trace.dt_s)
    shortest = max(2 + way, round(shortest_s / trace.dt_s))
    if power.size < 2 * shortest:
        raise ConfigError(
            f"a trace of {power.size} samples cannot be cut into regions of at least {shortest}",
            hint="record for longer, or allow shorter regions",
        )
    changes = _changes(power, shortest, way, least_step)
    edges = [0, *changes.tolist(), power.size]
    sums = _sums(power)
    return tuple(
        Segment(start, stop, float((sums[stop] - sums[start]) / (stop - start)), (stop - start) * trace.dt_s)
        for start, stop in pairwise(edges)
    )


def compare(found: Sequence[int], true: Sequence[int], tolerance: int) -> Agreement:
    """Match change points one to one, in order, nearest pairs first.

    Args:
        found, true: places in samples, ascending.
        tolerance: how far a pair may lie apart, samples.
    """
    pairs = sorted(
        (abs(here - there), i, j)
        for i, here in enumerate(found)
        for j, there in enumerate(true)
        if abs(here - there) <= tolerance
    )
    used_found: set[int] = set()
    used_true: set[int] = set()
    errors = []
    for _, i, j in pairs:
        if i not in used_found and j not in used_true:
            used_found.add(i)
            used_true.add(j)
            errors.append(found[i] - true[j])
    return Agreement(len(errors), len(found), len(true), np.array(errors, np.int64))


def noise_of(power: FloatArray) -> float:
    """Standard deviation of the noise, from differences of neighbours; changes of level do not enlarge it."""
    differences = np.diff(power)
    return float(_MAD_TO_SIGMA * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2.0))


def _filled(power: FloatArray) -> FloatArray:
    """Lost samples take the value before them: they make no change of level."""
    seen = np.isfinite(power)
    if not seen.any():
        raise ConfigError("every sample of the trace was lost: there is nothing to cut")
    if seen.all():
        return power
    last = np.maximum.accumulate(np.where(seen, np.arange(power.size), -1))
    return np.asarray(power[np.where(last >= 0, last, int(seen.argmax()))])


def _sums(values: FloatArray) -> FloatArray:
    return np.concatenate(([0.0], np.cumsum(values)))


def _changes(power: FloatArray, shortest: int, way: int, least_step: float) -> IntArray:
    """Places at which a new level begins."""
    middle = float(np.median(power))
    centred = power - middle
    spread = float(np.abs(centred).max())
    if spread == 0.0:
        return np.empty(0, np.int64)
    sigma = max(noise_of(power), _SIGMA_FLOOR * spread)
    sums, squares = _sums(centred), _sums(centred**2)
    candidates = _candidates(sums, sigma, shortest, power.size)
    penalty = _PENALTY_FACTOR * 2 * sigma**2 * math.log(power.size)
    kept = _best_partition(sums, squares, candidates, penalty, (shortest, way))
    kept = _large_steps(sums, kept, middle, least_step, way)
    return _refined(sums, kept, power.size)


def _candidates(sums: FloatArray, sigma: float, shortest: int, size: int) -> IntArray:
    """Local maxima of moving-sum statistics of several widths, ascending."""
    threshold = np.sqrt(2 * np.log(size))
    found: dict[int, float] = {}
    width = max(2, shortest // 2)
    for _ in range(_WIDTHS):
        if 2 * width > size:
            break
        left = sums[width:-width] - sums[: -2 * width]
        right = sums[2 * width :] - sums[width:-width]
        statistic = np.abs(right - left) / (sigma * np.sqrt(2.0 * width))
        for place in _peaks(statistic, width // 2 + 1, threshold):
            at = int(place) + width
            found[at] = max(found.get(at, 0.0), float(statistic[place]))
        width *= 2
    strongest = sorted(found, key=lambda place: -found[place])[:_MOST_CANDIDATES]
    # The sample that an edge lies in may look more like the region before it.
    return np.array(sorted({place - back for place in strongest for back in (0, 1)}), np.int64)


def _peaks(statistic: FloatArray, reach: int, threshold: float) -> IntArray:
    """Places above the threshold that are the greatest within ``reach`` on either side."""
    from scipy.ndimage import maximum_filter1d

    greatest = maximum_filter1d(statistic, 2 * reach + 1, mode="nearest")
    return np.flatnonzero((statistic >= greatest) & (statistic > threshold))


def _best_partition(
    sums: FloatArray, squares: FloatArray, candidates: IntArray, penalty: float, lengths: tuple[int, int]
) -> IntArray:
    """The subset of the candidates with the least squared error plus penalty per change.

    ``lengths``: of the shortest region, and of its begin that is not counted; the trace itself begins settled.
    """
    shortest, way = lengths
    edges = np.concatenate(([0], candidates, [sums.size - 1]))
    best = np.full(edges.size, np.inf)
    best[0] = -penalty
    before = np.zeros(edges.size, np.int64)
    for k in range(1, edges.size):
        begins = np.minimum(edges[:k] + way * (edges[:k] > 0), edges[k] - 1)
        mean_part = (sums[edges[k]] - sums[begins]) ** 2 / (edges[k] - begins)
        cost = best[:k] + squares[edges[k]] - squares[begins] - mean_part + penalty
        cost[edges[k] - edges[:k] < shortest] = np.inf
        before[k] = int(cost.argmin())
        best[k] = cost[before[k]]
    chosen = []
    k = int(before[-1])
    while k > 0:
        chosen.append(int(edges[k]))
        k = int(before[k])
    return np.array(chosen[::-1], np.int64)


def _large_steps(sums: FloatArray, changes: IntArray, middle: float, least_step: float, way: int) -> IntArray:
    """Take out the smallest step until all are large enough."""
    kept = changes
    while kept.size:
        begins = np.concatenate(([0], kept + way))
        ends = np.concatenate((kept, [sums.size - 1]))
        levels = (sums[ends] - sums[begins]) / (ends - begins) + middle
        greater = np.maximum(np.abs(levels[1:]), np.abs(levels[:-1]))
        steps = np.abs(np.diff(levels)) / np.where(greater > 0, greater, 1.0)
        smallest = int(steps.argmin())
        if steps[smallest] >= least_step:
            break
        kept = np.delete(kept, smallest)
    return kept


def _refined(sums: FloatArray, changes: IntArray, size: int) -> IntArray:
    """Each change where it parts its neighbours best, between the middles of the regions on its sides."""
    edges = np.concatenate(([0], changes, [size]))
    moved = changes.copy()
    for k in range(1, edges.size - 1):
        begin, end = int(edges[k - 1]), int(edges[k + 1])
        places = np.arange((begin + edges[k]) // 2 + 1, (edges[k] + end) // 2 + 1)
        left = (sums[places] - sums[begin]) / (places - begin)
        right = (sums[end] - sums[places]) / (end - places)
        gain = (places - begin) * (end - places) * (left - right) ** 2
        moved[k - 1] = int(places[gain.argmax()])
    return moved
