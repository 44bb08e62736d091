"""Rigol DP831 and DP832 supplies, asked for one value after the other.

Class figures: read-back 0.15 % + 5 mA (DP800 performance verification manual) and 0.05 % + 10 mV. The milliamperes
make it useless for a device that sleeps, and the uncertainty says so. Not run on an instrument.
"""

from __future__ import annotations

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Setup
from lab.power.scpi_session import ScpiSession


class RigolDp832:
    """A channel of a DP831, DP832 or their A variants."""

    family = Family(
        title="Rigol DP832",
        identity=r"RIGOL[^,]*,DP83\dA?",
        supplies=True,
        measures_voltage=True,
        ranges=(RangeUncertainty(3.0, 0.0015, 5e-3),),
        figures="DP800 performance verification manual",
        voltage_uncertainty=0.0005 + 10e-3 / 3.3,
        shortest_period_s=0.05,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Voltage and limit."""
        session.write(f":APPL CH{setup.channel},{setup.voltage_v:.6g},{setup.limit_a:.6g}")
        return setup.period_s

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the output."""
        session.write(f":OUTP CH{setup.channel},{'ON' if on else 'OFF'}")

    def measure(self, session: ScpiSession, setup: Setup) -> tuple[float, float | None]:
        """``MEAS:ALL?`` gives volt, ampere and watt of one moment."""
        query = f":MEAS:ALL? CH{setup.channel}"
        values = session.ask_values(query)
        if values.size < 2:
            raise MeterError(f"{session.resource}: {query!r} gave {values.size} numbers, 3 were expected")
        return float(values[1]), float(values[0])
