"""What the doctor finds, with programs, ports and folders put in place by the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import lab.build
import lab.doctor
from lab.bench import Bench
from lab.connection_config import SerialPort
from lab.doctor import Finding, availability, configured_port, diagnose
from lab.errors import TransportError
from lab.meter_config import Ppk2Config
from lab.paths import config_dir
from lab.provenance import tool_version
from lab.transports.serial_ports import PortInfo

_PROGRAMS = (
    "qemu-system-arm", "arm-none-eabi-gcc", "cmake", "ninja", "cc", "setpriv", "git", "clang", "influxd",
    "qemu-system-aarch64", "aarch64-linux-gnu-gcc", "x86_64-linux-gnu-gcc", "sshd",
)  # fmt: skip
_NUCLEO_SERIAL = "066BFF343633464257254156"
_PPK2_SERIAL = "C4DF0A1B2C3D"


@dataclass(frozen=True)
class Port:
    device: str
    serial_number: str | None
    vid: int | None = None
    description: str = "a port"
    pid: int | None = 0x374B
    location: str | None = None
    interface: str | None = None


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tools_of_pip: None) -> Path:
    """A PATH with a stand-in for every program the lab uses; each prints its name as its version. pip has none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*_PROGRAMS, "uhubctl"):
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
    assert finding.remedy.partition(",")[0] == f"apt-get install {package}"
    by_pip = program in {"qemu-system-arm", "arm-none-eabi-gcc", "cmake", "ninja"}
    assert ("pip install 'hil-lab[emulate-pip]'" in finding.remedy) == by_pip


def test_what_pip_installed_serves_where_path_has_nothing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("qemu-system-arm", "arm-none-eabi-gcc", "cmake", "ninja", "setpriv"):
        (programs / program).unlink()
    bench = Bench.load(config_dir() / "pip-only.yaml")
    for device in bench.devices:
        reason = availability(device, _no_ports)
        assert "arm-none-eabi-gcc is not installed" in reason
        assert "pip install 'hil-lab[emulate-pip]'" in reason
        assert "qemu" not in reason
        assert "setpriv" not in reason
    installed = {name: Path(f"/pip/{name}") for name in ("zig", "cmake", "ninja")}
    monkeypatch.setattr(lab.build, "tool_path", installed.get)
    assert [availability(device, _no_ports) for device in bench.devices] == [""] * 4
    monkeypatch.setattr(lab.doctor, "unicorn_version", lambda: "")
    assert "unicorn is not installed: pip install" in availability(bench.devices[0], _no_ports)
    assert _findings()["Unicorn"].status == "off"


def test_a_riscv_board_needs_programs_of_its_own(programs: Path) -> None:
    (programs / "qemu-system-arm").unlink()
    (programs / "arm-none-eabi-gcc").unlink()
    device = next(one for one in Bench.load(config_dir() / "emulators.yaml").devices if one.name == "e31")
    reason = availability(device, _no_ports)
    assert "qemu-system-riscv32 is not installed: apt-get install qemu-system-misc" in reason
    assert "zig is not installed: pip install 'hil-lab[emulate-pip]'" in reason
    assert "arm" not in reason
    assert _findings()["QEMU for RISC-V"].status == "off"
    for name in ("qemu-system-riscv32", "zig"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} 9.9\n")
        (programs / name).chmod(0o755)
    assert availability(device, _no_ports) == ""


@pytest.mark.usefixtures("programs")
def test_packages_and_computers_that_linux_devices_need(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench.load(config_dir() / "emulated.yaml")
    monkeypatch.setattr(lab.doctor, "_package_version", lambda package: "")
    assert "paramiko is not installed: pip install 'hil-lab[ssh]'" in availability(bench.get("pi"), _no_ports)
    assert "adbutils is not installed: pip install 'hil-lab[android]'" in availability(bench.get("phone"), _no_ports)
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "this computer is a aarch64" in availability(bench.get("loopback"), _no_ports)


@pytest.mark.usefixtures("programs")
def test_images_of_the_bench_and_how_to_get_them() -> None:
    found = _findings()
    assert found["image 'pi'"].status == "off"
    assert found["image 'phone'"].remedy == "lab image build phone"
    assert found["QEMU for 64-bit Arm"].status == "ok"


@pytest.mark.parametrize(
    ("program", "unavailable"),
    [
        ("qemu-system-arm", {"m4f", "m7", "m55"}),
        ("arm-none-eabi-gcc", {"m4f", "m7", "m55"}),
        ("cmake", {"m4f", "m7", "m55", "host", "pi", "jetson", "phone", "loopback"}),
        ("aarch64-linux-gnu-gcc", {"pi", "jetson", "phone"}),
        ("x86_64-linux-gnu-gcc", {"loopback"}),
        ("qemu-system-aarch64", {"pi", "jetson", "phone"}),
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
    assert f'serial port: no serial port {{by_id: "{_NUCLEO_SERIAL}"}} is attached; attached: none' in reason
    assert f'meter: no serial port {{by_id: "{_PPK2_SERIAL}"}} is attached' in reason


@pytest.mark.usefixtures("programs")
def test_hardware_that_is_attached_can_be_used_once_its_board_has_firmware(tmp_path: Path) -> None:
    ports = []
    for name, number in (("board", _NUCLEO_SERIAL), ("meter", _PPK2_SERIAL)):
        (tmp_path / name).write_text("")
        ports.append(Port(str(tmp_path / name), number))
    device = Bench.load(config_dir() / "bench.example.yaml").get("nucleo")
    assert availability(device, lambda: ports, lambda: {_NUCLEO_SERIAL: "ST-LINK"}) == ""
    reason = availability(device, lambda: ports, lambda: {"OTHER": "ST-LINK"})
    assert reason == f"debug probe: no {_NUCLEO_SERIAL} is attached; attached: OTHER (ST-LINK)"
    (tmp_path / "bin" / "uhubctl").unlink()
    reason = availability(device, lambda: ports, lambda: {_NUCLEO_SERIAL: "ST-LINK"})
    assert reason == "power switch: uhubctl is not installed: apt-get install uhubctl"
    device = replace(device, config=device.config.model_copy(update={"power_switch": None}))
    bare = replace(device, board=device.board.model_copy(update={"firmware_board": None}))
    reason = availability(bare, lambda: ports, lambda: {_NUCLEO_SERIAL: "ST-LINK"})
    assert reason == "no firmware for board 'nucleo-f446re' yet (firmware_board is null in its board file)"


def test_a_port_is_found_by_its_usb_serial_number() -> None:
    ports = [Port("/dev/ttyACM3", "OTHER"), Port("/dev/ttyACM7", "MINE"), Port("/dev/ttyACM1", "MINE")]
    assert configured_port(SerialPort(by_id="OTHER"), lambda: ports) == "/dev/ttyACM3"
    # A PPK2 has two ports and serves on the first; which of a board's ports is meant has to be said.
    assert configured_port(Ppk2Config(kind="ppk2", serial_number="MINE"), lambda: ports) == "/dev/ttyACM1"
    with pytest.raises(TransportError, match=r'2 serial ports are {by_id: "MINE"}: /dev/ttyACM7 .*, /dev/ttyACM1'):
        configured_port(SerialPort(by_id="MINE"), lambda: ports)
    assert configured_port(SerialPort(by_id="/dev/serial/by-id/x"), _no_ports) == "/dev/serial/by-id/x"
    assert configured_port(SerialPort(port="socket://localhost:9"), _no_ports) == "socket://localhost:9"
    with pytest.raises(TransportError, match=r'attached: /dev/ttyACM3 \(by_id: "OTHER"\)'):
        configured_port(SerialPort(by_id="GONE"), lambda: ports[:1])


@pytest.mark.usefixtures("programs")
def test_attached_ports_and_meters_are_listed_by_serial_number() -> None:
    found = _findings(
        [
            Port("/dev/ttyACM0", _PPK2_SERIAL, 0x1915),
            Port("/dev/ttyACM1", "X", 0x0483, "STLink", location="1-3.2:1.2", interface="VCP"),
        ]
    )
    assert _PPK2_SERIAL in found["PPK2 or other Nordic device"].detail
    shown = '/dev/ttyACM1 (by_id: "X", usb: "0483:374b", interface: 2, location: "1-3.2", named "VCP"): STLink'
    assert found["serial port"].detail == f'{shown}; serial: {{by_id: "X"}}'


@pytest.mark.usefixtures("programs")
def test_a_port_without_usb_says_how_it_can_be_named() -> None:
    found = _findings([Port("/dev/ttyS0", None, description="n/a", pid=None)])
    assert found["serial port"].detail == (
        "/dev/ttyS0 (no USB port): n/a; a bench file can name it only by a path in /dev/serial/by-path"
    )


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
