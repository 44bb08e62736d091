"""From an entry of a bench file to a device that can be used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.devices.base import Device, Identity
from lab.devices.emulated_mcu import QemuTarget
from lab.devices.host import Host
from lab.devices.mcu import Mcu
from lab.devices.wired_mcu import SerialTarget
from lab.emulators.energy_model import EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2
from lab.emulators.qemu import QemuMachine
from lab.emulators.tcg_plugin import plugin_path, qemu_version
from lab.errors import ConfigError
from lab.inventory import Board
from lab.inventory import Device as Entry
from lab.power.ppk2 import Ppk2
from lab.transports.serial import port_of


def firmware_of(board: Board) -> str:
    """The folder of ``firmware/boards`` that a board runs."""
    return board.firmware_board or board.kind


@contextmanager
def connected(entry: Entry, cache: Path) -> Iterator[Device]:
    """The device of a bench entry; its emulators end with the context.

    Args:
        entry: from :class:`lab.bench.Bench`.
        cache: where built tools lie.

    Raises:
        ConfigError: this version of the lab cannot drive such a device.
        InfrastructureError: its meter or port cannot be had.
    """
    with ExitStack() as stack:
        if entry.board.device_class == "host":
            identity = Identity(entry.name, firmware_of(entry.board), "hardware", "", frozenset(entry.features))
            device: Device = Host(identity)
        elif entry.board.device_class == "mcu" and entry.emulated:
            device = _emulated_mcu(entry, cache, stack)
        elif entry.board.device_class == "mcu":
            device = _wired_mcu(entry)
        else:
            raise ConfigError(
                f"{entry.origin}: device {entry.name!r} is of class {entry.board.device_class!r}, "
                "which this version of the lab cannot drive",
                hint="classes that can be driven: mcu, host",
            )
        stack.callback(device.close)
        yield device


def emulated_target(entry: Entry, cache: Path, marker_socket: Path | None = None) -> QemuTarget:
    """The emulator of an entry, not yet started.

    Args:
        entry: an emulated microcontroller.
        cache: where the counting plug-in lies, if it was built.
        marker_socket: takes the marker line.
    """
    plugin = plugin_path(cache)
    return QemuTarget(
        _machine(entry.board), marker_socket=marker_socket, plugin=plugin if plugin.exists() else None
    )


def _emulated_mcu(entry: Entry, cache: Path, stack: ExitStack) -> Mcu:
    features = {*entry.features, "counts"} if plugin_path(cache).exists() else set(entry.features)
    identity = Identity(entry.name, firmware_of(entry.board), "emulated", qemu_version(), frozenset(features))
    meter = emulated_meter(entry, stack) if entry.meter is not None else None
    target = emulated_target(entry, cache, None if meter is None else meter.marker_path)
    if meter is None:
        return Mcu(identity, target)
    port = meter.port
    return Mcu(identity, target, lambda: Ppk2(port, voltage_v=entry.meter_voltage_v, emulated=True))


def emulated_meter(entry: Entry, stack: ExitStack) -> EmulatedPpk2:
    """The emulated meter of an entry, started; ends with ``stack``.

    Raises:
        ConfigError: the board has no energy model.
        EmulatorError: the meter does not start.
    """
    board = entry.board
    if board.energy_model is None:
        raise ConfigError(f"{entry.origin}: board {board.kind!r} has no energy_model for an emulated meter")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-meter-", ignore_cleanup_errors=True)))
    model = EnergyModel(
        voltage_v=entry.meter_voltage_v,
        idle_current_a=board.energy_model.idle_current_a,
        active_current_a=board.energy_model.active_current_a,
        settle_s=board.energy_model.settle_s,
        source=board.energy_model.source,
    )
    return stack.enter_context(EmulatedPpk2(folder, board.clock_hz, model))


def _wired_mcu(entry: Entry) -> Mcu:
    serial = entry.config.serial
    if serial is None:
        raise ConfigError(f"{entry.origin}: device {entry.name!r} has no serial port")
    url = port_of(serial.port, serial.by_id)
    identity = Identity(entry.name, firmware_of(entry.board), "hardware", "", frozenset(entry.features))
    target = SerialTarget(url, serial.baud)
    meter = entry.meter
    if meter is None:
        return Mcu(identity, target)
    number, port = meter.serial_number, meter.port
    voltage_v = entry.meter_voltage_v
    return Mcu(identity, target, lambda: Ppk2(port_of(port, number), voltage_v=voltage_v))


def _machine(board: Board) -> QemuMachine:
    emulator = board.emulator
    if emulator is None:
        raise ConfigError(f"board {board.kind!r} has no emulator", hint="add `emulator:` to its board file")
    shared = emulator.shared_memory
    return QemuMachine(
        machine=emulator.machine,
        icount_shift=emulator.icount_shift,
        shared_address=shared.address if shared else 0,
        shared_bytes=shared.bytes if shared else 0,
        marker_address=emulator.marker_address or 0,
    )
