"""Peers of meters whose time is the host's: a phone's shell, the lines of tegrastats, a Monsoon behind PyUSB."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import usb.core
from helpers.virtual_clock import VirtualClock, stream
from Monsoon import HVPM, pmapi, sampleEngine

from lab.emulators import pmic
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.monsoon import EmulatedHvpm, Faults, attached
from lab.emulators.phone import Gauge, Phone
from lab.emulators.tegrastats import line, rails_of, write_program
from lab.errors import MeterError
from lab.meter_config import AndroidConfig, MonsoonConfig, PmicConfig, TegrastatsConfig
from lab.power.android import android_meter, parse_dumpsys
from lab.power.monsoon import Monsoon
from lab.power.pmic import parse_adc
from lab.power.registry import make_meter
from lab.power.tegrastats import ProgramLines, parse_rails, tegrastats_meter

STEPS = ScriptedLoad([Segment(4.0, 0.2, voltage_v=3.8), Segment(4.0, 0.9, voltage_v=3.7)])

# tegrastats


@pytest.mark.parametrize("jetpack", [4, 5, 6])
def test_a_line_of_every_jetpack_is_understood_and_follows_the_load(jetpack: int) -> None:
    load = ScriptedLoad([Segment(1.0, 1.0, voltage_v=5.0), Segment(1.0, 3.0, voltage_v=5.0)])
    names = ("VDD_GPU_SOC", "VDD_CPU_CV")
    early, late = (parse_rails(line(rails_of(load, names, begin, begin + 0.5), jetpack)) for begin in (0.0, 1.5))
    assert early == dict.fromkeys(names, 2.5)
    assert late == dict.fromkeys(names, 7.5)


def test_the_mean_is_that_since_the_program_began() -> None:
    load = ScriptedLoad([Segment(1.0, 1.0, voltage_v=5.0), Segment(1.0, 3.0, voltage_v=5.0)])
    assert rails_of(load, ("VDD_IN",), 1.5, 2.0) == [("VDD_IN", 15_000, 10_000)]


def test_the_program_is_started_and_ended_as_the_real_one(tmp_path: Path) -> None:
    load = ScriptedLoad([Segment(1.0, 0.9, voltage_v=5.0)])
    lines = ProgramLines(str(write_program(tmp_path, load, ["VDD_IN"])), 0.02)
    try:
        assert parse_rails(lines.first()) == {"VDD_IN": 4.5}
    finally:
        lines.close()


def test_a_program_that_ends_is_said() -> None:
    command = [sys.executable, "-m", "lab.emulators.tegrastats", "--script", "/none", "--lines", "1"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_rails_that_the_program_does_not_have_are_refused_with_those_it_has(tmp_path: Path) -> None:
    load = ScriptedLoad([Segment(1.0, 0.9, voltage_v=5.0)])
    program = write_program(tmp_path, load, ["VDD_GPU_SOC", "VDD_CPU_CV"])
    meter = tegrastats_meter(TegrastatsConfig(kind="tegrastats", program=str(program), period=0.02), 5.0)
    with pytest.raises(MeterError, match="no rail VDD_IN; its line has: VDD_GPU_SOC, VDD_CPU_CV"):
        meter.open()


# A Raspberry Pi 5


def test_what_the_chip_says_is_understood_and_adds_up() -> None:
    load = ScriptedLoad([Segment(1.0, 2.5, voltage_v=5.0)])
    rails = parse_adc(pmic.reading(load))
    assert set(rails) == set(pmic.RAILS)
    assert sum(current_a * volts for current_a, volts in rails.values()) == pytest.approx(12.5, rel=1e-7)


def test_a_board_without_the_chip_is_refused(tmp_path: Path) -> None:
    program = pmic.write_program(tmp_path, None)
    meter = make_meter(PmicConfig(kind="pmic", program=str(program)), 5.0)
    with pytest.raises(MeterError, match="error=1"):
        meter.open()


# A phone


def phone(clock: VirtualClock, **settings: object) -> Phone:
    gauge = Gauge(**settings)  # type: ignore[arg-type]
    return Phone(STEPS, clock.elapsed, gauge, MeterError("the phone went away"))


def config(**settings: object) -> AndroidConfig:
    return AndroidConfig.model_validate({"kind": "android", "serial": "phone", "period": 0.5, **settings})


@pytest.mark.parametrize(("sign", "unit"), [("negative", "uA"), ("positive", "mA")])
def test_charge_of_steps_by_the_gauges_files(sign: str, unit: str) -> None:
    clock = VirtualClock(8.0)
    shell = phone(clock, update_s=0.5, sign=-1 if sign == "negative" else 1, unit_a=1e-6 if unit == "uA" else 1e-3)
    with android_meter(config(current_sign=sign, current_unit=unit), 3.8, shell, clock) as meter:
        block = stream(meter, clock)
    assert block.lost == 0
    # A sample shows the update interval before it; the first one has none but that it is in.
    shown = block.current_a.astype(np.float64)
    assert set(np.round(shown, 6)) == {0.2, 0.9}
    assert float(shown.sum()) * 0.5 == pytest.approx(STEPS.truth(0.0, 8.0).charge_c, abs=0.9)
    assert block.voltage_v is not None
    assert set(np.round(block.voltage_v.astype(np.float64), 4)) == {3.8, 3.7}


def test_charge_by_dumpsys_where_the_files_may_not_be_read() -> None:
    clock = VirtualClock(8.0)
    shell = phone(clock, update_s=0.5, readable=False, step_uah=1)
    with android_meter(config(), 3.8, shell, clock) as meter:
        assert "dumpsys" in meter.info.identity
        block = stream(meter, clock)
    seen = np.isfinite(block.current_a)
    charge_c = float(block.current_a[seen].astype(np.float64).sum()) * 0.5
    assert charge_c == pytest.approx(STEPS.truth(0.0, 8.0).charge_c, abs=0.9)


def test_what_dumpsys_says_of_the_battery() -> None:
    clock = VirtualClock(1.0)
    told = parse_dumpsys(phone(clock)(("dumpsys", "battery")))
    assert (told["status"], told["AC powered"], told["voltage"], told["Charge counter"]) == (
        "3", "false", "3800", "3000000",
    )  # fmt: skip
    assert phone(clock)(("reboot",)).endswith("not found\n")
    assert "No such file" in phone(clock)(("cat", "/sys/class/power_supply/battery/health"))


def test_a_charger_that_is_plugged_in_meanwhile_ends_the_measurement() -> None:
    clock = VirtualClock(8.0)
    meter = android_meter(config(), 3.8, phone(clock, plugged_s=3.0), clock)
    with meter, pytest.raises(MeterError, match="does not run from its battery"):
        stream(meter, clock)


def test_a_phone_that_goes_away_is_a_meter_that_failed() -> None:
    clock = VirtualClock(8.0)
    meter = android_meter(config(), 3.8, phone(clock, gone_s=3.0), clock)
    with meter, pytest.raises(MeterError, match="went away"):
        stream(meter, clock)


# Monsoon


class Time:
    """Seconds that pass as they are asked for: each look at the clock is a sample later."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def monitor(load: ScriptedLoad, faults: Faults | None = None) -> EmulatedHvpm:
    # Everything is due as soon as it is asked for: nothing waits.
    return EmulatedHvpm(load, now=Time(), faults=faults)


def measured(load: ScriptedLoad, samples: int, faults: Faults | None = None) -> tuple[Monsoon, np.ndarray, int]:
    """The meter, closed, the samples of a stream, and how many were lost."""
    meter = Monsoon(MonsoonConfig(kind="monsoon", serial_number=4711), 4.0)
    parts, lost, size = [], 0, 0
    with attached(monitor(load, faults)), meter:
        meter.start()
        while size < samples:
            block = meter.read(0.05)
            assert block.current_a.size
            parts.append(block.current_a)
            lost, size = lost + block.lost, size + block.current_a.size
        meter.stop()
    return meter, np.concatenate(parts).astype(np.float64), lost


@pytest.mark.parametrize("current_a", [0.3e-3, 12e-3, 45e-3, 0.9, 4.5])
def test_a_steady_current_through_pyusb_and_the_makers_package(current_a: float) -> None:
    """Fine and coarse channel: whole steps of 1 µA and 0.2 mA, dithered."""
    _, shown, lost = measured(ScriptedLoad([Segment(1.0, current_a, voltage_v=4.0)]), 2500)
    seen = np.isfinite(shown)
    assert lost == np.count_nonzero(~seen) == 0
    step_a = 1e-6 if current_a < 50e-3 else 0.23e-3
    assert float(shown[seen].mean()) == pytest.approx(current_a, abs=4 * step_a / np.sqrt(12 * seen.sum()))
    assert np.abs(shown[seen] - current_a).max() <= 1.01 * step_a


def test_zero_and_reference_samples_are_no_currents() -> None:
    """Two every 1.25 s, in a stream whose first ten were for the driver."""
    _, shown, lost = measured(ScriptedLoad([Segment(1.0, 12e-3, voltage_v=4.0)]), 6500)
    assert np.flatnonzero(np.isnan(shown)).tolist() == [6250 - 12, 6251 - 12]
    assert lost == 2


def test_what_was_dropped_is_lost_and_the_rest_keeps_its_place() -> None:
    load = ScriptedLoad([Segment(0.5, 10e-3, voltage_v=4.0), Segment(10.0, 40e-3, voltage_v=4.0)])
    _, whole, _ = measured(load, 4000)
    _, shown, lost = measured(load, 4000, Faults(drop_every=7))
    assert 0.10 < lost / shown.size < 0.18
    both = min(whole.size, shown.size)
    seen = np.isfinite(shown[:both]) & np.isfinite(whole[:both])
    assert np.abs(shown[:both][seen] - whole[:both][seen]).max() < 2.1e-6


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(uncalibrated=True), "gave no calibration"),
        (Faults(unplugged_after=900), "went away or refuses"),
        (Faults(dac=0xFFFF), "dacCalHigh out of tolerance"),
    ],
)
def test_every_fault_is_an_error_that_says_so(faults: Faults, message: str) -> None:
    with pytest.raises(MeterError, match=message):
        measured(ScriptedLoad([Segment(1.0, 0.1, voltage_v=4.0)]), 4000, faults)


def test_a_monitor_that_falls_silent_gives_nothing_more() -> None:
    meter = Monsoon(MonsoonConfig(kind="monsoon"), 4.0)
    with attached(monitor(ScriptedLoad([Segment(1.0, 0.1, voltage_v=4.0)]), Faults(silent_after=90))), meter:
        meter.start()
        assert sum(meter.read(0.05).current_a.size for _ in range(3)) == 90 - 12


def test_another_serial_number_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    with attached(EmulatedHvpm(ScriptedLoad([Segment(1.0, 0.1)]), serial_number=4712)):
        with pytest.raises(MeterError):
            Monsoon(MonsoonConfig(kind="monsoon", serial_number=4711), 4.0).open()
        assert pmapi.USB_protocol().enumerateDevices() == ["4712"]
    capsys.readouterr()


def test_the_makers_own_engine_reads_it() -> None:
    """Independent of our decoder: the package's, over the same USB."""
    one = monitor(ScriptedLoad([Segment(1.0, 12e-3, voltage_v=4.0)]))
    with attached(one), contextlib.redirect_stdout(io.StringIO()):
        library = HVPM.Monsoon()
        library.setup_usb(4711, pmapi.USB_protocol())
        library.setVout(4.0)
        engine = sampleEngine.SampleEngine(library)
        engine.ConsoleOutput(False)
        engine.periodicStartSampling()
        samples = engine.periodicCollectSamples(600)
        engine.periodicStopSampling()
        library.closeDevice()
    current_ma = np.array(samples[sampleEngine.channels.MainCurrent], np.float64)
    assert float(np.median(current_ma)) == pytest.approx(12.0, abs=2e-3)
    assert float(np.median(samples[sampleEngine.channels.MainVoltage])) == pytest.approx(4.0, rel=1e-3)
    assert not one.sampling


def test_a_request_that_no_monitor_knows_stalls() -> None:
    with attached(monitor(ScriptedLoad([Segment(1.0, 0.1)]))):
        device = usb.core.find(idVendor=0x2AB9)
        assert (device.manufacturer, device.product, device.serial_number) == ("Monsoon Solutions", "HVPM", "4711")
        with pytest.raises(usb.core.USBError, match="stalled"):
            device.ctrl_transfer(0x40, 0x77, 0, 0, None)
    assert usb.core.find.__module__ == "usb.core"
