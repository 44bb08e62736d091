"""Rails of a Raspberry Pi 5 as its power management chip measures them: ``vcgencmd pmic_read_adc``.

The chip has a current and a voltage for each of its own rails (``VDD_CORE_A current(7)=1.42880000A``, ``VDD_CORE_V
volt(15)=0.90659250V``) and for its input only a voltage (``EXT5V_V``), so the sum over the rails is what comes *out* of
it: without what it loses itself, and without all that is fed from the 5 V directly: USB ports, a HAT, the fan, the
display. It is below what a meter in the cable shows, by how much depends on what is plugged in; use it to compare runs
on the same board. ``BATT_V`` is that of the clock's battery.

Nobody gives the class of the chip's converter: 5 % is taken. One reading asks the firmware for 26 conversions one after
the other, some ten milliseconds in all; rails of one reading are not of the same moment.

Other Raspberry Pis have no such chip and answer ``error=1``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lab.errors import ConfigError, MeterError
from lab.meter_config import MeterConfig, PmicConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Failed, Gauge, Reading, SourceInfo
from lab.power.streamed import Loop, StreamedMeter
from lab.transports.local import LocalRemote
from lab.transports.remote import Remote

RELATIVE = 0.05
READING_S = 0.02
"""How long one reading takes about, seconds."""

_MOST_A = 30.0
_CURRENT = re.compile(r"(\w+)_A current\(\d+\)=(-?[\d.]+)A")
_VOLTAGE = re.compile(r"(\w+)_V volt\(\d+\)=(-?[\d.]+)V")


def parse_adc(text: str) -> dict[str, tuple[float, float]]:
    """Rail to ampere and volt, of the rails that have both.

    Example::

        parse_adc("VDD_CORE_A current(7)=1.42880000A VDD_CORE_V volt(15)=0.90659250V EXT5V_V volt(24)=5.05V") == {
            "VDD_CORE": (1.4288, 0.9065925)
        }
    """
    currents = {name: float(value) for name, value in _CURRENT.findall(text)}
    voltages = {name: float(value) for name, value in _VOLTAGE.findall(text)}
    return {name: (current_a, voltages[name]) for name, current_a in currents.items() if name in voltages}


class PmicSource:
    """The sum of some rails; see :class:`lab.power.streamed.StreamSource`.

    Args:
        config: which rails; all where none are named.
        remote: the Raspberry Pi.
        voltage_v: by which power is made current.
    """

    def __init__(self, config: PmicConfig, remote: Remote, voltage_v: float) -> None:
        self._config = config
        self._remote = remote
        self._voltage_v = voltage_v

    def open(self) -> SourceInfo:
        """Look at the rails.

        Raises:
            MeterError: the board has no such chip, or no such rail.
        """
        done = self._remote.run((self._config.program, "pmic_read_adc"))
        rails = parse_adc(done.text)
        if done.status or not rails:
            said = (done.stdout + done.stderr).decode(errors="replace").strip() or f"status {done.status}"
            raise MeterError(
                f"PMIC of {self._remote.name}: {said.splitlines()[0][:200]}",
                hint="only a Raspberry Pi 5 has one, and its user must be in the group video",
            )
        self._power(rails)
        names = self._config.rails
        return SourceInfo(
            identity=f"PMIC of a Raspberry Pi 5, {'+'.join(names) if names else f'sum of {len(rails)} rails'}",
            ranges=(RangeUncertainty(_MOST_A, RELATIVE),),
            update_s=0.0,
            measures_voltage=False,
            measures_current=False,
            notes=("without USB ports, HAT, fan and what the PMIC itself loses",),
            extra_time_s=READING_S,
        )

    def loop(self) -> Loop:
        """One reading after the other."""
        return Loop("command", (self._config.program, "pmic_read_adc"))

    def take(self, text: str) -> Reading:
        """A reading's power.

        Raises:
            MeterError: a rail is not there.
        """
        rails = parse_adc(text)
        if not rails:
            return Failed(text[:80])
        return Gauge(self._power(rails) / self._voltage_v, self._voltage_v)

    def close(self) -> None:
        """Nothing is held open."""

    def _power(self, rails: Mapping[str, tuple[float, float]]) -> float:
        names = self._config.rails or tuple(rails)
        if missing := [name for name in names if name not in rails]:
            raise MeterError(
                f"PMIC of {self._remote.name}: no rail {', '.join(missing)} with both current and voltage; it has: "
                f"{', '.join(rails)}",
                hint="write rails: of those, or leave it out for the sum of all",
            )
        return sum(rails[name][0] * rails[name][1] for name in names)


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> StreamedMeter:
    """The PMIC of a device; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, PmicConfig):
        raise ConfigError(f"a PMIC was asked to be a meter of kind {config.kind!r}")
    return StreamedMeter("pmic", PmicSource(config, remote, voltage_v), remote, voltage_v, config.period)


def make(config: MeterConfig, voltage_v: float) -> StreamedMeter:
    """The PMIC of this computer, where the lab runs on the Raspberry Pi itself."""
    return make_on(config, voltage_v, LocalRemote())
