"""From an entry of a bench file to a device that can be used."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.build import Console
from lab.connection_config import SerialPort as SerialConfig
from lab.devices.base import Device, Identity
from lab.devices.computers import computer_of
from lab.devices.emulated_mcu import EmulatedTarget, QemuCounter
from lab.devices.host import host_of
from lab.devices.mcu import Mcu, McuTarget
from lab.devices.powered import emulator_switch, switch_of
from lab.devices.probed import probed_machine, swd_settings
from lab.devices.swd_mcu import SwdTarget
from lab.devices.wired_mcu import SerialTarget
from lab.emulator_config import McuEmulatorConfig, QemuEmulator, RenodeEmulator, UnicornEmulator
from lab.emulators.energy_model import EnergyModel
from lab.emulators.meters import StartedMeter, start_meter
from lab.emulators.probe.board import ProbedBoard
from lab.emulators.qemu import machine_of, sweep_folders
from lab.emulators.registry import create, version_of
from lab.emulators.tcg_plugin import plugin_path
from lab.errors import ConfigError
from lab.fence import Fence
from lab.inventory import Board
from lab.inventory import Device as Entry
from lab.labgrid.lease import wired
from lab.power.base import Meter
from lab.power.registry import make_meter
from lab.transports.remote import Remote
from lab.transports.serial import open_port
from lab.transports.serial_ports import is_remote

_METER_FOLDER = "lab-metered-"


def firmware_of(board: Board) -> str:
    """The folder of ``firmware/boards`` that a board runs."""
    return board.firmware_board or board.kind


def console_of(entry: Entry) -> Console:
    """Where the runner's line of a device goes, for the build of its image."""
    return "rtt" if entry.config.swd is not None and entry.config.swd.rtt else "uart"


@contextmanager
def connected(entry: Entry, cache: Path, fence: Fence | None = None) -> Iterator[Device]:
    """The device of a bench entry; its emulators end with the context.

    Args:
        entry: from :class:`lab.bench.Bench`.
        cache: where built tools lie.
        fence: the lease under which it is used (:func:`lab.lease.held`), which the device is told of.

    Raises:
        ConfigError: this version of the lab cannot drive such a device.
        InfrastructureError: its meter or port cannot be had.
    """
    place, entry = entry, wired(entry, fence)
    with ExitStack() as stack:
        if entry.board.device_class == "host":
            device: Device = host_of(entry, firmware_of(entry.board), cache, _meter_of(entry), fence)
        elif entry.board.device_class == "mcu" and entry.emulated:
            device = _emulated_mcu(entry, cache, stack)
        elif entry.board.device_class == "mcu":
            device = _wired_mcu(entry, fence, _where(place, fence))
        else:
            device = computer_of(entry, cache, _meter_on(entry), fence)
        stack.callback(device.close)
        yield device


def emulated_target(entry: Entry, cache: Path, marker_socket: Path | None = None) -> EmulatedTarget:
    """The emulator of an entry, not yet started.

    Args:
        entry: an emulated microcontroller.
        cache: where the counting plug-in lies, if it was built.
        marker_socket: takes the marker line.
    """
    section = _section(entry)
    return EmulatedTarget(
        lambda firmware: create(entry.board, section, firmware, marker_socket=marker_socket), _counter(section, cache)
    )


def _section(entry: Entry) -> McuEmulatorConfig:
    section = entry.emulator
    if not isinstance(section, QemuEmulator | RenodeEmulator | UnicornEmulator):
        raise ConfigError(
            f"{entry.origin}: board {entry.board.kind!r} has no emulator of a microcontroller",
            hint="add `emulator:` to its board file: qemu, renode or unicorn",
        )
    return section


def _counter(section: McuEmulatorConfig, cache: Path) -> QemuCounter | None:
    """Counts, where QEMU emulates the board, the board has a marker and the plug-in was built."""
    plugin = plugin_path(cache)
    if not isinstance(section, QemuEmulator) or section.marker_address is None or not plugin.exists():
        return None
    return QemuCounter(machine_of(section), plugin)


def _emulated_mcu(entry: Entry, cache: Path, stack: ExitStack) -> Mcu:
    section = _section(entry)
    # An instance that counts has no probe that could take its line.
    counts = _counter(section, cache) is not None and console_of(entry) == "uart"
    features = {*entry.features, "counts"} if counts else set(entry.features)
    identity = Identity(entry.name, firmware_of(entry.board), "emulated", version_of(section), frozenset(features))
    meter = emulated_meter(entry, stack) if entry.meter is not None else None
    marker_socket = None if meter is None else meter.marker_path
    config = None if meter is None else meter.config
    make = None if config is None else lambda: make_meter(config, entry.meter_voltage_v)
    if entry.config.swd is not None:
        return Mcu(identity, probed_target(entry, cache, stack, marker_socket), make)
    target = emulated_target(entry, cache, marker_socket)
    return Mcu(identity, target, make, lambda: emulator_switch(lambda: target.emulator))


def probed_target(entry: Entry, cache: Path, stack: ExitStack, marker_socket: Path | None = None) -> SwdTarget:
    """An emulated microcontroller with a virtual probe, started; ends with ``stack``.

    Args:
        entry: an emulated device with ``swd: {emulated: true}``.
        cache: where the counting plug-in lies, if it was built.
        stack: ends the emulator.
        marker_socket: takes the marker line.
    """
    board = stack.enter_context(ProbedBoard(probed_machine(entry), marker_socket=marker_socket))
    settings = swd_settings(entry, board.unique_id)
    if console_of(entry) == "rtt":
        return SwdTarget(settings, None, board=board)
    return SwdTarget(settings, board.open_serial, board=board, counter=_counter(_section(entry), cache))


def emulated_meter(entry: Entry, stack: ExitStack) -> StartedMeter:
    """The emulated meter of an entry, started; ends with ``stack``.

    Raises:
        ConfigError: the entry has no meter, or the board no energy model.
        EmulatorError: the meter does not start.
    """
    board = entry.board
    if entry.meter is None or board.energy_model is None:
        raise ConfigError(f"{entry.origin}: board {board.kind!r} has no energy_model, or the device no meter")
    sweep_folders(_METER_FOLDER)
    folder = tempfile.TemporaryDirectory(prefix=f"{_METER_FOLDER}{os.getpid()}-", ignore_cleanup_errors=True)
    model = EnergyModel(
        voltage_v=entry.meter_voltage_v,
        idle_current_a=board.energy_model.idle_current_a,
        active_current_a=board.energy_model.active_current_a,
        settle_s=board.energy_model.settle_s,
        source=board.energy_model.source,
    )
    return start_meter(entry.meter, Path(stack.enter_context(folder)), board.clock_hz, model, stack)


def _where(entry: Entry, fence: Fence | None) -> Callable[[], SerialConfig] | None:
    """Where the port of a board on another host is now; None where the bench file says it."""
    if entry.config.place is None or entry.config.serial is not None:
        return None

    def port() -> SerialConfig:
        serial = wired(entry, fence).config.serial
        if serial is None:
            raise ConfigError(f"{entry.origin}: place {entry.config.place!r} has no serial port any more")
        return serial

    return port


def _wired_mcu(entry: Entry, fence: Fence | None, where: Callable[[], SerialConfig] | None) -> Mcu:
    target, remote = _wired_target(entry, fence, where)
    features = frozenset(entry.features)
    identity = Identity(entry.name, firmware_of(entry.board), "hardware", "", features, remote=remote)
    switch = None if entry.config.power_switch is None else lambda: switch_of(entry)
    return Mcu(identity, target, _meter_of(entry), switch, fence)


def _meter_of(entry: Entry) -> Callable[[], Meter] | None:
    """What makes an entry's real meter; None where it has none."""
    meter = entry.meter
    return None if meter is None else lambda: make_meter(meter, entry.meter_voltage_v)


def _meter_on(entry: Entry) -> Callable[[Remote], Meter] | None:
    """What makes the real meter of a device with an operating system, which may be one of its own sensors."""
    meter = entry.meter
    return None if meter is None else lambda remote: make_meter(meter, entry.meter_voltage_v, remote)


def meter_at(entry: Entry, cache: Path, stack: ExitStack) -> Meter:
    """The real meter of an entry, not yet open; what is part of a device needs a connection, which ends with ``stack``.

    Raises:
        ConfigError: it has none.
        InfrastructureError: the device cannot be reached.
    """
    if entry.meter is None:
        raise ConfigError(f"{entry.origin}: device {entry.name!r} has no meter", hint="add `meter:` to it")
    if not entry.meter_is_part:
        return make_meter(entry.meter, entry.meter_voltage_v)
    meter = stack.enter_context(connected(entry, cache)).meter()
    if meter is None:
        raise ConfigError(f"{entry.origin}: device {entry.name!r} came up without its meter")
    return meter


def _wired_target(
    entry: Entry, fence: Fence | None, where: Callable[[], SerialConfig] | None
) -> tuple[McuTarget, bool]:
    """A real board as a target, and whether a network lies between this computer and its line."""
    serial, probe = entry.config.serial, entry.config.swd
    if probe is not None and probe.rtt:
        return SwdTarget(swd_settings(entry), None), False
    if serial is None:
        raise ConfigError(f"{entry.origin}: device {entry.name!r} has no serial port")
    if probe is not None:
        return SwdTarget(swd_settings(entry), lambda: open_port(serial)), is_remote(serial.port or "")
    target = SerialTarget(serial, fence=fence, where=where)
    return target, target.remote
