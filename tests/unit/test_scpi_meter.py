"""SCPI instruments: what the driver measures against the closed form of the load, and what it makes of faults."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from helpers.scpi_bench import BUFFERED, PERIOD_S, SCALAR, SCRIPT, InProcess, meter_of, record
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.energy_model import EnergyModel
from lab.emulators.load import MarkedLoad, ScriptedLoad, Segment
from lab.emulators.scpi import Faults, Instrument, short
from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import ScpiConfig
from lab.power.base import join
from lab.power.scpi import ScpiMeter, _Line
from lab.power.scpi_models import truevolt
from lab.power.scpi_models.base import Readings, Setup
from lab.power.scpi_models.keithley2450 import Keithley2450
from lab.power.scpi_models.rohde_schwarz import RohdeSchwarzNgu
from lab.power.scpi_session import ScpiSession, parse_values
from lab.power.switches.meter_output import mean_current_a


def test_a_multimeter_measures_charge_and_supplies_nothing() -> None:
    with meter_of("34465a") as meter:
        block = record(meter)
        with pytest.raises(ConfigError, match="no output"):
            meter.set_output(False)
        assert (meter.info.measures_voltage, block.voltage_v) == (False, None)
    truth = SCRIPT.truth(0.0, block.current_a.size * PERIOD_S)
    assert float(block.current_a.astype(float).sum()) * PERIOD_S == pytest.approx(truth.charge_c, rel=1e-6)


@pytest.mark.parametrize("model", SCALAR)
def test_polled_values_are_means_over_their_slots(model: str) -> None:
    with meter_of(model, period=0.05) as meter:
        meter.start()
        blocks = [meter.read(1.0) for _ in range(3)]
        info = meter.info
        assert meter.stop().current_a.size == 0
    for k, block in enumerate(blocks):
        truth = SCRIPT.truth(k * 0.05, (k + 1) * 0.05)
        # The DP832 shows a voltage with four digits after the point.
        assert block.current_a[-1] == pytest.approx(truth.mean_current_a, rel=1e-6)
        if block.voltage_v is not None:
            assert block.voltage_v[-1] == pytest.approx(truth.energy_j / truth.charge_c, abs=6e-5)
    assert info.alignment == "host-time"
    assert info.time_uncertainty_s >= 0.05


def test_a_slot_that_was_missed_is_a_lost_sample() -> None:
    """The clock jumps by two and a half periods while the host is busy."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with meter_of("dp832", clock=lambda: now[0], sleep=sleep, period=0.1) as meter:
        meter.start()
        first = meter.read(1.0)
        now[0] += 0.25
        second = meter.read(1.0)
        third = meter.read(1.0)
    assert (first.first, first.current_a.size, first.lost) == (0, 1, 0)
    assert (second.first, second.current_a.size, second.lost) == (1, 2, 1)
    assert np.isnan(second.current_a).tolist() == [True, False]
    assert (third.first, third.current_a.size, third.lost) == (3, 1, 0)
    assert meter.report.missing == 1


@pytest.mark.parametrize("model", BUFFERED)
def test_the_trigger_input_begins_the_record_at_the_marker(model: str) -> None:
    with meter_of(model, trigger="external") as meter:
        block = record(meter)
        assert meter.info.alignment == "trigger"
        assert meter.info.time_uncertainty_s == 0.0
        period_s = 1.0 / meter.info.sample_rate_hz
    begin_s = 0.0311
    truth = SCRIPT.truth(begin_s, begin_s + block.current_a.size * period_s)
    assert float(block.current_a.astype(float).sum()) * period_s == pytest.approx(truth.charge_c, rel=1e-6)


def test_a_trigger_by_command_says_how_long_it_took() -> None:
    with meter_of("n6705") as meter:
        meter.start()
        info = meter.info
        meter.stop()
    assert info.alignment == "host-time"
    assert info.time_uncertainty_s == pytest.approx(0.001 + PERIOD_S)


def test_the_instrument_rounds_the_period_and_its_word_counts() -> None:
    with meter_of("n6705", period=0.001) as meter:
        assert 1.0 / meter.info.sample_rate_hz == pytest.approx(49 * 20.48e-6, rel=1e-9)


def test_readings_with_times_show_what_is_missing_and_what_came_twice() -> None:
    with meter_of("2450", faults=Faults(drop_every=10, duplicate_every=7)) as meter:
        block = record(meter)
        report = meter.report
    samples = block.current_a.size
    assert samples == SCRIPT.due(1_000_000) // 2048  # the last one is not among the missing
    dropped = np.arange(9, samples, 10)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == dropped.tolist()
    assert block.lost == report.missing == dropped.size
    assert report.doubled == sum(1 for k in range(6, samples, 7) if k % 10 != 9)
    expected = [SCRIPT.truth(k * PERIOD_S, (k + 1) * PERIOD_S).mean_current_a for k in range(samples)]
    kept = ~np.isnan(block.current_a)
    np.testing.assert_allclose(block.current_a[kept], np.array(expected)[kept], rtol=1e-6)


@pytest.mark.parametrize(("model", "fault"), [(m, f) for m in BUFFERED for f in ("corrupt_every", "range_every")])
def test_damaged_readings_and_changes_of_range_are_lost_samples(model: str, fault: str) -> None:
    with meter_of(model, faults=Faults(**{fault: 11})) as meter:
        block = record(meter)
        report = meter.report
    bad = np.arange(10, block.current_a.size, 11)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == bad.tolist()
    assert block.lost == report.damaged == bad.size


@pytest.mark.parametrize("model", BUFFERED + SCALAR)
def test_overrange_is_saturation_and_shown_as_the_end_of_the_range(model: str) -> None:
    with meter_of(model, faults=Faults(top_a=0.05)) as meter:
        if model in BUFFERED:
            block = record(meter)
            period_s = PERIOD_S
        else:
            meter.start()
            block = join([meter.read(1.0) for _ in range(3)])
            period_s = 0.05
        top_a = meter.info.ranges[-1].upto_a
    means = [SCRIPT.truth(k * period_s, (k + 1) * period_s).mean_current_a for k in range(block.current_a.size)]
    over = np.array(means) > 0.05
    assert over.any()
    assert block.saturated == over.sum()
    np.testing.assert_allclose(block.current_a[over], top_a)


def test_a_supply_at_its_current_limit_is_saturated() -> None:
    with meter_of("n6705", limit_a=0.09) as meter:
        block = record(meter)
    means = [SCRIPT.truth(k * PERIOD_S, (k + 1) * PERIOD_S).mean_current_a for k in range(block.current_a.size)]
    assert block.saturated == sum(mean >= 0.998 * 0.09 for mean in means) > 0


def test_a_multimeter_whose_memory_ran_over_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert truevolt.MEMORY_READINGS == 50_000
    for module in ("lab.emulators.scpi", "lab.power.scpi_models.truevolt"):
        monkeypatch.setattr(f"{module}.MEMORY_READINGS", 60)
    with meter_of("34465a") as meter:
        meter.start()
        with pytest.raises(MeterError, match="ran full"):
            meter.read(0.0)


@pytest.mark.parametrize("model", BUFFERED)
def test_an_instrument_that_goes_on_measuring_is_stopped(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command takes 5 ms, in which new samples come: it is never found empty before it was told to stop."""
    load = MarkedLoad(EnergyModel(3.3, 1e-3, 1e-3, 0.0, source=""), 1_000_000)
    work = Instrument.command
    marked = itertools.count(5_000, 5_000)

    def command(self: Instrument, line: str) -> str | None:
        load.mark(next(marked), 0)
        return work(self, line)

    monkeypatch.setattr(Instrument, "command", command)
    with meter_of(model, load) as meter:
        meter.start()
        blocks = [meter.read(1.0), meter.read(1.0), meter.stop()]
    samples = join(blocks).current_a
    assert 2 <= samples.size <= next(marked) * 1e-6 / PERIOD_S
    np.testing.assert_allclose(samples, 1e-3, rtol=1e-6)


def test_too_few_samples_for_the_time_that_passed() -> None:
    """Without times in the data only the count tells, against this computer's clock."""
    now = [0.0]
    script = ScriptedLoad([Segment(2.0, 1e-3)])
    real = {"emulated": False, "resource": "in-process"}
    with meter_of("n6705", script, Faults(drop_every=2), clock=lambda: now[0], **real) as meter:
        meter.start()
        now[0] = 2.0
        with pytest.raises(MeterError, match=r"488 samples came in 2 s, 977 were expected"):
            meter.stop()


@pytest.mark.parametrize("model", BUFFERED + SCALAR)
def test_a_setting_that_is_refused_is_told_in_the_words_of_the_instrument(model: str) -> None:
    headers = {"n6705": "SENS:ELOG:PER", "34465a": "SAMP:TIM", "2450": "TRIG:TIM1:DEL", "dp832": "APPL",
               "spd3303x": "CH1:VOLT", "sdm3065x": "CONF:CURR:DC"}  # fmt: skip
    with (
        pytest.raises(MeterError, match='the setup was refused by the instrument: -113,"Undefined header"'),
        meter_of(model, faults=Faults(refuse=headers[model])),
    ):
        raise AssertionError("it was opened")


def test_a_voltage_out_of_range_is_refused() -> None:
    with pytest.raises(MeterError, match=r"-222"), meter_of("dp832", voltage_v=99.0):
        raise AssertionError("it was opened")


def test_errors_after_the_measurement_are_no_figure() -> None:
    with meter_of("n6705", faults=Faults(error='-310,"System error"')) as meter:
        with pytest.raises(MeterError, match=r'-310,"System error"'):
            record(meter)
        assert meter.report.errors == ('-310,"System error"',)


def test_a_period_that_is_too_short_is_refused() -> None:
    config = ScpiConfig(kind="scpi", resource="TCPIP::h::1::SOCKET", model="n6705", period=100e-6)
    with pytest.raises(ConfigError, match=r"period of 0\.0001 s"):
        ScpiMeter("TCPIP::h::1::SOCKET", config, 3.3)


@pytest.mark.parametrize("model", ["n6705", "2450", "dp832", "spd3303x"])
def test_a_supply_is_switched(model: str) -> None:
    load = ScriptedLoad([Segment(1.0, 0.02)])
    with meter_of(model, load) as meter:
        on = mean_current_a(meter)
        meter.set_output(False)
        off = mean_current_a(meter)
        meter.set_output(True)
        again = mean_current_a(meter)
    assert [on, off, again] == pytest.approx([0.02, 0.0, 0.02])


@given(st.data())
def test_readings_with_times_land_in_their_slots_whatever_happens(data: st.DataObject) -> None:
    """Missing, doubled and damaged readings in batches of any size: what is shown is right, the rest is counted."""
    count = data.draw(st.integers(1, 60))
    kept = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True).map(sorted))
    told = [slot for slot in kept for _ in range(data.draw(st.integers(1, 2)))]
    damaged = {slot for slot in kept if data.draw(st.booleans())}
    current = np.array([np.nan if slot in damaged else 1e-3 * (slot + 1) for slot in told])
    jitter = data.draw(st.floats(-0.4, 0.4)) * PERIOD_S
    setup = Setup(1, 3.3, 1.0, None, PERIOD_S, external_trigger=False)
    line = _Line(setup, Keithley2450.family, 1.0)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(told)), max_size=5)))
    blocks = []
    for begin, end in itertools.pairwise([0, *cuts, len(told)]):
        times = np.array(told[begin:end]) * PERIOD_S + jitter
        blocks.append(line.place(Readings(current[begin:end], np.full(end - begin, 3.3), times)))
    joined = join(blocks)
    assert joined.current_a.size == kept[-1] + 1
    right = [slot for slot in kept if slot not in damaged]
    assert np.flatnonzero(~np.isnan(joined.current_a)).tolist() == right
    np.testing.assert_allclose(joined.current_a[right], 1e-3 * (np.array(right) + 1), rtol=1e-6)
    assert joined.lost == joined.current_a.size - len(right)
    assert line.report.doubled == len(told) - len(kept)
    assert line.report.damaged == len(damaged)


def test_numbers_overrange_and_damage() -> None:
    values = parse_values("+1.5E-3, -9.9E37,9.91E37,+9.90000000E+37,x,,2")
    assert values[[0, 1, 3, 5]].tolist() == [1.5e-3, -np.inf, np.inf, 2.0]
    assert np.isnan(values[[2, 4]]).all()
    assert parse_values("").size == 0


@pytest.mark.parametrize(
    ("long", "brief"),
    [("MEASure:CURRent", "MEAS:CURR"), ("sense:elog:period", "SENS:ELOG:PER"), (":OUTP", "OUTP"), ("*IDN", "*IDN"),
     ("TRIGger:TIMer1:DELay", "TRIG:TIM1:DEL"), ("SYSTem:ERRor", "SYST:ERR"), ("CH1:VOLTage", "CH1:VOLT")],
)  # fmt: skip
def test_long_and_short_headers_are_one(long: str, brief: str) -> None:
    assert short(long) == brief == short(brief)


def test_the_error_queue_is_emptied_in_order() -> None:
    session = InProcess(Instrument("n6705", SCRIPT, 0.1))
    session.open()
    session.write("NONSENSE 1")
    session.write("VOLT 1000,(@1)")
    assert session.drain_errors() == ('-113,"Undefined header"', '-222,"Data out of range"')
    assert session.drain_errors() == ()


def test_an_answer_that_is_no_number_is_told() -> None:
    session = InProcess(Instrument("n6705", SCRIPT, 0.1))
    session.open()
    with pytest.raises(MeterError, match=r"'\*IDN\?' was answered with 'Keysight"):
        session.ask_number("*IDN?")


def test_before_open_and_before_start() -> None:
    meter = ScpiMeter("TCPIP::h::1::SOCKET", ScpiConfig(kind="scpi", resource="x", model="2450"), 3.3)
    for call in (lambda: meter.info, lambda: meter.read(0.0), meter.stop, meter.start):
        with pytest.raises(MeterError, match=r"not open|not started"):
            call()
    meter.close()


def test_without_pyvisa_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvisa", None)
    with pytest.raises(ToolMissing, match=r"pip install 'hil-lab\[scpi\]'"):
        ScpiSession("TCPIP::h::1::SOCKET", 1.0).open()


@pytest.mark.parametrize("model", SCALAR)
def test_a_record_cannot_begin_with_an_input_that_is_not_there(model: str) -> None:
    with pytest.raises(ValueError, match="no trigger input"):
        ScpiConfig(kind="scpi", resource="x", model=model, trigger="external")  # type: ignore[arg-type]


def test_a_fixed_range_has_its_own_uncertainty_for_all_currents() -> None:
    with meter_of("n6705", range_a=0.1) as fixed:
        ranges = fixed.info.ranges
        assert fixed.info.identity.startswith("Keysight Technologies,N6705C,MY00000000")
        assert fixed.info.identity.endswith("class figures: N6781A data sheet, not checked again")
    assert [one.upto_a for one in ranges] == [0.1]
    assert ranges[0].offset_a == 10e-6
    with meter_of("n6705") as automatic:
        assert [one.upto_a for one in automatic.info.ranges] == [10e-6, 1e-3, 0.1, 3.0]


def test_a_fast_log_of_another_instrument_is_refused() -> None:
    instrument = Instrument("ngu", SCRIPT, 1e-3)
    instrument._handlers["FLOG:SRAT?"] = lambda _: "S015"
    session = InProcess(instrument)
    session.open()
    with pytest.raises(MeterError, match="has a rate of 'S015'; known are S100, S001k"):
        RohdeSchwarzNgu().prepare(session, Setup(1, 3.3, 0.5, 0.1, 1e-3, False))


def test_half_a_pair_of_a_fast_log_is_no_reading() -> None:
    instrument = Instrument("ngu", SCRIPT, 1e-3)
    session = InProcess(instrument)
    session.open()
    dialect, setup = RohdeSchwarzNgu(), Setup(1, 3.3, 0.5, None, 1e-3, False)
    dialect.prepare(session, setup)
    dialect.arm(session, setup)
    dialect.trigger(session, setup)
    whole = dialect.fetch(session, setup)
    assert whole.current_a.size == SCRIPT.due(1000)
    assert dialect.fetch(session, setup).current_a.size == 0
    dialect.arm(session, setup)
    dialect.trigger(session, setup)
    block = instrument._handlers["FLOG:DATA?"]
    instrument._handlers["FLOG:DATA?"] = lambda a: b"#14" + bytes(block(a) or b"")[5:9]
    with pytest.raises(MeterError, match="1 numbers, not pairs"):
        dialect.fetch(session, setup)
