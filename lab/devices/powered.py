"""From the ``power_switch:`` of a device to a switch with a witness: what shows that the device went and came back."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.emulators.base import McuEmulator
from lab.errors import ConfigError
from lab.inventory import Device as Entry
from lab.power.base import Meter
from lab.power.registry import make_meter
from lab.power.switches.base import PowerSwitch, Witness
from lab.power.switches.emulator import EmulatorOutlet
from lab.power.switches.meter_output import CurrentWitness, MeterOutlet
from lab.power.switches.registry import make_outlet
from lab.power.switches.usb import PortWitness, UsbLister, UsbWitness, attached_serial_numbers
from lab.switch_config import AnySwitch
from lab.transports.serial_ports import PortLister, choice_of, is_remote, list_ports


def switch_of(
    entry: Entry,
    *,
    ports: PortLister = list_ports,
    usb: UsbLister = attached_serial_numbers,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PowerSwitch:
    """The power switch of a device.

    Args:
        entry: from a bench.
        ports, usb: list what is attached.
        clock, sleep: this computer's clock.

    Raises:
        ConfigError: it has none, or nothing could confirm that it worked.
    """
    config = entry.config.power_switch
    if config is None:
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} has no power switch",
            hint="add power_switch: to its entry in the bench file (docs/switches.md)",
        )
    outlet = make_outlet(config, _meter_maker(entry))
    witness = outlet if isinstance(outlet, MeterOutlet) else _witness(entry, config, ports, usb)
    return PowerSwitch(outlet, witness, off_s=config.off, clock=clock, sleep=sleep)


def emulator_switch(running: Callable[[], McuEmulator | None]) -> PowerSwitch:
    """The supply of an emulated board.

    Args:
        running: its emulator; None while nothing is deployed.
    """
    outlet = EmulatorOutlet(running)
    return PowerSwitch(outlet, outlet, off_s=0.0)


def _witness(entry: Entry, config: AnySwitch, ports: PortLister, usb: UsbLister) -> Witness:
    on_usb = _usb_witness(entry, ports, usb) if config.confirm != "current" else None
    if on_usb is not None:
        return on_usb
    meter = _meter_maker(entry)
    if meter is not None and config.confirm != "usb":
        return CurrentWitness(meter, config.on_current_a)
    raise ConfigError(
        f"{entry.origin}: device {entry.name!r}: nothing can confirm that its power switch worked",
        hint="it needs a port on this computer (serial:, swd: or adb:), or a meter, and a confirm: that goes with it",
    )


def _usb_witness(entry: Entry, ports: PortLister, usb: UsbLister) -> Witness | None:
    serial, swd, adb = entry.config.serial, entry.config.swd, entry.config.adb
    if serial is not None and not is_remote(serial.port or ""):
        return PortWitness(choice_of(serial), ports)
    if swd is not None and swd.unique_id is not None:
        return UsbWitness(swd.unique_id, usb)
    return None if adb is None or adb.serial is None else UsbWitness(adb.serial, usb)


def _meter_maker(entry: Entry) -> Callable[[], Meter] | None:
    meter = entry.meter
    # What is part of a device that is off says nothing.
    return None if meter is None or entry.meter_is_part else lambda: make_meter(meter, entry.meter_voltage_v)
