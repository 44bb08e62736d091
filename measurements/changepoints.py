"""Change points in one series of figures: where its level moved and stayed, robust to single outliers.

Method: binary segmentation (L. J. Vostrikova, "Detecting 'disorder' in multidimensional random processes", Soviet
Mathematics Doklady 24, 1981). The statistic of a split is Student's t of what lies on its sides, taken of winsorised
values (P. J. Huber, *Robust Statistics*, Wiley 1981, section 1.7) after isolated outliers were set aside (the running
median of F. R. Hampel, "The Influence Curve and Its Role in Robust Estimation", JASA 69, 1974). Its significance comes
from random permutations, as in E-Divisive (D. S. Matteson and N. A. James, "A Nonparametric Approach for Multiple
Change Point Analysis of Multivariate Data", JASA 109, 2014, section 2.3; put to nightly benchmarks by D. Daly et al.,
"The Use of Change Point Detection to Identify Software Performance Regressions in a Continuous Integration System",
ICPE 2020): it keeps its rate of false alarms whatever the distribution of the noise.

Splits among the last nights are where a nightly looks for news; they need less than older ones, which were looked at on
every night since.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MINIMUM_NIGHTS = 8
NEW_LEVEL_NIGHTS = 3  # fewer may be outliers

# Share of series without a change in which one is reported, for one look at all their nights. Chosen on series of
# other seeds than benchmarks/regression.py has, so that its bounds on false alarms and on steps of 2 % both have room.
FALSE_ALARM_RATE = 0.015

_WINDOW = 5  # of the running median: the third night of a new level is its middle value, no single outlier ever is
_OUTLIER_SIGMAS = 5.0
_TEST_CLIP_SIGMAS = 3.5
_PLACE_CLIP_SIGMAS = 2.5
_RECENT_NIGHTS = 3
_OLD_PENALTY = 1.2  # in units of t
_HOPELESS_SCORE = 1.5
_FIRST_PERMUTATIONS, _MORE_PERMUTATIONS = 199, 800
_HOPELESS_P = 0.1
_SEED = 1981

# Median absolute deviation of a normal variable to its standard deviation.
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Split:
    """A change of level: values ``[.., index)`` lie around ``before``, values ``[index, ..)`` around ``after``.

    ``p_value`` is the share of random orders of the values that show as clear a split.
    """

    index: int
    before: float
    after: float
    p_value: float


@dataclass(frozen=True)
class _Segment:
    """Nights ``[begin, end)``; ``depth`` counts the splits that led to it, ``last`` says that it holds the last one."""

    begin: int
    end: int
    depth: int
    last: bool


def exact_changes(values: FloatArray) -> tuple[int, ...]:
    """Indices of counted figures that differ from the one before; ``values`` has shape (n,)."""
    return tuple(int(index) for index in np.flatnonzero(np.diff(values)) + 1)


def splits(values: FloatArray, minimum_effect: float) -> tuple[Split, ...]:
    """Changes of level in noisy values, in order; the same values always yield the same.

    Args:
        values: shape (n,), finite. Fewer than eight nights never show a change, and no level is shorter than three.
        minimum_effect: smallest change that counts, relative to the level before.
    """
    generator = np.random.default_rng(_SEED)
    found: dict[int, float] = {}
    todo = [_Segment(0, values.size, 0, True)]
    while todo:
        segment = todo.pop()
        split = _best_split(values[segment.begin : segment.end], segment, generator)
        if split is not None:
            index, p_value = segment.begin + split[0], split[1]
            found[index] = p_value
            todo.append(_Segment(segment.begin, index, segment.depth + 1, False))
            todo.append(_Segment(index, segment.end, segment.depth + 1, segment.last))
    return _large_enough(values, found, minimum_effect)


def isolated(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Which values stand alone: five sigmas from the median of the five nights around them, shape (n,) with n ≥ 5.

    Three nights in a row, or two around an outlier, are the median of their neighbourhood and so never stand alone.
    """
    return np.asarray(np.abs(values - _running_median(values)) > _OUTLIER_SIGMAS * _sigma(values))


def _best_split(
    values: FloatArray, segment: _Segment, generator: np.random.Generator
) -> tuple[int, float] | None:
    """The likeliest split and its p-value; None where a random order of the nights shows as much too often."""
    if values.size < MINIMUM_NIGHTS:
        return None
    nights = np.flatnonzero(~isolated(values))
    kept = _winsorised(values[nights])
    places = _places(nights, values.size)
    if kept.size < MINIMUM_NIGHTS or not places.size:
        return None
    begins = nights[places - 1] + 1
    recent = segment.last & (values.size - begins <= _RECENT_NIGHTS)
    penalty = np.where(recent, 0.0, _OLD_PENALTY)
    scores = _t_statistics(kept, places) - penalty
    best = int(np.argmax(scores))
    p_value = _p_value(kept, places, penalty, float(scores[best]), generator)
    # Splits below another one are chances more for a false alarm.
    if p_value > FALSE_ALARM_RATE / (2 if segment.depth else 1):
        return None
    if not recent[best]:
        best = int(np.argmax(_t_statistics(_despiked(kept), places)))
    return int(begins[best]), p_value


def _places(nights: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Places in ``nights`` (those not set aside, of ``count``) where a new level of three nights can begin.

    A level begins on the night after the last one of the level before, even if that night was set aside.
    """
    inner = np.arange(2, nights.size - 1)
    begins = nights[inner - 1] + 1
    return inner[(begins >= NEW_LEVEL_NIGHTS) & (count - begins >= NEW_LEVEL_NIGHTS)]


def _p_value(
    values: FloatArray,
    places: npt.NDArray[np.intp],
    penalty: FloatArray,
    score: float,
    generator: np.random.Generator,
) -> float:
    """Share of random orders whose best score is as large; roughly, where that is clearly too many."""
    if score < _HOPELESS_SCORE:
        return 1.0
    above = total = 0
    for count in (_FIRST_PERMUTATIONS, _MORE_PERMUTATIONS):
        shuffled = generator.permuted(np.broadcast_to(values, (count, values.size)), axis=1)
        best = (_t_statistics(shuffled, places) - penalty).max(axis=1)
        above, total = above + int(np.count_nonzero(best >= score)), total + count
        if above + 1 > _HOPELESS_P * (total + 1):
            break
    return (above + 1) / (total + 1)


def _t_statistics(values: FloatArray, places: npt.NDArray[np.intp]) -> FloatArray:
    """Absolute two-sample t of every split, shapes (…, n) and (k,) → (…, k); 0 where all values are the same."""
    n = values.shape[-1]
    centred = values - values.mean(axis=-1, keepdims=True)
    sums = np.cumsum(centred, axis=-1)[..., places - 1]
    total = (centred**2).sum(axis=-1, keepdims=True)
    between = sums**2 * n / (places * (n - places))
    # Nothing is left within a noiseless step; the bound keeps its t finite and above all others.
    within = np.maximum(total - between, 1e-12 * total) / (n - 2)
    squared: FloatArray = between / np.where(within > 0, within, 1.0)
    return np.sqrt(squared)


def _sigma(values: FloatArray) -> float:
    """Noise from night to night; a few steps do not enlarge it."""
    return float(_MAD_TO_SIGMA * np.median(np.abs(np.diff(values))) / np.sqrt(2.0))


def _running_median(values: FloatArray) -> FloatArray:
    """Median of the five nights around each; the first and last two share the window of the third."""
    middle = np.median(np.lib.stride_tricks.sliding_window_view(values, _WINDOW), axis=-1)
    at_ends = np.clip(np.arange(values.size) - _WINDOW // 2, 0, middle.size - 1)
    local: FloatArray = middle[at_ends]
    return local


def _winsorised(values: FloatArray) -> FloatArray:
    """Values at most 3.5 sigmas from the median: the test then does not live on a few extreme nights."""
    sigma = _sigma(values)
    if sigma == 0.0:
        return values
    middle = float(np.median(values))
    return np.clip(values, middle - _TEST_CLIP_SIGMAS * sigma, middle + _TEST_CLIP_SIGMAS * sigma)


def _despiked(values: FloatArray) -> FloatArray:
    """Values at most 2.5 sigmas from their neighbourhood: where a level begins is then not drawn to a lone value."""
    local, sigma = _running_median(values), _sigma(values)
    return local + np.clip(values - local, -_PLACE_CLIP_SIGMAS * sigma, _PLACE_CLIP_SIGMAS * sigma)


def _large_enough(values: FloatArray, found: dict[int, float], minimum_effect: float) -> tuple[Split, ...]:
    """Splits whose levels differ by the minimum effect; the levels on the sides of any other are one."""
    kept = sorted(found)
    while kept:
        levels = [float(np.median(values[begin:end])) for begin, end in pairwise([0, *kept, values.size])]
        sizes = [abs(after - before) / abs(before) if before else np.inf for before, after in pairwise(levels)]
        if min(sizes) >= minimum_effect:
            return tuple(
                Split(index, before, after, found[index])
                for index, (before, after) in zip(kept, pairwise(levels), strict=True)
            )
        del kept[int(np.argmin(sizes))]
    return ()
