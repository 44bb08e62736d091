"""Power switches as a bench file has them: one model per kind, told apart by ``kind``. See ``docs/switches.md``.

Common to all: ``confirm`` says what shows that a device went off and came back: ``usb`` (its USB port leaves and comes
back) or ``current`` (its meter reads less, or not less, than ``on_current_a``). Without it ``usb`` is taken where the
device has a port on this computer, else ``current`` where it has a meter.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from lab.config_fields import Seconds, Secret, Strict

_Number = Annotated[int, Field(gt=0)]
_Name = Annotated[str, Field(min_length=1)]
_Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?$", description="name or address[:port]")]
_Oid = Annotated[str, Field(pattern=r"^1(\.\d+)+$")]


class AnySwitch(Strict):
    """What all switches have. ``off`` is how long a cycle leaves the supply off."""

    confirm: Literal["usb", "current"] | None = None
    off: Seconds = 2.0
    on_current_a: Annotated[float, Field(gt=0)] = 0.5e-3


class UhubctlSwitch(AnySwitch):
    """A port of a USB hub that can switch it, by ``uhubctl`` (hub ``location``, port ``outlet``)."""

    kind: Literal["uhubctl"]
    location: Annotated[str, Field(pattern=r"^\d+(-\d+(\.\d+)*)?$")]
    outlet: _Number


class YkushSwitch(AnySwitch):
    """A Yepkit hub, by ``ykushcmd``. Without ``serial_number`` the first one that is found."""

    kind: Literal["ykush"]
    model: Literal["ykush", "ykush3", "ykushxs"] = "ykush"
    serial_number: _Name | None = None
    outlet: Annotated[int, Field(ge=1, le=3)] = 1

    @model_validator(mode="after")
    def _outlets(self) -> YkushSwitch:
        if self.model == "ykushxs" and self.outlet != 1:
            raise ValueError("a YKUSH XS has one port: outlet: 1")
        return self


class ShellyPlug(AnySwitch):
    """A Shelly plug or relay over HTTP. ``generation`` 2 stands for 2 and later (``/rpc``)."""

    kind: Literal["shelly"]
    host: _Host
    generation: Literal[1, 2] = 2
    outlet: Annotated[int, Field(ge=0, le=7)] = 0
    user: _Name = "admin"
    password: Secret | None = None


class TasmotaPlug(AnySwitch):
    """A plug or relay with Tasmota over HTTP; ``outlet`` as Tasmota counts, from 1."""

    kind: Literal["tasmota"]
    host: _Host
    outlet: Annotated[int, Field(ge=1, le=32)] = 1
    user: _Name = "admin"
    password: Secret | None = None


class SnmpOutlet(AnySwitch):
    """An outlet of a rack PDU over SNMP: the whole ``oid`` of the outlet, and its values for on and off.

    APC rack PDUs: ``1.3.6.1.4.1.318.1.1.12.3.3.1.1.4.OUTLET`` with 1 and 2 (PowerNet-MIB).
    """

    kind: Literal["snmp"]
    host: _Name
    port: Annotated[int, Field(gt=0, lt=65536)] = 161
    version: Literal["1", "2c"] = "2c"
    community: Secret
    oid: _Oid
    on_value: int = 1
    off_value: int = 2


class UsbRelay(AnySwitch):
    """A relay of a USB HID board, by ``usbrelay``. ``closed_is_on: false`` where the supply uses the break contact."""

    kind: Literal["usbrelay"]
    relay: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+_[1-8]$", description="as usbrelay lists it, such as HURTM_1")]
    closed_is_on: bool = True


class MeterOutput(AnySwitch):
    """The output of the device's own meter: PPK2 as source meter, a SCPI supply. Confirmed by its current."""

    kind: Literal["meter"]
    confirm: Literal["current"] | None = None


PowerSwitch: TypeAlias = Annotated[
    UhubctlSwitch | YkushSwitch | ShellyPlug | TasmotaPlug | SnmpOutlet | UsbRelay | MeterOutput,
    Field(discriminator="kind"),
]
