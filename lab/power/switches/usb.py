"""What is attached to USB, as a witness of power: without it a device leaves the bus, and it is enumerated with it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from lab.errors import TransportError
from lab.transports.serial_ports import PortChoice, PortLister, find_port, list_ports

UsbLister: TypeAlias = Callable[[], Collection[str]]

_SYSFS = Path("/sys/bus/usb/devices")


def attached_serial_numbers(root: Path = _SYSFS, ports: PortLister = list_ports) -> set[str]:
    """USB serial numbers of all that is attached; without Linux' sysfs, of what has a serial port."""
    if not root.is_dir():
        return {port.serial_number for port in ports() if port.serial_number}
    found = set()
    for path in root.glob("*/serial"):
        try:
            found.add(path.read_text(errors="replace").strip())
        except OSError:
            # It left while it was read.
            continue
    return found


class UsbWitness:
    """A USB device by its serial number.

    Args:
        serial_number: which.
        attached: lists what is attached.
    """

    def __init__(self, serial_number: str, attached: UsbLister = attached_serial_numbers) -> None:
        self._serial_number = serial_number
        self._attached = attached
        self.title = f"USB device {serial_number}"

    def powered(self) -> bool:
        """Whether it is attached."""
        return self._serial_number in self._attached()


class PortWitness:
    """A serial port.

    Args:
        choice: which.
        ports: lists what is attached.
    """

    def __init__(self, choice: PortChoice, ports: PortLister = list_ports) -> None:
        self._choice = choice
        self._ports = ports
        self.title = f"serial port {choice}"

    def powered(self) -> bool:
        """Whether it is there."""
        try:
            port = find_port(self._choice, self._ports)
        except TransportError:
            return False
        return Path(port).exists()
