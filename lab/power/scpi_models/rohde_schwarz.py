"""Rohde & Schwarz NGU201 and NGU401 source measure units: FastLog, a stream of voltage and current into a memory.

``FLOG:DATA?`` gives what has been logged as one definite-length block of little-endian 32-bit floats, volt and ampere
in turn; bit 12 of the channel's operation register says that there is something, bit 11 of its questionable register
that the memory ran over and data were skipped, which nothing in the block shows (NGU user manual 1179.2531.02, chapters
on FastLog and the status registers; the bits as public programs for NGU and NGM use them). Six rates. A record begins
with a command: no trigger input is used.

Class figures: 0.05 % and twice the offsets of the data sheet as remembered; they were not looked up again. Not run on
an instrument.
"""

from __future__ import annotations

import math

from lab.errors import MeterError
from lab.power.base import RangeUncertainty
from lab.power.scpi_models.base import Family, Readings, Setup
from lab.power.scpi_session import ScpiSession, parse_values

RATES_HZ = {"S100": 100, "S001k": 1_000, "S010k": 10_000, "S050k": 50_000, "S250k": 250_000, "S500k": 500_000}
_DATA_READY = 1 << 12
_DATA_SKIPPED = 1 << 11


class RohdeSchwarzNgu:
    """An NGU as supply and meter."""

    family = Family(
        title="Rohde & Schwarz NGU",
        identity=r"ROHDE&SCHWARZ,\s*NGU[24]01",
        supplies=True,
        measures_voltage=True,
        ranges=(
            RangeUncertainty(10e-6, 0.0005, 30e-9),
            RangeUncertainty(1e-3, 0.0005, 300e-9),
            RangeUncertainty(10e-3, 0.0005, 3e-6),
            RangeUncertainty(100e-3, 0.0005, 30e-6),
            RangeUncertainty(1.0, 0.0005, 500e-6),
            RangeUncertainty(10.0, 0.0005, 4e-3),
        ),
        figures="from memory of the data sheet, on the safe side",
        voltage_uncertainty=0.0002 + 4e-3 / 3.3,
        shortest_period_s=2e-6,
        at_once=500_000,
        keeps_memory=False,
    )

    def prepare(self, session: ScpiSession, setup: Setup) -> float:
        """Voltage, limit, range, and the rate that is nearest to the period."""
        session.write("FLOG:STAT 0")
        session.write(f"VOLT {setup.voltage_v:.6g}")
        session.write(f"CURR {setup.limit_a:.6g}")
        if setup.range_a is None:
            session.write("SENS:CURR:RANG:AUTO ON")
        else:
            session.write(f"SENS:CURR:RANG {setup.range_a:.6g}")
        wanted = min(RATES_HZ, key=lambda name: abs(math.log(RATES_HZ[name] * setup.period_s)))
        session.write("FLOG:TARG SCPI")
        session.write(f"FLOG:SRAT {wanted}")
        told = session.ask("FLOG:SRAT?")
        kept = {name.lower(): rate for name, rate in RATES_HZ.items()}.get(told.lower())
        if kept is None:
            raise MeterError(
                f"{session.resource}: its FastLog has a rate of {told!r}; known are {', '.join(RATES_HZ)}",
                hint="does it have the option FastLog?",
            )
        return 1.0 / kept

    def set_output(self, session: ScpiSession, setup: Setup, on: bool) -> None:
        """Switch the output."""
        session.write(f"OUTP {'ON' if on else 'OFF'}")

    def arm(self, session: ScpiSession, setup: Setup) -> None:
        """End what still runs, and forget what the registers say of it."""
        session.write("FLOG:STAT 0")
        for register in ("OPER", "QUES"):
            self._event(session, register)

    def trigger(self, session: ScpiSession, setup: Setup) -> None:
        """Start the log."""
        session.write("FLOG:STAT 1")

    def fetch(self, session: ScpiSession, setup: Setup) -> Readings:
        """What has been logged since the last call.

        Raises:
            MeterError: data were skipped, or half a pair came.
        """
        empty = parse_values("")
        if not self._event(session, "OPER") & _DATA_READY:
            return Readings(empty, empty)
        values = session.ask_block("FLOG:DATA?")
        if self._event(session, "QUES") & _DATA_SKIPPED:
            raise MeterError(
                f"{session.resource}: its FastLog skipped data: where, nothing says",
                hint="measure with a longer period, or over a faster connection",
                transient=True,
            )
        if values.size % 2:
            raise MeterError(
                f"{session.resource}: FLOG:DATA? gave {values.size} numbers, not pairs of volt and ampere",
                hint="repeat the measurement; part of the answer was lost",
                transient=True,
            )
        return Readings(values[1::2], values[0::2])

    def halt(self, session: ScpiSession, setup: Setup) -> None:
        """End the log."""
        session.write("FLOG:STAT 0")

    def _event(self, session: ScpiSession, register: str) -> int:
        """The channel's event register, which is empty after that."""
        return round(session.ask_number(f"STAT:{register}:INST:ISUM1:EVEN?"))
