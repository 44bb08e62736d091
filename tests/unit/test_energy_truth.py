"""The method against emulated ground truth: 200 random loads on fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from lab.emulators.meter_models import BENCH_CLASS, HANDHELD_CLASS, MeterErrors, RealisticMeter, ideal_meter
from lab.energy_truth import measure_ideal, measure_realistic, random_case, run_cases

SEEDS = range(200)


def test_an_ideal_meter_gives_net_energy_per_region_within_two_per_mille() -> None:
    summary = run_cases(SEEDS, lambda case, _: measure_ideal(case))
    assert summary.cases == 200
    assert summary.windows > 1500
    assert summary.worst_error < 0.002
    assert summary.worst_window_error < 0.002


@pytest.mark.parametrize("errors", [BENCH_CLASS, HANDHELD_CLASS], ids=["bench", "handheld"])
def test_a_realistic_meter_stays_inside_what_is_stated(errors: MeterErrors) -> None:
    summary = run_cases(SEEDS, lambda case, seed: measure_realistic(case, errors, seed))
    assert summary.inside >= 0.95
    assert summary.windows_inside >= 0.95


def test_what_is_stated_does_not_cover_a_meter_that_is_worse_than_its_class() -> None:
    summary = run_cases(SEEDS, lambda case, seed: measure_realistic(case, HANDHELD_CLASS, seed, beyond=3.0))
    assert summary.inside < 0.7


def test_the_loads_are_what_they_are_said_to_be() -> None:
    cases = [random_case(seed) for seed in SEEDS]
    peaks = np.array([max(one.current_a for one in case.segments if one.bits) for case in cases])
    sleeps = np.array([case.segments[0].current_a for case in cases])
    assert peaks.min() >= 0.08
    assert 1e-6 <= sleeps.min() < 2e-6
    assert 50e-6 < sleeps.max() <= 100e-6
    inside = [np.modf(case.edges_s * case.sample_rate_hz)[0] for case in cases]
    assert np.std(np.concatenate([one.ravel() for one in inside])) > 0.25
    assert 60 < sum(case.measures_voltage for case in cases) < 140
    assert 60 < sum(case.segments[0].settle_s > 0 for case in cases) < 140
    assert random_case(7).segments == random_case(7).segments


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_the_truth_is_the_integral_of_the_load(seed: int) -> None:
    """By the midpoint rule over each segment, not by the closed form."""
    case = random_case(seed)
    first, last = case.edges_s[0, 0], case.edges_s[-1, 1]
    total_j = time_s = 0.0
    current_a = case.segments[0].current_a
    for one in case.segments:
        slices = 20_000
        middle = (np.arange(slices) + 0.5) * one.duration_s / slices
        left = np.exp(-middle / one.settle_s) if one.settle_s else np.zeros(slices)
        flowing = one.current_a + (current_a - one.current_a) * left
        # Segments end where windows do.
        if first <= time_s + one.duration_s / 2 <= last:
            total_j += one.voltage_v * float(flowing.mean()) * one.duration_s
        current_a, time_s = float(flowing[-1]), time_s + one.duration_s
    assert case.load.truth(float(first), float(last)).energy_j == pytest.approx(total_j, rel=1e-5)
    gaps_s = case.edges_s[1:, 0] - case.edges_s[:-1, 1]
    gaps_j = sum(
        case.load.truth(float(end), float(begin)).energy_j
        for end, begin in zip(case.edges_s[:-1, 1], case.edges_s[1:, 0], strict=True)
    )
    net_j = total_j - gaps_j - case.idle_w * (last - first - gaps_s.sum())
    assert case.true_net_j.sum() == pytest.approx(net_j, rel=1e-5)


def test_a_realistic_meter_stays_on_a_range_and_lags_at_its_change() -> None:
    case = random_case(1)
    exact = ideal_meter(case.load, case.sample_rate_hz, case.load.due(case.sample_rate_hz))
    quiet = MeterErrors(BENCH_CLASS.ranges, (1e-12,) * 3, (0.0,) * 3, 0.5, 2, 0.0, 0.0)
    shown = RealisticMeter(quiet, np.random.default_rng(0), beyond=0.0).show(exact)
    off = np.flatnonzero(np.abs(shown.current_a - exact.current_a) > 1e-3 * exact.current_a + 1e-9)
    tops = [one.upto_a for one in BENCH_CLASS.ranges[:-1]]
    ranges = np.searchsorted(tops, exact.current_a)
    changes = np.flatnonzero(np.diff(ranges)) + 1
    assert off.size
    assert all(np.min(np.abs(changes - place)) <= 2 for place in off)
