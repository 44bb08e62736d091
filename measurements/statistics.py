"""Summaries of repeated measurements: median, its confidence interval, percentiles.

Sources:
    Median interval: order statistics, whose ranks follow a binomial distribution whatever the distribution
    of the values (H. A. David and H. N. Nagaraja, *Order Statistics*, 3rd ed., Wiley 2003, section 7.1;
    J.-Y. Le Boudec, *Performance Evaluation of Computer and Communication Systems*, EPFL Press 2010,
    theorem 2.1). The coverage is exact for continuous distributions and a lower bound where values tie, as
    counted metrics do.
    Percentiles: linear interpolation, type 7 of R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical
    Packages", The American Statistician 50(4), 1996, which is NumPy's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lab.errors import WorkloadError
from measurements.record import Alignment, Record, Source

CONFIDENCE = 0.95
_TAIL_NUMERATOR, _TAIL_DENOMINATOR = 1, 40  # (1 − CONFIDENCE) / 2 as an exact fraction


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


def summarize(values: Sequence[float]) -> Summary:
    """Summarise repeats of one figure.

    Args:
        values: at least one finite value, in the order of measurement.

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
) -> Record:
    """The record of one metric of one region from its repeats; the summary's note is added to ``note``.

    Args:
        region, metric, unit, source, alignment, lost_fraction: as in :class:`measurements.record.Record`.
        values: the repeats, in order.
        note: what a reader must know.

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
        ci_low=summary.ci_low,
        ci_high=summary.ci_high,
        p95=summary.p95,
        p99=summary.p99,
        first=summary.first,
        alignment=alignment,
        lost_fraction=lost_fraction,
        note="; ".join(part for part in (note, summary.note) if part),
    )
