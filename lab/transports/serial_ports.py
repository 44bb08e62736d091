"""Which serial port is meant: by what does not change when cables move, among those that are attached."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from serial.tools.list_ports import comports

from lab.connection_config import SerialPort as SerialConfig
from lab.errors import TransportError

_NETWORK = re.compile(r"(socket|rfc2217)://")
_INTERFACE = re.compile(r":\d+\.(\d+)$")
_FIELDS = ("by_id", "usb", "interface", "location")
_SHORTEST = (
    ("by_id",),
    ("by_id", "interface"),
    ("by_id", "location"),
    ("usb", "location"),
)


class PortInfo(Protocol):
    """What is read of an attached port; ``serial.tools.list_ports`` yields these.

    Attributes:
        device: path to open.
        description: free text of the system's.
        vid, pid: USB vendor and product number; None where the port is none of USB's.
        serial_number: USB serial number.
        location: hub path ``1-3.2``, where the device has several interfaces with ``:configuration.interface``.
        interface: the interface's own name.
    """

    @property
    def device(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def vid(self) -> int | None: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def serial_number(self) -> str | None: ...

    @property
    def location(self) -> str | None: ...

    @property
    def interface(self) -> str | None: ...


PortLister: TypeAlias = Callable[[], Iterable[PortInfo]]


def list_ports() -> list[PortInfo]:
    """Serial ports of this computer."""
    return list(comports())


@dataclass(frozen=True)
class PortChoice:
    """What a port must be; fields that are None do not matter.

    Attributes:
        path: path or URL, taken as it is; then nothing else matters.
        by_id: USB serial number.
        usb: vendor and product number, ``0483:374b``.
        interface: number or name of the USB interface, for a device with several ports.
        location: hub path, ``1-3.2``, or with the interface, ``1-3.2:1.0``.
    """

    path: str | None = None
    by_id: str | None = None
    usb: str | None = None
    interface: int | str | None = None
    location: str | None = None

    def matches(self, port: PortInfo) -> bool:
        """Whether an attached port is one of those meant."""
        own = named_by(port)
        return (
            self.by_id in (None, own.by_id)
            and (self.usb is None or self.usb.lower() == own.usb)
            and self.interface in (None, own.interface, port.interface)
            and self.location in (None, own.location, port.location)
        )

    def __str__(self) -> str:
        """As a bench file has it."""
        if self.path is not None:
            return self.path
        given = [f"{key}: {json.dumps(value)}" for key in _FIELDS if (value := getattr(self, key)) is not None]
        return f"{{{', '.join(given)}}}"


def named_by(port: PortInfo) -> PortChoice:
    """All that a bench file can name an attached port by."""
    number = _INTERFACE.search(port.location or "")
    return PortChoice(
        by_id=port.serial_number or None,
        usb=f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None and port.pid is not None else None,
        interface=None if not port.location else int(number[1]) if number else 0,
        location=port.location.partition(":")[0] if port.location else None,
    )


def describe(port: PortInfo) -> str:
    """A port with all it can be named by, for a person."""
    own = named_by(port)
    words = [str(own)[1:-1] if own != PortChoice() else "no USB port"]
    if port.interface:
        words.append(f"named {json.dumps(port.interface)}")
    return f"{port.device} ({', '.join(words)})"


def choice_of(config: SerialConfig) -> PortChoice:
    """The choice of an entry ``serial:`` of a bench file."""
    if config.port is not None:
        return PortChoice(path=config.port)
    if config.by_id is not None and config.by_id.startswith("/"):
        return PortChoice(path=config.by_id)
    return PortChoice(None, config.by_id, config.usb, config.interface, config.location)


def find_port(choice: PortChoice, ports: PortLister = list_ports) -> str:
    """The path or URL that pyserial opens.

    Raises:
        TransportError: no port is meant, or more than one; lists what is attached and what would tell them apart.
    """
    if choice.path is not None:
        return choice.path
    attached = list(ports())
    found = [port for port in attached if choice.matches(port)]
    if len(found) == 1:
        return found[0].device
    if not found:
        raise TransportError(
            f"no serial port {choice} is attached; attached: {_listed(attached)}",
            hint="plug it in, or correct the entry in the bench file; `lab doctor` shows the line to write",
        )
    raise TransportError(f"{len(found)} serial ports are {choice}: {_listed(found)}", hint=_telling_apart(found))


def first_port(port: str | None, serial_number: str | None, ports: PortLister = list_ports) -> str:
    """The port of an instrument that has several under one number and serves on the first (PPK2).

    Args:
        port: path or URL, taken as it is.
        serial_number: USB serial number or ``/dev/serial/by-id`` path, where ``port`` is None.
        ports: lists what is attached.

    Raises:
        TransportError: nothing with that number is attached; lists what is.
    """
    if port is not None or serial_number is None or serial_number.startswith("/"):
        return port or serial_number or ""
    choice = PortChoice(by_id=serial_number)
    own = [one for one in ports() if choice.matches(one)]
    if not own:
        return find_port(choice, ports)
    return min(own, key=lambda one: (int(named_by(one).interface or 0), one.device)).device


def yaml_line(port: PortInfo, attached: Sequence[PortInfo]) -> str:
    """The line of a bench file that means this port and no other attached one; empty where there is none."""
    own = named_by(port)
    there = tuple(key for key in _FIELDS if getattr(own, key) is not None)
    for keys in (*_SHORTEST, there):
        choice = PortChoice(**{key: getattr(own, key) for key in keys})
        if keys and {*keys} <= {*there} and [one.device for one in attached if choice.matches(one)] == [port.device]:
            return f"serial: {choice}"
    return ""


def is_remote(url: str) -> bool:
    """Whether bytes travel through a network, so that this host's clock says nothing of when they were sent."""
    return _NETWORK.match(url) is not None


def _listed(ports: Iterable[PortInfo]) -> str:
    return ", ".join(describe(port) for port in ports) or "none"


def _telling_apart(found: Sequence[PortInfo]) -> str:
    shown = []
    for key in ("interface", "location", "usb", "by_id"):
        values = [getattr(named_by(port), key) for port in found]
        if len(set(values)) > 1:
            shown.append(f"{key}: ({', '.join(json.dumps(value) for value in values)})")
    if not shown:
        return "nothing of USB tells them apart: name one by its path in /dev/serial/by-path"
    return f"add to serial: in the bench file one of {'; '.join(shown)}"
