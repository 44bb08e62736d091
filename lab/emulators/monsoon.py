"""A Monsoon HVPM as a USB device, behind PyUSB: what its maker's package talks to, transfer by transfer.

PyUSB reaches every device through a backend object (:class:`usb.backend.IBackend`). This one has a single device with
the monitor's descriptors, EEPROM, commands and bulk endpoint; :func:`attached` makes PyUSB find it where it looks for
libusb. The monitor samples in the time that it is given, at 5 kHz, three samples to a packet of 64 bytes, with zero and
reference samples in between as often as it was asked (protocol as in Monsoon 0.1.88 and in :mod:`lab.power.monsoon`).
Values are whole steps of its converter, rounded with dither: means of many are exact.
"""

from __future__ import annotations

import math
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import usb.backend
import usb.backend.libusb1
import usb.core

from lab.emulators.load import Load

SAMPLE_RATE_HZ = 5_000
VENDOR, PRODUCT = 0x2AB9, 0x0001

# Opcodes of the EEPROM and of settings.
_FINE_SCALE, _COARSE_SCALE, _FINE_OFFSET, _COARSE_OFFSET = 0x1A, 0x1B, 0x25, 0x26
_VOLTAGE, _SERIAL, _MODEL, _FIRMWARE, _STATUS, _DAC_LOW, _DAC_HIGH = 0x41, 0x42, 0x45, 0xC0, 0xC4, 0x88, 0x89
_VALUE, _START, _STOP, _GET_DESCRIPTOR = 0x01, 0x02, 0x03, 0x06
_IN, _OUT, _STANDARD_IN = 0xC0, 0x40, 0x80
_SAMPLING = 0x80
_VOLT_PER_STEP = 62.5e-6 * 4
_FIXED_POINT = 1 << 20
_FINE_BELOW, _FULL_SCALE = 64_000, 65_535
_ZERO_KIND, _REFERENCE_KIND = 0x10, 0x30
_ZEROS, _REFERENCES = (1100, 2100), (30_000, 40_000)
"""Coarse and fine."""
_FIRST_CALIBRATIONS = 5
_PER_PACKET = 3
_STRINGS = {1: "Monsoon Solutions", 2: "HVPM"}
_TIMEOUT = 110
_NO_DEVICE = 19


@dataclass(frozen=True)
class Faults:
    """What goes wrong, by the number of the sample since the stream began; 0 for never.

    Attributes:
        drop_every: of so many packets one is not sent; the next one's counter tells how many samples are gone.
        silent_after: nothing more is sent.
        unplugged_after: the device goes away.
        uncalibrated: it sends no zero and reference samples.
        dac: of its voltage's calibration; the package refuses what is out of tolerance.
    """

    drop_every: int = 0
    silent_after: int = 0
    unplugged_after: int = 0
    uncalibrated: bool = False
    dac: int = 0xC800


class EmulatedHvpm(usb.backend.IBackend):  # type: ignore[misc]  # PyUSB has no types
    """One monitor.

    Args:
        load: what is connected to its main channel; its voltages do not count, those that are set do.
        serial_number: of it.
        now: seconds; the load begins with the stream.
        seed: of the converter's dither.
        faults: what it does wrong.
    """

    def __init__(
        self,
        load: Load,
        *,
        serial_number: int = 4711,
        now: Callable[[], float] = time.monotonic,
        seed: int = 0,
        faults: Faults | None = None,
    ) -> None:
        super().__init__()
        self._load = load
        self._now = now
        self._faults = faults or Faults()
        self._random = np.random.default_rng(seed)
        self._serial = serial_number
        self._values = {
            _FINE_SCALE: 36_500, _COARSE_SCALE: 6_400, _FINE_OFFSET: -12 & 0xFFFF, _COARSE_OFFSET: 7,
            _SERIAL: serial_number, _MODEL: 2, _FIRMWARE: 32, _DAC_LOW: 0xE000, _DAC_HIGH: self._faults.dac,
            _VOLTAGE: 0,
        }  # fmt: skip
        self._begin_s: float | None = None
        self._calibrate = 0
        self._sent = 0
        self._packets = 0
        self._dropped = 0
        self._gone = False

    @property
    def voltage_v(self) -> float:
        """What it supplies, volt; 0 while its output is off."""
        return self._values[_VOLTAGE] / _FIXED_POINT

    @property
    def sampling(self) -> bool:
        """Whether it samples."""
        return self._begin_s is not None

    # What PyUSB asks of a backend, under its names.

    def enumerate_devices(self) -> Iterator[object]:
        """The device, while it is there."""
        if not self._gone:
            yield self

    def get_device_descriptor(self, dev: object) -> object:
        """Its device descriptor."""
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=0x0200, bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0,
            bMaxPacketSize0=64, idVendor=VENDOR, idProduct=PRODUCT, bcdDevice=0x0100, iManufacturer=1, iProduct=2,
            iSerialNumber=3, bNumConfigurations=1, address=1, bus=1, port_number=1, port_numbers=(1,), speed=3,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: object, config: int) -> object:
        """Its only configuration."""
        if config:
            raise IndexError(config)
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=32, bNumInterfaces=1, bConfigurationValue=1, iConfiguration=0,
            bmAttributes=0xC0, bMaxPower=50, extra_descriptors=(),
        )  # fmt: skip

    def get_interface_descriptor(self, dev: object, intf: int, alt: int, config: int) -> object:
        """Its only interface."""
        if intf or alt or config:
            raise IndexError(intf)
        return SimpleNamespace(
            bLength=9, bDescriptorType=4, bInterfaceNumber=0, bAlternateSetting=0, bNumEndpoints=2,
            bInterfaceClass=0xFF, bInterfaceSubClass=0, bInterfaceProtocol=0, iInterface=0, extra_descriptors=(),
        )  # fmt: skip

    def get_endpoint_descriptor(self, dev: object, ep: int, intf: int, alt: int, config: int) -> object:
        """Its bulk endpoints: one in, one out."""
        address = (0x81, 0x01)[ep]
        return SimpleNamespace(
            bLength=7, bDescriptorType=5, bEndpointAddress=address, bmAttributes=2, wMaxPacketSize=64, bInterval=0,
            bRefresh=0, bSynchAddress=0, extra_descriptors=(),
        )  # fmt: skip

    def open_device(self, dev: object) -> object:
        """A handle."""
        self._there()
        return self

    def close_device(self, dev_handle: object) -> None:
        """Nothing is held."""

    def set_configuration(self, dev_handle: object, config_value: int) -> None:
        """There is only one."""

    def get_configuration(self, dev_handle: object) -> int:
        """Which it is."""
        return 1

    def claim_interface(self, dev_handle: object, intf: int) -> None:
        """Nobody else has it."""

    def release_interface(self, dev_handle: object, intf: int) -> None:
        """Nothing is held."""

    def detach_kernel_driver(self, dev_handle: object, intf: int) -> None:
        """No driver of the kernel has it."""

    def reset_device(self, dev_handle: object) -> None:
        """The port's reset ends sampling."""
        self._there()
        self._begin_s = None

    def ctrl_transfer(
        self, dev_handle: object, bm_request_type: int, request: int, value: int, index: int, data: array[int],
        timeout: int,
    ) -> int:  # fmt: skip
        """A request on endpoint 0; how many bytes went over."""
        self._there()
        if (bm_request_type, request) == (_STANDARD_IN, _GET_DESCRIPTOR):
            return _fill(data, self._string(value & 0xFF))
        if (bm_request_type, request) == (_IN, _VALUE):
            return _fill(data, self._value(index & 0xFF).to_bytes(4, "little"))
        if bm_request_type != _OUT or request not in (_VALUE, _START, _STOP):
            raise usb.core.USBError(f"stalled: request {bm_request_type:#x} {request:#x}", errno=32)
        if request == _VALUE:
            # The lowest byte of the index is the opcode; the value itself comes as data.
            self._values[index & 0xFF] = int.from_bytes(bytes(data)[:4], "little")
        elif request == _START:
            self._start(value)
        else:
            self._begin_s = None
        return len(data)

    def bulk_read(self, dev_handle: object, ep: int, intf: int, buff: array[int], timeout: int) -> int:
        """A packet once its last sample is over; a time-out where there is none by then."""
        self._there()
        packet = self._packet(timeout * 1e-3)
        if packet is None:
            raise usb.core.USBTimeoutError("Operation timed out", errno=_TIMEOUT)
        return _fill(buff, packet)

    # The monitor.

    def _there(self) -> None:
        if self._gone:
            raise usb.core.USBError("No such device (it may have been disconnected)", errno=_NO_DEVICE)

    def _string(self, number: int) -> bytes:
        text = _STRINGS.get(number, str(self._serial)).encode("utf-16-le") if number else b"\x09\x04"
        return bytes([2 + len(text), 3]) + text

    def _value(self, opcode: int) -> int:
        if opcode == _STATUS:
            return _SAMPLING if self.sampling else 0
        return self._values.get(opcode, 0)

    def _start(self, calibrate_ms: int) -> None:
        self._begin_s = self._now()
        self._calibrate = max(round(calibrate_ms * 1e-3 * SAMPLE_RATE_HZ), 2)
        self._sent = self._packets = self._dropped = 0

    def _packet(self, timeout_s: float) -> bytes | None:
        faults, begin_s = self._faults, self._begin_s
        if begin_s is None or (faults.silent_after and self._sent >= faults.silent_after):
            return None
        if faults.unplugged_after and self._sent >= faults.unplugged_after:
            self._gone = True
            self._there()
        while True:
            due_s = begin_s + (self._sent + _PER_PACKET) / SAMPLE_RATE_HZ
            wait_s = due_s - self._now()
            if wait_s > timeout_s:
                return None
            if wait_s > 0:
                time.sleep(wait_s)
            rows = self._rows(self._sent)
            self._sent += _PER_PACKET
            self._packets += 1
            if not faults.drop_every or self._packets % faults.drop_every:
                break
            self._dropped += _PER_PACKET
        head = (self._dropped & 0xFFFF).to_bytes(2, "little") + bytes([0, _PER_PACKET])
        return (head + b"".join(rows)).ljust(64, b"\0")

    def _rows(self, first: int) -> list[bytes]:
        drawn = self._load.samples(first, first + _PER_PACKET, SAMPLE_RATE_HZ).current_a
        return [self._row(first + k, float(drawn[k]) if self.voltage_v else 0.0) for k in range(_PER_PACKET)]

    def _row(self, number: int, current_a: float) -> bytes:
        """A sample: of a measurement, or of the converter's zero or reference."""
        place = number // 2 if number < 2 * _FIRST_CALIBRATIONS else 0 if number % self._calibrate < 2 else -1
        if place >= 0 and not self._faults.uncalibrated:
            coarse, fine = _REFERENCES if number % 2 else _ZEROS
            return _packed(coarse, fine, 0, _REFERENCE_KIND if number % 2 else _ZERO_KIND)
        fine_offset = struct.unpack("h", struct.pack("H", self._values[_FINE_OFFSET]))[0]
        offsets = (self._values[_COARSE_OFFSET], fine_offset)
        scales = (self._values[_COARSE_SCALE] * 1e-3, self._values[_FINE_SCALE] * 1e-6)
        shown = []
        for channel in range(2):
            zero = offsets[channel] + _ZEROS[channel]
            exact = zero + current_a * (_REFERENCES[channel] - zero) / scales[channel]
            shown.append(max(0, min(_FULL_SCALE, math.floor(exact + self._random.random()))))
        return _packed(shown[0], shown[1], round(self.voltage_v / _VOLT_PER_STEP), 0)


def _packed(coarse: int, fine: int, volts: int, kind: int) -> bytes:
    # The USB and auxiliary channels measure nothing; their converters are calibrated as the main one's are.
    others = (coarse, fine) if kind else _ZEROS
    return struct.pack(">8H2B", coarse, fine, *others, *others, volts, 0, 1, kind)


def _fill(buffer: array[int], data: bytes) -> int:
    size = min(len(buffer), len(data))
    buffer[:size] = array("B", data[:size])
    return size


@contextmanager
def attached(monitor: EmulatedHvpm) -> Iterator[None]:
    """Let PyUSB find the monitor, and nothing else, where it looks for devices by libusb."""
    module = usb.backend.libusb1
    before = module.get_backend
    module.get_backend = lambda find_library=None: monitor
    try:
        yield
    finally:
        module.get_backend = before
