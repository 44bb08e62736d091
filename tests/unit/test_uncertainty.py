"""Class uncertainty: constants of the meter at their limits against what is stated, corrections, and combining."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import ConfigError
from measurements.capture import find_windows
from measurements.energy import measure_windows
from measurements.record import Trace
from measurements.statistics import make_record
from measurements.uncertainty import (
    Correction,
    MeterClass,
    RangeClass,
    RangeCorrection,
    corrected,
    corrected_class,
)
from measurements.window_energy import WindowEnergy

DT = 1e-4
VOLTS = 3.0
IDLE_A, ACTIVE_A = 20e-6, 40e-3
TWO_RANGES = MeterClass((RangeClass(1e-3, 0.01, 1e-6), RangeClass(1.0, 0.02, 1e-4)), voltage=0.005, clock=1e-4)


def trace(active_a: float = ACTIVE_A, idle_a: float = IDLE_A, samples: int = 20_000) -> Trace:
    """One window of whole samples, with quiet on both sides."""
    high = np.zeros(samples + 400, np.uint8)
    high[200:-200] = 1
    return Trace(0.0, DT, VOLTS, np.where(high, active_a, idle_a).astype(np.float32), high)


def figures(shown: Trace, meter: MeterClass | None = None) -> WindowEnergy:
    return measure_windows(shown, find_windows(shown), quiet_s=150 * DT, meter=meter)


def test_the_limits_of_a_square_are_their_closed_form() -> None:
    found = figures(trace(), TWO_RANGES)
    limits = found.limits
    assert limits is not None
    seconds = 20_000 * DT
    gross_j = VOLTS * ACTIVE_A * seconds
    edge_j = DT / 2 * 2 * VOLTS * ACTIVE_A
    change_j = 2 * VOLTS * (ACTIVE_A - IDLE_A) * DT
    scale = 0.005 + 1e-4
    gross = 0.02 * gross_j + 1e-4 * VOLTS * seconds + scale * gross_j + change_j
    assert limits.energy_j[0] == pytest.approx(gross, rel=1e-4)
    idle_j = VOLTS * IDLE_A * seconds
    # The window lies in one range, the quiet in the other: nothing cancels, and both offsets count.
    net = 0.02 * gross_j + 0.01 * idle_j + (1e-4 + 1e-6) * VOLTS * seconds
    net += scale * (gross_j - idle_j) + change_j
    assert limits.net_j[0] == pytest.approx(net, rel=1e-3)
    assert limits.idle_w[0] == pytest.approx(0.01 * VOLTS * IDLE_A + 1e-6 * VOLTS + 0.005 * VOLTS * IDLE_A, rel=1e-3)
    assert limits.peak_w[0] == pytest.approx((0.02 + 0.005) * VOLTS * ACTIVE_A + 1e-4 * VOLTS, rel=1e-3)
    assert limits.power_w[0] == pytest.approx(limits.energy_j[0] / seconds)
    # Half a sample at each edge is no constant of the meter.
    assert found.edge_j[0] == pytest.approx(edge_j)
    assert found.edge_net_j[0] == pytest.approx(edge_j * (1 - IDLE_A / ACTIVE_A))


def test_an_offset_cancels_in_net_energy_where_window_and_quiet_share_a_range() -> None:
    one = MeterClass((RangeClass(1.0, 0.0, 1e-3),))
    found = figures(trace(idle_a=10e-3), one)
    assert found.limits is not None
    seconds = 20_000 * DT
    assert found.limits.energy_j[0] >= 1e-3 * VOLTS * seconds
    assert found.limits.net_j[0] < 1e-9 * found.net_j[0]
    assert found.edge_net_j[0] == pytest.approx(DT * VOLTS * (ACTIVE_A - 10e-3), rel=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    signs=st.tuples(*[st.sampled_from((-1.0, 1.0))] * 5),
    active=st.floats(2e-4, 0.5),
    idle=st.floats(1e-6, 1e-4),
)
def test_no_constants_within_the_class_lead_outside_of_what_is_stated(
    signs: tuple[float, ...], active: float, idle: float
) -> None:
    exact = trace(active, idle, samples=2000)
    ranges = TWO_RANGES.range_of(exact.current_a.astype(np.float64))
    gain = np.array([1 + sign * one.relative for sign, one in zip(signs[:2], TWO_RANGES.ranges, strict=True)])[ranges]
    offset = np.array([sign * one.offset_a for sign, one in zip(signs[2:4], TWO_RANGES.ranges, strict=True)])[ranges]
    shown = (exact.current_a * gain + offset).astype(np.float32)
    voltage = VOLTS * (1 + signs[4] * TWO_RANGES.voltage)
    found = figures(replace(exact, current_a=shown, voltage_v=voltage), TWO_RANGES)
    truth = figures(exact)
    assert found.limits is not None
    # The limits follow from what was shown, the errors from what is true: they differ in second order.
    for name in ("energy_j", "net_j", "charge_c", "idle_w", "peak_w"):
        off = abs(getattr(found, name)[0] - getattr(truth, name)[0])
        assert off <= 1.04 * getattr(found.limits, name)[0] + 1e-15


def test_a_long_window_leaves_the_class_and_nothing_else() -> None:
    """All that is said of edges and changes of range vanishes against ten seconds."""
    meter = MeterClass((RangeClass(1e-3, 0.01), RangeClass(1.0, 0.01)))
    found = figures(trace(samples=100_000), meter)
    assert found.limits is not None
    assert found.limits.net_j[0] / found.net_j[0] == pytest.approx(0.01, rel=0.01)


def test_lost_samples_do_not_change_limits() -> None:
    whole = trace()
    current = whole.current_a.copy()
    current[[300, 5000]] = np.nan
    lost, kept = figures(replace(whole, current_a=current), TWO_RANGES), figures(whole, TWO_RANGES)
    assert lost.limits is not None
    assert kept.limits is not None
    np.testing.assert_allclose(lost.limits.net_j, kept.limits.net_j, rtol=1e-3)


def test_noise_of_the_quiet_counts() -> None:
    whole = trace(samples=2000)
    noise = np.random.default_rng(1).normal(0, 2e-6, whole.current_a.size).astype(np.float32)
    noise[whole.logic == 1] = 0
    perfect = MeterClass((RangeClass(1.0, 0.0),))
    found = figures(replace(whole, current_a=whole.current_a + noise), perfect)
    still = figures(whole, perfect)
    assert found.limits is not None
    assert still.limits is not None
    off = abs(found.net_j[0] - still.net_j[0])
    assert off <= found.limits.net_j[0] - still.limits.net_j[0]
    # Two stretches of about 150 samples, twice the standard error of their mean.
    expected = 2 * 2e-6 / math.sqrt(290) * VOLTS
    assert 0.3 * expected < found.idle_noise_w[0] < 3 * expected


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (RangeClass(1.0, 0.1), RangeClass(0.5, 0.1)),
        (RangeClass(1.0, -0.1),),
        (RangeClass(1.0, 0.1, math.nan),),
        (RangeClass(1.0, math.inf),),
    ],
    ids=["none", "out of order", "negative", "nan", "endless"],
)
def test_a_class_that_cannot_be_is_refused(ranges: tuple[RangeClass, ...]) -> None:
    with pytest.raises(ConfigError, match="at least one range, smallest first, and finite limits"):
        MeterClass(ranges)


def test_currents_beyond_the_last_range_belong_to_it() -> None:
    found = TWO_RANGES.range_of(np.array([0.0, 1e-3, 1.1e-3, -5e-4, 0.9, 7.0]))
    assert found.tolist() == [0, 0, 1, 0, 1, 1]


# A lab's own calibration


CORRECTION = Correction(
    "2026-11-21",
    (RangeCorrection(1e-3, 1.02, 2e-6, 0.001, 1e-7), RangeCorrection(0.1, 0.97, -1e-4, 0.002, 1e-6)),
)


def test_a_correction_takes_the_errors_off_that_it_was_made_for() -> None:
    true = np.array([1e-5, 5e-4, 5e-3, 9e-2, 0.4], np.float64)
    shown = true.copy()
    shown[:2] = (true[:2] - 2e-6) / 1.02
    shown[2:4] = (true[2:4] + 1e-4) / 0.97
    result = corrected(np.append(shown, np.nan).astype(np.float32), CORRECTION)
    np.testing.assert_allclose(result[:-1], true, rtol=1e-6)
    assert np.isnan(result[-1])
    assert result.dtype == np.float32


def test_a_corrected_meter_has_the_calibrations_uncertainty_where_it_reaches() -> None:
    found = corrected_class(TWO_RANGES, CORRECTION)
    assert [(one.upto_a, one.relative, one.offset_a) for one in found.ranges] == [
        (1e-3, 0.001, 1e-7),
        (0.1, 0.002, 1e-6),
        (1.0, 0.02, 1e-4),
    ]
    assert (found.voltage, found.clock) == (TWO_RANGES.voltage, TWO_RANGES.clock)


# In the record


def test_both_kinds_are_kept_apart_and_combined() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98]
    record = make_record("inference", "energy.net", "J", "hardware", values, class_uncertainty=0.3)
    assert record.run_uncertainty == pytest.approx(max(record.median - record.ci_low, record.ci_high - record.median))
    assert record.combined_uncertainty == pytest.approx(math.hypot(0.3, record.run_uncertainty or 0.0))
    single = make_record("inference", "energy.net", "J", "hardware", [1.0], class_uncertainty=0.3)
    assert (single.run_uncertainty, single.combined_uncertainty) == (None, 0.3)
    assert make_record("inference", "latency", "s", "hardware", values).combined_uncertainty is None
