"""Current monitors behind hwmon, on trees of files that follow loads whose energy is known in closed form."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.virtual_clock import VirtualClock, stream

from lab.emulators.hwmon import Faults, HwmonTree, live
from lab.emulators.load import ScriptedLoad, Segment
from lab.errors import ConfigError, MeterError
from lab.meter_config import HwmonConfig
from lab.power.base import SampleBlock
from lab.power.hwmon import CHIPS, find_chips, hwmon_meter
from lab.power.polled import PolledMeter
from lab.power.registry import make_meter
from lab.power.sysfs import EMULATED, LocalFiles

_V = 3.3
_STEADY = ScriptedLoad([Segment(1.0, 0.25, voltage_v=_V)])
_BURSTS = ScriptedLoad(
    [Segment(0.4, 0.02), Segment(1.3, 0.35), Segment(0.7, 0.05, settle_s=0.02), Segment(0.9, 0.3), Segment(5.0, 0.02)]
)


def config(root: Path, **settings: object) -> HwmonConfig:
    return HwmonConfig.model_validate({"kind": "hwmon", "root": str(root), **settings})


def measured(tree: HwmonTree, root: Path, until_s: float, **settings: object) -> tuple[SampleBlock, PolledMeter]:
    """What a meter makes of a tree, and the meter, still open."""
    clock = VirtualClock(until_s, [tree.advance])
    meter = hwmon_meter(config(root, **settings), _V, clock=clock)
    meter.open()
    return stream(meter, clock), meter


def energy_j(block: SampleBlock, meter: PolledMeter) -> float:
    assert block.lost == 0
    voltage = np.full(block.current_a.size, meter.info.voltage_v) if block.voltage_v is None else block.voltage_v
    return float((block.current_a.astype(np.float64) * voltage).sum() / meter.info.sample_rate_hz)


def test_units_and_files_are_those_of_the_kernel(tmp_path: Path) -> None:
    """A Jetson's INA3221 in Linux: in1_input 5000, curr1_input 1000 for 1 A at 5 V, labels in in*_label."""
    loads = [ScriptedLoad([Segment(1.0, amperes, voltage_v=5.0)]) for amperes in (1.0, 0.4, 0.2)]
    labels = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    tree = HwmonTree(tmp_path / "hwmon", "ina3221", loads, shunt_ohm=5e-3, labels=labels)
    tree.advance(1.0)
    folder = tmp_path / "hwmon" / "hwmon3"
    shown = {path.name: path.read_text().strip() for path in folder.iterdir() if path.is_file()}
    assert shown["name"] == "ina3221"
    assert (shown["in1_label"], shown["in1_input"], shown["curr1_input"]) == ("VDD_IN", "5000", "1000")
    assert (shown["in2_input"], shown["curr2_input"], shown["shunt2_resistor"]) == ("5000", "400", "5000")
    for label, amperes in zip(labels, (1.0, 0.4, 0.2), strict=True):
        block, meter = measured(tree, tmp_path / "hwmon", 0.5, label=label)
        assert block.current_a == pytest.approx(amperes)
        assert block.voltage_v == pytest.approx(5.0)
        assert label in meter.info.identity


@pytest.mark.parametrize("chip", sorted(CHIPS))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_steady_current_lies_inside_the_class_at_its_limits(tmp_path: Path, chip: str, sign: float) -> None:
    """Chip gain, shunt tolerance and offset all at the limit that the class allows, on the same side."""
    about = CHIPS[chip]
    gain = sign * (about.gain + (0.0 if about.shunt_ohm else 0.01))
    shunt_ohm = about.shunt_ohm or 0.05
    for current_a in (0.03, 0.25, 1.2):
        root = tmp_path / f"{current_a}" / "hwmon"
        load = ScriptedLoad([Segment(1.0, current_a, voltage_v=_V)])
        faults = Faults(gain=gain, offset_v=sign * about.offset_v)
        tree = HwmonTree(root, chip, [load], shunt_ohm=shunt_ohm, faults=faults)
        block, meter = measured(tree, root, 1.0)
        limit = meter.info.ranges[0]
        mean_a = energy_j(block, meter) / _V / (block.current_a.size / meter.info.sample_rate_hz)
        allowed_a = limit.relative * current_a + limit.offset_a + meter.info.voltage_uncertainty * current_a
        if block.voltage_v is None:
            # Of an accumulator, its step (in its identity) and its last update (in the time uncertainty) at both ends
            # of the window, and the rounded bus voltage that it multiplies with.
            duration_s = block.current_a.size / meter.info.sample_rate_hz
            allowed_a += 2 * about.energy_lsb / shunt_ohm / _V / duration_s
            allowed_a += current_a * about.update_s / duration_s + about.bus_lsb_v / _V * current_a
        assert abs(mean_a - current_a) <= allowed_a
        assert block.saturated == 0


@pytest.mark.parametrize(("chip", "shunt_ohm"), [("ina219", 0.1), ("ina226", 0.1), ("ina228", 0.01), ("ina238", 0.1)])
def test_energy_of_bursts_against_the_closed_form(tmp_path: Path, chip: str, shunt_ohm: float) -> None:
    """Edges fall inside updates; what the class allows, and the edges' time uncertainty, bound the error."""
    root = tmp_path / "hwmon"
    tree = HwmonTree(root, chip, [_BURSTS], shunt_ohm=shunt_ohm)
    block, meter = measured(tree, root, 4.0)
    duration_s = block.current_a.size / meter.info.sample_rate_hz
    truth = _BURSTS.truth(0.0, duration_s)
    info = meter.info
    limit = info.ranges[0]
    allowed_j = (limit.relative + info.voltage_uncertainty) * truth.energy_j + limit.offset_a * _V * duration_s
    allowed_j += 0.35 * _V * info.time_uncertainty_s + (2 * CHIPS[chip].energy_lsb / shunt_ohm)
    assert abs(energy_j(block, meter) - truth.energy_j) <= allowed_j
    assert allowed_j < 0.1 * truth.energy_j


def test_an_accumulator_sees_what_lies_between_readings(tmp_path: Path) -> None:
    """Bursts of 60 ms twice a second, read as often: the accumulator has all of them, current readings have none."""
    load = ScriptedLoad([Segment(0.2, 0.0), Segment(0.06, 0.8), Segment(0.24, 0.0)] * 10)
    truth_j = load.truth(0.0, 5.0).energy_j
    found = {}
    for chip in ("ina228", "ina238"):
        root = tmp_path / chip / "hwmon"
        block, meter = measured(HwmonTree(root, chip, [load], shunt_ohm=0.05), root, 5.0, period=0.5)
        found[chip] = energy_j(block, meter)
        assert meter.info.measures_current == (chip == "ina238")
    step_j = CHIPS["ina228"].energy_lsb / 0.05
    assert found["ina228"] == pytest.approx(truth_j, abs=0.8 * _V * 0.0505 + 2 * step_j)
    assert found["ina238"] == pytest.approx(0.0, abs=0.01 * truth_j)


def test_the_accumulator_s_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 8 bits of 1.6 mJ it wraps every half second at 0.8 W; nothing of it is in the energy."""
    monkeypatch.setattr("lab.power.hwmon.ENERGY_BITS", 8)
    root = tmp_path / "hwmon"
    tree = HwmonTree(root, "ina228", [_STEADY], shunt_ohm=0.01, energy_bits=8)
    block, meter = measured(tree, root, 5.0)
    duration_s = block.current_a.size / meter.info.sample_rate_hz
    assert _STEADY.truth(0.0, duration_s).energy_j > 9 * 256 * 1.6e-3
    assert energy_j(block, meter) == pytest.approx(_STEADY.truth(0.0, duration_s).energy_j, abs=4 * 1.6e-3)
    assert meter.report.jumps == 0


def test_the_chip_s_own_interval_at_its_longest_is_the_period(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    HwmonTree(root, "ina226", [_STEADY], update_s=0.070)
    meter = hwmon_meter(config(root), _V)
    info = meter.open()
    assert info.sample_rate_hz == pytest.approx(1 / 0.077)
    assert info.time_uncertainty_s == pytest.approx(0.154)
    assert (info.alignment, info.logic_inputs) == ("host-time", 0)
    assert info.emulated
    (root / "hwmon3" / EMULATED).unlink()
    assert not hwmon_meter(config(root), _V).open().emulated
    with pytest.raises(MeterError, match=r"updates every 77 ms; read every 10 ms"):
        hwmon_meter(config(root, period="10 ms"), _V).open()


def test_a_chip_is_found_by_name_device_or_label(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    HwmonTree(root, "ina226", [_STEADY], device="1-0040", number=0)
    HwmonTree(root, "ina226", [_STEADY], device="1-0041", number=1)
    HwmonTree(root, "ina3221", [_STEADY] * 2, device="7-0040", number=5, labels=("VDD_IN", "VDD_SOC"))
    (root / "hwmon9").mkdir()
    (root / "hwmon9" / "name").write_text("coretemp\n")
    found = find_chips(LocalFiles(), str(root))
    assert [str(one) for one in found] == [
        "ina226 at 1-0040",
        "ina226 at 1-0041",
        "ina3221 at 7-0040 1=VDD_IN 2=VDD_SOC",
    ]
    for settings, identity in (
        ({"chip": "ina3221", "channel": 2}, "ina3221 at 7-0040, channel 2 (VDD_SOC)"),
        ({"device": "1-0041"}, "ina226 at 1-0041, channel 1"),
        ({"label": "VDD_SOC"}, "ina3221 at 7-0040, channel 2 (VDD_SOC)"),
    ):
        assert hwmon_meter(config(root, **settings), _V).open().identity.startswith(identity)
    for settings, message in (
        ({"chip": "ina226"}, "2 current monitors fit chip: ina226; there are: ina226 at 1-0040; ina226 at 1-0041"),
        ({"chip": "ina219"}, "no current monitors fit chip: ina219"),
        ({"label": "VDD_GPU"}, "no current monitors fit label: VDD_GPU"),
        ({}, "3 current monitors fit a config that names none"),
    ):
        with pytest.raises(MeterError) as caught:
            hwmon_meter(config(root, **settings), _V).open()
        assert message in caught.value.message
    with pytest.raises(ConfigError, match=r"channels 1 to 1; found channel: 2"):
        hwmon_meter(config(root, device="1-0040", channel=2), _V).open()


def test_no_hwmon_at_all(tmp_path: Path) -> None:
    assert find_chips(LocalFiles(), str(tmp_path / "none")) == []
    with pytest.raises(MeterError, match="there are: none") as caught:
        hwmon_meter(config(tmp_path / "none"), _V).open()
    assert "ina2xx" in caught.value.hint


def test_an_unknown_shunt_is_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    HwmonTree(root, "ina226", [_STEADY])
    (root / "hwmon3" / "shunt_resistor").write_text("0\n")
    with pytest.raises(ConfigError, match="the shunt is unknown") as caught:
        hwmon_meter(config(root), _V).open()
    assert caught.value.hint == "add shunt_ohm: to the meter"
    info = hwmon_meter(config(root, shunt_ohm=0.1), _V).open()
    assert "shunt 100 mΩ" in info.identity
    assert info.ranges[0].upto_a == pytest.approx(0.8192)


def test_saturation_is_counted(tmp_path: Path) -> None:
    """2 A through 0.1 ohm is beyond an INA226's 81.92 mV."""
    root = tmp_path / "hwmon"
    load = ScriptedLoad([Segment(1.0, 0.3), Segment(1.0, 2.0)])
    block, meter = measured(HwmonTree(root, "ina226", [load]), root, 2.0)
    above = int(np.count_nonzero(block.current_a > 0.81))
    assert block.saturated == meter.report.saturated == above > 10
    assert block.current_a.max() == pytest.approx(0.819)


def test_a_reversed_shunt_is_shown_and_noted(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    block, meter = measured(HwmonTree(root, "ina219", [_STEADY], faults=Faults(reversed=True)), root, 0.5)
    assert np.flatnonzero(block.current_a > 0).size == 0
    assert any("the other way round" in note for note in meter.report.notes)


def test_a_current_of_few_milliampere_is_noted(tmp_path: Path) -> None:
    """The kernel's whole milliampere: 4.9 mA are shown as 4."""
    root = tmp_path / "hwmon"
    load = ScriptedLoad([Segment(1.0, 4.9e-3)])
    block, meter = measured(HwmonTree(root, "ina226", [load]), root, 0.5)
    assert block.current_a[5:] == pytest.approx(4e-3)
    assert any("fewer than 10 steps of 1 mA" in note for note in meter.report.notes)
    assert meter.info.ranges[0].offset_a >= 0.9e-3


def test_a_busy_bus_loses_samples_and_a_broken_one_ends_it(tmp_path: Path) -> None:
    root = tmp_path / "busy" / "hwmon"
    faults = Faults(busy_s=(0.985, 1.055), broken_s=(1.995, 2.045))
    block, meter = measured(HwmonTree(root, "ina219", [_STEADY], faults=faults), root, 3.0)
    lost = np.flatnonzero(np.isnan(block.current_a)).tolist()
    assert lost == [*range(98, 105), *range(199, 204)]
    assert block.lost == meter.report.failed == 12
    root = tmp_path / "broken" / "hwmon"
    with pytest.raises(MeterError, match=r"no reading for 2\.0 s: .*curr1_input: Too many levels of symbolic links"):
        measured(HwmonTree(root, "ina219", [_STEADY], faults=Faults(broken_s=(1.0, math.inf))), root, 5.0)


def test_an_unbound_driver(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    with pytest.raises(MeterError, match=r"curr1_input: gone: No such file") as caught:
        measured(HwmonTree(root, "ina226", [_STEADY], faults=Faults(gone_s=1.0)), root, 3.0)
    assert "unbound" in caught.value.hint
    assert caught.value.transient


def test_a_stuck_accumulator_is_refused_and_a_stuck_gauge_looks_steady(tmp_path: Path) -> None:
    """A gauge that stands still cannot be told from a steady load; a counter can."""
    root = tmp_path / "counter" / "hwmon"
    with pytest.raises(MeterError, match=r"its counter has not moved for 2\.1 s"):
        measured(HwmonTree(root, "ina228", [_STEADY], faults=Faults(stuck_s=1.0)), root, 5.0)
    root = tmp_path / "gauge" / "hwmon"
    block, _ = measured(HwmonTree(root, "ina226", [_STEADY], faults=Faults(stuck_s=1.0)), root, 5.0)
    assert block.current_a[2:] == pytest.approx(0.25)


class Forbidden(LocalFiles):
    def read_text(self, path: str) -> str:
        if path.endswith("in1_input"):
            raise PermissionError(13, "Permission denied", path)
        return super().read_text(path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "hwmon"
    HwmonTree(root, "ina226", [_STEADY])
    with pytest.raises(MeterError, match="in1_input: permission denied") as caught:
        hwmon_meter(config(root), _V, files=Forbidden()).open()
    assert "chmod a+r" in caught.value.hint


class FarFiles:
    """Files of another computer, as a shell there would give them; each costs a round trip."""

    def __init__(self, files: dict[str, str], clock: VirtualClock) -> None:
        self._files = files
        self._clock = clock

    def read_text(self, path: str) -> str:
        self._clock.pass_time(0.003)
        if path not in self._files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self._files[path]

    def names(self, folder: str) -> list[str]:
        inside = [path.removeprefix(f"{folder}/") for path in self._files if path.startswith(f"{folder}/")]
        return sorted({path.partition("/")[0] for path in inside})

    def resolve(self, path: str) -> str:
        return path.replace("/sys/class/hwmon/hwmon7/device", "/sys/devices/i2c-1/1-0045")


def test_files_of_another_computer() -> None:
    """Only reading files is asked for; what the way there takes is inside of the slot."""
    texts = {"name": "ina226", "shunt_resistor": "10000", "update_interval": "20"}
    texts |= {"curr1_input": "812", "in1_input": "5013"}
    clock = VirtualClock(2.2)
    files = FarFiles({f"/sys/class/hwmon/hwmon7/{name}": f"{text}\n" for name, text in texts.items()}, clock)
    with hwmon_meter(HwmonConfig(kind="hwmon", device="1-0045"), 5.0, files, clock) as meter:
        block = stream(meter, clock)
        assert meter.info.identity == "ina226 at 1-0045, channel 1, shunt 10 mΩ"
        assert not meter.info.emulated
    assert block.lost == 0
    assert block.current_a == pytest.approx(0.812)
    assert block.voltage_v == pytest.approx(5.013)


def test_the_registry_makes_it_and_a_live_tree_is_read(tmp_path: Path) -> None:
    """In real time, both sides in threads of their own; only values are looked at."""
    root = tmp_path / "hwmon"
    tree = HwmonTree(root, "ina219", [_STEADY])
    with live(tree, 0.005), make_meter(config(root), _V) as meter:
        meter.start()
        block = meter.read(5.0)
        while not np.isfinite(block.current_a).any():
            block = meter.read(5.0)
        meter.stop()
    assert block.current_a[np.isfinite(block.current_a)] == pytest.approx(0.25)


def test_the_tree_s_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.emulators.hwmon", "--root", str(tmp_path / "hwmon"), "--chip", "ina226"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"ready {tmp_path / 'hwmon'}\n"
        assert hwmon_meter(config(tmp_path / "hwmon"), _V).open().kind == "hwmon"
        program.communicate()
    assert program.returncode == 0
