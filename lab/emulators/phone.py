"""The shell of an Android phone, as far as its battery's gauge is concerned, with a battery that a load drains.

It answers ``dumpsys battery`` and ``cat`` of the files of ``/sys/class/power_supply/battery`` in the form that phones
do. The gauge shows the mean of its last update interval: current in µA or mA with the maker's sign, voltage in µV, and
what is left in whole steps of the charge counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.emulators.load import Load

_COULOMB_PER_UAH = 3.6e-3
_ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Gauge:
    """How a maker's gauge counts, and what goes wrong.

    Attributes:
        update_s: seconds between its updates.
        sign: of ``current_now`` while the battery discharges: 1 or -1.
        unit_a: of ``current_now``, ampere.
        charge_uah: in the battery at time 0.
        step_uah: of the charge counter.
        readable: whether the shell may read the files; ``dumpsys`` always answers.
        plugged_s: when a charger is plugged in, seconds of the load.
        gone_s: when the connection breaks, seconds of the load.
    """

    update_s: float = 1.0
    sign: int = -1
    unit_a: float = 1e-6
    charge_uah: int = 3_000_000
    step_uah: int = 1000
    readable: bool = True
    plugged_s: float = math.inf
    gone_s: float = math.inf


class Phone:
    """A phone's shell: call it with a command, as :data:`lab.power.android.Shell`.

    Args:
        load: what it draws from its battery; its voltage is the battery's.
        now: time of the load, seconds.
        gauge: of its battery.
        gone: raised once the connection is broken.
    """

    def __init__(
        self, load: Load, now: Callable[[], float], gauge: Gauge | None = None, gone: Exception | None = None
    ) -> None:
        self._load = load
        self._now = now
        self._gauge = gauge or Gauge()
        self._gone = gone or ConnectionError("the phone went away")

    def __call__(self, arguments: Sequence[str]) -> str:
        """What the command prints."""
        if self._now() >= self._gauge.gone_s:
            raise self._gone
        if tuple(arguments) == ("dumpsys", "battery"):
            return self._dumpsys()
        if arguments[0] == "cat":
            return "".join(self._file(path) for path in arguments[1:])
        return f"/system/bin/sh: {arguments[0]}: inaccessible or not found\n"

    @property
    def _plugged(self) -> bool:
        return self._now() >= self._gauge.plugged_s

    def _shown(self) -> tuple[int, float, int]:
        """Current in its unit, volt, and what is left in µAh, as of the last update."""
        gauge = self._gauge
        updates = math.floor(self._now() / gauge.update_s + _ROUNDING_S)
        end_s = max(updates, 1) * gauge.update_s
        truth = self._load.truth(end_s - gauge.update_s, end_s)
        drawn_c = self._load.truth(0.0, end_s).charge_c if updates else 0.0
        left_uah = gauge.charge_uah - drawn_c / _COULOMB_PER_UAH
        volts = truth.energy_j / truth.charge_c
        counter = math.floor(left_uah / gauge.step_uah) * gauge.step_uah
        return gauge.sign * round(truth.mean_current_a / gauge.unit_a), volts, counter

    def _file(self, path: str) -> str:
        if not self._gauge.readable:
            return f"cat: {path}: Permission denied\n"
        current, volts, counter = self._shown()
        values = {
            "status": "Charging" if self._plugged else "Discharging",
            "current_now": str(current),
            "voltage_now": str(round(volts * 1e6)),
            "charge_counter": str(counter),
        }
        name = path.rpartition("/")[2]
        return f"{values[name]}\n" if name in values else f"cat: {path}: No such file or directory\n"

    def _dumpsys(self) -> str:
        _, volts, counter = self._shown()
        plugged = "true" if self._plugged else "false"
        return (
            "Current Battery Service state:\n"
            f"  AC powered: {plugged}\n"
            "  USB powered: false\n"
            "  Wireless powered: false\n"
            "  Dock powered: false\n"
            "  Max charging current: 0\n"
            "  Max charging voltage: 0\n"
            f"  Charge counter: {counter}\n"
            f"  status: {2 if self._plugged else 3}\n"
            "  health: 2\n"
            "  present: true\n"
            f"  level: {round(100 * counter / self._gauge.charge_uah)}\n"
            "  scale: 100\n"
            f"  voltage: {round(volts * 1e3)}\n"
            "  temperature: 220\n"
            "  technology: Li-ion\n"
        )
