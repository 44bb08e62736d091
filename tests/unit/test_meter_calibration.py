"""Calibrations: the fit against meters with known errors, the store, and when a correction is not used."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lab.calibrations import Calibration, history, meter_key, save, usable
from lab.commands.meter_calibrate import Resistor, parse_resistor
from lab.errors import ConfigError
from lab.meter_config import MeterConfig
from lab.power.base import MeterInfo
from measurements.calibration import CalibrationPoint, fit_ranges
from measurements.uncertainty import Correction, MeterClass, RangeClass, corrected

_CLASS = MeterClass((RangeClass(500e-6, 0.1, 0.5e-6), RangeClass(5e-3, 0.1, 5e-6), RangeClass(60e-3, 0.1, 50e-6)))
_ADAPTER: TypeAdapter[MeterConfig] = TypeAdapter(MeterConfig)
_INFO = MeterInfo("ppk2", "PPK2 hardware 1, calibrated", 1e5, 3.3, False, 8, 0.1, False)


def _config(**settings: object) -> MeterConfig:
    return _ADAPTER.validate_python({"kind": "ppk2", "serial_number": "A1B2C3"} | settings)


def _point(ohm: float, volt: float, gain: float, offset_a: float, **changes: float) -> CalibrationPoint:
    """What a meter shows whose true current is gain·shown + offset."""
    point = CalibrationPoint(ohm, 1e-3, volt, 1e-3, (volt / ohm - offset_a) / gain, 0.0)
    return replace(point, **changes)


@settings(max_examples=60, deadline=None)
@given(
    gain=st.floats(0.9, 1.1),
    offset_a=st.floats(-4e-6, 4e-6),
    resistor_error=st.floats(-1e-3, 1e-3),
    voltage_errors=st.lists(st.floats(-1e-3, 1e-3), min_size=3, max_size=3),
)
def test_the_truth_is_within_what_the_correction_states(
    gain: float, offset_a: float, resistor_error: float, voltage_errors: list[float]
) -> None:
    """Resistor and voltages are off by up to their limits; currents between the points are then right to the limits."""
    points = []
    for volt, error in zip((1.0, 2.0, 3.0), voltage_errors, strict=True):
        real_a = volt * (1 + error) / (1000 * (1 + resistor_error))
        points.append(CalibrationPoint(1000, 1.1e-3, volt, 1.1e-3, (real_a - offset_a) / gain, 0.0))
    ranges = fit_ranges(points, _CLASS)
    assert len(ranges) == 2
    assert (ranges[0].gain, ranges[0].gain_uncertainty) == (1.0, 0.1), "no point lies in the first range"
    found = ranges[1]
    for true_a in (0.7e-3, 1.5e-3, 3e-3, 4.4e-3):
        shown = (true_a - offset_a) / gain
        limit = found.gain_uncertainty * shown + found.offset_uncertainty_a
        assert abs(found.gain * shown + found.offset_a - true_a) <= limit * (1 + 1e-9)
        assert limit < 0.1 * shown + 5e-6


def test_without_errors_gain_and_offset_are_found_exactly() -> None:
    points = [_point(1000, volt, 1.04, -3e-6) for volt in (1.0, 2.0, 3.0)]
    found = fit_ranges(points, _CLASS)[1]
    assert found.gain == pytest.approx(1.04, rel=1e-9)
    assert found.offset_a == pytest.approx(-3e-6, rel=1e-6)


def test_the_fit_is_the_weighted_least_squares_of_another_implementation() -> None:
    random = np.random.default_rng(3)
    points = [_point(1000, volt, 1.02 + 0.003 * random.standard_normal(), 1e-6) for volt in np.linspace(0.8, 4.0, 9)]
    found = fit_ranges(points, _CLASS)[1]
    true = np.array([point.true_a for point in points])
    slope, offset = np.polyfit([point.shown_a for point in points], true, 1, w=1 / true)
    assert found.gain == pytest.approx(slope, rel=1e-9)
    assert found.offset_a == pytest.approx(offset, rel=1e-6)


def test_the_resistors_tolerance_is_one_error_and_does_not_average_out() -> None:
    few = [_point(1000, volt, 1.0, 0.0, voltage_uncertainty=0.0) for volt in (1.0, 3.0)]
    many = [_point(1000, volt, 1.0, 0.0, voltage_uncertainty=0.0) for volt in np.linspace(1.0, 3.0, 50)]
    for points in (few, many):
        found = fit_ranges(points, _CLASS)[1]
        assert found.gain_uncertainty == pytest.approx(1e-3, rel=1e-6)
        assert found.offset_uncertainty_a == pytest.approx(0.0, abs=1e-12)


def test_a_bend_is_taken_for_uncertainty() -> None:
    straight = [_point(1000, volt, 1.0, 0.0) for volt in (1.0, 2.0, 3.0)]
    bent = [straight[0], replace(straight[1], shown_a=straight[1].shown_a * 1.02), straight[2]]
    added = fit_ranges(bent, _CLASS)[1].gain_uncertainty - fit_ranges(straight, _CLASS)[1].gain_uncertainty
    assert 0.005 < added < 0.02


def test_one_current_yields_a_gain_and_the_class_keeps_the_offset() -> None:
    found = fit_ranges([_point(1000, 2.0, 1.05, 0.0)], _CLASS)[1]
    assert (found.offset_a, found.offset_uncertainty_a) == (0.0, 5e-6)
    assert found.gain == pytest.approx(1.05)
    assert found.gain_uncertainty > 2e-3 * 1.05


def test_what_would_be_no_better_than_the_class_is_not_a_correction() -> None:
    assert fit_ranges([_point(1000, 2.0, 1.0, 0.0, tolerance=0.2)], _CLASS) == ()
    assert fit_ranges([], _CLASS) == ()


def test_a_gap_between_ranges_is_left_as_it_is() -> None:
    points = [_point(10_000, 2.0, 1.03, 0.0), _point(100, 2.0, 0.97, 0.0)]
    ranges = fit_ranges(points, _CLASS)
    shown = np.array([200e-6, 2e-3, 20e-3, np.nan], np.float32)
    fixed = corrected(shown, Correction("2026-01-01", ranges))
    assert fixed[:3] == pytest.approx([206e-6, 2e-3, 19.4e-3], rel=1e-6)
    assert math.isnan(fixed[3])


@pytest.mark.parametrize(
    ("shown", "plausible"), [(1e-3, True), (1.4e-3, True), (1.6e-3, False), (0.0, False), (float("nan"), False)]
)
def test_what_no_such_resistor_draws(shown: float, plausible: bool) -> None:
    assert CalibrationPoint(1000, 1e-3, 1.0, 1e-3, shown, 0.0).plausible is plausible


@pytest.mark.parametrize(
    ("text", "ohm", "tolerance"),
    [("1k:0.1%", 1e3, 1e-3), ("27:1%", 27.0, 0.01), ("4.7k:0.5 %", 4700.0, 5e-3), ("2.2MΩ:5%", 2.2e6, 0.05)],
)
def test_resistors(text: str, ohm: float, tolerance: float) -> None:
    found = parse_resistor(text)
    assert found.ohm == pytest.approx(ohm)
    assert found.tolerance == pytest.approx(tolerance)


@pytest.mark.parametrize("text", ["", "1k", "1k:0.1", "0:1%", "1k:0%", "-5:1%", "1k:80%", "1x:1%"])
def test_what_is_no_resistor(text: str) -> None:
    with pytest.raises(ConfigError, match=r"1k:0\.1%"):
        parse_resistor(text)


def test_a_resistor_says_what_it_is() -> None:
    assert str(Resistor(1000, 1e-3)) == "1000 Ω ±0.1 %"


def _calibration(date: str, gain: float = 1.01) -> Calibration:
    points = (_point(1000, 1.0, gain, 0.0), _point(1000, 3.0, gain, 0.0))
    return Calibration(_INFO.identity, date, fit_ranges(points, _CLASS), points)


def _ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")


def test_calibrations_are_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    config, first, second = _config(), _calibration(_ago(40)), _calibration(_ago(2), 1.02)
    assert usable(tmp_path, config, _INFO).calibration is None
    save(tmp_path, config, first)
    path = save(tmp_path, config, second)
    assert history(tmp_path, config) == (first, second)
    found = usable(tmp_path, config, _INFO)
    assert (found.calibration, found.warning) == (second, "")
    assert found.correction == Correction(second.date, second.ranges)
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing half written is left"


def test_an_old_calibration_is_used_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path, _config(), _calibration(_ago(400)))
    found = usable(tmp_path, _config(), _INFO)
    assert found.calibration is not None
    assert "400 days old, more than 365" in found.warning
    assert usable(tmp_path, _config(), _INFO, old_days=500).warning == ""


def test_another_meter_at_the_same_place_is_not_corrected(tmp_path: Path) -> None:
    save(tmp_path, _config(), _calibration(_ago(1)))
    found = usable(tmp_path, _config(), replace(_INFO, identity="PPK2 hardware 2, calibrated"))
    assert found.correction is None
    assert "hardware 1" in found.warning
    assert "hardware 2" in found.warning


def test_each_meter_has_its_own_file() -> None:
    configs = [
        _config(),
        _config(serial_number="A1B2C4"),
        _config(serial_number=None, port="/dev/serial/by-id/usb-1"),
        _config(serial_number=None, emulated=True),
        _ADAPTER.validate_python({"kind": "scpi", "model": "n6705", "resource": "TCPIP::10.0.0.5::5025::SOCKET"}),
        _ADAPTER.validate_python(
            {"kind": "scpi", "model": "n6705", "resource": "TCPIP::10.0.0.5::5025::SOCKET", "channel": 2}
        ),
        _ADAPTER.validate_python({"kind": "monsoon"}),
        _ADAPTER.validate_python({"kind": "hwmon", "label": "VDD_IN"}),
        _ADAPTER.validate_python({"kind": "hwmon", "label": "VDD_CPU_GPU_CV"}),
    ]
    keys = [meter_key(config) for config in configs]
    assert len(set(keys)) == len(keys)
    assert "emulated-ppk2" in keys
    assert all(key.replace("-", "").replace(".", "").isalnum() for key in keys)


def test_settings_that_do_not_make_another_meter() -> None:
    assert meter_key(_config(voltage_v=1.8)) == meter_key(_config(voltage_v=3.0, marker_input=2))


_NO_DATE = '[{"identity": "x", "date": "never", "ranges": [], "points": []}]'


@pytest.mark.parametrize("text", ["", "{}}", "[{}]", _NO_DATE])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, _config(), _calibration(_ago(1)))
    path.write_text(text)
    with pytest.raises(ConfigError, match=path.name):
        usable(tmp_path, _config(), _INFO)


def test_the_file_is_readable_by_others(tmp_path: Path) -> None:
    (entry,) = json.loads(save(tmp_path, _config(), _calibration(_ago(1))).read_text())
    assert entry["identity"] == _INFO.identity
    assert entry["points"][0]["resistor_ohm"] == 1000
    assert entry["ranges"][1]["gain"] == pytest.approx(1.01)
