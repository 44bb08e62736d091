"""Warm-up, repeats until a precision, bootstrap and outlier marks against simulations with known truth and SciPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lab.errors import WorkloadError
from measurements.statistics import WarmUp, bootstrap_interval, mark_outliers, repeat_until, summarize, warm_up

FloatArray = npt.NDArray[np.float64]
finite_floats = st.floats(-1e6, 1e6, allow_subnormal=False)
TIME = np.arange(100)


def series(shape: FloatArray, seed: int, sd: float = 0.01) -> list[float]:
    return list(1.0 + shape + sd * np.random.default_rng(seed).standard_normal(shape.size))


# ---- warm-up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [5, 20, 35])
@pytest.mark.parametrize("by", [0.02, 0.1, 0.5])
def test_a_slow_start_is_cut_where_it_ends(slow: int, by: float) -> None:
    cuts = [warm_up(series(by * (slow > TIME), seed)) for seed in range(50)]
    assert sum(cut.repeats >= slow for cut in cuts) >= 44
    assert np.median([cut.repeats for cut in cuts]) == slow
    assert sum(cut.steady for cut in cuts) >= 45


def test_a_warm_up_that_fades_is_cut_where_what_is_left_of_it_is_below_the_noise() -> None:
    fading = 0.2 * np.exp(-TIME / 10)
    for seed in range(50):
        assert fading[warm_up(series(fading, seed)).repeats :].max() < 0.02


def test_a_cold_first_repeat_costs_one_batch() -> None:
    assert np.median([warm_up(series(0.5 * (TIME == 0), seed)).repeats for seed in range(50)]) == 5


def test_without_a_warm_up_hardly_anything_is_cut() -> None:
    cuts = [warm_up(series(np.zeros(100), seed)).repeats for seed in range(200)]
    assert sum(cut > 0 for cut in cuts) <= 20


@pytest.mark.parametrize("shape", [0.3 * TIME / 100, 0.1 * (TIME > 80)], ids=["drift", "late step"])
def test_what_never_settles_is_called_so(shape: FloatArray) -> None:
    assert not any(warm_up(series(shape, seed)).steady for seed in range(50))


def test_counts_without_noise_have_no_warm_up() -> None:
    assert warm_up([123456.0] * 40) == WarmUp(0, True)


def test_a_spike_in_the_middle_is_no_warm_up() -> None:
    assert warm_up([1.0] * 30 + [9.0] + [1.0] * 69).repeats == 0


@pytest.mark.parametrize("count", [1, 5, 19])
def test_too_few_repeats_to_tell(count: int) -> None:
    assert warm_up([1.0] * count) == WarmUp(0, False)


@given(st.lists(finite_floats, min_size=1, max_size=120))
def test_at_most_half_is_cut_and_never_part_of_a_batch(values: list[float]) -> None:
    found = warm_up(values)
    assert found.repeats % 5 == 0
    assert found.repeats <= len(values) / 2


# ---- repeats until a precision ------------------------------------------------------------------------------------


def draws(seed: int, sd: float = 0.1) -> Iterator[float]:
    generator = np.random.default_rng(seed)
    while True:
        yield float(np.exp(sd * generator.standard_normal()))


def test_the_interval_is_as_narrow_as_asked_and_covers_the_known_median() -> None:
    """Median of the log-normal is 1; sequential stopping costs some of the 95 % (docs/statistics.md: at least 90 %)."""
    covered = 0
    for seed in range(300):
        source = draws(seed)
        found = repeat_until(lambda source=source: next(source), 0.03)  # type: ignore[misc]
        assert found.reached
        assert found.summary.ci_high - found.summary.ci_low <= 2 * 0.03 * found.summary.median
        covered += found.summary.ci_low <= 1.0 <= found.summary.ci_high
    assert covered >= 270


def test_a_tighter_target_takes_about_the_square_of_it_more_repeats() -> None:
    needed = []
    for target in (0.04, 0.02):
        source = draws(3)
        needed.append(len(repeat_until(lambda source=source: next(source), target).values))  # type: ignore[misc]
    assert 2 <= needed[1] / needed[0] <= 8


def test_it_stops_at_the_most_repeats_and_says_that_the_target_was_missed() -> None:
    source = draws(1)
    found = repeat_until(lambda: next(source), 1e-4, maximum=50)
    assert (len(found.values), found.reached) == (50, False)


def test_counted_figures_stop_at_the_second_look() -> None:
    found = repeat_until(lambda: 1000.0, 1e-9, minimum=10)
    assert found.reached
    assert len(found.values) == 11


def test_the_warm_up_is_left_out_of_the_summary_but_kept_in_the_values() -> None:
    source = iter([5.0] * 20 + series(np.zeros(1000), 2))
    found = repeat_until(lambda: next(source), 0.001, minimum=100)
    assert found.warmup >= 20
    assert found.values[:20] == (5.0,) * 20
    assert found.summary == summarize(found.values[found.warmup :])


@pytest.mark.parametrize(("precision", "minimum", "maximum"), [(0.0, 10, 20), (-1, 10, 20), (0.1, 5, 20), (0.1, 9, 8)])
def test_targets_that_make_no_sense_are_refused(precision: float, minimum: int, maximum: int) -> None:
    with pytest.raises(WorkloadError, match="cannot repeat until"):
        repeat_until(lambda: 1.0, precision, minimum=minimum, maximum=maximum)


def test_a_measurement_that_is_nan_ends_it() -> None:
    with pytest.raises(WorkloadError, match="nan"):
        repeat_until(lambda: float("nan"), 0.1)


# ---- bootstrap ----------------------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(4).gamma(2.0, size=60)
    low, high = bootstrap_interval(list(values), lambda drawn: drawn.mean(axis=1), resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_the_bootstrap_of_the_median_covers_the_truth() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(list(generator.exponential(size=40)), resamples=500)
        covered += low <= np.log(2) <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_the_bootstrap_repeats_itself() -> None:
    values = list(np.random.default_rng(6).random(20))
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_five_values_are_too_few_to_resample() -> None:
    with pytest.raises(WorkloadError, match="5 values are too few"):
        bootstrap_interval([1.0] * 5)


# ---- outliers -----------------------------------------------------------------------------------------------------


def test_outliers_are_marked_and_hardly_anything_else() -> None:
    generator = np.random.default_rng(7)
    false = 0
    for _ in range(100):
        values = 1 + 0.01 * generator.standard_normal(50)
        places = generator.choice(50, 3, replace=False)
        values[places] *= 1.2
        marks = mark_outliers(list(values))
        assert marks[places].all()
        false += int(marks.sum()) - 3
    assert false <= 100 * 50 * 0.005  # a normal value is marked with probability 0.0005, more in small sets


@given(st.lists(finite_floats, min_size=3, max_size=40))
def test_marks_agree_with_the_modified_z_score_of_scipy_s_mad(values: list[float]) -> None:
    array = np.asarray(values)
    mad = float(stats.median_abs_deviation(array))
    marks = mark_outliers(values)
    assert marks.shape == (len(values),)
    if mad > 1e-9 * float(np.abs(array).max()):
        score = 0.6745 * np.abs(array - np.median(array)) / mad
        clear = np.abs(score - 3.5) > 0.01
        assert np.array_equal(marks[clear], (score > 3.5)[clear])


def test_one_other_value_among_equal_ones_is_marked() -> None:
    assert mark_outliers([7.0] * 20 + [8.0]).tolist() == [False] * 20 + [True]
    assert not mark_outliers([7.0] * 20).any()


@pytest.mark.parametrize("function", [warm_up, mark_outliers, bootstrap_interval])
@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")]], ids=["none", "nan", "inf"])
def test_what_is_no_number_is_refused(function: object, values: list[float]) -> None:
    assert callable(function)
    with pytest.raises(WorkloadError):
        function(values)
