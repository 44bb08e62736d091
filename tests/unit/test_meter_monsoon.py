"""The Monsoon driver on the maker's package, whose USB protocol is replaced, and against the package's own engine."""

from __future__ import annotations

import contextlib
import io
import random
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
import usb.core
from Monsoon import HVPM, sampleEngine
from Monsoon.Operations import OpCodes

from lab.errors import MeterError, ToolMissing
from lab.meter_config import MonsoonConfig
from lab.power import monsoon
from lab.power.monsoon import Monitor, Monsoon

CONFIG = MonsoonConfig(kind="monsoon", serial_number=4711, limit_a=2.0)
EEPROM = {
    OpCodes.setMainFineScale: 36500,
    OpCodes.setMainCoarseScale: 6400,
    OpCodes.SetMainFineZeroOffset: -12,
    OpCodes.SetMainCoarseZeroOffset: 7,
    OpCodes.getSerialNumber: 4711,
    OpCodes.FirmwareVersion: 32,
    OpCodes.dacCalLow: 0xE000,
    OpCodes.dacCalHigh: 0xC800,
}
ZERO = (0x10, [1100, 2100, 1101, 2101, 1102, 2102, 0, 0])
REFERENCE = (0x30, [30_000, 40_000, 30_001, 40_001, 30_002, 40_002, 0, 0])
Sample = tuple[int, Sequence[int]]


def packet(samples: Sequence[Sample], dropped: int = 0) -> bytes:
    """As the monitor sends it: little-endian count, flags, number; then big-endian words and two bytes each."""
    data = dropped.to_bytes(2, "little") + bytes([0, len(samples)])
    for kind, values in samples:
        data += b"".join(value.to_bytes(2, "big") for value in values) + bytes([1, kind])
    return data.ljust(64, b"\0")


def measured(coarse: int, fine: int, volts: int = 13_200) -> Sample:
    return 0, [coarse, fine, 5000, 5000, 5000, 5000, volts, volts]


CALIBRATION = [packet([ZERO, REFERENCE, measured(9000, 9000)])] * 5


class Protocol:
    """What the package calls its USB protocol: gives packets, then what a time-out or a lost cable looks like."""

    def __init__(self, packets: Sequence[bytes], end: Exception | None = None) -> None:
        self.DEVICE = object()
        self._packets = iter(packets)
        self._end = end or usb.core.USBTimeoutError("Operation timed out", errno=110)
        self.sent: list[tuple[int, int]] = []
        self.calls: list[str] = []

    def Connect(self, model: int, serial_number: int | None) -> None:  # noqa: N802
        self.calls.append(f"connect {serial_number}")

    def getValue(self, code: int, length: int, signed: bool = False) -> int:  # noqa: N802
        return EEPROM.get(code, 0)

    def sendCommand(self, code: int, value: float) -> None:  # noqa: N802
        self.sent.append((code, int(value)))

    def startSampling(self, calibration_ms: int, most: int) -> None:  # noqa: N802
        self.calls.append("start")

    def stopSampling(self) -> None:  # noqa: N802
        self.calls.append("stop")

    def closeDevice(self) -> None:  # noqa: N802
        self.calls.append("close")

    def BulkRead(self) -> array[int]:  # noqa: N802
        found = next(self._packets, None)
        if found is None:
            raise self._end
        return array("B", found)


def connected(protocol: Protocol) -> Monsoon:
    def connect(serial_number: int | None) -> Monitor:
        library = HVPM.Monsoon()
        library.setup_usb(serial_number, protocol)
        return library

    return Monsoon(CONFIG, 3.3, connect)


def by_hand(coarse: int, fine: int) -> float:
    """The formula of the module, channel by channel."""
    if fine < 64_000:
        zero = -12 + 2100
        return (fine - zero) * 36500 / (40_000 - zero) * 1e-6
    zero = 7 + 1100
    return (coarse - zero) * 6400 / (30_000 - zero) * 1e-3


def test_currents_and_voltages_by_hand() -> None:
    values = [(1200, 2100), (1200, 30_000), (5000, 64_000), (60_000, 65_535), (1500, 63_999)]
    rows = [measured(coarse, fine) for coarse, fine in values]
    with connected(Protocol([*CALIBRATION, packet(rows[:3]), packet(rows[3:])])) as meter:
        meter.start()
        block = meter.read(1.0)
    assert block.current_a == pytest.approx([by_hand(*value) for value in values], rel=1e-6)
    assert block.voltage_v == pytest.approx([13_200 * 62.5e-6 * 4] * 5, rel=1e-6)
    assert (block.first, block.lost, block.saturated) == (0, 0, 0)


def test_the_packages_own_engine_reads_the_same() -> None:
    draw = random.Random(0)
    packets = [
        packet([measured(draw.randrange(1000, 65_000), draw.randrange(2000, 65_000)) for _ in range(3)])
        for _ in range(400)
    ]
    with connected(Protocol([*CALIBRATION, *packets])) as meter:
        meter.start()
        block = meter.read(5.0)
    library = HVPM.Monsoon()
    library.setup_usb(4711, Protocol([*CALIBRATION, *packets]))
    engine = sampleEngine.SampleEngine(library)
    engine.ConsoleOutput(False)
    with contextlib.redirect_stdout(io.StringIO()):
        engine.startSampling(600)
    theirs = engine.getSamples()
    count = len(theirs[sampleEngine.channels.MainCurrent])
    assert count > 500
    assert block.current_a[:count] == pytest.approx(
        np.array(theirs[sampleEngine.channels.MainCurrent][:count]) * 1e-3, rel=1e-5, abs=1e-9
    )
    assert block.voltage_v is not None
    assert block.voltage_v[:count] == pytest.approx(theirs[sampleEngine.channels.MainVoltage][:count], rel=1e-6)


def test_dropped_samples_are_nan_in_their_place() -> None:
    rows = [measured(1200, 30_000)] * 3
    packets = [packet(rows, dropped) for dropped in (65_534, 65_534, 1, 1)]
    with connected(Protocol([packet([ZERO, REFERENCE], 65_534)] * 5 + packets)) as meter:
        meter.start()
        block = meter.read(1.0)
    assert np.isnan(block.current_a).tolist() == [False] * 6 + [True] * 3 + [False] * 6
    assert block.lost == 3


def test_calibration_in_the_stream_has_no_current_and_is_used() -> None:
    changed = (0x30, [31_000, 41_000, 1, 1, 1, 1, 0, 0])
    packets = [packet([measured(1200, 30_000), changed, changed]), packet([measured(1200, 30_000)])]
    with connected(Protocol([*CALIBRATION, *packets])) as meter:
        meter.start()
        block = meter.read(1.0)
    assert np.isnan(block.current_a).tolist() == [False, True, True, False]
    assert block.lost == 2
    zero, reference = -12 + 2100, (3 * 40_000 + 2 * 41_000) / 5
    assert block.current_a[3] == pytest.approx((30_000 - zero) * 36500 / (reference - zero) * 1e-6, rel=1e-6)


def test_full_scale_is_saturation() -> None:
    with connected(Protocol([*CALIBRATION, packet([measured(65_535, 65_535), measured(65_535, 100)])])) as meter:
        meter.start()
        assert meter.read(1.0).saturated == 1


def test_settings_reach_the_monitor() -> None:
    protocol = Protocol(CALIBRATION)
    with connected(protocol) as meter:
        assert meter.info.identity == "Monsoon HVPM 4711, firmware 32"
        assert meter.info.alignment == "host-time"
        assert meter.info.time_uncertainty_s > 0
        assert meter.info.logic_inputs == 0
        meter.set_output(False)
    volts = [value for code, value in protocol.sent if code == OpCodes.setMainVoltage]
    assert volts == [int(3.3 * 1048576), 0]
    limits = [value for code, value in protocol.sent if code == OpCodes.SetRunCurrentLimit]
    assert limits == [int((65535 - 0x0F00) * (2.0 / 15.625) + 0x0F00)]
    assert protocol.calls == ["connect 4711", "close"]


def test_stop_returns_what_is_on_its_way() -> None:
    protocol = Protocol([*CALIBRATION, *[packet([measured(1200, 30_000)] * 3)] * 7])
    with connected(protocol) as meter:
        meter.start()
        assert meter.stop().current_a.size == 21
        with pytest.raises(MeterError, match="not started"):
            meter.read(0.1)
    assert protocol.calls == ["connect 4711", "start", "stop", "close"]


def test_silence_is_an_empty_block() -> None:
    with connected(Protocol(CALIBRATION)) as meter:
        meter.start()
        assert meter.read(0.1).current_a.size == 0


def test_a_monitor_that_goes_away() -> None:
    gone = usb.core.USBError("No such device", errno=19)
    with connected(Protocol(CALIBRATION, gone)) as meter:
        meter.start()
        with pytest.raises(MeterError, match=r"4711.*went away") as caught:
            meter.read(0.1)
    assert caught.value.transient


@pytest.mark.parametrize("packets", [[], [packet([measured(1200, 2100)] * 3)] * 7000])
def test_a_monitor_that_never_calibrates(packets: list[bytes]) -> None:
    with connected(Protocol(packets)) as meter, pytest.raises(MeterError, match="gave no calibration"):
        meter.start()


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", packet([]), b"\0\0\0\x07" + bytes(60), b"\0\0\0\x03" + bytes(20)]
)
def test_packets_that_are_none(data: bytes) -> None:
    with connected(Protocol([*CALIBRATION, data, packet([measured(1, 1)])])) as meter:
        meter.start()
        if data:
            with pytest.raises(MeterError, match="a packet of"):
                meter.read(1.0)
        else:
            assert meter.read(1.0).current_a.size == 0


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(monsoon, "import_module", missing)
    with pytest.raises(ToolMissing, match="Monsoon is not installed") as caught:
        Monsoon(CONFIG, 3.3).open()
    assert "pip install" in caught.value.hint


def test_a_monitor_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb.core, "find", lambda **_: None)
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(MeterError, match="no Monsoon HVPM 4711"):
        Monsoon(CONFIG, 3.3).open()


def test_use_in_the_wrong_order() -> None:
    meter = Monsoon(CONFIG, 3.3)
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        _ = meter.info
    with pytest.raises(MeterError, match="not open"):
        meter.start()
