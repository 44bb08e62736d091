"""What the doctor says of the meters that this computer has, and a host device that is metered."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from lab.bench import Bench
from lab.devices.connect import connected
from lab.doctor import diagnose
from lab.emulators.hwmon import HwmonTree, PowercapTree
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.nvml import EmulatedNvml, Gpu
from lab.errors import ConfigError
from lab.inventory import load_bench
from lab.meter_config import MonsoonConfig
from lab.power.host_side import HostMeters, host_meters
from lab.power.registry import MODULES
from lab.power.sysfs import LocalFiles

_LOAD = ScriptedLoad([Segment(1.0, 1.0, voltage_v=12.0)])


class Forbidden(LocalFiles):
    def read_text(self, path: str) -> str:
        if path.endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", path)
        return super().read_text(path)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[str, str]:
    HwmonTree(tmp_path / "hwmon", "ina226", [_LOAD])
    domains = {"intel-rapl:0": ("package-0", _LOAD), "intel-rapl:0:0": ("dram", _LOAD)}
    PowercapTree(tmp_path / "powercap", domains)
    return str(tmp_path / "hwmon"), str(tmp_path / "powercap")


def _by_name(found: list[HostMeters]) -> dict[str, HostMeters]:
    return {one.name: one for one in found}


def test_what_is_there_is_listed(trees: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = Gpu("GPU-aaaa", "NVIDIA L4", _LOAD)
    assert host_meters(*trees, nvml=EmulatedNvml((gpu,), lambda: 0.0)) == [
        HostMeters("current monitors (hwmon)", ("ina226 at 1-0040",)),
        HostMeters("processor energy (RAPL)", ("package-0", "package-0/dram")),
        HostMeters("GPU energy (NVML)", ("GPU-aaaa: NVIDIA L4",)),
        HostMeters("tegrastats", (str(program),)),
    ]


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = _by_name(host_meters(str(tmp_path / "a"), str(tmp_path / "b")))
    assert [one.found for one in found.values()] == [()] * 4
    assert found["GPU energy (NVML)"].remedy == "pip install 'hil-lab[meters]'"


def test_counters_that_may_not_be_read_come_with_the_way_out(trees: tuple[str, str]) -> None:
    rapl = _by_name(host_meters(*trees, files=Forbidden()))["processor energy (RAPL)"]
    assert rapl.found == ("package-0", "package-0/dram")
    assert "permission denied" in rapl.trouble
    assert "sudo chmod a+r" in rapl.remedy


@pytest.mark.parametrize(
    ("meters", "status", "detail"),
    [
        (HostMeters("it", ()), "off", "none"),
        (HostMeters("it", ("a", "b")), "ok", "a, b"),
        (HostMeters("it", ("a",), "permission denied", "chmod"), "warning", "a: permission denied"),
        (HostMeters("it", (), "not installed", "pip"), "off", "none: not installed"),
    ],
)
def test_the_doctor_shows_them(
    meters: HostMeters, status: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.power.host_side.host_meters", lambda: [meters])
    found = {finding.name: finding for finding in diagnose(load_bench(_host_bench(tmp_path, "")), list)}["it"]
    assert (found.area, found.status, found.detail, found.remedy) == ("attached", status, detail, meters.remedy)


def _host_bench(folder: Path, meter: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(f"devices:\n  here:\n    board: host\n{meter}")
    return path


def test_the_host_is_metered_by_its_own_counters(trees: tuple[str, str], tmp_path: Path) -> None:
    meter = f"    meter: {{kind: rapl, root: {trees[1]}, voltage_v: 12.0}}\n"
    entry = Bench(load_bench(_host_bench(tmp_path, meter))).get("here")
    with connected(entry, tmp_path) as device:
        made = device.meter()
        assert made is not None
        with made:
            assert made.info.identity.startswith("RAPL package-0")
            assert made.info.voltage_v == 12.0
    with connected(Bench(load_bench(_host_bench(tmp_path, ""))).get("here"), tmp_path) as device:
        assert device.meter() is None


@pytest.mark.parametrize(
    ("meter", "parts"),
    [
        ("{kind: hwmon, emulated: true}", ["meter.emulated", "found True"]),
        ("{kind: hwmon, chip: ina999}", ["meter.chip", "ina226", "ina3221"]),
        ("{kind: hwmon, channel: 4}", ["meter.channel", "found 4"]),
        ("{kind: hwmon, period: 0 ms}", ["meter.period"]),
        ("{kind: hwmon, shunt_ohm: 0.0}", ["meter.shunt_ohm"]),
        ("{kind: tegrastats, rails: []}", ["meter.rails"]),
        ("{kind: tegrastats, period: 5 ms}", ["meter.period", "0.02"]),
        ("{kind: nvml, index: 0}", ["unknown key 'index'"]),
        ("{kind: android}", ["serial: is missing"]),
        ("{kind: android, serial: a, current_unit: A}", ["meter.current_unit", "allowed: uA, mA"]),
    ],
)
def test_what_a_bench_says_wrong_is_told_with_its_place(tmp_path: Path, meter: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bench(_host_bench(tmp_path, f"    meter: {meter}\n"))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["hwmon", "tegrastats", "nvml", "rapl", "android"])
def test_a_driver_refuses_another_kind_s_settings(kind: str) -> None:
    with pytest.raises(ConfigError, match="was asked to be a meter of kind 'monsoon'"):
        import_module(MODULES[kind]).make(MonsoonConfig(kind="monsoon"), 3.3)
