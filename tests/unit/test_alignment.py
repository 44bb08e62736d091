"""Two traces of one load, the second begun later and read by another clock: the shift and the clocks are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import ConfigError
from measurements.alignment import Alignment, align
from measurements.record import Trace

DT_S = 1e-5


class Steps:
    """A load of random levels; its charge in closed form."""

    def __init__(self, seed: int, duration_s: float) -> None:
        rng = np.random.default_rng(seed)
        edges = np.cumsum(rng.uniform(0.3e-3, 6e-3, int(duration_s / 0.3e-3)))
        self._edges = np.concatenate(([-1.0, 0.0], edges[edges < duration_s + 1], [duration_s + 2]))
        levels = rng.uniform(1e-3, 20e-3, self._edges.size - 1)
        self._charge = np.concatenate(([0.0], np.cumsum(levels * np.diff(self._edges))))

    def trace(self, begin_s: float, samples: int, ratio: float = 1.0, noise_a: float = 0.0, seed: int = 0) -> Trace:
        """Means over the periods of a meter that begins at ``begin_s`` and whose seconds last ``ratio``."""
        times = begin_s + np.arange(samples + 1) * (DT_S * ratio)
        current = np.diff(np.interp(times, self._edges, self._charge)) / (DT_S * ratio)
        noise = np.random.default_rng(seed).normal(0.0, noise_a, samples) if noise_a else 0.0
        return Trace(0.0, DT_S, 3.3, (current + noise).astype(np.float32), np.zeros(samples, np.uint8))


def errors(found: Alignment, offset_s: float, ratio: float, samples: int) -> tuple[float, float]:
    """Greatest error of a sample's place, in samples, and the error of the ratio."""
    index: npt.NDArray[np.float64] = np.array([0.0, samples * DT_S])
    return float(np.abs(found.time_s(index) - offset_s - ratio * index).max() / DT_S), abs(found.clock_ratio - ratio)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.floats(0.0, 15_000.0),
    ppm=st.floats(-200.0, 200.0),
)
def test_a_known_shift_and_clock_are_found(seed: int, shift: float, ppm: float) -> None:
    """Without noise: two hundredths of a sample at the ends; 0.004 and less were seen."""
    load, ratio = Steps(seed, 0.5), 1 + ppm * 1e-6
    found = align(load.trace(0.0, 40_000), load.trace(shift * DT_S, 20_000, ratio))
    place, clock = errors(found, shift * DT_S, ratio, 20_000)
    assert place < 0.02
    assert clock < 2e-6
    assert found.correlation > 0.999


@pytest.mark.parametrize(("noise_a", "most_samples", "most_ppm"), [(0.2e-3, 0.1, 8.0), (5e-3, 4.0, 250.0)])
def test_noise_costs_a_fraction_of_a_sample(noise_a: float, most_samples: float, most_ppm: float) -> None:
    """Noise of 1 and 25 % of the full range of levels, the latter as strong as the signal itself.

    Some 60 edges place the trace; what is compared is its end, where the clocks' difference counts most. Seen over
    these seeds: 0.06 and 2.9 samples at most, in proportion to the noise.
    """
    for seed in range(6):
        load, ratio, shift = Steps(seed, 0.5), 1 + 60e-6, 4321.37
        found = align(
            load.trace(0.0, 40_000, noise_a=noise_a, seed=1),
            load.trace(shift * DT_S, 20_000, ratio, noise_a=noise_a, seed=2),
        )
        place, clock = errors(found, shift * DT_S, ratio, 20_000)
        assert place < most_samples
        assert clock < most_ppm * 1e-6


@pytest.mark.parametrize("shift", [-6000.25, 6000.75])
def test_traces_that_overlap_in_part_are_aligned(shift: float) -> None:
    load = Steps(5, 1.0)
    found = align(load.trace(0.1, 20_000), load.trace(0.1 + shift * DT_S, 20_000))
    assert found.offset_s / DT_S == pytest.approx(shift, abs=0.02)
    assert found.clock_ratio == pytest.approx(1.0, abs=2e-6)


def test_a_trace_is_aligned_with_itself() -> None:
    trace = Steps(1, 0.2).trace(0.0, 10_000)
    found = align(trace, trace)
    assert (found.offset_s, found.clock_ratio, found.correlation) == pytest.approx((0.0, 1.0, 1.0), abs=1e-9)


def test_lost_samples_do_not_matter() -> None:
    load = Steps(2, 0.5)
    second = load.trace(1000.5 * DT_S, 20_000)
    second.current_a[5000:5040] = np.nan
    found = align(load.trace(0.0, 40_000), second)
    assert found.offset_s / DT_S == pytest.approx(1000.5, abs=0.1)


def test_long_traces_with_far_clocks() -> None:
    """Ten seconds: at 300 ppm the ends are 300 samples off."""
    load = Steps(9, 11.0)
    found = align(load.trace(0.0, 1_050_000), load.trace(777.3 * DT_S, 1_000_000, 1 + 300e-6))
    place, clock = errors(found, 777.3 * DT_S, 1 + 300e-6, 1_000_000)
    assert place < 0.1
    assert clock < 1e-7


def test_traces_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing in common"):
        align(Steps(1, 0.5).trace(0.0, 20_000), Steps(2, 0.5).trace(0.0, 20_000))
    flat = replace(Steps(1, 0.5).trace(0.0, 20_000), current_a=np.ones(20_000, np.float32))
    with pytest.raises(ConfigError, match="nothing in common"):
        align(flat, flat)


def test_traces_that_cannot_be_aligned_are_named() -> None:
    trace = Steps(1, 0.2).trace(0.0, 1000)
    with pytest.raises(ConfigError, match="100000 and 50000 samples per second"):
        align(trace, replace(trace, dt_s=2e-5))
    with pytest.raises(ConfigError, match="1000 and 100 samples are too short"):
        align(trace, Steps(1, 0.2).trace(0.0, 100))
    with pytest.raises(ConfigError, match="every sample"):
        align(trace, replace(trace, current_a=np.full(1000, np.nan, np.float32)))
