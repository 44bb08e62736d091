"""Keithley 2450 source meter (SCPI command set): a trigger model paced by its timer, into a reading buffer.

Commands as in the 2450 reference manual, chapters on buffers, the trigger model and timers. Every reading carries its
time since the first one, so that readings that are missing or doubled are found.
Class figures: measure current and voltage, 1 year, 23 ±5 °C (SPEC-2450 rev. A, July 2013). Not run on an instrument.
"""

from __future__ import annotations

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Readings, Setup
from lab.power.scpi_session import ScpiSession, parse_values

BUFFER_READINGS = 100_000
_BUFFER = '"labbuf"'
_COLUMNS = 3


class Keithley2450:
    """A 2450 as supply and meter.

    One reading takes at least 1 ms here: current at 0.01 power line cycles, and the trigger model.
    """

    family = Family(
        title="Keithley 2450",
        identity=r"KEITHLEY[^,]*,MODEL 2450",
        supplies=True,
        measures_voltage=True,
        ranges=(
            RangeUncertainty(10e-9, 0.001, 50e-12),
            RangeUncertainty(100e-9, 0.0006, 100e-12),
            RangeUncertainty(1e-6, 0.00025, 300e-12),
            RangeUncertainty(10e-6, 0.00025, 700e-12),
            RangeUncertainty(100e-6, 0.0002, 6e-9),
            RangeUncertainty(1e-3, 0.0002, 60e-9),
            RangeUncertainty(10e-3, 0.0002, 600e-9),
            RangeUncertainty(100e-3, 0.00025, 6e-6),
            RangeUncertainty(1.0, 0.0003, 500e-6),
        ),
        figures="SPEC-2450 rev. A, July 2013",
        # The voltage of a reading is the source's read-back, on the 20 V range.
        voltage_uncertainty=0.00015 + 1e-3 / 3.3,
        shortest_period_s=1e-3,
        at_once=5_000,
    )

    def __init__(self) -> None:
        self._taken = 0

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Source voltage and limit, measure current, buffer, timer and trigger model."""
        source = "EXT" if setup.external_trigger else "COMM"
        session.write("ABOR")
        session.write("SOUR:FUNC VOLT")
        session.write(f"SOUR:VOLT {setup.voltage_v:.6g}")
        session.write(f"SOUR:VOLT:ILIM {setup.limit_a:.6g}")
        session.write("SOUR:VOLT:READ:BACK ON")
        session.write('SENS:FUNC "CURR"')
        session.write("SENS:CURR:NPLC 0.01")
        if setup.range_a is None:
            session.write("SENS:CURR:RANG:AUTO ON")
        else:
            session.write(f"SENS:CURR:RANG {setup.range_a:.6g}")
        session.write(f"TRAC:MAKE {_BUFFER}, {BUFFER_READINGS}")
        session.write(f"TRIG:TIM1:DEL {setup.period_s:.9g}")
        session.write("TRIG:TIM1:COUN 0")
        session.write("TRIG:TIM1:STAR:GEN ON")
        session.write(f"TRIG:TIM1:STAR:STIM {source}")
        session.write('TRIG:LOAD "Empty"')
        session.write(f"TRIG:BLOC:BUFF:CLE 1, {_BUFFER}")
        session.write("TRIG:BLOC:WAIT 2, TIM1")
        session.write(f"TRIG:BLOC:MEAS 3, {_BUFFER}")
        session.write("TRIG:BLOC:BRAN:ALW 4, 2")
        return session.ask_number("TRIG:TIM1:DEL?")

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the output."""
        session.write(f"OUTP {'ON' if on else 'OFF'}")

    def arm(self, session: ScpiSession, setup: Setup) -> None:
        """Start the trigger model, which waits for the timer, which waits for its stimulus."""
        self._taken = 0
        session.write("TRIG:TIM1:STAT ON")
        session.write("INIT")

    def trigger(self, session: ScpiSession, setup: Setup) -> None:
        """Start the timer."""
        session.write("*TRG")

    def fetch(self, session: ScpiSession, setup: Setup) -> Readings:
        """Readings that were not taken yet, up to 5 000, with time and source voltage."""
        stored = round(session.ask_number(f"TRAC:ACT? {_BUFFER}"))
        if stored >= BUFFER_READINGS:
            raise MeterError(
                f"{session.resource}: its buffer of {BUFFER_READINGS} readings is full, the record ended there",
                hint="measure with a longer period, or for a shorter time",
            )
        end = min(stored, self._taken + self.family.at_once)
        if end <= self._taken:
            return Readings(parse_values(""), parse_values(""), parse_values(""))
        query = f"TRAC:DATA? {self._taken + 1}, {end}, {_BUFFER}, READ, SOUR, REL"
        values = session.ask_values(query)
        if values.size != _COLUMNS * (end - self._taken):
            raise MeterError(
                f"{session.resource}: {query!r} gave {values.size} numbers, "
                f"{_COLUMNS * (end - self._taken)} were expected",
                hint="repeat the measurement; part of the answer was lost",
                transient=True,
            )
        self._taken = end
        return Readings(values[0::_COLUMNS], values[1::_COLUMNS], values[2::_COLUMNS])

    def halt(self, session: ScpiSession, setup: Setup) -> None:
        """End the record; the buffer stays."""
        session.write("ABOR")
