"""Keysight N6705A/B/C mainframe with an N678xA source measure unit: its external data log ("Elog").

Commands as in the N6705 programmer's guide, chapter on external datalogging: the log runs without end and the host
takes records away with ``FETC:ELOG?``; a record is one average of the voltage and one of the current over the period.
Class figures: N6781A, seamless ranges (data sheet; from memory, not looked up again). Not run on an instrument.
"""

from __future__ import annotations

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Readings, Setup
from lab.power.scpi_session import ScpiSession


class N6705:
    """A channel of an N6705 with an N6781A or N6782A."""

    family = Family(
        title="Keysight N6705",
        identity=r"(Keysight|Agilent)[^,]*,N6705[ABC]",
        supplies=True,
        measures_voltage=True,
        ranges=(
            RangeUncertainty(10e-6, 0.00025, 8e-9),
            RangeUncertainty(1e-3, 0.00025, 100e-9),
            RangeUncertainty(100e-3, 0.00025, 10e-6),
            RangeUncertainty(3.0, 0.0003, 250e-6),
        ),
        figures="N6781A data sheet, not checked again",
        voltage_uncertainty=0.00025 + 1.2e-3 / 3.3,
        # 102.4 µs a parameter; voltage and current are two.
        shortest_period_s=204.8e-6,
        at_once=4096,
        keeps_memory=False,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Voltage, limit, ranges, period; the instrument rounds the period to its 20.48 µs and tells it."""
        at = f"(@{setup.channel})"
        session.write(f"ABOR:ELOG {at}")
        session.write("FORM ASC")
        session.write(f"VOLT {setup.voltage_v:.6g},{at}")
        session.write(f"CURR:LIM {setup.limit_a:.6g},{at}")
        session.write(f"SENS:ELOG:FUNC:VOLT ON,{at}")
        session.write(f"SENS:ELOG:FUNC:CURR ON,{at}")
        if setup.range_a is None:
            session.write(f"SENS:ELOG:CURR:RANG:AUTO ON,{at}")
        else:
            session.write(f"SENS:ELOG:CURR:RANG {setup.range_a:.6g},{at}")
        session.write(f"SENS:ELOG:PER {setup.period_s:.9g},{at}")
        session.write(f"TRIG:ELOG:SOUR {'EXT' if setup.external_trigger else 'BUS'},{at}")
        return session.ask_number(f"SENS:ELOG:PER? {at}")

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the output."""
        session.write(f"OUTP {'ON' if on else 'OFF'},(@{setup.channel})")

    def arm(self, session: ScpiSession, setup: Setup) -> None:
        """Wait for the trigger."""
        session.write(f"INIT:ELOG (@{setup.channel})")

    def trigger(self, session: ScpiSession, setup: Setup) -> None:
        """Begin the log."""
        session.write("*TRG")

    def fetch(self, session: ScpiSession, setup: Setup) -> Readings:
        """Records are pairs of voltage and current."""
        query = f"FETC:ELOG? {self.family.at_once},(@{setup.channel})"
        values = session.ask_values(query)
        if values.size % 2:
            raise MeterError(
                f"{session.resource}: {query!r} gave {values.size} numbers, which are no pairs of voltage and current",
                hint="repeat the measurement; part of the answer was lost",
                transient=True,
            )
        return Readings(values[1::2], values[0::2])

    def halt(self, session: ScpiSession, setup: Setup) -> None:
        """End the log."""
        session.write(f"ABOR:ELOG (@{setup.channel})")
