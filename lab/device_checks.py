"""What a device of a bench must and must not have, by its board and its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab.connection_config import SwdProbe
from lab.emulator_config import QemuEmulator
from lab.errors import ConfigError
from lab.meter_config import AndroidConfig

if TYPE_CHECKING:
    from lab.inventory import Device

_CLASS_TRANSPORTS: Mapping[str, tuple[str, ...]] = {"mcu": ("serial",), "linux": ("ssh",), "phone": ("adb", "ssh")}


def check_device(device: Device, where: str) -> None:
    """Rules that need the board: what an emulated and a real device of its class must and must not have."""
    config, board, field_path = device.config, device.board, f"devices.{device.name}"
    keys = ("serial", "swd", "ssh", "adb", "place", "power_switch")
    reach = [key for key in keys if getattr(config, key) is not None]
    needed = _CLASS_TRANSPORTS.get(board.device_class, ())
    if config.place is not None and device.labgrid is None:
        raise ConfigError(
            f"{where}: {field_path}.place: '{config.place}' is a place of which coordinator?",
            hint="add labgrid: {coordinator: host:port} to the bench file (docs/labgrid.md)",
        )
    if config.swd is not None:
        _check_probe(device, config.swd, f"{where}: {field_path}.swd")
        # A virtual probe belongs to the emulator, and RTT goes through the probe.
        reach = [key for key in reach if key != "swd" or not config.swd.emulated]
        needed = ("swd",) if config.swd.rtt else needed
    if config.emulator is not None and not config.emulated:
        raise ConfigError(
            f"{where}: {field_path}.emulator: '{config.emulator}' is named for a device that is not emulated",
            hint="add emulated: true, or remove emulator:",
        )
    kinds = [one.kind for one in board.emulators]
    if config.emulator is not None and kinds and config.emulator not in kinds:
        raise ConfigError(
            f"{where}: {field_path}.emulator: board '{board.kind}' has none of kind '{config.emulator}'; "
            f"allowed: {', '.join(kinds)}",
            hint=f"name one of these, or add it to emulator: in the board file of '{board.kind}'",
        )
    if config.emulated and not board.emulators:
        raise ConfigError(
            f"{where}: {field_path}.emulated: board '{board.kind}' has no emulator",
            hint=f"write emulated: false, or add emulator: to the board file of '{board.kind}'",
        )
    if config.emulated and reach:
        raise ConfigError(
            f"{where}: {field_path}: an emulated device starts with ports of its own; found {', '.join(reach)}",
            hint=f"remove {', '.join(reach)}, or write emulated: false",
        )
    if not config.emulated and needed and not {*needed, "place"} & {*reach}:
        wanted = " or ".join(f"{key}:" for key in needed)
        raise ConfigError(
            f"{where}: {field_path}: a device of class '{board.device_class}' on hardware needs {wanted}; "
            f"found {', '.join(reach) or 'no way to reach it'}",
            hint=f"add {wanted} or, for an emulator, emulated: true",
        )
    meter = config.meter
    itself = board.device_class == "phone" and isinstance(meter, AndroidConfig) and meter.read_on == "device"
    if isinstance(meter, AndroidConfig) and meter.serial is None and not itself:
        raise ConfigError(
            f"{where}: {field_path}.meter.serial: is missing: whose battery is meant is known only where the device "
            "itself is a phone",
            hint="`adb devices` lists the serial numbers",
        )
    if config.meter is not None and config.meter.emulated and (not config.emulated or board.energy_model is None):
        raise ConfigError(
            f"{where}: {field_path}.meter.emulated: an emulated meter is fed by the energy model of an emulated "
            f"board; '{board.kind}' {'has none' if config.emulated else 'is used as hardware here'}",
            hint="remove the meter, or name the real one by serial_number:",
        )


def _check_probe(device: Device, probe: SwdProbe, where: str) -> None:
    board, config = device.board, device.config
    if board.device_class != "mcu" or board.pyocd_target is None:
        raise ConfigError(
            f"{where}: board '{board.kind}' names no pyocd_target, so nobody knows how to program it",
            hint=f"add pyocd_target: to the board file of '{board.kind}' (`pyocd list --targets`), or remove swd:",
        )
    if probe.emulated != config.emulated:
        found = "a virtual probe on hardware" if probe.emulated else "a real probe on an emulated device"
        raise ConfigError(
            f"{where}: found {found}",
            hint="write emulated: true on both the device and its swd:, or unique_id: with a probe's serial number",
        )
    if probe.emulated and not isinstance(device.emulator, QemuEmulator):
        raise ConfigError(
            f"{where}: a virtual probe needs QEMU; '{board.kind}' is emulated by another program here",
            hint="write emulator: qemu where the board file has it, or remove swd:",
        )
    if probe.pack is not None and not Path(probe.pack).is_file():
        raise ConfigError(f"{where}.pack: {probe.pack} does not exist", hint="paths are seen from the bench file")
