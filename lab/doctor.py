"""What is installed, what is attached, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from lab.bench import Bench
from lab.connection_config import SerialPort
from lab.emulator_config import GuestEmulator, LoopbackEmulator, QemuEmulator, RenodeEmulator, UnicornEmulator
from lab.emulators.renode import exposed, renode_version
from lab.emulators.tcg_plugin import plugin_path
from lab.emulators.unicorn import unicorn_version
from lab.errors import ProbeError, ToolMissing, TransportError
from lab.inventory import BenchConfig, Device
from lab.labgrid.environment import labgrid_python
from lab.meter_config import SerialMeter
from lab.paths import cache_dir, project_root, store_dir
from lab.power.registry import missing_package
from lab.power.switches.registry import missing_tool
from lab.provenance import tool_version
from lab.system_packages import install
from lab.transports.serial_ports import (
    PortInfo,
    PortLister,
    choice_of,
    describe,
    find_port,
    first_port,
    list_ports,
    yaml_line,
)
from lab.transports.swd_settings import list_probes, missing_pyocd
from lab.units import format_quantity

ProbeLister = Callable[[], Mapping[str, str]]
Status = Literal["ok", "missing", "warning", "off"]

_NORDIC_VENDOR_ID = 0x1915
_DISK_FLOOR_BYTES = 1 << 30
_PIP_ONLY = "pip install 'hil-lab[emulate-pip]'"
_PIP_BENCH = "device_configs/pip-only.yaml"
_RENODE = "install Renode's own package and name its program with RENODE (docs/renode.md)"
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


@dataclass(frozen=True)
class _Tool:
    name: str
    programs: tuple[str, ...]
    package: str
    optional: str = ""
    by_pip: str = ""  # the program of the extra emulate-pip that serves as well
    instead: str = ""  # a way around it


_TOOLS: Sequence[_Tool] = (
    _Tool("QEMU for Arm", ("qemu-system-arm",), "qemu-system-arm", instead=f"{_PIP_ONLY} for {_PIP_BENCH}"),
    _Tool("QEMU for RISC-V", ("qemu-system-riscv32",), "qemu-system-misc", "only the RISC-V boards need it"),
    _Tool("Arm compiler", ("arm-none-eabi-gcc",), "gcc-arm-none-eabi", by_pip="zig"),
    _Tool("Zig", ("zig",), "", "only the RISC-V boards need it, and machines without the Arm compiler", by_pip="zig"),
    _Tool("host C compiler", ("cc", "gcc", "clang"), "gcc"),
    _Tool("64-bit Arm Linux compiler", ("aarch64-linux-gnu-gcc",), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
          "only the runner of 64-bit Arm Linux devices and phones needs it"),
    _Tool("32-bit Arm Linux compiler", ("arm-linux-gnueabihf-gcc",), "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
          "only the runner of 32-bit Arm Linux devices needs it"),
    _Tool("x86-64 Linux compiler", ("x86_64-linux-gnu-gcc",), "gcc libc6-dev",
          "only the runner of x86-64 Linux devices needs it"),
    _Tool("QEMU for 64-bit Arm", ("qemu-system-aarch64",), "qemu-system-arm",
          "only emulated Linux devices and phones need it"),
    _Tool("OpenSSH server", ("sshd", "/usr/sbin/sshd"), "openssh-server",
          "only this computer as a device behind SSH needs it; its service need not run"),
    _Tool("ser2net", ("ser2net", "/usr/sbin/ser2net"), "ser2net",
          "only `lab labgrid exporter` needs it, for serial ports; its service need not run"),
    _Tool("adb", ("adb",), "adb", "only phones need it, and adbutils brings one along"),
    _Tool("CMake", ("cmake",), "cmake", by_pip="cmake"),
    _Tool("Ninja", ("ninja",), "ninja-build", by_pip="ninja"),
    _Tool("setpriv", ("setpriv",), "util-linux"),
    _Tool("git", ("git",), "git", "records carry no commit without it"),
    _Tool("clang with libFuzzer", ("clang", "clang-14"), "clang", "only fuzzing the firmware's protocol needs it"),
    _Tool("InfluxDB server", ("influxd",), "influxdb", "only the tests of the mirror need it"),
)
_RUNNER_COMPILERS = {
    "linux-aarch64": "64-bit Arm Linux compiler",
    "linux-armv7": "32-bit Arm Linux compiler",
    "linux-x86-64": "x86-64 Linux compiler",
}
_QEMU_TOOLS = {"qemu-system-arm": "QEMU for Arm", "qemu-system-riscv32": "QEMU for RISC-V"}
_PACKAGES = ("numpy", "scipy", "torch", "pydantic", "cbor2", "cobs", "pyserial", "pyarrow", "pytest")
_OPTIONAL_PACKAGES = (
    ("influxdb-client", "influx"),
    ("paramiko", "ssh"),
    ("adbutils", "android"),
    ("pyocd", "swd"),
    ("pyvisa", "scpi"),
    ("pyjoulescope_driver", "joulescope"),
    ("monsoon", "monsoon"),
)


def availability(device: Device, ports: PortLister = list_ports, probes: ProbeLister = list_probes) -> str:
    """Why a device cannot be used on this computer now, with the way out; empty when it can.

    Takes milliseconds; half a second, once, where debug probes are looked for.
    """
    reasons = [_no_firmware(device), *_missing_tools(device)]
    if device.config.swd is not None and (remedy := missing_pyocd()):
        reasons.append(f"pyOCD is not installed, its debug probe needs it: {remedy}")
    reasons += _unreachable(device)
    if device.meter is not None and not device.meter_is_part and (remedy := missing_package(device.meter.kind)):
        reasons.append(f"a package that its {device.meter.kind} meter needs is not installed: {remedy}")
    if device.config.place is not None:
        reasons.append(_without_labgrid())
    if not device.emulated:
        reasons += [*_unattached(device, ports), _unprobed(device, probes), _unswitched(device)]
    return "; ".join(reason for reason in reasons if reason)


def diagnose(config: BenchConfig, ports: PortLister = list_ports) -> list[Finding]:
    """Look at everything the lab uses on this computer and at every device of a bench."""
    attached = list(ports())
    return [
        *_python(),
        *(_tool(tool) for tool in _TOOLS),
        _unicorn(),
        _renode(),
        _newlib(),
        _tcg_plugin(),
        *_images(config),
        _data(),
        _writable("store", store_dir()),
        _writable("cache", cache_dir()),
        *_ports(attached),
        *_probes(),
        *_host_meters(),
        _influx(),
        *_devices(config, lambda: attached),
    ]


def configured_port(serial: SerialPort | SerialMeter, ports: PortLister = list_ports) -> str:
    """The port pyserial opens for a configured one.

    Raises:
        TransportError: it is not attached, or more than one is meant; lists what is.
    """
    if isinstance(serial, SerialPort):
        return find_port(choice_of(serial), ports)
    return first_port(serial.port, serial.serial_number, ports)


def _no_firmware(device: Device) -> str:
    board = device.board
    if board.firmware_board is None:
        return f"no firmware for board '{board.kind}' yet (firmware_board is null in its board file)"
    if not (project_root() / "firmware" / "boards" / board.firmware_board).is_dir():
        return f"firmware/boards/{board.firmware_board} does not exist"
    return ""


def _missing_tools(device: Device) -> list[str]:
    section = device.emulator
    needed = ["CMake", _compiler(device)]
    if not isinstance(section, UnicornEmulator):
        needed.append("setpriv")
    if isinstance(section, GuestEmulator):
        needed.append("QEMU for 64-bit Arm")
    if isinstance(section, LoopbackEmulator):
        needed.append("OpenSSH server")
    if isinstance(section, QemuEmulator):
        needed.append(_QEMU_TOOLS[section.program])
    missing = [tool for tool in _TOOLS if tool.name in needed and _find(tool) is None]
    reasons = [f"{tool.programs[0]} is not installed: {_remedy(tool)}" for tool in missing]
    if isinstance(section, UnicornEmulator) and not unicorn_version():
        reasons.append(f"unicorn is not installed: {_PIP_ONLY}")
    if isinstance(section, RenodeEmulator) and not renode_version():
        reasons.append(f"Renode is not installed: {_RENODE}")
    elif isinstance(section, RenodeEmulator) and (reason := exposed()):
        reasons.append(reason)
    return reasons


def _unreachable(device: Device) -> list[str]:
    """What is missing for a device with an operating system: packages, and a computer that can stand for it."""
    if device.board.device_class not in ("linux", "phone"):
        return []
    emulator = device.emulator
    by_adb = device.config.adb is not None or (isinstance(emulator, GuestEmulator) and emulator.image == "phone")
    package, extra = ("adbutils", "android") if by_adb else ("paramiko", "ssh")
    reasons = [] if _package_version(package) else [f"{package} is not installed: pip install 'hil-lab[{extra}]'"]
    if isinstance(emulator, LoopbackEmulator) and platform.machine() != "x86_64":
        reasons.append(f"this computer is a {platform.machine()}, the loopback's board is an x86-64 Linux")
    return reasons


def _compiler(device: Device) -> str:
    if device.board.firmware_board in _RUNNER_COMPILERS:
        return _RUNNER_COMPILERS[device.board.firmware_board]
    if device.board.device_class == "host":
        return "host C compiler"
    return "Zig" if device.board.cpu.startswith("rv") else "Arm compiler"


def _unattached(device: Device, ports: PortLister) -> list[str]:
    """Reasons from ports that are not there; network addresses are not tried, that would take time."""
    reasons = []
    meter = device.meter if isinstance(device.meter, SerialMeter) else None
    for what, serial in (("serial port", device.config.serial), ("meter", meter)):
        if serial is None:
            continue
        try:
            port = configured_port(serial, ports)
        except TransportError as error:
            reasons.append(f"{what}: {error.message}")
            continue
        if port.startswith("/") and not Path(port).exists():
            reasons.append(f"{what}: {port} does not exist; is it plugged in?")
        elif port.startswith("/") and not os.access(port, os.R_OK | os.W_OK):
            reasons.append(f"{what}: no permission for {port}: adduser $USER dialout, then log in again")
    return reasons


def _unprobed(device: Device, probes: ProbeLister) -> str:
    swd = device.config.swd
    if swd is None or swd.unique_id is None or missing_pyocd():
        return ""
    try:
        attached = probes()
    except ProbeError as error:
        return error.message
    if swd.unique_id in attached:
        return ""
    listed = ", ".join(f"{unique_id} ({name})" for unique_id, name in attached.items()) or "none"
    return f"debug probe: no {swd.unique_id} is attached; attached: {listed}"


def _without_labgrid() -> str:
    try:
        labgrid_python()
    except ToolMissing as error:
        return f"{error.message}: {error.hint}"
    return ""


def _unswitched(device: Device) -> str:
    switch = device.config.power_switch
    missing = "" if switch is None else missing_tool(switch)
    return f"power switch: {missing}" if missing else ""


def _find(tool: _Tool) -> str | None:
    found = next((found for program in tool.programs if (found := shutil.which(program))), None)
    if found is None and tool.by_pip:
        from lab.build import tool_path

        by_pip = tool_path(tool.by_pip)
        return None if by_pip is None else str(by_pip)
    return found


def _remedy(tool: _Tool) -> str:
    ways = [install(*tool.package.split())] if tool.package else []
    ways += [_PIP_ONLY] if tool.by_pip else []
    return ", or ".join(ways + ([tool.instead] if tool.instead else []))


def _python() -> list[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= (3, 11)
    findings = [
        Finding(
            "python", "Python", "ok" if enough else "missing", f"{found} at {sys.executable}",
            "" if enough else f"install Python 3.11 or newer: {install('python3.11', 'python3.11-venv')}",
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
    if tool.optional:
        return Finding("tools", tool.name, "off", f"not installed; {tool.optional}", _remedy(tool))
    return Finding("tools", tool.name, "missing", f"none of {', '.join(tool.programs)} in PATH", _remedy(tool))


def _unicorn() -> Finding:
    found = unicorn_version()
    if found:
        return Finding("tools", "Unicorn", "ok", found)
    return Finding("tools", "Unicorn", "off", "not installed; it emulates where QEMU cannot be installed", _PIP_ONLY)


def _renode() -> Finding:
    found = renode_version()
    if found:
        return Finding("tools", "Renode", "ok", found)
    return Finding("tools", "Renode", "off", "not installed; only boards that it emulates need it", _RENODE)


def _newlib() -> Finding:
    name = "C library for Arm"
    roots = (Path("/usr/lib/arm-none-eabi"), *_toolchain_roots())
    library = next((path for root in roots for path in root.glob("**/libc_nano.a")), None)
    if library is not None:
        return Finding("tools", name, "ok", f"newlib in {library.parent}")
    return Finding("tools", name, "missing", "newlib not found", install("libnewlib-arm-none-eabi"))


def _toolchain_roots() -> tuple[Path, ...]:
    """Where a compiler that is not Debian's keeps its library: beside its own bin folder."""
    compiler = shutil.which("arm-none-eabi-gcc")
    return (Path(compiler).resolve().parent.parent / "arm-none-eabi" / "lib",) if compiler else ()


def _tcg_plugin() -> Finding:
    path = plugin_path(cache_dir())
    if path.exists():
        return Finding("tools", "QEMU counting plug-in", "ok", str(path))
    return Finding("tools", "QEMU counting plug-in", "off", "not built; reports lack exact counts", "run `make setup`")


def _images(config: BenchConfig) -> list[Finding]:
    """Images of the emulated Linux devices of a bench: there, or to be built at the first start."""
    from lab.emulators.linux.image import built_image

    kinds = {one.emulator.image for one in config.devices.values() if isinstance(one.emulator, GuestEmulator)}
    findings = []
    for kind in sorted(kinds):
        found = built_image(kind, cache_dir())
        detail = "not built: the first start downloads Debian packages and builds it"
        if found is not None:
            detail = f"Linux {found.kernel_version} in {found.kernel.parent}"
        findings.append(
            Finding("tools", f"image {kind!r}", "off" if found is None else "ok", detail, f"lab image build {kind}")
        )
    return findings


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
        name = "PPK2 or other Nordic device" if port.vid == _NORDIC_VENDOR_ID else "serial port"
        line = yaml_line(port, attached) or "a bench file can name it only by a path in /dev/serial/by-path"
        findings.append(Finding("attached", name, "ok", f"{describe(port)}: {port.description}; {line}"))
    return findings


def _probes() -> list[Finding]:
    if remedy := missing_pyocd():
        return [Finding("attached", "debug probes", "off", "not looked for", remedy)]
    try:
        probes = list_probes()
    except ProbeError as error:
        return [Finding("attached", "debug probes", "warning", error.message, error.hint)]
    return [
        Finding("attached", "debug probe", "ok", f"{unique_id}: {name}") for unique_id, name in probes.items()
    ] or [Finding("attached", "debug probes", "off", "none")]


def _host_meters() -> list[Finding]:
    # Meters bring NumPy, which nobody wants to wait for who only asks whether devices are there.
    from lab.power.host_side import host_meters

    findings = []
    for meters in host_meters():
        listed = ", ".join(meters.found) or "none"
        detail = f"{listed}: {meters.trouble}" if meters.trouble else listed
        status: Status = "off" if not meters.found else "warning" if meters.trouble else "ok"
        findings.append(Finding("attached", meters.name, status, detail, meters.remedy))
    return findings


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
