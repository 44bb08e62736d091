"""Monsoon High Voltage Power Monitor through its maker's Python package, from which only the USB protocol is used.

The package's sample engine hands out Python lists, swallows what goes wrong and restarts by itself, so packets are
decoded here: 64 bytes with a count of dropped samples (16 bits, little-endian), flags, the number of samples, and for
each sample 18 bytes big-endian: main coarse and fine, USB coarse and fine, auxiliary coarse and fine ADC values, main
and USB voltage, gain, type. Types are measurement, zero and reference; the last two come in the stream every so often,
have no current and are lost samples here. A current is

    (value - offset - zero) · scale / (reference - offset - zero)

with the scale and offset of the EEPROM and the mean of the last five zero and reference samples, in milliampere for the
coarse and in microampere for the fine channel, which counts below 64000. (Monsoon 0.1.88, whose engine the tests hold
this against.) Not run on an instrument; the seam that tests replace is the package's protocol object.

It has no logic input, so windows are found by the host's clock.
"""

# ruff: noqa: N802, N803, N815 - methods and fields have the names of the package.
from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib import import_module
from types import TracebackType
from typing import Protocol, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import MeterConfig, MonsoonConfig
from lab.power.base import Float32Array, MeterInfo, RangeUncertainty, SampleBlock

SAMPLE_RATE_HZ = 5_000
RANGES = (RangeUncertainty(6.0, 0.01, 50e-6),)
"""Taken on the safe side: 1 % + 50 µA."""
VOLTAGE_UNCERTAINTY = 0.01
TIME_UNCERTAINTY_S = 20e-3
"""From the answer to the start command to the first sample, and one USB transfer: an estimate."""

_PACKET_BYTES = 64
_HEAD_BYTES = 4
_SAMPLE_BYTES = 18
_SAMPLES = 3
_FINE_BELOW = 64_000
_FULL_SCALE = 65_535
_VOLT_PER_STEP = 62.5e-6 * 4
_ZERO, _REFERENCE, _TYPE_MASK = 0x10, 0x30, 0x30
_CALIBRATIONS = 5
_CALIBRATE_WITHIN = 20_000
_CALIBRATION_MS = 1250
_WITHOUT_END = 0xFFFFFFFF
_MOST_PACKETS = 256

Int64Array: TypeAlias = npt.NDArray[np.int64]


class Status(Protocol):
    """What the monitor's EEPROM holds, as the package reads it."""

    mainCoarseScale: float
    mainCoarseZeroOffset: float
    mainFineScale: float
    mainFineZeroOffset: float
    serialNumber: int
    firmwareVersion: int


class Monitor(Protocol):
    """The part of ``Monsoon.HVPM.Monsoon`` that is used."""

    statusPacket: Status

    def fillStatusPacket(self) -> None: ...

    def setVout(self, value: float) -> None: ...

    def setRunTimeCurrentLimit(self, value: float) -> None: ...

    def setPowerUpCurrentLimit(self, value: float) -> None: ...

    def StartSampling(self, calTime: int, maxTime: int) -> None: ...

    def BulkRead(self) -> Iterable[int]: ...

    def stopSampling(self) -> None: ...

    def closeDevice(self) -> None: ...


class Decoder:
    """Packets to samples. Zero and reference samples are NaN; so are dropped ones, before the packet that tells so.

    Args:
        status: calibration.
    """

    def __init__(self, status: Status) -> None:
        self._scale = np.array([status.mainCoarseScale, status.mainFineScale]) * (1e-3, 1e-6)
        self._offset = np.array([status.mainCoarseZeroOffset, status.mainFineZeroOffset])
        self._zeros: deque[Int64Array] = deque(maxlen=_CALIBRATIONS)
        self._references: deque[Int64Array] = deque(maxlen=_CALIBRATIONS)
        self._dropped: int | None = None
        self._samples = 0

    @property
    def calibrated(self) -> bool:
        """Whether five zero and five reference samples have come."""
        return len(self._zeros) == len(self._references) == _CALIBRATIONS

    def restart(self) -> None:
        """Sample 0 is the next one."""
        self._samples = 0

    def feed(self, packets: bytes) -> SampleBlock:
        """Take whole packets.

        Raises:
            MeterError: they are no packets of a monitor.
        """
        parts = [self._packet(packets[at : at + _PACKET_BYTES]) for at in range(0, len(packets), _PACKET_BYTES)]
        empty = np.empty(0, np.float32)
        current = np.concatenate([empty, *(part[0] for part in parts)])
        voltage = np.concatenate([empty, *(part[1] for part in parts)])
        first, self._samples = self._samples, self._samples + current.size
        lost = int(np.count_nonzero(np.isnan(current)))
        saturated = sum(part[2] for part in parts)
        return SampleBlock(first, current, np.zeros(current.size, np.uint8), lost, saturated, voltage)

    def _packet(self, packet: bytes) -> tuple[Float32Array, Float32Array, int]:
        count = packet[3] if len(packet) > _HEAD_BYTES else 0
        if not 0 < count <= _SAMPLES or len(packet) < _HEAD_BYTES + count * _SAMPLE_BYTES:
            raise MeterError(f"Monsoon: a packet of {len(packet)} bytes for {count} samples", transient=True)
        dropped = int.from_bytes(packet[:2], "little")
        gap = 0 if self._dropped is None else (dropped - self._dropped) % (1 << 16)
        self._dropped = dropped
        words = np.frombuffer(packet, ">u2", count * _SAMPLE_BYTES // 2, _HEAD_BYTES).reshape(count, -1)
        current = np.full(gap + count, np.nan, np.float32)
        voltage = np.full(gap + count, np.nan, np.float32)
        saturated = 0
        for k, row in enumerate(words.astype(np.int64)):
            kind = int(row[8]) & _TYPE_MASK
            if kind in (_ZERO, _REFERENCE):
                (self._zeros if kind == _ZERO else self._references).append(row[:2])
            elif kind == 0 and self.calibrated:
                current[gap + k] = self._current(row)
                voltage[gap + k] = row[6] * _VOLT_PER_STEP
                saturated += int(row[0] >= _FULL_SCALE and row[1] >= _FINE_BELOW)
        return current, voltage, saturated

    def _current(self, row: Int64Array) -> float:
        zero = self._offset + np.mean(self._zeros, axis=0)
        span = np.mean(self._references, axis=0) - zero
        coarse, fine = (row[:2] - zero) * self._scale / np.where(span == 0, np.nan, span)
        return float(fine if row[1] < _FINE_BELOW else coarse)


class Monsoon:
    """A Monsoon HVPM as :class:`lab.power.base.Meter`.

    Args:
        config: its settings.
        voltage_v: voltage to supply, volt.
        connect: gives the open monitor of a serial number (None: any); for tests.
    """

    def __init__(
        self, config: MonsoonConfig, voltage_v: float, connect: Callable[[int | None], Monitor] | None = None
    ) -> None:
        self._config = config
        self._voltage_v = voltage_v
        self._connect = connect or connect_hvpm
        self._monitor: Monitor | None = None
        self._decoder: Decoder | None = None
        self._identity = ""

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
        self._opened()
        return MeterInfo(
            kind="monsoon",
            identity=self._identity,
            sample_rate_hz=float(SAMPLE_RATE_HZ),
            voltage_v=self._voltage_v,
            measures_voltage=True,
            logic_inputs=0,
            relative_uncertainty=RANGES[0].relative,
            emulated=False,
            ranges=RANGES,
            voltage_uncertainty=VOLTAGE_UNCERTAINTY,
            alignment="host-time",
            time_uncertainty_s=TIME_UNCERTAINTY_S,
        )

    def open(self) -> MeterInfo:
        """Find the monitor, read its calibration and switch its output on.

        Raises:
            ToolMissing: the package is not installed.
            MeterError: there is no such monitor, or it refuses a setting.
        """
        monitor = self._connect(self._config.serial_number)
        self._monitor = monitor
        try:
            monitor.fillStatusPacket()
            status = monitor.statusPacket
            self._identity = f"Monsoon HVPM {status.serialNumber}, firmware {status.firmwareVersion}"
            monitor.setPowerUpCurrentLimit(self._config.limit_a)
            monitor.setRunTimeCurrentLimit(self._config.limit_a)
            self.set_output(True)
        except (OSError, ValueError) as error:
            self.close()
            raise self._broken(error) from error
        return self.info

    def set_output(self, on: bool) -> None:
        """Switch the main output.

        Raises:
            MeterError: not open, or refused.
        """
        try:
            self._opened().setVout(self._voltage_v if on else 0.0)
        except (OSError, ValueError) as error:
            raise self._broken(error) from error

    def start(self) -> None:
        """Start sampling and wait until it has calibrated itself; sample 0 is the first one after that.

        Raises:
            MeterError: not open, the monitor broke, or gives no calibration.
        """
        monitor = self._opened()
        self._decoder = Decoder(monitor.statusPacket)
        try:
            monitor.StartSampling(_CALIBRATION_MS, _WITHOUT_END)
        except (OSError, ValueError) as error:
            raise self._broken(error) from error
        taken = 0
        while not self._decoder.calibrated and taken < _CALIBRATE_WITHIN:
            size = self._decoder.feed(self._packet()).current_a.size
            taken = taken + size if size else _CALIBRATE_WITHIN
        if not self._decoder.calibrated:
            raise MeterError(
                f"{self._identity}: it gave no calibration within {_CALIBRATE_WITHIN} samples",
                hint="switch it off and on, and repeat",
            )
        self._decoder.restart()

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has arrived; an empty block after a second without data (the package's own time-out).

        Raises:
            MeterError: not started, or the monitor broke.
        """
        decoder = self._started()
        deadline = time.monotonic() + timeout_s
        packets = bytearray(self._packet())
        while packets and time.monotonic() < deadline and len(packets) < _MOST_PACKETS * _PACKET_BYTES:
            data = self._packet()
            if not data:
                break
            packets += data
        return decoder.feed(bytes(packets))

    def stop(self) -> SampleBlock:
        """Stop sampling and return the samples still on their way.

        Raises:
            MeterError: not started, or the monitor broke.
        """
        decoder = self._started()
        try:
            self._opened().stopSampling()
        except (OSError, ValueError) as error:
            raise self._broken(error) from error
        packets = bytearray()
        while len(packets) < _MOST_PACKETS * _PACKET_BYTES and (data := self._packet()):
            packets += data
        self._decoder = None
        return decoder.feed(bytes(packets))

    def close(self) -> None:
        """Let the monitor go; its output stays as it is. Safe to call twice."""
        monitor, self._monitor = self._monitor, None
        self._decoder = None
        if monitor is None:
            return
        # Nothing is left to be closed where it was pulled out.
        with contextlib.suppress(OSError, ValueError):
            monitor.closeDevice()

    def _packet(self) -> bytes:
        """What one transfer gave; nothing after a time-out."""
        try:
            return bytes(self._opened().BulkRead())
        except TimeoutError:
            return b""
        except (OSError, ValueError) as error:
            # PyUSB's time-out is an OSError of its own with the system's number.
            if isinstance(error, OSError) and error.errno in (110, 10060):
                return b""
            raise self._broken(error) from error

    def _opened(self) -> Monitor:
        if self._monitor is None:
            raise MeterError("Monsoon: the meter is not open", hint="call open(), or use it in a with statement")
        return self._monitor

    def _started(self) -> Decoder:
        if self._decoder is None:
            raise MeterError("Monsoon: the stream was not started", hint="call start() first")
        return self._decoder

    def _broken(self, error: Exception) -> MeterError:
        return MeterError(
            f"{self._identity or 'Monsoon'}: the meter went away or refuses: {error}",
            hint="check its cable; its Windows application says more",
            transient=True,
        )


def connect_hvpm(serial_number: int | None) -> Monitor:
    """The monitor of this number, through the package.

    Raises:
        ToolMissing: the package is not installed.
        MeterError: there is none.
    """
    try:
        monitor, protocol = import_module("Monsoon.HVPM").Monsoon(), import_module("Monsoon.pmapi").USB_protocol()
    except ImportError as error:
        raise ToolMissing(
            f"the package Monsoon is not installed: {error}", hint="pip install 'hil-lab[monsoon]'"
        ) from error
    try:
        monitor.setup_usb(serial_number, protocol)
    except (OSError, ValueError, AttributeError) as error:
        raise MeterError(f"Monsoon: cannot be opened: {error}", hint="is there a udev rule for 2ab9:0001?") from error
    if protocol.DEVICE is None:
        raise MeterError(
            f"no Monsoon HVPM {serial_number or ''} is attached", hint="`lsusb -d 2ab9:0001` lists those that are"
        )
    return cast("Monitor", monitor)


def make(config: MeterConfig, voltage_v: float) -> Monsoon:
    """The Monsoon of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, MonsoonConfig):
        raise ConfigError(f"a Monsoon was asked to be a meter of kind {config.kind!r}")
    return Monsoon(config, voltage_v)
