"""The quiet next to windows of a trace, which their idle power is taken from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from measurements.integrator import Integrator
from measurements.sums import FloatArray, IntArray, ratio, segment_means, segment_sums

GUARD_SAMPLES = 5
GUARD_S = 100e-6
SETTLED_TIMES = 12.0
"""Settling after a window that is not taken for quiet: so many samples, seconds or time constants, the longest."""
MIN_QUIET_SAMPLES = 10
_BATCHES = 5


@dataclass(frozen=True)
class Quiet:
    """The quiet next to each window: which samples, as segments on either side; empty ones where there is none.

    Attributes:
        begin, end: shape (2, windows): the stretch before and the one after each window.
    """

    begin: IntArray
    end: IntArray

    def mean(self, values: FloatArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
        """Mean of ``values`` over both stretches, of the samples counted; NaN where there are none."""
        total = np.sum([segment_sums(np.where(counted, values, 0.0), *side) for side in self._sides], axis=0)
        count = np.sum([segment_sums(counted.astype(np.float64), *side) for side in self._sides], axis=0)
        return ratio(total, count)

    def step(self, values: FloatArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
        """Mean after each window less mean before it; NaN where one side has no quiet."""
        before, after = (segment_means(values, counted, *side) for side in self._sides)
        return after - before

    def noise(self, values: FloatArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
        """Twice the standard error of :meth:`mean`, from the means of five batches a side (batch means)."""
        variance = np.zeros(self.begin.shape[1])
        sides = np.zeros(self.begin.shape[1])
        for begin, end in self._sides:
            cuts = begin + (end - begin) * np.arange(_BATCHES + 1)[:, None] // _BATCHES
            means = np.array([segment_means(values, counted, *cut) for cut in itertools.pairwise(cuts)])
            some = end > begin
            spread = np.where(some, np.nan_to_num(np.var(means, axis=0, ddof=1)), 0.0)
            variance += spread / _BATCHES
            sides += some
        return ratio(2 * np.sqrt(variance), sides)

    @property
    def _sides(self) -> tuple[tuple[IntArray, IntArray], ...]:
        return ((self.begin[0], self.end[0]), (self.begin[1], self.end[1]))


def find_quiet(whole: Integrator, quiet: int, framed: bool) -> Quiet:
    """The nearest quiet stretch on either side of each window; see :func:`measurements.energy.measure_windows`."""
    start, stop, size = whole.start, whole.stop, whole.current.size
    guard = max(GUARD_SAMPLES, round(GUARD_S / whole.dt_s), round(SETTLED_TIMES * whole.settle_samples))
    # The edge lies within the sample before the first high one.
    begin = np.concatenate(([max(0, int(start[0]) - quiet)], stop + guard))
    end = np.concatenate((start - 1, [size if framed else min(size, int(stop[-1]) + quiet)]))
    if framed:
        begin[-1] = max(int(begin[-1]), size - quiet)
    usable = segment_sums(whole.seen.astype(np.float64), np.minimum(begin, size), end) >= MIN_QUIET_SAMPLES
    usable[1:-1] &= (start[1:] - stop[:-1] >= quiet) & (not framed)
    number = np.arange(usable.size)
    before = np.maximum.accumulate(np.where(usable, number, -1))[:-1]
    after = usable.size - 1 - np.maximum.accumulate(np.where(usable[::-1], number, -1))[::-1][1:]
    missing_after = after == usable.size
    sides = np.stack((np.maximum(before, 0), np.where(missing_after, 0, after)))
    none = np.stack((before < 0, missing_after))
    return Quiet(np.where(none, 0, begin[sides]), np.where(none, 0, end[sides]))
