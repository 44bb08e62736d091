"""Summaries against SciPy, the standard library and simulations with a known truth."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import WorkloadError
from measurements.statistics import CONFIDENCE, make_record, median_interval_rank, summarize

FINITE = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 20, 31, 100, 301, 1000, 5000])
def test_the_rank_and_coverage_are_those_of_the_binomial_distribution(n: int) -> None:
    rank, coverage = median_interval_rank(n)
    binomial = scipy.stats.binom(n, 0.5)
    assert coverage == pytest.approx(1 - 2 * binomial.cdf(rank - 1), abs=1e-12)
    if n >= 6:
        assert coverage >= CONFIDENCE
        assert 1 - 2 * binomial.cdf(rank) < CONFIDENCE, "a narrower interval would do"
    else:
        assert rank == 1


@pytest.mark.parametrize("n", [6, 9, 25, 80, 300])
def test_the_interval_is_that_of_scipys_quantile_test(n: int) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    low, high = np.asarray(scipy.stats.quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)).tolist()
    ours = summarize(list(values))
    # SciPy picks each side on its own; ranks may differ by one where its inverse CDF rounds.
    ordered = np.sort(values)
    for mine, reference in ((ours.ci_low, low), (ours.ci_high, high)):
        assert abs(int(np.searchsorted(ordered, mine)) - int(np.searchsorted(ordered, reference))) <= 1


@pytest.mark.parametrize("n", [6, 15, 40])
@pytest.mark.parametrize("shape", ["lognormal", "bimodal"])
def test_the_interval_covers_the_true_median_as_often_as_it_says(n: int, shape: str) -> None:
    rng = np.random.default_rng(2026)
    rounds = 1500
    if shape == "lognormal":
        draws, truth = rng.lognormal(0.0, 0.8, (rounds, n)), 1.0
    else:
        side = rng.integers(0, 2, (rounds, n)) * 2 - 1
        draws, truth = side * rng.uniform(0.0, 1.0, (rounds, n)), 0.0
    summaries = [summarize(list(row)) for row in draws]
    hits = sum(summary.ci_low <= truth <= summary.ci_high for summary in summaries)
    coverage = summaries[0].coverage
    assert abs(hits / rounds - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / rounds)


@given(st.lists(FINITE, min_size=1, max_size=60))
def test_figures_agree_with_the_standard_library(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.n == len(values)
    assert summary.first == values[0]
    assert summary.median == pytest.approx(statistics.median(values))
    assert summary.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-3)
    assert min(values) <= summary.ci_low <= summary.median <= summary.ci_high <= max(values)
    assert {summary.ci_low, summary.ci_high} <= set(values)
    if len(values) >= 2:
        percentiles = statistics.quantiles(values, n=100, method="inclusive")
        assert summary.p95 == pytest.approx(percentiles[94], rel=1e-9, abs=1e-3)
        assert summary.p99 == pytest.approx(percentiles[98], rel=1e-9, abs=1e-3)


@given(st.integers(min_value=0, max_value=2**52), st.integers(min_value=1, max_value=100))
def test_equal_counts_give_an_interval_of_zero_width(count: int, n: int) -> None:
    summary = summarize([count] * n)
    assert (summary.ci_low, summary.median, summary.ci_high) == (count, count, count)
    assert summary.mean == summary.p95 == summary.p99 == count


def test_few_values_fall_back_to_their_range_and_say_so() -> None:
    summary = summarize([5.0, 1.0, 3.0])
    assert (summary.ci_low, summary.ci_high) == (1.0, 5.0)
    assert summary.coverage == pytest.approx(0.75)
    assert "75.0%" in summary.note
    assert "range of 3 values" in summary.note
    assert summarize([2.0]).note == "one value: no interval"
    assert summarize([2.0]).coverage == 0.0
    assert summarize([float(value) for value in range(6)]).note == ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(WorkloadError, match=r"inference: energy: repeat 2 of 4 is"):
        make_record("inference", "energy", "J", "emulated", [1.0, 2.0, bad, 4.0])


def test_no_value_is_an_error() -> None:
    with pytest.raises(WorkloadError, match="no value"):
        summarize([])


def test_a_record_keeps_every_repeat_in_order_and_both_notes() -> None:
    record = make_record("idle", "power", "W", "emulated", [3, 1, 2], alignment="marker", note="virtual")
    assert record.raw == (3.0, 1.0, 2.0)
    assert (record.n, record.median, record.first, record.alignment) == (3, 2.0, 3.0, "marker")
    assert record.note.startswith("virtual; interval is the range")
