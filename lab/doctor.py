"""What is installed, what is attached, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol

from lab.bench import Bench
from lab.emulators.tcg_plugin import plugin_path
from lab.errors import TransportError
from lab.inventory import BenchConfig, Device, MeterConfig, SerialPort
from lab.paths import cache_dir, project_root, store_dir
from lab.provenance import tool_version
from lab.transports.serial import port_of
from lab.units import format_quantity

Status = Literal["ok", "missing", "warning", "off"]

_NORDIC_VENDOR_ID = 0x1915
_DISK_FLOOR_BYTES = 1 << 30
_MISSING_PACKAGE_REMEDY = "run `make setup`, which fills the virtual environment"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: ``python``, ``tools``, ``data``, ``attached``, ``services`` or ``devices``.
        name: what was looked at.
        status: ``ok``; ``missing``: needed and absent; ``warning``: look at it; ``off``: optional and absent.
        detail: what was found.
        remedy: how to get it, empty when nothing is to be done.
    """

    area: str
    name: str
    status: Status
    detail: str
    remedy: str = ""


class PortInfo(Protocol):
    """What the doctor reads of a serial port; ``serial.tools.list_ports`` yields these."""

    @property
    def device(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def vid(self) -> int | None: ...

    @property
    def serial_number(self) -> str | None: ...


PortLister = Callable[[], Iterable[PortInfo]]


@dataclass(frozen=True)
class _Tool:
    name: str
    programs: tuple[str, ...]
    package: str
    optional: str = ""


_TOOLS: Sequence[_Tool] = (
    _Tool("QEMU for Arm", ("qemu-system-arm",), "qemu-system-arm"),
    _Tool("Arm compiler", ("arm-none-eabi-gcc",), "gcc-arm-none-eabi"),
    _Tool("host C compiler", ("cc", "gcc", "clang"), "gcc"),
    _Tool("CMake", ("cmake",), "cmake"),
    _Tool("Ninja", ("ninja",), "ninja-build"),
    _Tool("setpriv", ("setpriv",), "util-linux"),
    _Tool("git", ("git",), "git", "records carry no commit without it"),
    _Tool("clang with libFuzzer", ("clang", "clang-14"), "clang", "only fuzzing the firmware's protocol needs it"),
    _Tool("InfluxDB server", ("influxd",), "influxdb", "only the tests of the mirror need it"),
)
_PACKAGES = ("numpy", "scipy", "torch", "pydantic", "cbor2", "cobs", "pyserial", "pyarrow", "pytest")
_OPTIONAL_PACKAGES = (("influxdb-client", "influx"), ("pyocd", "swd"))


def list_ports() -> list[PortInfo]:
    """Serial ports of this computer."""
    from serial.tools import list_ports as pyserial_ports

    return list(pyserial_ports.comports())


def availability(device: Device, ports: PortLister = list_ports) -> str:
    """Why a device cannot be used on this computer now, with the way out; empty when it can. Takes milliseconds."""
    reasons = [_no_firmware(device), *_missing_tools(device)]
    if not device.emulated:
        reasons += _unattached(device, ports)
    return "; ".join(reason for reason in reasons if reason)


def diagnose(config: BenchConfig, ports: PortLister = list_ports) -> list[Finding]:
    """Look at everything the lab uses on this computer and at every device of a bench."""
    attached = list(ports())
    return [
        *_python(),
        *(_tool(tool) for tool in _TOOLS),
        _newlib(),
        _tcg_plugin(),
        _data(),
        _writable("store", store_dir()),
        _writable("cache", cache_dir()),
        *_ports(attached),
        *_probes(),
        _influx(),
        *_devices(config, lambda: attached),
    ]


def find_port(serial: SerialPort | MeterConfig, ports: PortLister = list_ports) -> str:
    """The port pyserial opens for a configured one.

    Raises:
        TransportError: nothing with that USB serial number is attached; lists what is.
    """
    return port_of(serial.port, serial.by_id if isinstance(serial, SerialPort) else serial.serial_number, ports())


def _no_firmware(device: Device) -> str:
    board = device.board
    if board.firmware_board is None:
        return f"no firmware for board '{board.kind}' yet (firmware_board is null in its board file)"
    if not (project_root() / "firmware" / "boards" / board.firmware_board).is_dir():
        return f"firmware/boards/{board.firmware_board} does not exist"
    return ""


def _missing_tools(device: Device) -> list[str]:
    needed = ["CMake", "setpriv"]
    needed.append("host C compiler" if device.board.device_class == "host" else "Arm compiler")
    if device.emulated:
        needed.append("QEMU for Arm")
    return [
        f"{tool.programs[0]} is not installed: apt-get install {tool.package}"
        for tool in _TOOLS
        if tool.name in needed and _find(tool) is None
    ]


def _unattached(device: Device, ports: PortLister) -> list[str]:
    """Reasons from ports that are not there; network addresses are not tried, that would take time."""
    reasons = []
    for what, serial in (("serial port", device.config.serial), ("meter", device.meter)):
        if serial is None:
            continue
        try:
            port = find_port(serial, ports)
        except TransportError as error:
            reasons.append(f"{what}: {error.message}")
            continue
        if port.startswith("/") and not Path(port).exists():
            reasons.append(f"{what}: {port} does not exist; is it plugged in?")
        elif port.startswith("/") and not os.access(port, os.R_OK | os.W_OK):
            reasons.append(f"{what}: no permission for {port}: adduser $USER dialout, then log in again")
    return reasons


def _find(tool: _Tool) -> str | None:
    return next((found for program in tool.programs if (found := shutil.which(program))), None)


def _python() -> list[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= (3, 11)
    findings = [
        Finding(
            "python", "Python", "ok" if enough else "missing", f"{found} at {sys.executable}",
            "" if enough else "install Python 3.11 or newer: apt-get install python3.11 python3.11-venv",
        )
    ]  # fmt: skip
    for package in _PACKAGES:
        installed = _package_version(package)
        findings.append(
            Finding("python", package, "ok", installed)
            if installed
            else Finding("python", package, "missing", "not installed", _MISSING_PACKAGE_REMEDY)
        )
    for package, extra in _OPTIONAL_PACKAGES:
        installed = _package_version(package)
        findings.append(
            Finding("python", package, "ok", installed)
            if installed
            else Finding("python", package, "off", "not installed, optional", f"pip install 'hil-lab[{extra}]'")
        )
    return findings


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _tool(tool: _Tool) -> Finding:
    found = _find(tool)
    if found is not None:
        return Finding("tools", tool.name, "ok", tool_version(found) or found)
    remedy = f"apt-get install {tool.package}"
    if tool.optional:
        return Finding("tools", tool.name, "off", f"not installed; {tool.optional}", remedy)
    return Finding("tools", tool.name, "missing", f"none of {', '.join(tool.programs)} in PATH", remedy)


def _newlib() -> Finding:
    name = "C library for Arm"
    roots = (Path("/usr/lib/arm-none-eabi"), *_toolchain_roots())
    library = next((path for root in roots for path in root.glob("**/libc_nano.a")), None)
    if library is not None:
        return Finding("tools", name, "ok", f"newlib in {library.parent}")
    return Finding("tools", name, "missing", "newlib not found", "apt-get install libnewlib-arm-none-eabi")


def _toolchain_roots() -> tuple[Path, ...]:
    """Where a compiler that is not Debian's keeps its library: beside its own bin folder."""
    compiler = shutil.which("arm-none-eabi-gcc")
    return (Path(compiler).resolve().parent.parent / "arm-none-eabi" / "lib",) if compiler else ()


def _tcg_plugin() -> Finding:
    path = plugin_path(cache_dir())
    if path.exists():
        return Finding("tools", "QEMU counting plug-in", "ok", str(path))
    return Finding("tools", "QEMU counting plug-in", "off", "not built; reports lack exact counts", "run `make setup`")


def _data() -> Finding:
    folder = os.environ.get("LAB_DATA", "")
    if not folder:
        return Finding(
            "data", "LAB_DATA", "off", "not set: workloads use scikit-learn's digits",
            "export LAB_DATA=<folder with the spoken digits>",
        )  # fmt: skip
    if not Path(folder).is_dir():
        return Finding("data", "LAB_DATA", "missing", f"{folder} is no folder", "correct LAB_DATA or unset it")
    return Finding("data", "LAB_DATA", "ok", folder)


def _writable(name: str, folder: Path) -> Finding:
    """Whether a folder, or the nearest parent that exists, can be written and has room; creates nothing."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    variable = f"LAB_{name.upper()}"
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        return Finding("data", name, "missing", f"{folder} cannot be written", f"set {variable} to a folder of yours")
    free = shutil.disk_usage(present).free
    detail = f"{folder}, {format_quantity(free, 'bytes')} free"
    if free < _DISK_FLOOR_BYTES:
        return Finding("data", name, "warning", detail, f"free some space, or set {variable} to a larger disk")
    return Finding("data", name, "ok", detail)


def _ports(attached: Sequence[PortInfo]) -> list[Finding]:
    if not attached:
        return [Finding("attached", "serial ports", "off", "none")]
    findings = []
    for port in attached:
        meter = port.vid == _NORDIC_VENDOR_ID
        number = f"USB serial number {port.serial_number}" if port.serial_number else "no USB serial number"
        name = "PPK2 or other Nordic device" if meter else "serial port"
        findings.append(Finding("attached", name, "ok", f"{number} at {port.device}: {port.description}"))
    return findings


def _probes() -> list[Finding]:
    if importlib.util.find_spec("pyocd") is None:
        return [Finding("attached", "debug probes", "off", "not looked for", "pip install 'hil-lab[swd]'")]
    from pyocd.core.exceptions import Error as PyOcdError
    from pyocd.core.helpers import ConnectHelper

    try:
        probes = ConnectHelper.get_all_connected_probes(blocking=False, print_wait_message=False)
    except (PyOcdError, OSError) as error:
        return [Finding("attached", "debug probes", "warning", f"pyOCD cannot list them: {error}", "see udev rules")]
    return [
        Finding("attached", "debug probe", "ok", f"{probe.unique_id}: {probe.description}") for probe in probes
    ] or [Finding("attached", "debug probes", "off", "none")]


def _influx() -> Finding:
    """Whether a mirror is configured; its token is never shown and the server is not contacted."""
    url = os.environ.get("LAB_INFLUX_URL", "")
    if not url:
        return Finding("services", "InfluxDB mirror", "off", "LAB_INFLUX_URL is not set; the local store is enough")
    if not _package_version("influxdb-client"):
        return Finding(
            "services",
            "InfluxDB mirror",
            "missing",
            "influxdb-client is not installed",
            "pip install 'hil-lab[influx]'",
        )
    return Finding("services", "InfluxDB mirror", "ok", f"mirrors to {_without_credentials(url)}")


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]


def _devices(config: BenchConfig, ports: PortLister) -> list[Finding]:
    findings = []
    for device in Bench(config).devices:
        why_not = availability(device, ports)
        what = f"{device.board.title}{', metered' if device.meter else ''}"
        findings.append(Finding("devices", device.name, "missing" if why_not else "ok", what, why_not))
    return findings
