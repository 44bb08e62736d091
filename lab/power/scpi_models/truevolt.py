"""Keysight 34465A and 34470A multimeters: readings by the sample timer into the reading memory.

Commands as in the Truevolt operating and service guide: ``SAMP:SOUR TIM`` paces the readings, ``DATA:REM?`` takes them
out of the memory (50 000 readings without the option MEM), where new ones overwrite the oldest once it is full. So a
memory that is full when it is asked has lost an unknown number, and the measurement fails.
Class figures: 1 year, current (% of reading + % of range), those of the 34461A where the 34465A is as good or better
(data sheet; from memory, not looked up again). Not run on an instrument.
"""

from __future__ import annotations

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Readings, Setup
from lab.power.scpi_session import Float64Array, ScpiSession, parse_values

MEMORY_READINGS = 50_000
_MOST_SAMPLES = 1_000_000


def _range(full_a: float, of_reading: float, of_range: float) -> RangeUncertainty:
    return RangeUncertainty(full_a, of_reading, full_a * of_range)


class Truevolt:
    """A multimeter in the current path; it supplies nothing."""

    family = Family(
        title="Keysight 34465A or 34470A",
        identity=r"(Keysight|Agilent)[^,]*,34(465|470)A",
        supplies=False,
        measures_voltage=False,
        ranges=(
            _range(100e-6, 0.0005, 0.00025),
            _range(1e-3, 0.0005, 0.00006),
            _range(10e-3, 0.0005, 0.0002),
            _range(100e-3, 0.0005, 0.00005),
            _range(1.0, 0.001, 0.0001),
            _range(3.0, 0.002, 0.0002),
        ),
        figures="those of the 34461A, not checked again",
        voltage_uncertainty=0.0,
        shortest_period_s=200e-6,
        at_once=10_000,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Range, aperture (all of the period that the converter's own time leaves), timer, trigger."""
        session.write("ABOR")
        session.write(f"CONF:CURR:DC {'AUTO' if setup.range_a is None else format(setup.range_a, '.6g')}")
        session.write("SENS:CURR:DC:ZERO:AUTO OFF")
        session.write("SENS:CURR:DC:APER:ENAB ON")
        session.write(f"SENS:CURR:DC:APER {max(20e-6, 0.9 * setup.period_s - 100e-6):.6g}")
        session.write("SAMP:SOUR TIM")
        session.write(f"SAMP:TIM {setup.period_s:.9g}")
        session.write(f"SAMP:COUN {_MOST_SAMPLES}")
        session.write(f"TRIG:SOUR {'EXT' if setup.external_trigger else 'BUS'}")
        session.write("TRIG:COUN 1")
        return session.ask_number("SAMP:TIM?")

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Never called: it has no output."""
        raise MeterError(f"{session.resource}: a multimeter has no output that could be switched")

    def arm(self, session: ScpiSession, setup: Setup) -> None:
        """Empty the memory and wait for the trigger."""
        session.write("INIT")

    def trigger(self, session: ScpiSession, setup: Setup) -> None:
        """Begin."""
        session.write("*TRG")

    def fetch(self, session: ScpiSession, setup: Setup) -> Readings:
        """All that is in memory, up to 10 000 readings."""
        waiting = round(session.ask_number("DATA:POIN?"))
        if waiting >= MEMORY_READINGS:
            raise MeterError(
                f"{session.resource}: its memory of {MEMORY_READINGS} readings ran full, readings were overwritten",
                hint="measure with a longer period, or let nothing keep this computer from reading",
            )
        if not waiting:
            return Readings(parse_values(""))
        return Readings(self._remove(session, min(waiting, self.family.at_once)))

    def halt(self, session: ScpiSession, setup: Setup) -> None:
        """End the record; the memory stays."""
        session.write("ABOR")

    def _remove(self, session: ScpiSession, count: int) -> Float64Array:
        values = session.ask_values(f"DATA:REM? {count}")
        if values.size != count:
            raise MeterError(
                f"{session.resource}: 'DATA:REM? {count}' gave {values.size} readings",
                hint="repeat the measurement; part of the answer was lost",
                transient=True,
            )
        return values
