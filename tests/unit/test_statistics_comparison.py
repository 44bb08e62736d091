"""Two sets compared, and many comparisons corrected: against brute force, SciPy and simulations with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lab.errors import WorkloadError
from measurements.comparison import benjamini_hochberg, cliffs_delta, compare, holm

small = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(small, small)
def test_the_effect_size_is_what_counting_all_pairs_gives(before: list[float], after: list[float]) -> None:
    pairs = [(one > other) - (one < other) for one in after for other in before]
    assert cliffs_delta(np.asarray(before), np.asarray(after)) == pytest.approx(sum(pairs) / len(pairs))


@given(small, small)
def test_the_effect_size_is_the_test_s_own_statistic(before: list[float], after: list[float]) -> None:
    u = stats.mannwhitneyu(after, before).statistic
    assert compare(before, after).delta == pytest.approx(2 * u / (len(before) * len(after)) - 1)


@given(small, small)
def test_changing_sides_changes_the_sign_and_nothing_else(before: list[float], after: list[float]) -> None:
    there, back = compare(before, after), compare(after, before)
    assert there.delta == pytest.approx(-back.delta)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.before, there.after) == (back.after, back.before)


def test_false_claims_are_as_rare_as_promised_and_true_ones_are_found() -> None:
    generator = np.random.default_rng(1)
    same = [compare(*generator.lognormal(size=(2, 20))).p_value for _ in range(500)]
    assert np.mean(np.asarray(same) < 0.05) == pytest.approx(0.05, abs=0.03)
    moved = [compare(generator.normal(size=20), generator.normal(1.5, size=20)).p_value for _ in range(100)]
    assert np.mean(np.asarray(moved) < 0.05) > 0.95


def test_the_interval_of_the_ratio_covers_the_known_ratio() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        found = compare(list(generator.gamma(9.0, size=40)), list(1.1 * generator.gamma(9.0, size=40)))
        covered += found.ratio_low <= 1.1 <= found.ratio_high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize(
    ("shift", "word"), [(0.05, "negligible"), (0.3, "small"), (0.75, "medium"), (1.5, "large")]
)
def test_words_for_the_effect(shift: float, word: str) -> None:
    """Delta of two normals that lie ``shift`` apart is ``2 Φ(shift/√2) − 1``."""
    quantiles = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    found = compare(list(quantiles), list(quantiles + shift))
    assert found.delta == pytest.approx(2 * stats.norm.cdf(shift / np.sqrt(2)) - 1, abs=0.01)
    assert found.effect == word


def test_equal_sets_differ_in_nothing() -> None:
    found = compare([5.0] * 10, [5.0] * 10)
    assert (found.p_value, found.delta, found.ratio, found.ratio_low, found.ratio_high) == (1.0, 0.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("count", [1, 5, 6, 30])
def test_equal_sets_of_any_size_are_no_difference(count: int) -> None:
    assert compare([5.0] * count, [5.0] * count).p_value == 1.0


def test_an_interval_of_the_ratio_takes_six_repeats_on_both_sides() -> None:
    six = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert np.isfinite(compare(six, six).ratio_low)
    assert np.isnan(compare(six[1:], six).ratio_low)
    assert np.isnan(compare(six, six[1:]).ratio_low)


def test_where_there_is_no_ratio_there_is_none_said() -> None:
    assert np.isnan(compare([0.0] * 6, [1.0] * 6).ratio)
    assert np.isnan(compare([0.0] * 6, [1.0] * 6).ratio_low)
    assert np.isnan(compare([1.0, 2.0], [1.0, 2.0]).ratio_low)


@pytest.mark.parametrize("broken", [[], [float("nan")], [float("-inf")]])
def test_what_is_no_number_is_refused(broken: list[float]) -> None:
    with pytest.raises(WorkloadError):
        compare([1.0], broken)
    with pytest.raises(WorkloadError):
        compare(broken, [1.0])


@given(p_values)
def test_benjamini_hochberg_agrees_with_scipy(values: list[float]) -> None:
    assert benjamini_hochberg(values) == pytest.approx(tuple(stats.false_discovery_control(values)))


@given(p_values)
def test_holm_agrees_with_its_definition(values: list[float]) -> None:
    """Adjusted p of a hypothesis: the largest (m − rank) · p of it and all smaller ones, at most 1."""
    for value, adjusted in zip(values, holm(values), strict=True):
        ordered = sorted(values)
        last = max(index for index, other in enumerate(ordered) if other == value)
        largest = max((len(values) - index) * ordered[index] for index in range(last + 1))
        first = ordered.index(value)
        smallest = max((len(values) - index) * ordered[index] for index in range(first + 1))
        assert min(1.0, smallest) - 1e-12 <= adjusted <= min(1.0, largest) + 1e-12


def test_corrections_hold_what_they_promise_over_many_metrics() -> None:
    """80 metrics that did not move and 20 that did: share of sessions with a false claim, and of claims that are."""
    generator = np.random.default_rng(3)
    family, false_share = 0, []
    for _ in range(300):
        null = generator.random(80)
        real = stats.norm.sf(generator.normal(4.0, size=20)) * 2
        family += min(holm([*null, *real])[:80]) < 0.05
        claims = np.asarray(benjamini_hochberg([*null, *np.minimum(real, 1.0)])) < 0.05
        false_share.append(claims[:80].sum() / max(1, claims.sum()))
    assert family / 300 <= 0.05 + 0.03
    assert np.mean(false_share) <= 0.05 + 0.01


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
@pytest.mark.parametrize("broken", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(correct: object, broken: float) -> None:
    assert callable(correct)
    with pytest.raises(WorkloadError, match="p-value 1 is"):
        correct([0.5, broken])
