"""Buckets of a trace: exact sums, whatever the width, the order and the cuts of the stream."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError
from measurements.buckets import POWER_STEP_W, Bucketer, Buckets, bucketed, joined
from measurements.record import Trace

DT_S = 1e-5
CURRENTS = st.lists(st.one_of(st.floats(-1.0, 2.0, width=32), st.just(math.nan)), max_size=400)


def trace_of(current: npt.ArrayLike, voltage_v: float = 3.3, measured: npt.ArrayLike | None = None) -> Trace:
    values = np.asarray(current, np.float32)
    volts = None if measured is None else np.asarray(measured, np.float32)
    return Trace(0.0, DT_S, voltage_v, values, np.zeros(values.size, np.uint8), 0, volts)


def exact_counts(trace: Trace) -> int:
    """Each sample's power rounded to the step in rational arithmetic, ties to even, then added."""
    total = 0
    volts = np.full(trace.current_a.size, trace.voltage_v) if trace.measured_v is None else trace.measured_v
    for amperes, volt in zip(trace.current_a.tolist(), volts.tolist(), strict=True):
        if not math.isnan(amperes * volt):
            total += round(Fraction(amperes * volt) / Fraction(POWER_STEP_W))
    return total


@settings(max_examples=80, deadline=None)
@given(current=CURRENTS, width=st.integers(1, 60), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_the_energies_of_all_buckets_add_up_exactly(current: list[float], width: int, cuts: list[int]) -> None:
    trace = trace_of(current)
    whole = exact_counts(trace)
    bucketer = Bucketer(DT_S, trace.voltage_v, width * DT_S)
    edges = [0, *sorted(min(cut, len(current)) for cut in cuts), len(current)]
    parts = [bucketer.feed(trace.current_a[begin:end]) for begin, end in itertools.pairwise(edges)]
    streamed = joined([*parts, bucketer.finish()])
    at_once = bucketed(trace, width * DT_S)
    assert streamed.total_counts == at_once.total_counts == whole
    for name in ("samples", "least_a", "greatest_a", "mean_a", "energy_counts"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(at_once, name))
    assert at_once.samples.size == -(-len(current) // width)


@settings(max_examples=40, deadline=None)
@given(current=CURRENTS, volts=st.lists(st.floats(0.0, 5.0, width=32), min_size=400, max_size=400))
def test_a_voltage_per_sample_adds_up_exactly_too(current: list[float], volts: list[float]) -> None:
    trace = trace_of(current, measured=volts[: len(current)])
    assert bucketed(trace, 7 * DT_S).total_counts == exact_counts(trace)


def test_joules_are_the_real_sum_within_half_a_step_per_sample() -> None:
    rng = np.random.default_rng(0)
    current = (10.0 ** rng.uniform(-7, -0.5, 300_000)).astype(np.float32)
    trace = trace_of(current)
    real = math.fsum(amperes * 3.3 for amperes in current.tolist()) * DT_S
    found = bucketed(trace)
    assert abs(found.total_j - real) <= 0.5 * POWER_STEP_W * DT_S * current.size + 1e-16 * real
    assert math.fsum(found.energy_j.tolist()) == pytest.approx(found.total_j, rel=1e-15)
    assert found.total_j == pytest.approx(real, rel=1e-12)


def test_float_sums_do_differ_between_widths_and_ours_do_not() -> None:
    """Why whole numbers: the same samples, added as float64 by buckets of 100 and of 128, are two totals."""
    current = (10.0 ** np.random.default_rng(1).uniform(-9, 0, 128_000)).astype(np.float32)
    power = current.astype(np.float64) * 3.3
    # cumsum adds one after the other, as a stream does.
    floats = {float(power.reshape(-1, w).cumsum(axis=1)[:, -1].cumsum()[-1]) for w in (100, 128, 500, 1000)}
    assert len(floats) > 1
    assert len({bucketed(trace_of(current), w * DT_S).total_counts for w in (100, 128, 500, 1000)}) == 1


@pytest.mark.parametrize("lost", [0.0, 0.01, 0.7])
def test_figures_are_those_of_pandas(lost: float) -> None:
    rng = np.random.default_rng(2)
    current = rng.normal(5e-3, 1e-3, 12_345).astype(np.float32)
    current[rng.random(current.size) < lost] = np.nan
    current[4000:4100] = np.nan if lost else current[4000:4100]
    found = bucketed(trace_of(current))
    grouped = pd.Series(current).groupby(np.arange(current.size) // 100)
    np.testing.assert_array_equal(found.least_a, grouped.min().to_numpy())
    np.testing.assert_array_equal(found.greatest_a, grouped.max().to_numpy())
    np.testing.assert_array_equal(found.samples, grouped.count().to_numpy())
    means = pd.Series(current.astype(np.float64)).groupby(np.arange(current.size) // 100).mean()
    np.testing.assert_allclose(found.mean_a, means.to_numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.energy_j, np.nan_to_num(means) * found.samples * 3.3 * DT_S, rtol=1e-9)
    assert found.samples.sum() == np.isfinite(current).sum()


def test_two_million_samples_a_second_give_a_thousand_buckets_a_second() -> None:
    """Counts, not times: 1.5 s of 2 MS/s in blocks of odd size."""
    current = np.full(3_000_000, 0.01, np.float32)
    bucketer = Bucketer(5e-7, 5.0)
    parts = [bucketer.feed(current[begin : begin + 77_777]) for begin in range(0, current.size, 77_777)]
    found = joined([*parts, bucketer.finish()])
    assert (found.samples.size, found.samples_per_bucket, int(found.samples.sum())) == (1500, 2000, 3_000_000)
    assert set(found.energy_counts.tolist()) == {2000 * round(np.float64(np.float32(0.01)) * 5.0 / POWER_STEP_W)}
    assert [part.first for part in parts] == list(np.cumsum([0] + [part.samples.size for part in parts[:-1]]))


def test_a_rate_that_is_no_multiple_is_rounded_to_whole_samples() -> None:
    found = bucketed(replace(trace_of(np.ones(1000)), dt_s=1.0 / 7692))
    assert found.samples_per_bucket == 8
    assert bucketed(replace(trace_of(np.ones(3)), dt_s=0.5)).samples_per_bucket == 1


def test_an_empty_stream_has_no_bucket() -> None:
    found: Buckets = bucketed(trace_of([]))
    assert (found.samples.size, found.total_counts, found.total_j) == (0, 0, 0.0)


def test_a_power_that_cannot_be_added_exactly_is_refused() -> None:
    with pytest.raises(MeterError, match=r"a power of 33000 W in buckets of 100 samples .* at most 5242\.88 W"):
        bucketed(trace_of(np.full(100, 1e4)))
    assert bucketed(trace_of(np.full(100, 1e4)), DT_S).total_j == pytest.approx(33.0)


def test_blocks_with_and_without_a_voltage_are_not_mixed() -> None:
    bucketer = Bucketer(DT_S, 3.3)
    bucketer.feed(np.ones(5, np.float32))
    with pytest.raises(MeterError, match="all or none"):
        bucketer.feed(np.ones(5, np.float32), np.ones(5, np.float32))
