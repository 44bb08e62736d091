"""Change points in one series of noisy figures: where the level moved, robust to single outliers.

Method: hierarchical segmentation (E. S. Page, "Continuous Inspection Schemes", Biometrika 41, 1954; binary
segmentation of L. Vostrikova, 1981) with the significance of each split from random permutations, as E-Divisive does
(D. S. Matteson and N. A. James, "A Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data",
JASA 109(505), 2014; used on nightly benchmarks by D. Daly et al., "The Use of Change Point Detection to Identify
Software Performance Regressions in a Continuous Integration System", ICPE 2020). A permutation test holds its false
alarm rate for every distribution of the noise: no distribution is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """A change of level: values ``[.., index)`` lie around ``before``, values ``[index, ..)`` around ``after``."""

    index: int
    before: float
    after: float
    p_value: float


def exact_changes(values: FloatArray) -> tuple[int, ...]:
    """Places where a counted figure differs from the one before, shape (n,) → indices."""
    return tuple(int(index) for index in np.flatnonzero(np.diff(values)) + 1)


# Long enough that a single outlier is never the middle value, short enough that the third night of a new level is.
_WINDOW = 5
_CLIP_SIGMAS = 3.0
_MAD_TO_SIGMA = 1.4826
_MINIMUM_NIGHTS = 8
_MINIMUM_SEGMENT = 2
_RECENT = 5
_OLD_PENALTY = 0.6
_PERMUTATIONS = 999
_ALPHA = 0.01
_SEED = 20100501


def despike(values: FloatArray) -> FloatArray:
    """Values with what stands apart from its neighbours moved to within three sigmas of them.

    The neighbourhood is a running median over five nights, the noise its median absolute residual (F. R. Hampel,
    "The Influence Curve and its Role in Robust Estimation", JASA 69, 1974). A step passes whole from its third night.

    Args:
        values: shape (…, n), n ≥ 5.
    """
    n = values.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis=-1)
    middle = np.median(windows, axis=-1)
    place = np.clip(np.arange(n) - _WINDOW // 2, 0, n - _WINDOW)
    local = middle[..., place]
    residual = values - local
    sigma = _MAD_TO_SIGMA * np.median(np.abs(residual), axis=-1, keepdims=True)
    return local + np.clip(residual, -_CLIP_SIGMAS * sigma, _CLIP_SIGMAS * sigma)


def _scores(values: FloatArray) -> FloatArray:
    """Student's t of every split of despiked values, less a penalty for old ones, shape (…, n) → (…, n − 3)."""
    n = values.shape[-1]
    centred = values - values.mean(axis=-1, keepdims=True)
    first = np.arange(_MINIMUM_SEGMENT, n - _MINIMUM_SEGMENT + 1)
    sums = np.cumsum(centred, axis=-1)[..., first - 1]
    total = (centred**2).sum(axis=-1, keepdims=True)
    between = sums**2 * n / (first * (n - first))
    within = np.maximum(total - between, 1e-12 * total) / (n - 2)
    score: FloatArray = np.sqrt(between / np.where(within > 0, within, 1.0))
    score -= np.where(n - first > _RECENT, _OLD_PENALTY, 0.0)
    return score


def splits(values: FloatArray, minimum_effect: float) -> tuple[Split, ...]:
    """Changes of level in noisy values, in order.

    Args:
        values: shape (n,), finite; fewer than eight never show a change.
        minimum_effect: smallest change that counts, relative to the level before.
    """
    generator = np.random.default_rng(_SEED)
    places: dict[int, float] = {}
    todo = [(0, values.size)]
    while todo:
        begin, end = todo.pop()
        found = _best(values[begin:end], generator)
        if found is not None:
            index = begin + found[0]
            places[index] = found[1]
            todo += [(begin, index), (index, end)]
    return _of_size(values, places, minimum_effect)


def _best(values: FloatArray, generator: np.random.Generator) -> tuple[int, float] | None:
    """The most likely split and its p-value; None where noise alone does as much too often."""
    if values.size < _MINIMUM_NIGHTS:
        return None
    scores = _scores(despike(values))
    best = int(np.argmax(scores))
    shuffled = generator.permuted(np.broadcast_to(values, (_PERMUTATIONS, values.size)), axis=1)
    above = int(np.count_nonzero(_scores(despike(shuffled)).max(axis=1) >= scores[best]))
    p_value = (above + 1) / (_PERMUTATIONS + 1)
    return (best + _MINIMUM_SEGMENT, p_value) if p_value <= _ALPHA else None


def _of_size(values: FloatArray, places: dict[int, float], minimum_effect: float) -> tuple[Split, ...]:
    """Splits whose levels differ enough; where one does not, the segments on its sides are one level."""
    kept = sorted(places)
    while True:
        edges = [0, *kept, values.size]
        levels = [float(np.median(values[a:b])) for a, b in pairwise(edges)]
        sizes = [
            abs(after - before) / abs(before) if before else np.inf
            for before, after in pairwise(levels)
        ]
        if not sizes or min(sizes) >= minimum_effect:
            return tuple(
                Split(index, before, after, places[index])
                for index, before, after in zip(kept, levels, levels[1:], strict=False)
            )
        del kept[int(np.argmin(sizes))]
