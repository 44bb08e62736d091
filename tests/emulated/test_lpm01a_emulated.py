"""The emulated LPM01A end to end: command lines and both formats on a PTY, our driver, closed forms as the truth."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import serial

from lab.emulators.energy_model import EnergyModel
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.lpm01a import EmulatedLpm01a, Faults
from lab.errors import ConfigError, MeterError
from lab.meter_config import Lpm01aConfig
from lab.power.base import SampleBlock, join
from lab.power.lpm01a import Lpm01a
from lab.power.recorder import Recorder
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
BOARD = EnergyModel(3.0, 20e-6, 12e-3, 1e-3, "test")
# Ten bursts of 50 ms between sleeps of 150 ms, edges inside samples, all of it between 5 µA and 40 mA.
SCRIPT = ScriptedLoad(
    [
        segment
        for k in range(10)
        for segment in (
            Segment(0.15003, 5e-6 * (k + 1), 0, 3.0),
            Segment(0.05002, 4e-3 * (k + 1), 1, 3.0, 1e-4 * (k % 2)),
        )
    ]
    + [Segment(0.2, 1e-6, 0, 3.0)]
)


def config(**settings: object) -> Lpm01aConfig:
    return Lpm01aConfig.model_validate({"kind": "lpm01a", "emulated": True, **settings})


@contextmanager
def emulated(
    tmp_path: Path,
    load: EnergyModel | ScriptedLoad = SCRIPT,
    faults: Faults = Faults(),  # noqa: B008 - frozen
    voltage_v: float = 3.0,
    **settings: object,
) -> Iterator[tuple[Lpm01a, EmulatedLpm01a]]:
    with (
        EmulatedLpm01a(tmp_path, CLOCK_HZ, load, seed=1, faults=faults) as peer,
        Lpm01a(peer.port, config(**settings), voltage_v) as meter,
    ):
        yield meter, peer


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a board without faults that plays the script to one client after another."""
    with EmulatedLpm01a(tmp_path_factory.mktemp("lpm01a"), CLOCK_HZ, SCRIPT, seed=1) as peer:
        yield peer.port


def stream(meter: Lpm01a) -> SampleBlock:
    meter.start()
    return meter.stop()


def charge_c(block: SampleBlock, rate: int) -> float:
    return float(np.sum(block.current_a, dtype=np.float64)) / rate


@pytest.mark.parametrize(
    ("format_", "rate", "output", "bound"),
    [
        ("ascii", 1_000, "current", 2e-5),
        ("ascii", 5_000, "current", 1e-5),
        ("ascii", 1_000, "energy", 2e-5),
        ("binary", 10_000, "energy", 1e-4),
        ("binary", 100_000, "current", 5e-5),
        ("binary", 50_000, "current", 5e-5),
    ],
)
def test_charge_is_the_closed_form(port: str, format_: str, rate: int, output: str, bound: float) -> None:
    with Lpm01a(port, config(format=format_, sample_rate=rate, output=output), 3.0) as meter:
        block = stream(meter)
        report, info = meter.report, meter.info
    assert (report.lost, report.surplus, report.misaligned, report.errors, report.ended) == (0, 0, 0, (), True)
    assert block.current_a.size == SCRIPT.due(rate)
    truth = SCRIPT.truth(0, block.current_a.size / rate)
    assert charge_c(block, rate) == pytest.approx(truth.charge_c, rel=bound)
    assert info.sample_rate_hz == rate
    assert info.measures_current == (output == "current")
    assert info.emulated


@pytest.mark.parametrize(("format_", "rate"), [("ascii", 1_000), ("binary", 100_000)])
def test_each_burst_is_found_by_its_edges(port: str, format_: str, rate: int) -> None:
    with Lpm01a(port, config(format=format_, sample_rate=rate), 3.0) as meter:
        block = stream(meter)
        assert (meter.report.edges, meter.report.missing_edges) == (20, 0)
    steps = np.diff(block.logic.astype(int), prepend=0)
    rises, falls = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    edges = SCRIPT.edges_s()
    assert len(rises) == len(falls) == 10
    for index, (time_s, _) in zip(np.sort(np.concatenate([rises, falls])), edges, strict=True):
        # The first sample that begins after the edge.
        assert -1e-9 <= index / rate - time_s < 1 / rate + 1e-9
    for begin, end in zip(rises, falls, strict=True):
        measured = float(np.sum(block.current_a[begin:end], dtype=np.float64)) / rate
        truth = SCRIPT.truth(begin / rate, end / rate)
        assert measured == pytest.approx(truth.charge_c, rel=2e-3 if format_ == "binary" else 2e-4)


def test_the_marker_of_a_board_drives_it(tmp_path: Path) -> None:
    with emulated(tmp_path, BOARD, sample_rate=1_000) as (meter, peer), socket.socket(socket.AF_UNIX) as line:
        line.connect(str(peer.marker_path))
        with Recorder(meter) as recorder:
            for k in range(30):
                for time_s, bits in ((k * 0.1 + 0.05, 1), (k * 0.1 + 0.09, 0)):
                    line.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))
            block = recorder.finish(windows=30, quiet_s=0.0, stall_s=0.5)
    assert np.count_nonzero(np.diff(block.logic.astype(int)) == 1) == 30
    assert block.current_a.size == 2990 + 10 - 40
    active = block.current_a[block.logic == 1]
    assert active.size == 30 * 40
    assert float(np.sum(active, dtype=np.float64)) * 1e-3 * 3.0 == pytest.approx(30 * BOARD.energy_j(0.04), rel=1e-4)


def test_second_stream_on_one_connection_and_second_client(port: str) -> None:
    with Lpm01a(port, config(), 3.0) as meter:
        first, second = stream(meter), stream(meter)
        meter.start()
    with Lpm01a(port, config(), 3.0) as meter:
        third = stream(meter)
    assert second.first == third.first == 0
    assert np.allclose(second.current_a, first.current_a, rtol=2e-3)
    assert np.allclose(third.current_a, first.current_a, rtol=2e-3)


def test_blocks_follow_each_other(port: str) -> None:
    with Lpm01a(port, config(), 3.0) as meter:
        meter.start()
        blocks = [meter.read(1.0)]
        while not blocks[-1].current_a.size:
            blocks.append(meter.read(1.0))
        blocks.append(meter.stop())
    assert join(blocks).current_a.size == SCRIPT.due(1_000)


def test_pulses_of_mlperf_tiny(tmp_path: Path) -> None:
    """The pin falls at the begin of the window and falls again at its end; in between it is high."""
    pulse = Segment(0.001, 1e-3)
    script = ScriptedLoad([Segment(0.1, 1e-3, 1), pulse, Segment(0.3, 5e-3, 1), pulse, Segment(0.1, 1e-3, 1)])
    with emulated(tmp_path, script, sample_rate=1_000, events="pulses") as (meter, _):
        block = stream(meter)
    assert np.flatnonzero(block.logic).tolist() == list(range(100, 401))


def test_a_trigger_begins_the_stream(tmp_path: Path) -> None:
    with emulated(tmp_path, BOARD, sample_rate=1_000, trigger="d7") as (meter, peer):
        assert meter.info.alignment == "trigger"
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(peer.marker_path))
            meter.start()
            for time_s, bits in ((0.05, 1), (0.15, 0)):
                line.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))
            block = meter.stop()
    assert block.logic.tolist() == [1] * 100 + [0] * 10


@pytest.mark.parametrize("format_", ["ascii", "binary"])
@pytest.mark.parametrize(
    "faults", [Faults(drop_every=400), Faults(duplicate_every=400), Faults(corrupt_every=400)]
)
def test_damage_is_counted(tmp_path: Path, format_: str, faults: Faults) -> None:
    """2.2 s at 1 kHz: five damaged places, all in seconds that a time stamp closes."""
    with emulated(tmp_path, faults=faults, format=format_, sample_rate=1_000) as (meter, _):
        block = stream(meter)
        report = meter.report
    assert report.lost == block.lost == 5
    assert report.corrupted == (5 if faults.corrupt_every else 0)
    assert report.surplus == (5 if faults.duplicate_every else 0)


@pytest.mark.parametrize("format_", ["ascii", "binary"])
def test_lost_events_are_counted(tmp_path: Path, format_: str) -> None:
    with emulated(tmp_path, faults=Faults(lose_event_every=7), format=format_, sample_rate=1_000) as (meter, _):
        block = stream(meter)
        assert (meter.report.edges, meter.report.missing_edges) == (18, 2)
    assert block.lost == 0


def test_lost_bytes_spoil_their_second(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(lose_byte_every=1500), format="binary", sample_rate=1_000) as (meter, _):
        block = stream(meter)
        assert meter.report.misaligned == 1
    assert np.isnan(block.current_a[1000:2000]).all()
    assert not np.isnan(block.current_a[:1000]).any()


@pytest.mark.parametrize("format_", ["ascii", "binary"])
def test_overcurrent_and_saturation(tmp_path: Path, format_: str) -> None:
    over = ScriptedLoad([Segment(0.5, 1e-3), Segment(0.25, 80e-3, 1), Segment(0.5, 1e-3)])
    with emulated(tmp_path, over, format=format_, sample_rate=1_000) as (meter, _):
        block = stream(meter)
        assert meter.report.overcurrent == 1
    assert block.saturated == 250
    assert float(np.nanmax(block.current_a)) == pytest.approx(50e-3, rel=1e-3)


def test_overcurrent_that_cuts_the_supply_is_seen(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(overcurrent_after=600), sample_rate=1_000) as (meter, _):
        block = stream(meter)
    assert block.saturated == 1
    assert not block.current_a[601:].any()


@pytest.mark.parametrize("format_", ["ascii", "binary"])
def test_a_meter_that_is_unplugged(tmp_path: Path, format_: str) -> None:
    faults = Faults(disconnect_after=1500)
    with (
        emulated(tmp_path, faults=faults, format=format_, sample_rate=1_000) as (meter, _),
        pytest.raises(MeterError, match="went away") as caught,
    ):
        stream(meter)
    assert caught.value.transient


def test_a_meter_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.power.lpm01a._ANSWER_S", 0.3)
    with emulated(tmp_path, faults=Faults(silent_after=1500), sample_rate=1_000) as (meter, _):
        meter.start()
        with pytest.raises(MeterError, match=r"did not say .* has ended"):
            meter.stop()


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(refuse="volt"), "refuses 'volt 3000m': wrong parameter"),
        (Faults(refuse="eventsrc"), "refuses 'eventsrc d7 both': wrong parameter"),
        (Faults(refuse="start"), "refuses 'start'"),
    ],
)
def test_errors_of_the_board_are_told_in_its_words(tmp_path: Path, faults: Faults, message: str) -> None:
    with pytest.raises(MeterError, match=message), emulated(tmp_path, faults=faults) as (meter, _):
        meter.start()


def test_something_else_on_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.power.lpm01a._ANSWER_S", 0.3)
    board = serial.serial_for_url("loop://")
    monkeypatch.setattr("serial.Serial", lambda *_, **__: board)
    with pytest.raises(MeterError, match=r"not an LPM01A: it answered b'stop"), Lpm01a("x", config(), 3.0):
        pass


@pytest.mark.parametrize("voltage_v", [1.79, 3.31, 5.0])
def test_voltages_the_board_cannot_make(voltage_v: float) -> None:
    with pytest.raises(ConfigError, match="V asked of an LPM01A"):
        Lpm01a("port", config(), voltage_v)


def test_the_output_can_be_switched(port: str) -> None:
    with Lpm01a(port, config(), 3.0) as meter:
        meter.set_output(False)
        assert not stream(meter).current_a.any()
        meter.set_output(True)
        assert stream(meter).current_a.all()


def test_use_in_the_wrong_order() -> None:
    meter = Lpm01a("port", config(), 3.0)
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        _ = meter.info
    with pytest.raises(MeterError, match="not started"):
        meter.read(0.1)
    with pytest.raises(MeterError, match="not open"):
        meter.start()


def test_the_dialogue_as_public_clients_have_it(tmp_path: Path) -> None:
    """The bytes Zephyr's harness compares with, and those MLPerf Tiny's runner sends."""
    with (
        EmulatedLpm01a(tmp_path, CLOCK_HZ, SCRIPT) as peer,
        serial.Serial(peer.port, baudrate=3_686_400, timeout=2.0) as line,
    ):
        for command in (b"htc", b"volt 3300m", b"trigdelay 1", b"pwr off", b"trigsrc sw", b"eventsrc d7 fal"):
            line.write(command + b"\r\n")
            expected = b"\r\nPowerShield > ack " + command + b"\r\n\r\n"
            assert line.read(len(expected)) == expected
        line.write(b"freq 1k\r\nvolt 4000m\r\nfreq 3k\r\nhrc\r\nstart\r\n")
        answers = line.read_until(b"ack hrc\r\n\r\n") + line.read_until(b"Error detail: not in mode controlled by host")
        assert answers.count(b"PowerShield > error ") == 3
        assert b"PowerShield > ack freq 1k" in answers
