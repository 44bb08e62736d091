"""The battery gauge of an Android phone, read in its shell.

``/sys/class/power_supply/battery`` has ``current_now`` (µA), ``voltage_now`` (µV), ``charge_counter`` (µAh) and
``status`` (Documentation/ABI/testing/sysfs-class-power). Android's own convention is that a negative current
discharges the battery (``BatteryManager.BATTERY_PROPERTY_CURRENT_NOW``); makers differ in sign and some in unit, so
both are settings, and a current that fits neither is refused. A shell that may not read these files has ``dumpsys
battery``: voltage in mV and what is left in µAh, in steps of about a milliampere-hour, from which only long windows
give a current.

A phone that is charged or only connected to power is refused, at the begin and as soon as it is seen: what it takes
then does not come out of its battery. ADB over USB charges: connect over Wi-Fi (``adb tcpip 5555; adb connect …``).

Gauges update every second to every ten and average in between; their class is not given: 5 % is taken. The whole
phone is measured, with screen and radios.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import AndroidConfig, MeterConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Clock, Count, Counter, Failed, Gauge, PolledMeter, Reading, SourceInfo
from lab.system_packages import install
from lab.transports.remote import Remote
from lab.transports.remote_files import shell_of

RELATIVE = 0.05
UPDATE_S = 10.0
"""The slowest update that is common; samples may be late by so much."""

Shell: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a command in the phone's shell and gives what it printed; raises :class:`lab.errors.MeterError`."""

_FILES = ("status", "current_now", "voltage_now")
_POWERED = ("AC powered", "USB powered", "Wireless powered", "Dock powered")
# BatteryManager.BATTERY_STATUS_*
_STATUS = {"1": "Unknown", "2": "Charging", "3": "Discharging", "4": "Not charging", "5": "Full"}
_COULOMB_PER_UAH = 3.6e-3
_MOST_A = 20.0
_AWAKE_A = 5e-3
_SHELL_S = 10.0


def parse_dumpsys(text: str) -> dict[str, str]:
    """What ``dumpsys battery`` says: the words before the colon to those behind it."""
    return dict(re.findall(r"^ {2}([^:\n]+): *(.*?) *$", text, re.MULTILINE))


class AndroidSource:
    """A phone's battery.

    Args:
        config: how it counts.
        shell: the phone's.
        name: of the phone.
    """

    def __init__(self, config: AndroidConfig, shell: Shell, name: str) -> None:
        self._config = config
        self._name = name
        self._shell = shell
        self._by_files = False

    def open(self) -> SourceInfo:
        """Look at what the phone tells.

        Raises:
            MeterError: it is charged, has no battery, or its current has another sign or unit than said.
        """
        battery = parse_dumpsys(self._shell(("dumpsys", "battery")))
        self._refuse_power(battery)
        self._by_files = isinstance(self._read_files(), Gauge)
        if self._by_files:
            return self._about("current_now", None)
        if "Charge counter" not in battery or "voltage" not in battery:
            raise MeterError(
                f"Android: neither {self._config.folder} nor `dumpsys battery` tells a charge; it has: "
                f"{', '.join(battery) or 'nothing'}",
                hint="a rooted phone's shell may read current_now; else use a meter at its battery terminals",
            )
        counter = Counter("charge", _COULOMB_PER_UAH, 0, _MOST_A, falls=True)
        return self._about("charge counter of dumpsys, for windows of minutes", counter)

    def read(self) -> Reading:
        """Current and voltage, or what is left in the battery.

        Raises:
            MeterError: it is charged.
        """
        if self._by_files:
            return self._read_files()
        battery = parse_dumpsys(self._shell(("dumpsys", "battery")))
        self._refuse_power(battery)
        try:
            return Count(int(battery["Charge counter"]), int(battery["voltage"]) * 1e-3)
        except (KeyError, ValueError) as error:
            return Failed(f"dumpsys battery: {error}")

    def close(self) -> None:
        """Nothing is held open."""

    def _about(self, what: str, counter: Counter | None) -> SourceInfo:
        return SourceInfo(
            identity=f"battery of {self._name}, {what}",
            ranges=(RangeUncertainty(_MOST_A, RELATIVE),),
            update_s=0.0,
            voltage_uncertainty=0.01,
            counter=counter,
            notes=("the whole phone",),
            extra_time_s=UPDATE_S,
        )

    def _read_files(self) -> Reading:
        config = self._config
        text = self._shell(("cat", *(f"{config.folder}/{name}" for name in _FILES)))
        words = [line.strip() for line in text.splitlines() if line.strip()]
        try:
            status, current, voltage = words[0], int(words[-2]), int(words[-1])
        except (IndexError, ValueError):
            return Failed(f"{config.folder}: {text.strip()[:80]!r}")
        if status != "Discharging":
            raise self._powered(f"its battery's status is {status!r}")
        amperes = current * (1e-6 if config.current_unit == "uA" else 1e-3)
        current_a = -amperes if config.current_sign == "negative" else amperes
        if current_a < 0:
            raise MeterError(
                f"Android: current_now is {current} while the battery discharges: its sign is not "
                f"{config.current_sign}",
                hint=f"write current_sign: {'positive' if config.current_sign == 'negative' else 'negative'}",
            )
        if current_a > _MOST_A or (config.current_unit == "uA" and 0 < current_a < _AWAKE_A):
            raise MeterError(
                f"Android: current_now is {current}: no phone that is awake takes {current_a:g} A",
                hint=f"write current_unit: {'mA' if config.current_unit == 'uA' else 'uA'}",
            )
        return Gauge(current_a, voltage * 1e-6)

    def _refuse_power(self, battery: Mapping[str, str]) -> None:
        sources = [name for name in _POWERED if battery.get(name) == "true"]
        status = _STATUS.get(battery.get("status", ""), battery.get("status", "not told"))
        if sources or status not in ("Discharging", "not told"):
            raise self._powered(f"{', '.join(sources) or 'no supply'}, status {status!r}")

    def _powered(self, why: str) -> MeterError:
        return MeterError(
            f"Android: the phone {self._name} does not run from its battery: {why}",
            hint="unplug it; reach it over Wi-Fi: adb tcpip 5555, then adb connect ADDRESS:5555",
        )


def adb_shell(serial: str) -> Shell:
    """A phone's shell through the program ``adb``."""

    def run(arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                ["adb", "-s", serial, "shell", *arguments], capture_output=True, timeout=_SHELL_S, check=False
            )
        except FileNotFoundError as error:
            raise ToolMissing("adb is not installed", hint=install("adb")) from error
        except subprocess.TimeoutExpired as error:
            raise MeterError(f"adb: {serial} did not answer within {_SHELL_S:g} s", transient=True) from error
        # A command's own failure is left to who reads its words; adb's is told apart by having printed nothing.
        if done.returncode and not done.stdout:
            words = done.stderr.decode(errors="replace").strip()
            if words.startswith(("adb:", "error:")):
                raise MeterError(f"{serial}: {words}", hint="`adb devices` lists the phones", transient=True)
        return done.stdout.decode(errors="replace")

    return run


def android_meter(
    config: AndroidConfig, voltage_v: float, shell: Shell | None = None, clock: Clock | None = None
) -> PolledMeter:
    """A meter that reads a phone's battery gauge, through ``adb`` unless ``shell`` says otherwise."""
    if shell is None and config.serial is None:
        raise ConfigError(
            "meter: kind: android needs serial: where the device itself is not reached by ADB",
            hint="`adb devices` lists the serial numbers",
        )
    source = AndroidSource(config, shell or adb_shell(str(config.serial)), str(config.serial))
    return PolledMeter("android", source, voltage_v, config.period, clock)


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> PolledMeter:
    """The battery of a device; see :func:`lab.power.registry.make_meter`. A gauge is slower than any round trip."""
    if not isinstance(config, AndroidConfig):
        raise ConfigError(f"a battery gauge was asked to be a meter of kind {config.kind!r}")
    source = AndroidSource(config, shell_of(remote), remote.name)
    return PolledMeter("android", source, voltage_v, config.period)


def make(config: MeterConfig, voltage_v: float) -> PolledMeter:
    """The battery meter of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, AndroidConfig):
        raise ConfigError(f"a battery gauge was asked to be a meter of kind {config.kind!r}")
    return android_meter(config, voltage_v)
