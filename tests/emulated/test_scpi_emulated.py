"""SCPI instruments over TCP: with the driver, with plain PyVISA, and fed by a board's marker line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
import pyvisa
from helpers.scpi_bench import (
    BUFFERED,
    NO_FAULTS,
    PERIOD_S,
    SCRIPT,
    config_of,
    energy_of,
    meter_behind_tcp,
    meter_of,
    record,
)

from lab.emulators.energy_model import EnergyModel
from lab.emulators.meters import start_meter
from lab.emulators.pty_link import PtyLink
from lab.emulators.scpi import IDENTITIES, EmulatedScpi, Faults
from lab.errors import MeterError
from lab.meter_config import ScpiConfig
from lab.power.base import join
from lab.power.registry import make_meter
from lab.power.scpi import ScpiMeter
from lab.transports.serial import SerialPort
from lab.wire_frames import encode_frame


@pytest.mark.parametrize("model", ["n6705", "2450"])
def test_energy_is_that_of_the_load(tmp_path: Path, model: str) -> None:
    with meter_behind_tcp(tmp_path, model) as meter:
        block = record(meter)
        period_s = 1.0 / meter.info.sample_rate_hz
    truth = SCRIPT.truth(0.0, block.current_a.size * period_s)
    assert block.current_a.size == SCRIPT.due(1_000_000) // 2048
    assert energy_of(block, period_s) == pytest.approx(truth.energy_j, rel=1e-6)
    assert (block.lost, block.saturated) == (0, 0)


FAST_S = 1e-3


def ngu(faults: Faults = NO_FAULTS, period: float = FAST_S) -> AbstractContextManager[ScpiMeter]:
    """An NGU in this process that plays the script, open."""
    return meter_of("ngu", SCRIPT, faults, period=period)


def test_energy_of_a_fast_log_in_blocks_of_floats(tmp_path: Path) -> None:
    """Floats of 32 bits: seven digits."""
    with meter_behind_tcp(tmp_path, "ngu", period=FAST_S) as meter:
        assert meter.info.sample_rate_hz == 1000.0
        assert meter.info.alignment == "host-time"
        block = record(meter)
    truth = SCRIPT.truth(0.0, block.current_a.size * FAST_S)
    assert block.current_a.size == SCRIPT.due(1000)
    assert energy_of(block, FAST_S) == pytest.approx(truth.energy_j, rel=1e-6)
    assert (block.lost, block.saturated) == (0, 0)


@pytest.mark.parametrize(("period", "rate"), [(0.1, 100.0), (5e-3, 100.0), (2e-3, 1000.0), (1e-4, 10e3), (2e-6, 500e3)])
def test_a_fast_log_has_the_nearest_of_six_rates(period: float, rate: float) -> None:
    with ngu(period=period) as meter:
        assert meter.info.sample_rate_hz == pytest.approx(rate)


@pytest.mark.parametrize("fault", ["corrupt_every", "range_every"])
def test_damaged_numbers_of_a_fast_log_are_lost_samples(fault: str) -> None:
    with ngu(Faults(**{fault: 11})) as meter:
        block = record(meter)
    bad = np.arange(10, block.current_a.size, 11)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == bad.tolist()
    assert block.lost == bad.size


def test_overrange_of_a_fast_log_is_saturation() -> None:
    with ngu(Faults(top_a=0.05)) as meter:
        block = record(meter)
    means = np.array([SCRIPT.truth(k * FAST_S, (k + 1) * FAST_S).mean_current_a for k in range(block.current_a.size)])
    assert block.saturated == (means > 0.05).sum() > 0


def test_a_fast_log_that_skipped_data_gives_no_figure() -> None:
    skipped = pytest.raises(MeterError, match="skipped data: where, nothing says")
    with ngu(Faults(drop_every=50)) as meter, skipped as caught:
        record(meter)
    assert caught.value.transient


def test_a_fast_log_without_an_answer_is_named(tmp_path: Path) -> None:
    with meter_behind_tcp(tmp_path, "ngu", Faults(deaf_to="FLOG:DATA?"), period=FAST_S) as meter:
        meter.start()
        with pytest.raises(MeterError, match=r"no answer to 'FLOG:DATA\?' within 0.4 s"):
            meter.read(1.0)


def test_a_rate_that_is_refused_is_told() -> None:
    with pytest.raises(MeterError, match="Undefined header"), ngu(Faults(refuse="FLOG:SRAT")):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("model", ["2450", "ngu", "34465a"])
def test_a_serial_port_carries_the_same(tmp_path: Path, model: str) -> None:
    """VISA's ASRL through pyvisa-py, on a PTY: text, and blocks whose bytes may be line ends."""
    config = config_of(model, period=FAST_S)
    with ExitStack() as stack:
        peer = stack.enter_context(EmulatedScpi(tmp_path, model, 1_000_000, SCRIPT, period_s=FAST_S))
        link = stack.enter_context(PtyLink(SerialPort(f"socket://{peer.address}")))
        resource = f"ASRL{link.path}::INSTR"
        meter = stack.enter_context(ScpiMeter(resource, config, 3.3, timeout_s=5.0))
        block = record(meter)
        identity = meter.info.identity
    assert IDENTITIES[model] in identity
    assert block.current_a.size == SCRIPT.due(1000)
    truth = SCRIPT.truth(0.0, block.current_a.size * FAST_S)
    charge_c = float(block.current_a.astype(float).sum()) * FAST_S
    assert charge_c == pytest.approx(truth.charge_c, rel=1e-6)


def test_a_serial_port_that_is_not_there() -> None:
    with pytest.raises(MeterError, match="ASRL/dev/pts/none::INSTR: cannot be opened"):
        ScpiMeter("ASRL/dev/pts/none::INSTR", config_of("2450"), 3.3).open()


def test_another_instrument_than_configured(tmp_path: Path) -> None:
    with (
        pytest.raises(MeterError, match=r"calls itself 'HEWLETT-PACKARD,34401A,0,11-5-2', which is no Keithley 2450"),
        meter_behind_tcp(tmp_path, "2450", faults=Faults(identity="HEWLETT-PACKARD,34401A,0,11-5-2")),
    ):
        raise AssertionError("it was opened")


@pytest.mark.parametrize(
    ("model", "query"),
    [("n6705", "FETC:ELOG?"), ("34465a", "DATA:POIN?"), ("2450", "TRAC:ACT?"), ("dp832", "MEAS:ALL?")],
)
def test_a_query_without_an_answer_is_named(tmp_path: Path, model: str, query: str) -> None:
    with meter_behind_tcp(tmp_path, model, faults=Faults(deaf_to=query)) as meter:
        meter.start()
        with pytest.raises(MeterError, match=f"no answer to '.*{query[:-1]}.* within 0.4 s") as caught:
            meter.read(1.0)
    assert caught.value.transient


def test_the_connection_breaks(tmp_path: Path) -> None:
    with meter_behind_tcp(tmp_path, "n6705", faults=Faults(disconnect_after=22)) as meter:
        with pytest.raises(MeterError, match=r"the connection broke at|no answer to") as caught:
            record(meter)
        assert caught.value.transient


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = ScpiConfig(kind="scpi", resource=f"TCPIP::127.0.0.1::{port}::SOCKET", model="n6705")
    with pytest.raises(MeterError, match="refused"):
        ScpiMeter(config.resource or "", config, 3.3).open()
    with pytest.raises(MeterError, match="cannot be opened"):
        ScpiMeter("TCPIP::not.a.host.invalid::5025::SOCKET", config, 3.3).open()


def _independent(model: str) -> Callable[[pyvisa.resources.MessageBasedResource], tuple[list[float], float]]:
    """Plain PyVISA, long forms: currents of the record and its period."""

    def n6705(line: pyvisa.resources.MessageBasedResource) -> tuple[list[float], float]:
        for command in ("OUTPut ON,(@1)", "SENSe:ELOG:FUNCtion:CURRent ON,(@1)", "SENSe:ELOG:PERiod 0.002048,(@1)",
                        "TRIGger:ELOG:SOURce BUS,(@1)", "INITiate:ELOG (@1)", "*TRG"):  # fmt: skip
            line.write(command)
        period_s = float(line.query("SENSe:ELOG:PERiod? (@1)"))
        return line.query_ascii_values("FETCh:ELOG? 4096,(@1)")[1::2], period_s

    def keithley(line: pyvisa.resources.MessageBasedResource) -> tuple[list[float], float]:
        for command in ("OUTPut ON", "TRIGger:TIMer1:DELay 0.002048", "INITiate", "*TRG"):
            line.write(command)
        period_s = float(line.query("TRIGger:TIMer1:DELay?"))
        count = int(line.query('TRACe:ACTual? "labbuf"'))
        values = line.query_ascii_values(f'TRACe:DATA? 1, {count}, "labbuf", READing, SOURce, RELative')
        np.testing.assert_allclose(values[2::3], np.arange(count) * 0.002048, atol=1e-6)
        return values[0::3], period_s

    def truevolt(line: pyvisa.resources.MessageBasedResource) -> tuple[list[float], float]:
        for command in ("CONFigure:CURRent:DC AUTO", "SAMPle:TIMer 0.002048", "INITiate", "*TRG"):
            line.write(command)
        period_s = float(line.query("SAMPle:TIMer?"))
        return line.query_ascii_values(f"DATA:REMove? {line.query('DATA:POINts?')}"), period_s

    return {"n6705": n6705, "2450": keithley, "34465a": truevolt}[model]


@pytest.mark.parametrize("model", BUFFERED)
def test_plain_pyvisa_works_with_the_emulated_instrument(tmp_path: Path, model: str) -> None:
    with EmulatedScpi(tmp_path, model, 1, SCRIPT) as peer:
        manager = pyvisa.ResourceManager("@py")
        line = manager.open_resource(peer.resource, read_termination="\n", write_termination="\n")
        assert isinstance(line, pyvisa.resources.MessageBasedResource)
        assert "," in line.query("*IDN?")
        values, period_s = _independent(model)(line)
        assert line.query("SYSTem:ERRor?") == '+0,"No error"'
        line.write("NONSense:HEADer 1")
        assert line.query("SYSTem:ERRor?") == '-113,"Undefined header"'
        manager.close()
    truth = SCRIPT.truth(0.0, len(values) * period_s)
    assert sum(values) * period_s == pytest.approx(truth.charge_c, rel=1e-6)


@pytest.mark.parametrize("trigger", ["bus", "external"])
def test_a_board_that_marks_its_windows(tmp_path: Path, trigger: str) -> None:
    """The bench's way: the peer of the registry, the board's marker line, device time."""
    model = EnergyModel(3.3, 20e-6, 12e-3, 0.0, source="")
    config = ScpiConfig(kind="scpi", emulated=True, model="n6705", period=PERIOD_S, trigger=trigger)  # type: ignore[arg-type]
    clock_hz = 1_000_000
    with ExitStack() as stack:
        started = start_meter(config, tmp_path, clock_hz, model, stack)
        meter = stack.enter_context(make_meter(started.config, 3.3))
        board = stack.enter_context(socket.socket(socket.AF_UNIX))
        board.connect(str(started.marker_path))
        meter.start()
        for cycles, bits in ((5_000, 1), (105_000, 0), (205_000, 0)):
            board.sendall(encode_frame({"c": cycles, "m": bits}))
        blocks = []
        wanted = 0.205 if trigger == "bus" else 0.2
        while sum(block.current_a.size for block in blocks) < int(wanted / PERIOD_S):
            blocks.append(meter.read(5.0))
        blocks.append(meter.stop())
    charge_c = float(join(blocks).current_a.astype(float).sum()) * PERIOD_S
    measured_s = join(blocks).current_a.size * PERIOD_S
    assert charge_c == pytest.approx(0.1 * 12e-3 + (measured_s - 0.1) * 20e-6, rel=1e-6)
    first = float(join(blocks).current_a[0])
    assert first == pytest.approx(12e-3 if trigger == "external" else 20e-6, rel=1e-6)
