"""Siglent SPD3303X supplies and SDM3000 multimeters, asked for one value after the other.

Class figures: SPD3303X read-back 0.3 % + 10 mA and 0.03 % + 10 mV; SDM3065X current, 1 year (data sheets; from memory,
not looked up again). Not run on an instrument.
"""

from __future__ import annotations

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Setup
from lab.power.scpi_session import ScpiSession


class SiglentSpd:
    """A channel of an SPD3303X; voltage and current are asked one after the other."""

    family = Family(
        title="Siglent SPD3303X",
        identity=r"Siglent[^,]*,SPD\d",
        supplies=True,
        measures_voltage=True,
        ranges=(RangeUncertainty(3.2, 0.003, 10e-3),),
        figures="SPD3303X data sheet, not checked again",
        voltage_uncertainty=0.0003 + 10e-3 / 3.3,
        shortest_period_s=0.05,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Voltage and limit."""
        session.write(f"CH{setup.channel}:VOLT {setup.voltage_v:.6g}")
        session.write(f"CH{setup.channel}:CURR {setup.limit_a:.6g}")
        return setup.period_s

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the output."""
        session.write(f"OUTP CH{setup.channel},{'ON' if on else 'OFF'}")

    def measure(self, session: ScpiSession, setup: Setup) -> tuple[float, float | None]:
        """Ampere and volt."""
        current_a = session.ask_number(f"MEAS:CURR? CH{setup.channel}")
        return current_a, session.ask_number(f"MEAS:VOLT? CH{setup.channel}")


class SiglentSdm:
    """An SDM3055, SDM3065X or SDM3045X multimeter in the current path."""

    family = Family(
        title="Siglent SDM3065X",
        identity=r"Siglent[^,]*,SDM\d",
        supplies=False,
        measures_voltage=False,
        ranges=(
            RangeUncertainty(200e-6, 0.00055, 10e-9),
            RangeUncertainty(2e-3, 0.00055, 0.1e-6),
            RangeUncertainty(20e-3, 0.00095, 4e-6),
            RangeUncertainty(200e-3, 0.0007, 16e-6),
            RangeUncertainty(2.0, 0.0017, 400e-6),
            RangeUncertainty(10.0, 0.0025, 1e-3),
        ),
        figures="SDM3065X data sheet, not checked again",
        voltage_uncertainty=0.0,
        shortest_period_s=0.02,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Function and range."""
        session.write(f"CONF:CURR:DC {'AUTO' if setup.range_a is None else format(setup.range_a, '.6g')}")
        return setup.period_s

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Never called: it has no output."""
        raise MeterError(f"{session.resource}: a multimeter has no output that could be switched")

    def measure(self, session: ScpiSession, setup: Setup) -> tuple[float, float | None]:
        """Ampere."""
        return session.ask_number("READ?"), None
