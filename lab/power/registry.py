"""From the ``meter:`` of a bench file to its driver. A meter's module is imported when a bench uses it.

A module of the table has ``make(config, voltage_v) -> Meter``, which opens nothing yet. Those of meters that may be
part of the device itself have ``make_on(config, voltage_v, remote)`` as well, which reads them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from lab.meter_config import MeterConfig, OnBoardMeter, is_on_device
from lab.power.base import Meter
from lab.transports.remote import Remote

MODULES: Mapping[str, str] = {
    "ppk2": "lab.power.ppk2",
    "lpm01a": "lab.power.lpm01a",
    "otii": "lab.power.otii",
    "monsoon": "lab.power.monsoon",
    "joulescope": "lab.power.joulescope",
    "scpi": "lab.power.scpi",
    "hwmon": "lab.power.hwmon",
    "tegrastats": "lab.power.tegrastats",
    "pmic": "lab.power.pmic",
    "nvml": "lab.power.nvml",
    "rapl": "lab.power.rapl",
    "android": "lab.power.android",
}

# What pip has to install, and the extra that names it.
_PACKAGES: Mapping[str, tuple[str, str]] = {
    "monsoon": ("Monsoon", "monsoon"),
    "joulescope": ("pyjoulescope_driver", "joulescope"),
    "scpi": ("pyvisa", "scpi"),
    "nvml": ("pynvml", "meters"),
}


def missing_package(kind: str) -> str:
    """What to install for a kind of meter; empty where nothing is missing."""
    package, extra = _PACKAGES.get(kind, ("", ""))
    return f"pip install 'hil-lab[{extra}]'" if package and find_spec(package) is None else ""


def make_meter(config: MeterConfig, voltage_v: float, remote: Remote | None = None) -> Meter:
    """The driver of a meter, not yet open.

    Args:
        config: which meter, and where; of an emulated one, as :func:`lab.emulators.meters.start_meter` gives it.
        voltage_v: voltage to supply, or that the device is supplied with, volt.
        remote: the device, where it has an operating system and is not this computer; what is part of it is read there.

    Raises:
        ConfigError: a setting the meter cannot take.
        TransportError: no port has its serial number.
        ToolMissing: a library it needs is not installed.
    """
    if isinstance(config, OnBoardMeter) and not voltage_v:
        # Boards of many kinds, as `host`, have no one voltage. Energy does not depend on it.
        voltage_v = 1.0
    module = import_module(MODULES[config.kind])
    if remote is not None and is_on_device(config):
        make_on = cast("Callable[[MeterConfig, float, Remote], Meter]", module.make_on)
        return make_on(config, voltage_v, remote)
    make = cast("Callable[[MeterConfig, float], Meter]", module.make)
    return make(config, voltage_v)
