"""Repeated measurements: warm-up, how many repeats, summary with confidence interval, marking of outliers.

Nothing here removes a value. Two sets are compared in :mod:`measurements.comparison`, nights in
:mod:`measurements.regression`.

Sources:
    Median interval: order statistics, whose ranks follow a binomial distribution whatever the distribution
    of the values (H. A. David and H. N. Nagaraja, *Order Statistics*, 3rd ed., Wiley 2003, section 7.1;
    J.-Y. Le Boudec, *Performance Evaluation of Computer and Communication Systems*, EPFL Press 2010,
    theorem 2.1). The coverage is exact for continuous distributions and a lower bound where values tie, as
    counted metrics do.
    Percentiles: linear interpolation, type 7 of R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical
    Packages", The American Statistician 50(4), 1996, which is NumPy's default.
    Bootstrap interval: B. Efron and R. J. Tibshirani, *An Introduction to the Bootstrap*, Chapman & Hall 1993,
    chapter 13 (percentile) with n ≥ 6; :mod:`scipy.stats` has the same under ``method="percentile"``.
    Warm-up: MSER-5 of K. P. White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output",
    Simulation 69(6), 1997, and K. P. White, M. J. Cobb and S. C. Spratt, "A Comparison of Five Steady-State Truncation
    Heuristics for Simulation", WSC 2000, with the half of the series as its limit. Whether the rest is steady: the two
    halves are compared against the mean square successive difference, which a slow drift does not enlarge
    (J. von Neumann, "Distribution of the Ratio of the Mean Square Successive Difference to the Variance", Annals of
    Mathematical Statistics 12(4), 1941).
    Repeats until a precision: sequential sampling until the interval is narrow enough, whose coverage tends to the
    nominal one as the target tightens (Y. S. Chow and H. Robbins, "On the Asymptotic Theory of Fixed-Width Sequential
    Confidence Intervals for the Mean", Annals of Mathematical Statistics 36, 1965).
    Outliers: modified z-score of B. Iglewicz and D. C. Hoaglin, *How to Detect and Handle Outliers*, ASQC 1993,
    whose threshold of 3.5 is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lab.errors import WorkloadError
from measurements.record import Alignment, Record, Source

CONFIDENCE = 0.95
_TAIL_NUMERATOR, _TAIL_DENOMINATOR = 1, 40  # (1 − CONFIDENCE) / 2 as an exact fraction

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]

OUTLIER_SCORE = 3.5
_BATCH = 5  # MSER-5 judges means of five: single spikes do not pass for warm-up
_NEAR_MINIMUM = 1.25
_BOOTSTRAP_MINIMUM = 6
_BOOTSTRAP_SEED = 1979


@dataclass(frozen=True)
class Summary:
    """A set of repeats in a few numbers, all in the unit of the values.

    Attributes:
        n: number of values.
        median: middle value, or the mean of the two middle ones.
        ci_low, ci_high: confidence interval of the median; two of the values themselves.
        p95, p99: percentiles.
        first: the first value, where caches and branch predictors were cold.
        mean: arithmetic mean.
        coverage: exact probability that ``[ci_low, ci_high]`` holds the true median; below 0.95 for fewer
            than six values.
        note: says where the interval is only the range of the values, else empty.
    """

    n: int
    median: float
    ci_low: float
    ci_high: float
    p95: float
    p99: float
    first: float
    mean: float
    coverage: float
    note: str = ""


@lru_cache(maxsize=256)
def median_interval_rank(n: int) -> tuple[int, float]:
    """Rank ``r`` such that the ``r``-th smallest and largest of ``n`` values bound the median, and the coverage.

    ``r`` is the largest rank whose interval still covers the median with probability 0.95, and 1 (the range
    of the values) where no rank does. The binomial sums are whole numbers: the coverage is exact to rounding.

    Args:
        n: number of values, at least 1.
    """
    total = 1 << n
    rank, below = 1, 1
    cumulative, term = 1, 1
    for successes in range(1, (n + 1) // 2):
        term = term * (n - successes + 1) // successes
        cumulative += term
        if cumulative * _TAIL_DENOMINATOR > total * _TAIL_NUMERATOR:
            break
        rank, below = successes + 1, cumulative
    return rank, float(1 - 2 * below / total)


@dataclass(frozen=True)
class WarmUp:
    """How a series of repeats begins.

    Attributes:
        repeats: leading repeats that differ from the rest; 0 where there is no warm-up.
        steady: whether the rest is known to be steady; False where it drifts or moves, or where there are too few
            repeats to tell.
    """

    repeats: int
    steady: bool


@dataclass(frozen=True)
class Repeats:
    """What :func:`repeat_until` measured.

    Attributes:
        values: every repeat in order, the warm-up included.
        warmup: leading repeats that the summary leaves out.
        summary: of the rest.
        reached: whether the target was reached; False where the most repeats allowed were not enough.
    """

    values: tuple[float, ...]
    warmup: int
    summary: Summary
    reached: bool


def summarize(values: Sequence[float]) -> Summary:
    """Summarise repeats of one figure.

    Args:
        values: at least one finite value, in the order of measurement.

    Raises:
        WorkloadError: there is no value, or one is NaN or infinite.
    """
    array = finite(values)
    ordered = np.sort(array)
    n = int(array.size)
    rank, coverage = median_interval_rank(n)
    p95, p99 = np.percentile(ordered, (95, 99))
    return Summary(
        n=n,
        median=float(np.median(ordered)),
        ci_low=float(ordered[rank - 1]),
        ci_high=float(ordered[n - rank]),
        p95=float(p95),
        p99=float(p99),
        first=float(array[0]),
        mean=float(np.clip(np.mean(array), ordered[0], ordered[-1])),
        coverage=coverage,
        note=_interval_note(n, coverage),
    )


def finite(values: Sequence[float] | FloatArray) -> FloatArray:
    """The values as an array of shape (n,), n ≥ 1.

    Raises:
        WorkloadError: there is no value, or one is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise WorkloadError("there is no value to summarise", hint="measure at least one repeat")
    broken = np.flatnonzero(~np.isfinite(array))
    if broken.size:
        raise WorkloadError(
            f"repeat {broken[0]} of {array.size} is {array[broken[0]]}; {broken.size} of them are not finite numbers",
            hint="a figure that could not be measured has to be left out, not recorded as NaN",
        )
    return array


def warm_up(values: Sequence[float]) -> WarmUp:
    """How many leading repeats are warm-up, by the rule MSER-5.

    The repeats are averaged in batches of five. The start is cut where the standard error of the mean of what remains
    is smallest, or at the first place where it is within a quarter of that: the minimum itself wanders. Where the first
    batch is no further from the rest than the batches are from each other, nothing is cut.

    Args:
        values: repeats in order of measurement; fewer than twenty are too few to tell.

    Raises:
        WorkloadError: there is no value, or one is NaN or infinite.
    """
    array = finite(values)
    batches = array[: array.size // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    count = batches.size
    if count < 4:
        return WarmUp(0, False)
    # Sums over what remains after each cut, from the back; centred, so that nothing cancels.
    centred = batches - np.median(batches)
    left = np.arange(count, 0, -1)
    sums, squares = (np.cumsum(part[::-1])[::-1] for part in (centred, centred**2))
    error = np.maximum(squares - sums**2 / left, 0.0) / left**2
    candidates = error[: count // 2 + 1]
    cut = int(np.flatnonzero(candidates <= _NEAR_MINIMUM * candidates.min())[0])
    rest = batches[cut:]
    if cut and abs(batches[0] - np.median(rest)) <= 2.0 * np.std(rest, ddof=1):
        cut = 0
    return WarmUp(cut * _BATCH, _is_steady(batches[cut:]))


def _is_steady(batches: FloatArray) -> bool:
    """Whether the means of both halves agree within three standard errors, of the noise from batch to batch."""
    if batches.size < 4:
        return False
    first, second = np.array_split(batches, 2)
    noise = np.sqrt(np.mean(np.diff(batches) ** 2) / 2)
    return bool(abs(first.mean() - second.mean()) <= 3.0 * noise * np.sqrt(1 / first.size + 1 / second.size))


def repeat_until(
    measure: Callable[[], float], relative_precision: float, *, minimum: int = 10, maximum: int = 1000
) -> Repeats:
    """Measure until the confidence interval of the median is narrow enough, the warm-up left out.

    Stopping at the first narrow interval costs coverage: in the simulation of the tests the 95 % interval holds the
    true median in 92 % of cases and more.

    Args:
        measure: measures once.
        relative_precision: half the width of the interval allowed, relative to the median.
        minimum: repeats before the first look; from six on the interval reaches 95 %.
        maximum: repeats after which it ends anyway.

    Raises:
        WorkloadError: a measured value is NaN or infinite, or the target and limits make no sense.
    """
    if not (relative_precision > 0 and 6 <= minimum <= maximum):
        raise WorkloadError(
            f"cannot repeat until ±{relative_precision:.3g} with {minimum} to {maximum} repeats",
            hint="the precision is above zero, such as 0.01; 6 <= minimum <= maximum",
        )
    values: list[float] = []
    narrow = False
    while True:
        # Looking after every tenth more keeps the number of looks, and so the loss of coverage, small.
        goal = min(maximum, max(minimum, len(values) + max(1, len(values) // 10)))
        values += [measure() for _ in range(goal - len(values))]
        warmup = warm_up(values).repeats
        summary = summarize(values[warmup:])
        was_narrow, narrow = narrow, _is_narrow(summary, relative_precision)
        # One narrow interval may be luck.
        reached = narrow and was_narrow
        if reached or len(values) >= maximum:
            return Repeats(tuple(values), warmup, summary, reached)


def _is_narrow(summary: Summary, relative_precision: float) -> bool:
    width = summary.ci_high - summary.ci_low
    return summary.coverage >= CONFIDENCE and width <= 2 * relative_precision * abs(summary.median)


def bootstrap_interval(
    values: Sequence[float], statistic: Statistic | None = None, *, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic; the same values always yield the same interval.

    For the median, :func:`summarize` needs no resampling; this is for what has no closed form.

    Args:
        values: at least six finite values.
        statistic: maps resamples of shape (resamples, n) to shape (resamples,); default: the median.
        resamples: how many.

    Raises:
        WorkloadError: fewer than six values, or one is NaN or infinite.
    """
    array = finite(values)
    if array.size < _BOOTSTRAP_MINIMUM:
        raise WorkloadError(
            f"{array.size} values are too few to resample; at least {_BOOTSTRAP_MINIMUM} are needed",
            hint="repeat the measurement",
        )
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = array[generator.integers(0, array.size, (resamples, array.size))]
    figures = np.median(drawn, axis=1) if statistic is None else statistic(drawn)
    low, high = np.percentile(figures, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return float(low), float(high)


def mark_outliers(values: Sequence[float], score: float = OUTLIER_SCORE) -> npt.NDArray[np.bool_]:
    """Which values a reader should look at, shape (n,). They are marked, never removed: an outlier is a measurement.

    Marked is what lies more than ``score`` times the scaled median absolute deviation from the median; where more than
    half of the values are the same, the scaled mean absolute deviation takes its place.

    Args:
        values: repeats in any order.
        score: modified z-score above which a value is marked.

    Raises:
        WorkloadError: there is no value, or one is NaN or infinite.
    """
    array = finite(values)
    distance = np.abs(array - np.median(array))
    scale = 1.4826 * np.median(distance)
    if scale == 0.0:
        scale = 1.2533 * distance.mean()
    return np.asarray(distance > score * scale)


def _interval_note(n: int, coverage: float) -> str:
    if n == 1:
        return "one value: no interval"
    if coverage < CONFIDENCE:
        return f"interval is the range of {n} values and covers the median with {coverage:.1%} only"
    return ""


def make_record(
    region: str,
    metric: str,
    unit: str,
    source: Source,
    values: Sequence[float],
    *,
    alignment: Alignment = "none",
    lost_fraction: float = 0.0,
    note: str = "",
    class_uncertainty: float | None = None,
    unsure: float = 0.0,
) -> Record:
    """The record of one metric of one region from its repeats; the summary's note is added to ``note``.

    Args:
        region, metric, unit, source, alignment, lost_fraction, class_uncertainty: as in
            :class:`measurements.record.Record`.
        values: the repeats, in order.
        note: what a reader must know.
        unsure: how far all repeats of this run may be off together while another run is not, in ``unit``: where the
            meter's samples lie in the windows. Repeats within a run do not show it, so the interval is widened by it.

    Raises:
        WorkloadError: there is no value, or one is not finite; names the record.
    """
    try:
        summary = summarize(values)
    except WorkloadError as error:
        raise WorkloadError(f"{region}: {metric}: {error.message}", hint=error.hint) from error
    return Record(
        region=region,
        metric=metric,
        unit=unit,
        source=source,
        raw=tuple(float(value) for value in values),
        n=summary.n,
        median=summary.median,
        ci_low=summary.ci_low - unsure,
        ci_high=summary.ci_high + unsure,
        p95=summary.p95,
        p99=summary.p99,
        first=summary.first,
        alignment=alignment,
        lost_fraction=lost_fraction,
        note="; ".join(part for part in (note, summary.note) if part),
        class_uncertainty=class_uncertainty,
    )


def unsure_of(record: Record) -> float:
    """The ``unsure`` that a record was made with: by how much its interval is wider than its repeats make it."""
    return max(0.0, summarize(record.raw).ci_low - record.ci_low)
