"""What the messages of a device say: hellos, events, results in pieces, errors, and fields that make no sense."""

from __future__ import annotations

import struct

import pytest
from helpers.wire_device import DONE, Device, Message, event, job, opened
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import Crash, LabError, OutOfMemory, ProtocolError, WorkloadError
from lab.events import Job, MetricEvent, RegionEvent, ResultEvent
from lab.wire import Session


@pytest.mark.parametrize(
    ("key", "value"),
    [("h", 0), ("h", "fast"), ("k", "sundial"), ("b", 7), ("u", -1), ("bs", True), ("mo", None), ("st", b"1")],
)
def test_a_malformed_hello_names_the_field(key: str, value: object) -> None:
    device = Device()
    device.hello[key] = value
    with pytest.raises(ProtocolError, match=f"'{key}'|'{value}'"):
        Session(device).open(1.0)


def test_a_metric_may_come_with_its_event_and_a_result_with_its_name() -> None:
    piece = {"t": "result", "i": 1, "n": "weight", "z": 4}
    pieces = [{**piece, "o": 0, "d": b"ab"}, {**piece, "o": 2, "d": b"cd"}]
    frames = [{**event(0), "n": "loss", "v": 0.5}, {"t": "result", "i": 0, "n": "bias", "d": b"x"}, *pieces, DONE]
    got = list(opened(Device(frames)).run(job()))
    assert got[0] == RegionEvent("inference", 0, 0, 42)
    assert got[1:-1] == [MetricEvent("loss", 0.5), ResultEvent(0, b"x", "bias"), ResultEvent(1, b"abcd", "weight")]
    with pytest.raises(ProtocolError, match="frame 'event': 'v' is 'much', expected a number"):
        list(opened(Device([{**event(0), "n": "loss", "v": "much"}])).run(job()))


def shared(*passes: tuple[int, int], **more: object) -> Message:
    """Passes of one frame: gap and cycles of each, from cycle 100 and index 3 on."""
    return {"t": "events", "r": "layer", "i": 3, "b": 100, "p": b"".join(struct.pack("<II", *one) for one in passes),
            **more}  # fmt: skip


def test_passes_that_share_a_frame_come_one_by_one() -> None:
    device = Device([shared((0, 40), (5, 7)), shared((0, 2**32 - 1), (2**32 - 1, 1), d=b"abcd"), DONE])
    got = list(opened(device).run(Job("infer", b"", 1)))
    assert got[:2] == [RegionEvent("layer", 3, 100, 140), RegionEvent("layer", 4, 145, 152)]
    assert got[2:6] == [
        RegionEvent("layer", 3, 100, 99 + 2**32), ResultEvent(3, b"ab"),
        RegionEvent("layer", 4, 98 + 2**33, 99 + 2**33), ResultEvent(4, b"cd"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [shared(), {**shared(), "p": b"1234567"}, shared((0, 1), (0, 1), d=b"abc")],
    ids=["none", "half a pass", "half a result"],
)
def test_passes_that_make_no_whole_number_are_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match="no whole number of passes"):
        list(opened(Device([message, DONE])).run(Job("infer", b"", 1)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, ProtocolError) for code in ("version", "unknown", "size", "checksum", "input", "busy", "new-code")),
        ("overflow", OutOfMemory),
        ("crash", Crash),
        ("nan", WorkloadError),
    ],
)
def test_every_error_code_has_its_class(code: str, expected: type[LabError]) -> None:
    device = Device([event(0), {"t": "error", "c": code, "p": "somewhere", "m": "something", "g": {}, "r": ""}])
    session = opened(device)
    with pytest.raises(expected, match=f"'{code}' at somewhere: something") as error:
        list(session.run(job()))
    assert type(error.value) is expected
    session.put("samples", b"the session goes on")
    assert device.blobs["samples"] == b"the session goes on"


def test_a_crash_carries_registers_and_region() -> None:
    registers = {"pc": 0x1234, "lr": 0x8001, "cfsr": 0x400, "odd": "text"}
    device = Device([{"t": "error", "c": "crash", "p": "fault", "m": "fault", "g": registers, "r": "inference"}])
    with pytest.raises(Crash) as error:
        list(opened(device).run(job()))
    assert error.value.report.registers == {"pc": 0x1234, "lr": 0x8001, "cfsr": 0x400}
    assert error.value.report.region == "inference"


@pytest.mark.parametrize(
    ("message", "field_name"),
    [
        ({"t": "event", "r": 1, "i": 0, "b": 0, "e": 1}, "r"),
        ({"t": "event", "r": "x", "i": -1, "b": 0, "e": 1}, "i"),
        ({"t": "event", "r": "x", "i": 0, "b": 0.5, "e": 1}, "b"),
        ({"t": "event", "r": "x", "i": 0, "b": 0}, "e"),
        ({"t": "event", "r": "x", "i": 0, "b": 5, "e": 4}, "e"),
        (shared((0, 1), d="text"), "d"),
        ({**shared((0, 1)), "p": 3}, "p"),
        ({**shared((0, 1)), "i": None}, "i"),
        ({"t": "metric", "n": "x", "v": "much"}, "v"),
        ({"t": "metric", "n": "x", "v": True}, "v"),
        ({"t": "metric", "v": 1}, "n"),
        ({"t": "result", "i": 0, "d": "text"}, "d"),
        ({"t": "result", "i": 0, "d": b"ab", "z": 3}, "o"),
        ({"t": "log"}, "m"),
        ({"t": "done", "y": 1, "a": 1, "c": True, "n": 0, "x": 0}, "c"),
    ],
)
def test_a_malformed_field_is_named(message: Message, field_name: str) -> None:
    with pytest.raises(ProtocolError, match=f"'{message['t']}': '{field_name}'"):
        list(opened(Device([message])).run(job()))


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 70))
def test_results_in_pieces_are_joined(results: list[bytes], piece: int) -> None:
    frames: list[Message] = []
    for index, data in enumerate(results):
        for at in range(0, max(len(data), 1), piece):
            frames.append({"t": "result", "i": index, "d": data[at : at + piece], "o": at, "z": len(data)})
    got = list(opened(Device([*frames, DONE])).run(job()))
    assert got[:-1] == [ResultEvent(index, data) for index, data in enumerate(results)]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([(0, 0, 4, b"ab"), (0, 3, 4, b"c")], "result 0: a piece at offset 3 came after 2 bytes"),
        ([(7, 1, 4, b"ab")], "result 7: a piece at offset 1 came after 0 bytes"),
        ([(0, 0, 4, b"abc"), (0, 3, 4, b"de")], "result 0: 5 bytes came, 4 were announced"),
        ([(3, 0, 4, b"abc")], "result 3: the job ended after 3 bytes of it"),
    ],
)
def test_results_whose_pieces_do_not_fit(frames: list[tuple[int, int, int, bytes]], words: str) -> None:
    sent: list[Message] = [{"t": "result", "i": i, "o": o, "z": z, "d": d} for i, o, z, d in frames]
    with pytest.raises(ProtocolError, match=words):
        list(opened(Device([*sent, DONE])).run(job()))
