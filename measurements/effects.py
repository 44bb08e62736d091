"""A figure of a method against the same figure of a baseline, with its interval.

Sources:
    Interval of a share: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA
    22(158), 1927. Interval of a difference or ratio from those of its two parts: R. G. Newcombe, "Interval Estimation
    for the Difference between Independent Proportions", Statistics in Medicine 17(8), 1998; G. Y. Zou and A. Donner,
    "Construction of Confidence Limits about Effect Measures", Statistics in Medicine 27(10), 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import WorkloadError
from measurements.claims import Form
from measurements.statistics import summarize

_Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % confidence interval; without spread, both ends are the figure."""

    value: float
    low: float
    high: float


def share(value: float, trials: int) -> Value:
    """A share of so many trials with its interval by Wilson.

    Raises:
        WorkloadError: no trials, or no share.
    """
    if trials < 1 or not 0 <= value <= 1:
        raise WorkloadError(f"{value} is no share of {trials} trials")
    square = _Z * _Z
    middle = (value + square / (2 * trials)) / (1 + square / trials)
    half = _Z * math.sqrt(value * (1 - value) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return Value(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def effect(form: Form, method: Sequence[Value], base: Sequence[Value]) -> Value | None:
    """Method against baseline, both measured so often, in the order of the rounds; None where it is no number.

    One round: from the intervals of the two. Several: the median over the rounds and its interval, since what drifts
    from round to round is the same for both.

    Raises:
        WorkloadError: another number of rounds of one than of the other, or none.
    """
    if not method or len(method) != len(base):
        raise WorkloadError(f"a method was measured {len(method)} times and its baseline {len(base)} times")
    each = [_effect(form, one, other) for one, other in zip(method, base, strict=True)]
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return None
    if len(known) == 1:
        return known[0]
    summary = summarize([one.value for one in known])
    return Value(summary.median, summary.ci_low, summary.ci_high)


def _effect(form: Form, method: Value, base: Value) -> Value | None:
    if form == "difference":
        return _difference(method, base)
    above, below = (base, method) if form == "reduction" else (method, base)
    if above.value <= 0 or below.value <= 0:
        return None
    logs = _difference(_log(above), _log(below))
    # Through the logarithm a ratio of whole numbers loses its last digit.
    return Value(above.value / below.value, _exp(logs, logs.low, above, below), _exp(logs, logs.high, above, below))


def _difference(one: Value, other: Value) -> Value:
    value = one.value - other.value
    return Value(
        value,
        value - math.hypot(one.value - one.low, other.high - other.value),
        value + math.hypot(one.high - one.value, other.value - other.low),
    )


def _exp(logs: Value, end: float, above: Value, below: Value) -> float:
    return above.value / below.value if end == logs.value else math.exp(end)


def _log(value: Value) -> Value:
    return Value(*(math.log(one) if one > 0 else -math.inf for one in (value.value, value.low, value.high)))
