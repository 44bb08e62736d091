"""What is rejected, and just not rejected, at each bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lab.errors import InfrastructureError
from measurements.record import Trace
from measurements.rejection import (
    REASONS,
    CaptureFacts,
    MeasurementRejected,
    check_idle,
    reasons_of_capture,
    rejected,
)

TRACE = Trace(0.0, 1e-3, 3.3, np.full(100, 1e-3, np.float32), np.zeros(100, np.uint8))


def names(trace: Trace, facts: CaptureFacts) -> list[str]:
    found = reasons_of_capture(trace, facts)
    assert {one.reason for one in found} <= set(REASONS)
    return [one.reason for one in found]


def supplied(*volts: float) -> Trace:
    """A trace whose measured voltage is 3.3 V but for these samples."""
    measured = np.full(100, 3.3, np.float32)
    measured[10 : 10 + len(volts)] = volts
    return replace(TRACE, measured_v=measured)


def test_a_good_capture_has_no_reason() -> None:
    facts = CaptureFacts(saturated=0, nominal_v=3.3, growth=0.04)
    assert names(supplied(3.2, 3.4), facts) == []
    assert names(TRACE, CaptureFacts()) == []


@pytest.mark.parametrize(
    ("trace", "facts", "reason"),
    [
        (TRACE, CaptureFacts(saturated=1), "saturation"),
        (supplied(3.10), CaptureFacts(nominal_v=3.3), "supply-voltage"),
        (supplied(3.5), CaptureFacts(nominal_v=3.3), "supply-voltage"),
        (TRACE, CaptureFacts(growth=0.06), "thermal-throttling"),
    ],
)
def test_each_reason_by_itself(trace: Trace, facts: CaptureFacts, reason: str) -> None:
    assert names(trace, facts) == [reason]


def test_several_reasons_are_all_told() -> None:
    assert names(supplied(2.0), CaptureFacts(5, 3.3, growth=0.5)) == [
        "saturation",
        "supply-voltage",
        "thermal-throttling",
    ]


def test_a_voltage_that_nobody_measured_or_named_is_not_judged() -> None:
    assert names(TRACE, CaptureFacts(nominal_v=5.0)) == []
    assert names(supplied(2.0), CaptureFacts(nominal_v=None)) == []


def test_the_voltage_of_lost_samples_does_not_count() -> None:
    broken = supplied(0.0)
    broken.current_a[10] = np.nan
    try:
        assert names(broken, CaptureFacts(nominal_v=3.3)) == []
    finally:
        broken.current_a[10] = 1e-3


@pytest.mark.parametrize(("step_w", "found"), [(0.019, 0), (-0.019, 0), (0.021, 1), (-0.021, 1), (np.nan, 0)])
def test_idle_may_move_net_energy_by_one_per_cent(step_w: float, found: int) -> None:
    """Half of the step times one second, of one joule."""
    one = np.ones(1)
    assert len(check_idle(np.array([step_w]), 0 * one, one, one)) == found


def test_a_step_that_noise_explains_is_none() -> None:
    one = np.ones(1)
    assert check_idle(np.array([0.1]), np.array([0.05]), one, one) == ()
    assert len(check_idle(np.array([0.1]), np.array([0.03]), one, one)) == 1


def test_the_error_carries_every_reason_and_is_the_benchs() -> None:
    error = rejected("lost-samples", "3 of 10 samples were lost", hint="another port", transient=True)
    assert isinstance(error, InfrastructureError)
    assert error.transient
    assert str(error) == "energy is rejected (lost-samples): 3 of 10 samples were lost\n  -> another port"
    both = MeasurementRejected((*error.rejections, *rejected("saturation", "full").rejections))
    assert [one.reason for one in both.rejections] == ["lost-samples", "saturation"]
    assert str(both).count("energy is rejected") == 2
    assert not rejected("saturation", "full").transient
