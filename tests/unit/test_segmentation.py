"""Regions without markers, against the true ones of scripted loads."""

from __future__ import annotations

import numpy as np
import pytest

from lab.emulators.load import ScriptedLoad, Segment
from lab.errors import ConfigError
from measurements.record import Trace
from measurements.segmentation import Agreement, compare, noise_of, power_of, segment

RATE_HZ = 100_000
DT_S = 1.0 / RATE_HZ
SHORTEST_S = 20 * DT_S


def script(seed: int, regions: int = 20, settle_s: float = 0.0) -> tuple[ScriptedLoad, list[int]]:
    """Levels of 0.2 to 20 mA, neighbours at least 15 % apart, 0.25 to 12 ms each; and the samples of the changes."""
    rng = np.random.default_rng(seed)
    durations = 10.0 ** rng.uniform(np.log10(0.25e-3), np.log10(12e-3), regions)
    levels = [float(10.0 ** rng.uniform(-3.7, -1.7))]
    while len(levels) < regions:
        level = float(10.0 ** rng.uniform(-3.7, -1.7))
        if abs(level - levels[-1]) > 0.15 * max(level, levels[-1]):
            levels.append(level)
    segments = [
        Segment(float(duration), level, settle_s=settle_s) for duration, level in zip(durations, levels, strict=True)
    ]
    return ScriptedLoad(segments), [int(place) for place in np.ceil(np.cumsum(durations[:-1]) * RATE_HZ)]


def trace_of(load: ScriptedLoad, noise_a: float = 0.0, seed: int = 0) -> Trace:
    samples = load.samples(0, load.due(RATE_HZ), RATE_HZ)
    noise = np.random.default_rng(seed).normal(0.0, noise_a, samples.current_a.size) if noise_a else 0.0
    current = (samples.current_a + noise).astype(np.float32)
    return Trace(0.0, DT_S, 3.3, current, np.zeros(current.size, np.uint8))


def agreement(load: ScriptedLoad, true: list[int], noise_a: float, seed: int, settle_s: float = 0.0) -> Agreement:
    found = segment(trace_of(load, noise_a, seed), shortest_s=SHORTEST_S, settle_s=settle_s)
    return compare([one.start for one in found[1:]], true, tolerance=10)


# Seen over these seeds: F1 1.000, 1.000, 0.998, mean error 0.49, 0.49, 0.53 samples: an edge lies inside a sample.
@pytest.mark.parametrize(
    ("noise_a", "least_f1", "most_error"), [(0.0, 0.995, 0.6), (10e-6, 0.99, 0.6), (0.1e-3, 0.98, 0.7)]
)
def test_regions_of_random_loads_are_found(noise_a: float, least_f1: float, most_error: float) -> None:
    results = [agreement(*script(seed), noise_a, seed) for seed in range(15)]
    matched, found, true = (sum(getattr(one, name) for one in results) for name in ("matched", "found", "true"))
    assert true == 15 * 19
    assert 2 * matched / (found + true) >= least_f1
    assert np.abs(np.concatenate([one.errors for one in results])).mean() <= most_error


def test_settling_edges_are_one_change_each() -> None:
    results = [agreement(*script(seed, settle_s=20e-6), 10e-6, seed, 20e-6) for seed in range(8)]
    assert min(one.f1 for one in results) >= 0.9
    assert sum(one.matched for one in results) / sum(one.true for one in results) >= 0.97


@pytest.mark.parametrize("noise_a", [0.0, 1e-6, 1e-3])
def test_one_level_is_one_region(noise_a: float) -> None:
    for seed in range(6):
        load = ScriptedLoad([Segment(0.2, 5e-3)])
        (only,) = segment(trace_of(load, noise_a, seed), shortest_s=SHORTEST_S)
        assert (only.start, only.stop) == (0, 20_000)
        assert only.power_w == pytest.approx(5e-3 * 3.3, rel=1e-2)


def test_energies_of_the_regions_are_those_of_the_script() -> None:
    load, true = script(4)
    trace = trace_of(load)
    found = segment(trace, shortest_s=SHORTEST_S)
    assert [one.start for one in found[1:]] == pytest.approx(true, abs=1)
    for one in found:
        expected = load.truth(one.start * DT_S, one.stop * DT_S).energy_j
        assert one.energy_j == pytest.approx(expected, rel=1e-6)
    assert sum(one.energy_j for one in found) == pytest.approx(float(power_of(trace).sum()) * DT_S, rel=1e-12)


def test_a_short_burst_in_a_long_sleep_is_found() -> None:
    load = ScriptedLoad([Segment(5.0, 20e-6), Segment(0.5e-3, 12e-3), Segment(5.0, 20e-6)])
    found = segment(trace_of(load, 5e-6), shortest_s=SHORTEST_S)
    assert [(one.start, one.stop) for one in found] == [(0, 500_000), (500_000, 500_050), (500_050, 1_000_050)]


def test_small_steps_count_only_when_asked_for() -> None:
    load = ScriptedLoad([Segment(0.05, 10e-3), Segment(0.05, 10.1e-3), Segment(0.05, 20e-3)])
    trace = trace_of(load, 20e-6)
    assert [one.start for one in segment(trace, shortest_s=SHORTEST_S)] == [0, 10_000]
    fine = segment(trace, shortest_s=SHORTEST_S, least_step=0.005)
    assert [one.start for one in fine] == pytest.approx([0, 5_000, 10_000], abs=5)


def test_lost_samples_make_no_region_and_no_figure() -> None:
    load = ScriptedLoad([Segment(0.05, 10e-3), Segment(0.05, 20e-3)])
    trace = trace_of(load, 1e-5)
    trace.current_a[2000:2400] = np.nan
    trace.current_a[:3] = np.nan
    assert [one.start for one in segment(trace, shortest_s=SHORTEST_S)] == [0, 5000]


def test_a_measured_voltage_makes_a_region_too() -> None:
    count = 4000
    volts = np.where(np.arange(count) < 2500, 3.3, 1.8).astype(np.float32)
    trace = Trace(0.0, DT_S, 3.3, np.full(count, 0.01, np.float32), np.zeros(count, np.uint8), measured_v=volts)
    found = segment(trace, shortest_s=SHORTEST_S)
    assert [one.start for one in found] == [0, 2500]
    assert [one.power_w for one in found] == pytest.approx([0.033, 0.018], rel=1e-6)


def test_the_noise_is_measured_whatever_the_levels_do() -> None:
    load, _ = script(1)
    assert noise_of(power_of(trace_of(load, 50e-6))) == pytest.approx(50e-6 * 3.3, rel=0.05)


def test_traces_that_cannot_be_cut_are_named() -> None:
    with pytest.raises(ConfigError, match="39 samples cannot be cut into regions of at least 20"):
        segment(Trace(0.0, DT_S, 3.3, np.ones(39, np.float32), np.zeros(39, np.uint8)), shortest_s=SHORTEST_S)
    with pytest.raises(ConfigError, match="every sample of the trace was lost"):
        segment(Trace(0.0, DT_S, 3.3, np.full(99, np.nan, np.float32), np.zeros(99, np.uint8)), shortest_s=SHORTEST_S)


def test_changes_are_matched_one_to_one() -> None:
    one = compare([10, 12, 50, 90], [11, 52, 200], tolerance=3)
    assert (one.matched, one.found, one.true) == (2, 4, 3)
    assert sorted(one.errors.tolist()) == [-2, -1]
    assert (one.precision, one.recall, one.f1) == pytest.approx((0.5, 2 / 3, 4 / 7))
    assert one.mean_error_samples == 1.5
    nothing = compare([], [], 5)
    assert (nothing.f1, nothing.precision, nothing.recall, nothing.mean_error_samples) == (1.0, 1.0, 1.0, 0.0)
    assert compare([3], [], 5).f1 == 0.0
