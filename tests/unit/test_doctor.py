"""What the doctor finds, with programs, ports and folders put in place by the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.bench import Bench
from lab.doctor import Finding, PortInfo, availability, diagnose, find_port
from lab.errors import TransportError
from lab.inventory import SerialPort
from lab.paths import config_dir
from lab.provenance import tool_version

_PROGRAMS = ("qemu-system-arm", "arm-none-eabi-gcc", "cmake", "ninja", "cc", "setpriv", "git", "clang", "influxd")
_NUCLEO_SERIAL = "066BFF343633464257254156"
_PPK2_SERIAL = "C4DF0A1B2C3D"


@dataclass(frozen=True)
class Port:
    device: str
    serial_number: str | None
    vid: int | None = None
    description: str = "a port"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a stand-in for every program the lab uses; each prints its name as its version."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in _PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} 9.9\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("LAB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    for name in ("LAB_DATA", "LAB_INFLUX_URL"):
        monkeypatch.delenv(name, raising=False)
    tool_version.cache_clear()
    return folder


def _no_ports() -> list[PortInfo]:
    return []


def _findings(ports: list[PortInfo] | None = None) -> dict[str, Finding]:
    config = Bench.load(config_dir() / "emulated.yaml").config
    return {finding.name: finding for finding in diagnose(config, lambda: ports or [])}


@pytest.mark.usefixtures("programs")
def test_installed_tools_are_ok_with_their_versions() -> None:
    found = _findings()
    assert found["QEMU for Arm"] == Finding("tools", "QEMU for Arm", "ok", "qemu-system-arm 9.9")
    assert found["Arm compiler"].detail == "arm-none-eabi-gcc 9.9"
    assert found["Python"].status == "ok"


@pytest.mark.parametrize(
    ("program", "name", "status", "package"),
    [
        ("qemu-system-arm", "QEMU for Arm", "missing", "qemu-system-arm"),
        ("arm-none-eabi-gcc", "Arm compiler", "missing", "gcc-arm-none-eabi"),
        ("cmake", "CMake", "missing", "cmake"),
        ("ninja", "Ninja", "missing", "ninja-build"),
        ("influxd", "InfluxDB server", "off", "influxdb"),
        ("git", "git", "off", "git"),
    ],
)
def test_a_missing_tool_is_named_with_its_package(
    programs: Path, program: str, name: str, status: str, package: str
) -> None:
    (programs / program).unlink()
    finding = _findings()[name]
    assert finding.status == status
    assert finding.remedy == f"apt-get install {package}"


@pytest.mark.parametrize(
    ("program", "unavailable"),
    [
        ("qemu-system-arm", {"m4f", "m7", "m55"}),
        ("arm-none-eabi-gcc", {"m4f", "m7", "m55"}),
        ("cmake", {"m4f", "m7", "m55", "host"}),
        ("cc", set()),
        ("influxd", set()),
    ],
)
def test_a_device_says_which_tool_it_lacks(programs: Path, program: str, unavailable: set[str]) -> None:
    (programs / program).unlink()
    reasons = {
        device.name: availability(device, _no_ports) for device in Bench.load(config_dir() / "emulated.yaml").devices
    }
    assert {name for name, reason in reasons.items() if reason} == unavailable
    for name in unavailable:
        assert f"{program} is not installed: apt-get install" in reasons[name]


@pytest.mark.usefixtures("programs")
def test_hardware_that_is_not_attached_says_so() -> None:
    reason = availability(Bench.load(config_dir() / "bench.example.yaml").get("nucleo"), _no_ports)
    assert "no firmware for board 'nucleo-f446re' yet" in reason
    assert f"no serial port with USB serial number {_NUCLEO_SERIAL}" in reason
    assert f"meter: no serial port with USB serial number {_PPK2_SERIAL}" in reason


@pytest.mark.usefixtures("programs")
def test_hardware_that_is_attached_lacks_only_its_firmware(tmp_path: Path) -> None:
    ports = []
    for name, number in (("board", _NUCLEO_SERIAL), ("meter", _PPK2_SERIAL)):
        (tmp_path / name).write_text("")
        ports.append(Port(str(tmp_path / name), number))
    reason = availability(Bench.load(config_dir() / "bench.example.yaml").get("nucleo"), lambda: ports)
    assert reason == "no firmware for board 'nucleo-f446re' yet (firmware_board is null in its board file)"


def test_a_port_is_found_by_its_usb_serial_number() -> None:
    ports = [Port("/dev/ttyACM3", "OTHER"), Port("/dev/ttyACM7", "MINE"), Port("/dev/ttyACM1", "MINE")]
    assert find_port(SerialPort(by_id="MINE"), lambda: ports) == "/dev/ttyACM1"
    assert find_port(SerialPort(by_id="/dev/serial/by-id/x"), _no_ports) == "/dev/serial/by-id/x"
    assert find_port(SerialPort(port="socket://localhost:9"), _no_ports) == "socket://localhost:9"
    with pytest.raises(TransportError, match=r"attached: /dev/ttyACM3 \(OTHER\)"):
        find_port(SerialPort(by_id="GONE"), lambda: ports[:1])


@pytest.mark.usefixtures("programs")
def test_attached_ports_and_meters_are_listed_by_serial_number() -> None:
    found = _findings([Port("/dev/ttyACM0", _PPK2_SERIAL, 0x1915), Port("/dev/ttyACM1", "X", 0x0483)])
    assert _PPK2_SERIAL in found["PPK2 or other Nordic device"].detail
    assert "USB serial number X at /dev/ttyACM1" in found["serial port"].detail


@pytest.mark.usefixtures("programs")
def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _findings()["LAB_DATA"].status == "off"
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "nowhere"))
    assert _findings()["LAB_DATA"].status == "missing"
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    assert _findings()["LAB_DATA"].status == "ok"


@pytest.mark.usefixtures("programs")
def test_the_mirror_is_shown_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _findings()["InfluxDB mirror"].status == "off"
    monkeypatch.setenv("LAB_INFLUX_URL", "http://user:canary@influx.local:8086")
    monkeypatch.setenv("LAB_INFLUX_TOKEN", "canary")
    found = _findings()
    assert "influx.local:8086" in found["InfluxDB mirror"].detail
    assert "canary" not in repr(found)


@pytest.mark.usefixtures("programs")
def test_a_store_that_cannot_be_written_and_one_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _findings()["store"].status == "ok"
    assert not (tmp_path / "store").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_STORE", str(tmp_path / "file" / "store"))
    finding = _findings()["store"]
    assert finding.status == "missing"
    assert "LAB_STORE" in finding.remedy


@pytest.mark.usefixtures("programs")
def test_the_counting_plugin_is_optional(tmp_path: Path) -> None:
    assert _findings()["QEMU counting plug-in"].status == "off"


def test_every_finding_that_needs_action_says_which(programs: Path) -> None:
    for program in _PROGRAMS:
        (programs / program).unlink()
    for finding in _findings().values():
        assert finding.status != "missing" or finding.remedy, finding
