"""Nordic Power Profiler Kit II over its USB serial port.

Currents are the plain conversion of each word, without the spike filter that Nordic's application and ``ppk2-api``
apply (a running mean with weight 0.18, or 0.06 in range 4, shown instead of the samples that follow a change of
range). The filter makes pictures smoother and charges wrong where it matters: on a square of 5 ms at 12 mA and 45 ms
at 20 µA it reads 25.5 µA in the 20 µA stretch (+27 %), and the first three samples after each edge are not
measurements. What it hides, the settling of the meter after a change of range, is in our samples; windows that begin
at an edge include it.

Differences to ``ppk2-api`` 0.9.2 that were measured: it ignores the counter (lost samples go unnoticed), never finds a
lost word boundary again, and takes default calibration when the metadata arrives in two reads.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from lab.errors import ConfigError, MeterError
from lab.meter_config import MeterConfig, Ppk2Config
from lab.power.base import MeterInfo, RangeUncertainty, SampleBlock, join
from lab.power.ppk2_stream import SAMPLE_RATE_HZ, Calibration, StreamDecoder, StreamReport
from lab.power.serial_line import SerialLine
from lab.transports.serial_ports import first_port

LOWEST_V = 0.8
HIGHEST_V = 5.0
LOGIC_INPUTS = 8
RANGES = (
    RangeUncertainty(50e-6, 0.10, 0.2e-6),
    RangeUncertainty(500e-6, 0.10, 0.5e-6),
    RangeUncertainty(5e-3, 0.10, 5e-6),
    RangeUncertainty(60e-3, 0.10, 50e-6),
    RangeUncertainty(1.0, 0.15, 1e-3),
)
"""Typical, from Nordic's tables: a gain error, and the resolution of the range as offset."""

_GET_META_DATA = b"\x19"
_AVERAGE_START = b"\x06"
_AVERAGE_STOP = b"\x07"
_DUT_POWER = b"\x0c"
_REGULATOR_SET = b"\x0d"
_SET_POWER_MODE = b"\x11"
_AMPERE_METER = b"\x01"
_SOURCE_METER = b"\x02"

_TEXT_BEGIN = b"Calibrated:"
_TEXT_END = b"END\n"
_ANSWER_S = 2.0


class Ppk2:
    """A PPK2 as :class:`lab.power.base.Meter`.

    Args:
        port: serial port of the meter (the first of its two).
        voltage_v: voltage to supply, or, as ampere meter, the voltage the device is supplied with; 0.8 to 5 V.
        source: supply the device (source meter) or measure a supply of its own (ampere meter).
        emulated: whether the peer is :mod:`lab.emulators.ppk2`.

    Raises:
        ConfigError: a voltage the meter cannot be set to.
    """

    def __init__(self, port: str, *, voltage_v: float, source: bool = True, emulated: bool = False) -> None:
        if not LOWEST_V <= voltage_v <= HIGHEST_V:
            raise ConfigError(
                f"{port}: {voltage_v} V asked of a PPK2", hint=f"it can be set to {LOWEST_V} to {HIGHEST_V} V"
            )
        self._port = port
        self._voltage_v = voltage_v
        self._source = source
        self._emulated = emulated
        self._line = SerialLine(port, 115200, _ANSWER_S)
        self._calibration: Calibration | None = None
        self._decoder: StreamDecoder | None = None
        self._streaming = False
        self._late = b""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> MeterInfo:
        """Open the port, read the calibration, set the voltage and switch the device's supply on.

        Raises:
            MeterError: the port cannot be opened, is no PPK2, is silent, or its calibration is incomplete.
        """
        self._line.open()
        try:
            self._calibration = Calibration.parse(self._ask_calibration(), self._port)
            millivolts = round(self._voltage_v * 1000)
            self._line.write(_SET_POWER_MODE + (_SOURCE_METER if self._source else _AMPERE_METER))
            self._line.write(_REGULATOR_SET + millivolts.to_bytes(2, "big"))
            self.set_output(True)
        except MeterError:
            self.close()
            raise
        return self.info

    @property
    def info(self) -> MeterInfo:
        """What the meter is. ``relative_uncertainty`` is that of the ranges used since :meth:`start`; before any sample
        in range 4 was seen, that of ranges 0 to 3.

        Raises:
            MeterError: not open.
        """
        calibration = self._opened_calibration()
        state = "calibrated" if calibration.calibrated else "NOT calibrated (says the meter)"
        if calibration.replaced:
            state += f", nominal values for {', '.join(calibration.replaced)}"
        used = [k for k, count in enumerate(self.report.in_range) if count]
        return MeterInfo(
            kind="ppk2",
            identity=f"PPK2 hardware {calibration.hardware}, {state}",
            sample_rate_hz=float(SAMPLE_RATE_HZ),
            voltage_v=self._voltage_v,
            measures_voltage=False,
            logic_inputs=LOGIC_INPUTS,
            relative_uncertainty=RANGES[max(used, default=0)].relative,
            emulated=self._emulated,
            ranges=RANGES,
        )

    @property
    def report(self) -> StreamReport:
        """Losses, damage, saturation and ranges of the stream since :meth:`start`; zeros before it."""
        return self._decoder.report if self._decoder is not None else StreamReport()

    def set_output(self, on: bool) -> None:
        """Switch the device's supply. It stays as it is when the port is closed."""
        self._line.write(_DUT_POWER + (b"\x01" if on else b"\x00"))

    def start(self) -> None:
        """Start the stream; sample 0 is the first one after this call.

        Raises:
            MeterError: not open, or the port broke.
        """
        self._decoder = StreamDecoder(self._opened_calibration().currents(self._voltage_v))
        self._late = b""
        self._line.write(_AVERAGE_START)
        self._streaming = True

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has arrived; an empty block after ``timeout_s`` seconds without data.

        Raises:
            MeterError: not started, or the port broke.
        """
        if self._decoder is None:
            raise MeterError(f"{self._port}: read before start", hint="call start() first")
        data, self._late = self._late, b""
        return self._decoder.feed(data or self._line.receive(timeout_s))

    def stop(self) -> SampleBlock:
        """Stop the stream and return the samples still on their way.

        The answer to a question that follows the stop command marks the end: commands are worked off in order. When
        this fails, one more :meth:`read` returns what came before it did.

        Raises:
            MeterError: not started, the port broke, or the meter does not answer.
        """
        if self._decoder is None:
            raise MeterError(f"{self._port}: stop before start", hint="call start() first")
        self._streaming = False
        received = bytearray()
        try:
            self._line.write(_AVERAGE_STOP + _GET_META_DATA)
            end = self._receive_to_end(received)
        except MeterError:
            self._late = bytes(received)
            raise
        return join((self._decoder.feed(bytes(received[:end])), self._decoder.finish()))

    def _receive_to_end(self, received: bytearray) -> int:
        """Receive until the answer that follows the stream is whole; returns where it begins."""
        begin = -1
        while begin < 0 or received.find(_TEXT_END, begin) < 0:
            data = self._line.receive(_ANSWER_S)
            if not data:
                raise MeterError(
                    f"{self._port}: the meter did not confirm the end of the stream within {_ANSWER_S:g} s",
                    hint="the measurement may be cut short: repeat it, and replug the meter if that happens again",
                    transient=True,
                )
            seen = max(len(received) - len(_TEXT_BEGIN), 0)
            received += data
            begin = received.find(_TEXT_BEGIN, seen) if begin < 0 else begin
        return begin

    def close(self) -> None:
        """Stop the stream where it runs and close the port; safe to call twice."""
        self._line.close(_AVERAGE_STOP if self._streaming else b"")
        self._streaming = False

    def _opened_calibration(self) -> Calibration:
        if self._calibration is None:
            raise MeterError(f"{self._port}: the meter is not open", hint="call open(), or use it in a with statement")
        return self._calibration

    def _ask_calibration(self) -> str:
        """The metadata text; whatever a stream left behind comes before it and is dropped."""
        self._line.write(_AVERAGE_STOP + _GET_META_DATA)
        received = bytearray()
        deadline = time.monotonic() + 5 * _ANSWER_S
        while time.monotonic() < deadline:
            data = self._line.receive(_ANSWER_S)
            received += data
            begin = received.rfind(_TEXT_BEGIN)
            if begin >= 0 and received.find(_TEXT_END, begin) >= 0:
                return received[begin:].decode("ascii", "replace")
            if not data:
                break
        raise self._no_calibration(bytes(received))

    def _no_calibration(self, received: bytes) -> MeterError:
        if not received:
            return MeterError(
                f"{self._port}: silent for {_ANSWER_S:g} s after the question for its calibration",
                hint="is it a PPK2, and the first of its two ports? Switch it off and on",
            )
        if _TEXT_BEGIN in received:
            return MeterError(
                f"{self._port}: the calibration is cut off after {received[-40:]!r}",
                hint="unplug the meter, plug it in again, and make sure that no other program has it open",
            )
        return MeterError(
            f"{self._port}: not a PPK2: it answered {received[:40]!r} to the question for its calibration",
            hint="`lab devices` lists the ports with their products",
        )


def make(config: MeterConfig, voltage_v: float) -> Ppk2:
    """The PPK2 of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, Ppk2Config):
        raise ConfigError(f"a PPK2 was asked to be a meter of kind {config.kind!r}")
    port = first_port(config.port, config.serial_number)
    return Ppk2(port, voltage_v=voltage_v, source=config.source, emulated=config.emulated)
