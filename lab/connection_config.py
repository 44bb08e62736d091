"""How a device is reached as a bench file has it: serial port, debug probe, SSH, ADB. See ``docs/devices.md``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lab.config_fields import Hertz, Seconds, Secret, Strict, Text, port_name, serial_number


class ResetWire(Strict):
    """A control line of the port wired to the board's reset: the adapter's pin, its level that resets, for how long."""

    line: Literal["dtr", "rts"]
    active: Literal["low", "high"] = "low"
    pulse_s: Annotated[Seconds, Field(le=5.0)] = 0.1


class SerialPort(Strict):
    """A serial port by what does not change when cables move.

    ``port`` is a path or URL; else the USB serial number ``by_id`` (or a path /dev/serial/by-id/…), vendor and product
    number ``usb``, hub path ``location`` and, where a board has several ports, ``interface`` (number or name) together
    mean one port. ``max_baud`` limits the rate that is agreed on with the board; without it its fastest is tried.
    """

    by_id: str | None = None
    port: str | None = None
    usb: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$")] | None = None
    interface: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = None
    location: Annotated[str, Field(pattern=r"^\d+-\d+(\.\d+)*(:\d+\.\d+)?$")] | None = None
    baud: Annotated[int, Field(gt=0)] = 115200
    max_baud: Annotated[int, Field(gt=0)] | None = None
    reset: ResetWire | None = None

    _by_id = field_validator("by_id")(lambda value: None if value is None else serial_number(value))
    _port = field_validator("port")(lambda value: None if value is None else port_name(value))

    @model_validator(mode="after")
    def _one_way(self) -> SerialPort:
        is_path = self.by_id is not None and self.by_id.startswith("/")
        by_usb = [key for key in ("usb", "interface", "location") if getattr(self, key) is not None]
        if (self.by_id is None) == (self.port is None) and not (self.port is None and {"usb", "location"} & {*by_usb}):
            raise ValueError("exactly one of by_id and port is needed, or usb or location")
        if by_usb and (self.port is not None or is_path):
            raise ValueError(f"a path or URL is one port already: {', '.join(by_usb)} does not go with it")
        if self.max_baud is not None and self.max_baud < self.baud:
            raise ValueError(f"max_baud {self.max_baud} is less than baud {self.baud}")
        return self


class SwdProbe(Strict):
    """A debug probe by its serial number ``unique_id``, or the virtual one of an ``emulated`` board.

    ``pack`` is the CMSIS-Pack of a part that pyOCD does not know, seen from the bench file; ``under_reset`` holds the
    reset pin while connecting; ``rtt`` takes the runner's line through the probe in place of a serial port.
    """

    unique_id: Annotated[str, Field(min_length=1)] | None = None
    emulated: bool = False
    pack: Annotated[str, Field(pattern=r"\.pack$")] | None = None
    frequency: Hertz = 4_000_000
    under_reset: bool = False
    rtt: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> SwdProbe:
        if self.emulated == (self.unique_id is not None):
            raise ValueError("exactly one of unique_id and emulated: true is needed")
        return self


class SshJump(Strict):
    """A host on the way to a device."""

    host: Text
    user: Text
    key: Text | None = None
    host_key: Text | None = None
    port: Annotated[int, Field(gt=0, lt=65536)] = 22


class SshHost(Strict):
    """A device reached by SSH.

    ``host_key`` pins it: ``ssh-ed25519 AAAA…``, a line of ``ssh-keyscan`` without the host name, or a fingerprint
    ``SHA256:…``; without it the host must stand in ``known_hosts`` (the user's own where left out). ``key`` is a file;
    ``agent`` asks the running ssh-agent. ``folder`` is where the lab keeps its files on the device.
    """

    host: Text
    user: Text
    key: Text | None = None
    agent: bool = False
    password: Secret | None = None
    host_key: Text | None = None
    known_hosts: Text | None = None
    port: Annotated[int, Field(gt=0, lt=65536)] = 22
    jump: SshJump | None = None
    keepalive_s: Seconds = 5.0
    folder: Text = ".cache/hil-lab"


class AdbDevice(Strict):
    """A phone by its ADB serial number, or by the ``address`` (host:port) where its daemon listens."""

    serial: Annotated[str, Field(min_length=1)] | None = None
    address: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")] | None = None
    folder: Text = "/data/local/tmp/hil-lab"

    @model_validator(mode="after")
    def _one_of(self) -> AdbDevice:
        if (self.serial is None) == (self.address is None):
            raise ValueError("exactly one of serial and address is needed")
        return self
