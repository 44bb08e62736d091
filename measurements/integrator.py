"""Integrals of a trace over windows whose edges lie inside samples.

An edge lies inside a sample, whose current is the mean of what flowed before and after it. The part inside the window
is what is left of the sample when the level next to it is taken off for the time outside: exact for a step, and for
one that settles exponentially, wherever in the sample it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from measurements.capture import CLOCK_TOLERANCE, Edges, Window
from measurements.record import Trace
from measurements.sums import FloatArray, IntArray, segment_sums

SETTLED_SAMPLES = 16
_SOFT, _SLOWEST, _SAME = 0.01, 0.9, 0.02
# Time constant, in samples, from which the sample behind an edge shows it well.
_SEEN_SETTLING = 0.5
_FLAT = 0.05
_SMALL = 1e-6
_ROUNDS = 4


class Integrator:
    """Sums of one trace over windows whose edges lie inside samples.

    Args:
        trace: the trace.
        windows: at least one.
        edges: where in their samples the edges lie.
    """

    def __init__(self, trace: Trace, windows: Sequence[Window], edges: Edges) -> None:
        self.current = trace.current_a.astype(np.float64)
        voltage = trace.voltage_v if trace.measured_v is None else trace.measured_v.astype(np.float64)
        self.power = self.current * voltage
        self.seen = np.isfinite(self.current)
        self.dt_s = trace.dt_s
        self.start = np.array([window.start for window in windows])
        self.stop = np.array([window.stop for window in windows])
        self._before = _last_seen(self.seen)
        self._after = _next_seen(self.seen)
        self.begins, self.ends = self._fractions(edges)
        refined = self.stop - 1 - self.start + self.begins + self.ends
        self.duration_s = np.where(np.isfinite(edges.duration), edges.duration, refined) * self.dt_s
        inside = self.stop - 1 - self.start
        seen = segment_sums(self.seen.astype(np.float64), self.start, self.stop - 1)
        self._scale = np.divide(inside, seen, out=np.ones(inside.size), where=seen > 0)

    def nearest(self, at: IntArray, *, later: bool) -> IntArray:
        """The samples themselves; of a lost one, the next one seen (``later``) or the last one seen."""
        return (self._after if later else self._before)[np.clip(at, 0, self.seen.size - 1)]

    def level(self, values: FloatArray, at: IntArray, *, later: bool) -> FloatArray:
        """Values of :meth:`nearest`."""
        return np.asarray(values[self.nearest(at, later=later)])

    def inside(self, values: FloatArray, chosen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """Integral of ``values`` over each window, in their unit times seconds.

        A lost sample inside counts as the mean of those seen.

        Args:
            values: shape (n,).
            chosen: take only these samples, shape (n,); an edge is chosen with the sample next to it inside.
        """
        taken = self.seen if chosen is None else self.seen & chosen
        whole = segment_sums(np.where(taken, values, 0.0), self.start, self.stop - 1) * self._scale
        first, last = self.begin_part(values), self.end_part(values)
        if chosen is not None:
            first = np.where(chosen[self.nearest(self.start, later=True)], first, 0.0)
            last = np.where(chosen[self.nearest(self.stop - 2, later=False)], last, 0.0)
        return np.asarray((whole + first + last) * self.dt_s)

    def begin_part(self, values: FloatArray) -> FloatArray:
        """What the sample with the begin holds of the window: the sample less the level before it, outside."""
        at, fraction = self.start - 1, self.begins
        mixed = values[np.maximum(at, 0)]
        part = mixed - self.level(values, at - 1, later=False) * (1 - fraction)
        part = np.where(np.isfinite(mixed), part, self.level(values, self.start, later=True) * fraction)
        return np.where(fraction == 0, 0.0, part)

    def end_part(self, values: FloatArray) -> FloatArray:
        """What the sample with the end holds of the window: the sample less the level after it and what still settles.

        What settles like exp(-t/τ) after an end at the fraction f of the sample holds (a - b)·τ·(1 - exp(-(1 - f)/τ)),
        with a the level at the end. Where it settles slowly, the sample after it shows what is left of a - b, whatever
        the current did before the end; else a is the level of the last whole sample.
        """
        mixed, fraction = values[self.stop - 1], self.ends
        old = self.level(values, self.stop - 2, later=False)
        new = self.settled.of(values)
        settle = self.settle_samples
        if settle >= _SEEN_SETTLING:
            left = self.level(values, self.stop, later=True) - new
            tail = left * np.expm1((1 - fraction) / settle) / -np.expm1(-1 / settle)
        else:
            tail = (old - new) * settle * -np.expm1((fraction - 1) / settle) if settle else 0.0
        part = mixed - new * (1 - fraction) - tail
        return np.asarray(np.where(np.isfinite(mixed), part, old * fraction))

    def _fractions(self, edges: Edges) -> tuple[FloatArray, FloatArray]:
        """How much of the sample with each edge lies inside: by the clocks, and within that by the samples.

        Both edges of a window say where it lies, since the device's clock tells its length; each counts by how well the
        samples next to it fit a step from one level to another.
        """
        bounds = (self.start, self.stop), (self.stop, np.append(self.start[1:], self.seen.size))
        # One time constant for both sides: that which more edges show, and of equals the ends': the work is done then.
        _, left = max((self._settling(*one) for one in reversed(bounds)), key=lambda one: one[0])
        steps = [_Step(self, *one, left) for one in bounds]
        self.settle_samples, self.settled = steps[1].settle_samples, steps[1].settled
        low = np.array([edges.begin_low - (self.start - 1), edges.end_low - (self.stop - 1)])
        high = np.array([edges.begin_high - (self.start - 1), edges.end_high - (self.stop - 1)])
        middle = (low + high) / 2
        shift = np.array([one.old for one in steps]) - middle
        # A lost sample at an edge shows nothing of it, and fewer than two whole ones no level of the window.
        shift[(low < 0) | (high > 1)] = np.nan
        shift[:, self.stop - self.start < 3] = np.nan
        weight = np.where(np.isfinite(shift), [one.weight for one in steps], 0.0)
        # What the other edge says is as good as that edge, and as the two clocks' rates agree over the window.
        drift = (CLOCK_TOLERANCE * edges.duration) ** 2
        other = np.nan_to_num(weight / (1 + weight * drift))[::-1]
        told = np.nan_to_num(shift) * weight + np.nan_to_num(shift)[::-1] * other
        shift = told / np.maximum(weight + other, _SMALL)
        place = np.clip(middle + shift, low, high)
        self.reach = (high - low) / 2 + edges.margin
        return 1 - place[0], place[1]

    def _settling(self, first: IntArray, until: IntArray) -> tuple[int, float]:
        """How many edges show which part of a step is left one sample later, and the median of that; 0 for sharp ones.

        An edge shows it where the first three whole samples behind it approach what is reached later, each by the same
        part, and that it is sharp where the first of them is there already.
        """
        # A current that was not settled before the edge may go on for a part of the sample with it.
        before = self.level(self.current, first - 2, later=False), self.level(self.current, first - 1, later=False)
        one, two, three, later = (
            self.level(self.current, first + place, later=True) for place in (0, 1, 2, SETTLED_SAMPLES)
        )
        room = until - first > 2 * SETTLED_SAMPLES
        left = 0.0
        for _ in range(_ROUNDS):
            # What of the step is left after so many samples is known only with the answer.
            settled = (later - left**SETTLED_SAMPLES * one) / (1 - left**SETTLED_SAMPLES)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.maximum(*(np.abs(value - settled) for value in before))
                share, ratio = np.abs(one - settled) / step, (two - settled) / (one - settled)
                third = np.abs(three - settled) / step
                soft = room & (share > _SOFT) & (share < 1) & (ratio > 0) & (ratio < _SLOWEST)
                soft &= np.abs(third - share * ratio**2) < _SAME
            if not soft.any():
                return int(np.count_nonzero(room & (share <= _SOFT))), 0.0
            left = float(np.median(ratio[soft]))
        return int(np.count_nonzero(soft | (room & (share <= _SOFT)))), left


@dataclass(frozen=True)
class _Settled:
    """The level that is reached behind each edge: what a sample shows, or what two samples lead to.

    Attributes:
        one, two: the samples that tell, the second one after the first.
        left: which part of a step is left from one to the other; 0 where the second one is the level.
    """

    one: IntArray
    two: IntArray
    left: FloatArray

    def of(self, values: FloatArray) -> FloatArray:
        """The level of ``values``, shape (windows,)."""
        return np.asarray((values[self.two] - self.left * values[self.one]) / (1 - self.left))


class _Step:
    """The steps at one side of all windows.

    A step from level a to b at the fraction f of a sample leaves b + f·(a - b) in it. Where b is reached like
    exp(-t/τ), all samples from the edge on together hold (a - b)·τ more, and f follows as well.

    Args:
        whole: the trace.
        first: the first samples that lie whole behind an edge.
        until: where the next edge is shown.
        left: which part of a step is left one sample later.

    Attributes:
        old: how much of the sample before each of ``first`` belongs to what was before; not finite without a step.
        weight: how far that is to be believed: the less, the less the samples next to the edge fit such a step.
        settle_samples: the time constant, in samples; 0 for a sharp step.
        settled: the level behind each edge.
    """

    def __init__(self, whole: Integrator, first: IntArray, until: IntArray, left: float) -> None:
        current = whole.current
        self.settle_samples = -1 / float(np.log(left)) if left else 0.0
        mixed = current[np.maximum(first - 1, 0)]
        before, old = (whole.level(current, first - back, later=False) for back in (3, 2))
        one, two, three = (whole.level(current, first + place, later=True) for place in range(3))
        self.settled = self._level(whole, first, until, left)
        new = self.settled.of(current)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = old - new
            share = (one - new) / step
            soft = (left > 0) & (np.abs(share) < 1)
            tail = np.where(soft, share / (1 - left) - self.settle_samples, 0.0)
            self.old = np.asarray((mixed - new) / step + tail)
            # What was not settled before the edge, and what does not settle behind it as a step does.
            misfit = np.abs(before - old) + np.abs(two - new - (one - new) * left)
            misfit += np.where(until - first > 3, np.abs(three - new - (two - new) * left), 0.0)
            self.weight = np.nan_to_num(1 / ((misfit / step) ** 2 + _SMALL), posinf=0.0)

    @staticmethod
    def _level(whole: Integrator, first: IntArray, until: IntArray, left: float) -> _Settled:
        """A sample that has settled, where there is one and the first samples lead there; else where these lead."""
        one, two = (whole.nearest(first + place, later=True) for place in (0, 1))
        if not left:
            return _Settled(one, one, np.zeros(first.size))
        later = whole.nearest(first + SETTLED_SAMPLES, later=True)
        current = whole.current
        ahead = (current[two] - left * current[one]) / (1 - left)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.abs(ahead - current[later]) > _FLAT * np.abs(whole.level(current, first - 2, later=False) - ahead)
        short = until - first <= 2 * SETTLED_SAMPLES
        # With one whole sample before the next edge, that one is all there is.
        single = until - first < 3
        second = np.where(short | far, two, later)
        remains = np.where(short | far, left, left**SETTLED_SAMPLES)
        return _Settled(one, np.where(single, one, second), np.where(single, 0.0, remains))


def _last_seen(seen: npt.NDArray[np.bool_]) -> IntArray:
    """For every sample the last one seen up to it (itself where it was)."""
    return np.maximum(np.maximum.accumulate(np.where(seen, np.arange(seen.size), -1)), 0)


def _next_seen(seen: npt.NDArray[np.bool_]) -> IntArray:
    """For every sample the next one seen from it on (itself where it was)."""
    last = seen.size - 1
    return last - _last_seen(seen[::-1])[::-1]
