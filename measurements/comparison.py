"""Two sets of repeats side by side, and what to believe of many such comparisons at once.

Sources:
    Test: H. B. Mann and D. R. Whitney, "On a Test of Whether one of Two Random Variables is Stochastically Larger than
    the Other", Annals of Mathematical Statistics 18(1), 1947; computed by :func:`scipy.stats.mannwhitneyu`, exactly for
    small sets without ties.
    Effect size: Cliff's delta (N. Cliff, "Dominance Statistics: Ordinal Analyses to Answer Ordinal Questions",
    Psychological Bulletin 114(3), 1993); its words by J. Romano et al., "Appropriate Statistics for Ordinal Data",
    Florida Association of Institutional Research, 2006.
    Ratio of medians: percentile bootstrap (B. Efron and R. J. Tibshirani, *An Introduction to the Bootstrap*, 1993).
    Correction: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics
    6(2), 1979 (no false claim at all with probability 0.95); Y. Benjamini and Y. Hochberg, "Controlling the False
    Discovery Rate", JRSS B 57(1), 1995 (at most a twentieth of the claims false, on average).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import WorkloadError
from measurements.statistics import finite

FloatArray = npt.NDArray[np.float64]

SIGNIFICANCE = 0.05
_RESAMPLES = 2000
_SEED = 1947
_WORDS = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"))


@dataclass(frozen=True)
class Comparison:
    """Set ``after`` against set ``before``.

    Attributes:
        before, after: medians.
        ratio: ``after / before``; NaN where ``before`` is zero.
        ratio_low, ratio_high: its 95 % bootstrap interval; NaN where a set has fewer than six values.
        p_value: of the two-sided Mann-Whitney test; 1 where all values are the same.
        delta: Cliff's delta: how much more often a value of ``after`` is the larger one than the smaller one, −1..1.
        effect: ``negligible``, ``small``, ``medium`` or ``large``, by ``abs(delta)``.
    """

    before: float
    after: float
    ratio: float
    ratio_low: float
    ratio_high: float
    p_value: float
    delta: float
    effect: str


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Compare two independent sets of repeats; nothing is assumed of their distribution.

    Args:
        before, after: at least one finite value each. With fewer than four on each side no p-value is below 0.05.

    Raises:
        WorkloadError: a set is empty, or a value is NaN or infinite.
    """
    first, second = finite(before), finite(after)
    middle = float(np.median(first)), float(np.median(second))
    low, high = _ratio_interval(first, second)
    delta = cliffs_delta(first, second)
    return Comparison(
        before=middle[0],
        after=middle[1],
        ratio=middle[1] / middle[0] if middle[0] else float("nan"),
        ratio_low=low,
        ratio_high=high,
        p_value=_mann_whitney(first, second),
        delta=delta,
        effect=next((word for limit, word in _WORDS if abs(delta) < limit), "large"),
    )


def cliffs_delta(before: FloatArray, after: FloatArray) -> float:
    """P(after > before) − P(after < before) over all pairs, −1..1, of arrays of shape (n,) and (m,)."""
    ordered = np.sort(before)
    smaller = np.searchsorted(ordered, after, side="left").sum()
    larger = (before.size - np.searchsorted(ordered, after, side="right")).sum()
    return float(smaller - larger) / (before.size * after.size)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted by Holm, in the order given: below 0.05 holds for all that are with probability 0.95."""
    ordered, order = _sorted(p_values)
    factors = np.arange(ordered.size, 0, -1)
    return _unsorted(np.minimum(np.maximum.accumulate(ordered * factors), 1.0), order)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted by Benjamini and Hochberg, in the order given: of those below 0.05 a twentieth is chance."""
    ordered, order = _sorted(p_values)
    factors = ordered.size / np.arange(1, ordered.size + 1)
    stepped = np.minimum.accumulate((ordered * factors)[::-1])[::-1]
    return _unsorted(np.minimum(stepped, 1.0), order)


def _sorted(p_values: Sequence[float]) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    array = np.asarray(p_values, dtype=np.float64)
    broken = np.flatnonzero(~((array >= 0) & (array <= 1)))
    if broken.size:
        raise WorkloadError(f"p-value {broken[0]} is {array[broken[0]]}; it must lie between 0 and 1")
    order = np.argsort(array, kind="stable")
    return array[order], order


def _unsorted(adjusted: FloatArray, order: npt.NDArray[np.intp]) -> tuple[float, ...]:
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return tuple(float(value) for value in result)


def _mann_whitney(before: FloatArray, after: FloatArray) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(before, after, alternative="two-sided").pvalue)


def _ratio_interval(before: FloatArray, after: FloatArray) -> tuple[float, float]:
    if min(before.size, after.size) < 6:
        return float("nan"), float("nan")
    generator = np.random.default_rng(_SEED)
    below, above = (
        np.median(one[generator.integers(0, one.size, (_RESAMPLES, one.size))], axis=1) for one in (before, after)
    )
    if not np.all(below):
        return float("nan"), float("nan")
    low, high = np.percentile(above / below, (2.5, 97.5))
    return float(low), float(high)
