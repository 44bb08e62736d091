"""Temperatures: Linux thermal zones, in thousandths of a degree Celsius, and those that Android's service names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from lab.environment.collect import Collected
from lab.errors import ConfigError, InfrastructureError
from measurements.environment import Zone

ROOT = "/sys/class/thermal"
GLOBS = (f"{ROOT}/thermal_zone*/type", f"{ROOT}/thermal_zone*/temp")
SERVICE = "dumpsys thermalservice"

LONGEST_S = 900.0
_EVERY_S = 2.0
# A sensor of a powered-down block says -256 °C; a Jetson's PMIC-Die is a fixed dummy.
_COLDEST_C, _HOTTEST_C = -60.0, 200.0
_DUMMIES = frozenset(("PMIC-Die", "PMIC"))
_TEMPERATURE = re.compile(r"Temperature\{mValue=(?P<value>-?[\d.]+), mType=(?P<type>-?\d+), mName=(?P<name>[^,]+),")
_HARDWARE = "Current temperatures from HAL:"


def zones(found: Collected) -> tuple[Zone, ...]:
    """Temperatures of a device; empty where it tells none."""
    there = []
    for folder in found.folders(rf"{ROOT}/thermal_zone\d+"):
        name = found.text(f"{folder}/type") or folder.rpartition("/")[2]
        temperature = found.number(f"{folder}/temp")
        if temperature is not None:
            there.append(Zone(name, temperature * 1e-3))
    known = there or service_zones(found.outputs.get(SERVICE, ""))
    return tuple(
        zone for zone in known if _COLDEST_C < zone.temperature_c < _HOTTEST_C and zone.name not in _DUMMIES
    )


def service_zones(text: str) -> list[Zone]:
    """Temperatures in what ``dumpsys thermalservice`` prints: those of the hardware now, else the cached ones."""
    current = text.partition(_HARDWARE)[2].partition("Current cooling")[0] or text
    return [Zone(match["name"], float(match["value"])) for match in _TEMPERATURE.finditer(current)]


def wait_until_cool(
    look: Callable[[], tuple[Zone, ...]],
    limit_c: float,
    where: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until the hottest zone is no hotter than asked; seconds waited.

    Args:
        look: the temperatures now.
        limit_c: as hot as it may be, degrees Celsius.
        where: the device and the setting, for the error.
        clock, sleep: this computer's.

    Raises:
        ConfigError: the device tells no temperature.
        InfrastructureError: it is still too hot after fifteen minutes.
    """
    begin_s = clock()
    while True:
        there = look()
        if not there:
            raise ConfigError(
                f"{where}: wait_cool_c: {limit_c:g} was asked for, and the device tells no temperature",
                hint="remove it from environment: in the bench file",
            )
        hottest = max(there, key=lambda zone: zone.temperature_c)
        waited_s = clock() - begin_s
        if hottest.temperature_c <= limit_c:
            return waited_s
        if waited_s >= LONGEST_S:
            raise InfrastructureError(
                f"{where}: {hottest.name} is still at {hottest.temperature_c:.1f} °C after {waited_s:.0f} s; at most "
                f"{limit_c:g} °C was asked for",
                hint="is its fan on, is the room hot, does something else run on it?",
            )
        sleep(_EVERY_S)
