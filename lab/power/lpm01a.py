"""ST X-NUCLEO-LPM01A ("PowerShield") over its USB serial port, controlled by the host.

Commands are lines; the board answers each with ``PowerShield > ack <command>`` or ``PowerShield > error <command>`` and
a line ``Error detail: …`` (ST's help text; what the public clients of the MLPerf Tiny runner and of Zephyr expect).
Only the dynamic mode is a stream; the static one (2 nA to 200 mA) gives one averaged value per start and is not used.

Not confirmed on a board: the word ``both`` of ``eventsrc``, events in the binary format, where between the samples the
time stamps lie, how errors are spelt (any case is taken).
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from lab.errors import ConfigError, MeterError
from lab.meter_config import Lpm01aConfig, MeterConfig
from lab.power.base import MeterInfo, RangeUncertainty, SampleBlock, join
from lab.power.lpm01a_stream import (
    HIGHEST_CURRENT_A,
    STAMP_PERIOD_S,
    AsciiDecoder,
    BinaryDecoder,
    Decoder,
    Lpm01aReport,
    Timeline,
)
from lab.power.serial_line import SerialLine
from lab.transports.serial_ports import first_port

BAUD = 3_686_400
RANGES = (RangeUncertainty(HIGHEST_CURRENT_A, 0.02, 100e-9),)
"""2 %: in ST's manual for the static mode, assumed for the dynamic one. The offset (lower end of range) is assumed."""
VOLTAGE_UNCERTAINTY = 0.01
"""Assumed: ST gives none for the supply."""

_ANSWER_S = 3.0
# The board calibrates itself after each change of the voltage, and warms up after power-on.
_SLOW_ANSWER_S = 15.0
_PROMPT = b"PowerShield > "
_UNIT = {100_000: "100k", 50_000: "50k", 20_000: "20k", 10_000: "10k", 5_000: "5k", 2_000: "2k", 1_000: "1k"}


class Lpm01a:
    """An LPM01A as :class:`lab.power.base.Meter`. With ``output: energy`` it measures energy alone.

    Args:
        port: serial port.
        config: its settings.
        voltage_v: voltage to supply, 1.8 to 3.3 V.

    Raises:
        ConfigError: a voltage the board cannot be set to.
    """

    def __init__(self, port: str, config: Lpm01aConfig, voltage_v: float) -> None:
        if not 1.8 <= voltage_v <= 3.3:
            raise ConfigError(f"{port}: {voltage_v} V asked of an LPM01A", hint="it can be set to 1.8 to 3.3 V")
        self._port = port
        self._config = config
        self._voltage_v = voltage_v
        self._line = SerialLine(port, BAUD, _ANSWER_S)
        self._identity = ""
        self._timeline = self._new_timeline()
        self._decoder: Decoder | None = None
        self._passed_on = 0
        self._streaming = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> MeterInfo:
        """What the meter is.

        Raises:
            MeterError: not open.
        """
        if not self._identity:
            raise MeterError(f"{self._port}: the meter is not open", hint="call open(), or use it in a with statement")
        return MeterInfo(
            kind="lpm01a",
            identity=self._identity,
            sample_rate_hz=float(self._config.sample_rate),
            voltage_v=self._voltage_v,
            measures_voltage=False,
            logic_inputs=1,
            relative_uncertainty=RANGES[0].relative,
            emulated=self._config.emulated,
            ranges=RANGES,
            voltage_uncertainty=VOLTAGE_UNCERTAINTY,
            alignment="trigger" if self._config.trigger == "d7" else "logic",
            measures_current=self._config.output == "current",
            held_back_s=STAMP_PERIOD_S,
        )

    @property
    def report(self) -> Lpm01aReport:
        """What happened to the stream since :meth:`start`; zeros before it."""
        return self._timeline.report

    def open(self) -> MeterInfo:
        """Open the port, take control, set everything and switch the supply on.

        Raises:
            MeterError: the port cannot be opened, is no LPM01A, is silent, or refuses a setting.
        """
        config = self._config
        self._line.open()
        try:
            # Ends a stream that a client left behind; an idle board may call it an error.
            self._line.write(b"stop\r\n")
            self._ask("htc")
            self._identity = f"LPM01A {self._ask('powershield')}, firmware {self._ask('version')}"
            settings = [
                "acqmode dyn",
                f"output {config.output}",
                f"format {'ascii_dec' if config.format == 'ascii' else 'bin_hexa'}",
                f"freq {_UNIT.get(config.sample_rate, config.sample_rate)}",
                "acqtime inf",
                f"trigsrc {'d7' if config.trigger == 'd7' else 'sw'}",
                "trigdelay 0",
                f"eventsrc d7 {'fal' if config.events == 'pulses' else 'both'}",
                "pwrend on",
            ]
            if config.output == "current":
                settings.insert(1, f"funcmode {'high' if config.function == 'high' else 'optim'}")
            for setting in settings:
                self._ask(setting)
            self._ask(f"volt {round(self._voltage_v * 1000)}m", slow=True)
            self.set_output(True)
        except MeterError:
            self.close()
            raise
        return self.info

    def set_output(self, on: bool) -> None:
        """Switch the device's supply; it stays as it is when the port is closed.

        Raises:
            MeterError: not open, or refused.
        """
        self._ask(f"pwr {'on' if on else 'off'} nostatus", slow=True)

    def start(self) -> None:
        """Start the stream, or arm it where the trigger is D7; sample 0 is the first one after that.

        Raises:
            MeterError: not open, or refused.
        """
        self._timeline = self._new_timeline()
        self._passed_on = 0
        binary = self._config.format == "binary"
        self._decoder = BinaryDecoder(self._timeline) if binary else AsciiDecoder(self._timeline)
        self._streaming = True
        _, after = self._answer("start", _ANSWER_S)
        self._decoder.feed(after)

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what is complete; the samples of the last second wait for the time stamp that follows them.

        Raises:
            MeterError: not started, or the port broke.
        """
        decoder = self._started()
        decoder.feed(self._line.receive(timeout_s))
        return self._taken()

    def stop(self) -> SampleBlock:
        """Stop the stream and return the samples still on their way.

        Raises:
            MeterError: not started, the port broke, or the board does not say that it has ended.
        """
        decoder = self._started()
        self._streaming = False
        self._line.write(b"stop\r\n")
        while not self.report.ended:
            data = self._line.receive(_ANSWER_S)
            if not data:
                raise MeterError(
                    f"{self._port}: the meter did not say within {_ANSWER_S:g} s that the acquisition has ended",
                    hint="the measurement may be cut short: repeat it, and replug the meter if that happens again",
                    transient=True,
                )
            decoder.feed(data)
        decoder.finish()
        return self._taken()

    def close(self) -> None:
        """Stop the stream where it runs, give control back and close the port; safe to call twice."""
        self._line.close((b"stop\r\n" if self._streaming else b"") + b"hrc\r\n")
        self._streaming = False
        self._identity = ""

    def _new_timeline(self) -> Timeline:
        config = self._config
        per_unit = config.sample_rate / self._voltage_v if config.output == "energy" else 1.0
        return Timeline(config.sample_rate, per_unit, pulses=config.events == "pulses")

    def _started(self) -> Decoder:
        if self._decoder is None:
            raise MeterError(f"{self._port}: the stream was not started", hint="call start() first")
        return self._decoder

    def _taken(self) -> SampleBlock:
        first = self._passed_on
        block = join(self._timeline.take())
        self._passed_on += block.current_a.size
        return replace(block, first=first)

    def _ask(self, command: str, *, slow: bool = False) -> str:
        """The rest of the line with which the board answers."""
        return self._answer(command, _SLOW_ANSWER_S if slow else _ANSWER_S)[0]

    def _answer(self, command: str, timeout_s: float) -> tuple[str, bytes]:
        """The answer to a command, and what came behind it."""
        self._line.write(command.encode("ascii") + b"\r\n")
        answer = re.compile(rb"> *(ack|error) +" + re.escape(command.encode("ascii")) + rb"\b:? *([^\r\n]*)\r?\n")
        received = b""
        deadline = time.monotonic() + timeout_s
        while (found := answer.search(received)) is None:
            left_s = deadline - time.monotonic()
            data = self._line.receive(left_s) if left_s > 0 else b""
            if not data:
                raise self._silent(command, received, timeout_s)
            received += data
        if found[1] == b"error":
            raise MeterError(
                f"{self._port}: the LPM01A refuses {command!r}: {self._detail(received[found.end() :])}",
                hint="`help` in a terminal on its port lists what its firmware knows; 1.0.6 or newer is needed",
            )
        text = found[2].decode("ascii", "replace").removeprefix("PowerShield present").strip(" :")
        return text, received[found.end() :]

    def _detail(self, received: bytes) -> str:
        while (found := re.match(rb"\s*([^\r\n]+)[\r\n]", received)) is None:
            data = self._line.receive(_ANSWER_S)
            if not data:
                return "no reason given"
            received += data
        text = found[1].decode("ascii", "replace").strip()
        return re.sub(r"(?i)^error detail: *", "", text)

    def _silent(self, command: str, received: bytes, timeout_s: float) -> MeterError:
        if not received:
            return MeterError(
                f"{self._port}: silent for {timeout_s:g} s after {command!r}",
                hint="is it an LPM01A, and is its switch set to the host (USB)? Unplug it and plug it in again",
            )
        if _PROMPT.strip() in received:
            return MeterError(f"{self._port}: the LPM01A answered {received[-60:]!r} to {command!r}", transient=True)
        return MeterError(
            f"{self._port}: not an LPM01A: it answered {received[:40]!r} to {command!r}",
            hint="`lab devices` lists the ports with their products",
        )


def make(config: MeterConfig, voltage_v: float) -> Lpm01a:
    """The LPM01A of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, Lpm01aConfig):
        raise ConfigError(f"an LPM01A was asked to be a meter of kind {config.kind!r}")
    return Lpm01a(first_port(config.port, config.serial_number), config, voltage_v)
