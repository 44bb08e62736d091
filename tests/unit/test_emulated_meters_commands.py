"""The behaviour of emulated meters without their ports: whatever a client says, they answer and go on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.emulators import lpm01a, otii, ppk2
from lab.emulators.energy_model import EnergyModel
from lab.emulators.load import MarkedLoad, ScriptedLoad, Segment
from lab.power.base import join
from lab.power.lpm01a_stream import BinaryDecoder, Timeline

SCRIPT = ScriptedLoad([Segment(0.02, 1e-3), Segment(0.02, 5e-3, 1), Segment(0.02, 1e-3)])
COMMANDS = (
    *("htc", "hrc", "start", "stop", "status", "version", "powershield", "psrst", "pwr", "volt", "freq", "acqtime"),
    *("acqmode", "funcmode", "output", "format", "trigsrc", "trigdelay", "eventsrc", "pwrend", "help"),
)
ARGUMENTS = ("", "on", "off", "on nostatus", "1k", "100k", "3300m", "3+0", "inf", "energy", "bin_hexa", "d7 both", "d7")


def board(load: MarkedLoad | ScriptedLoad = SCRIPT) -> lpm01a.Meter:
    return lpm01a.Meter(load, seed=0, faults=lpm01a.Faults(), newest=lambda: None)


def said(meter: lpm01a.Meter) -> bytes:
    """All it has to say now."""
    data = b""
    meter.fill()
    while meter.output:
        data += bytes(meter.output)
        meter.output.clear()
        meter.fill()
    return data


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(COMMANDS), st.sampled_from(ARGUMENTS)), max_size=15), st.binary(max_size=30))
def test_an_lpm01a_answers_every_command_once(lines: list[tuple[str, str]], garbage: bytes) -> None:
    meter = board()
    meter.command(garbage.replace(b"\n", b"") + b"\n")
    said(meter)
    for name, argument in lines:
        line = f"{name} {argument}".strip()
        meter.command(line.encode() + b"\r\n")
        if name == "psrst":
            assert meter.vanished
            meter.reset()
            continue
        answer = said(meter)
        ending = name == "stop" and b"Acquisition completed" in answer
        answers = answer.count(f"> ack {line}".encode()) + answer.count(f"> error {line}".encode())
        assert answers == (0 if ending else 1)


def test_the_stream_of_an_lpm01a_by_hand() -> None:
    meter = board()
    for line in (b"htc", b"freq 100", b"eventsrc d7 both", b"pwr on", b"start", b"stop"):
        meter.command(line + b"\n")
    lines = [line.strip(b"\0\r") for line in said(meter).split(b"\n") if line.strip(b"\0\r")]
    begin = lines.index(b"PowerShield > ack start") + 1
    assert lines[begin : lines.index(b"end") + 1] == [
        b"TimeStamp: 000s 000ms, buff 05%",
        b"1000-06",
        b"1000-06",
        b"event 0 ris",
        b"5000-06",
        b"5000-06",
        b"event 1 fal",
        b"1000-06",
        b"1000-06",
        b"end",
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 50e-3), min_size=1, max_size=50), st.integers(0, 99))
def test_both_formats_write_what_can_be_read_back(currents: list[float], seed: int) -> None:
    converter = lpm01a.Converter(seed)
    values = np.array(currents)
    text = converter.ascii(values)
    for line, value in zip(text, currents, strict=True):
        mantissa, exponent = int(line[:4]), int(line[4:7])
        assert len(line) == 9
        assert abs(mantissa * 10.0**exponent - value) <= 1.001e-3 * value + 1e-29
    timeline = Timeline(100)
    decoder = BinaryDecoder(timeline)
    decoder.feed(b"\xf0\xf3\0\0\0\0\5\xff\xff" + b"".join(converter.binary(values)))
    decoder.finish()
    block = join(timeline.take())
    # A mantissa has at least 256 steps; below 256/16**14 there are fewer.
    assert block.current_a == pytest.approx(values, rel=1 / 256, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=8), max_size=12))
def test_a_ppk2_never_stumbles_over_commands(pieces: list[bytes]) -> None:
    meter = ppk2.Meter(SCRIPT, seed=0, roll_samples=0, faults=ppk2.Faults(), newest=lambda: None)
    for piece in pieces:
        meter.command(piece)
        meter.fill()
        meter.output.clear()
    # Whatever came, a full reset and a question are understood.
    meter.reset()
    meter.command(b"\x19")
    meter.fill()
    assert bytes(meter.output).endswith(b"END\n")


json_values = st.one_of(st.none(), st.booleans(), st.integers(-5, 100_000), st.floats(), st.text(max_size=4))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_otii_server_answers_every_request(data: st.DataObject) -> None:
    server = otii.Server(SCRIPT, otii.Faults(), newest=lambda: None)
    commands = sorted(server._answers)
    for _ in range(data.draw(st.integers(1, 8))):
        command = data.draw(st.sampled_from([*commands, "arc_calibrate"]))
        keys = st.sampled_from(["channel", "index", "count", "value", "enable", "license_id", "username", "password"])
        details = data.draw(st.dictionaries(keys, json_values))
        request = {"type": "request", "cmd": command, "trans_id": "7", "data": details}
        answer = server.answer_to(json.dumps(request).encode())
        assert answer["trans_id"] == "7"
        assert answer["type"] in ("response", "error")
        json.dumps(answer)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"null"])
def test_an_otii_server_is_told_nonsense(line: bytes) -> None:
    server = otii.Server(SCRIPT, otii.Faults(), newest=lambda: None)
    assert server.answer_to(line)["errorcode"] == "Not able to parse request"


def test_markers_before_a_start_are_not_shown() -> None:
    load = MarkedLoad(EnergyModel(3.3, 1e-6, 1e-3), 1_000_000)
    meter = board(load)
    for line in (b"htc", b"freq 1k", b"eventsrc d7 both", b"pwr on"):
        meter.command(line + b"\n")
    for cycles, bits in ((100_000, 1), (200_000, 0)):
        load.mark(cycles, bits)
        meter.marked()
    meter.command(b"start\n")
    said(meter)
    for cycles, bits in ((300_000, 1), (400_000, 0)):
        load.mark(cycles, bits)
        meter.marked()
    meter.command(b"stop\n")
    text = said(meter)
    assert text.count(b"event ") == 2
    assert text.count(b"1000-06") == 100
