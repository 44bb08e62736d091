"""From the ``power_switch:`` of a bench file to its driver; one line each."""

from __future__ import annotations

from collections.abc import Callable

from lab.errors import ConfigError
from lab.power.base import Meter
from lab.power.switches.base import Outlet
from lab.power.switches.meter_output import MeterOutlet
from lab.power.switches.programs import missing_program
from lab.power.switches.shelly import Shelly
from lab.power.switches.snmp import Snmp, missing_library
from lab.power.switches.tasmota import Tasmota
from lab.power.switches.uhubctl import Uhubctl
from lab.power.switches.usbrelay import Usbrelay
from lab.power.switches.ykush import Ykush
from lab.switch_config import (
    MeterOutput,
    PowerSwitch,
    ShellyPlug,
    SnmpOutlet,
    TasmotaPlug,
    UhubctlSwitch,
    UsbRelay,
    YkushSwitch,
)


def make_outlet(config: PowerSwitch, meter: Callable[[], Meter] | None) -> Outlet:
    """The driver of a switch, which touches nothing yet.

    Args:
        config: which.
        meter: makes the device's meter, not yet open; None where it has none.

    Raises:
        ConfigError: the meter's output is to be switched, and there is no meter.
    """
    match config:
        case UhubctlSwitch():
            return Uhubctl(config)
        case YkushSwitch():
            return Ykush(config)
        case ShellyPlug():
            return Shelly(config)
        case TasmotaPlug():
            return Tasmota(config)
        case SnmpOutlet():
            return Snmp(config)
        case UsbRelay():
            return Usbrelay(config)
        case MeterOutput():
            if meter is None:
                raise ConfigError("power_switch: {kind: meter} of a device without a meter", hint="add its meter:")
            return MeterOutlet(meter, config.on_current_a)


def missing_tool(config: PowerSwitch) -> str:
    """Why a switch cannot be used on this computer, with the way out; empty where it can."""
    programs = {"uhubctl": "uhubctl", "ykush": "ykushcmd", "usbrelay": "usbrelay"}
    if config.kind in programs:
        return missing_program(programs[config.kind])
    return missing_library() if config.kind == "snmp" else ""
