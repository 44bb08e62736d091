"""The host's session against a model of a device, over a line that loses, repeats, damages and cuts frames."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cbor2
import pytest
from helpers.wire_device import (
    BLOB_ADDRESS,
    BLOB_BYTES,
    DONE,
    EVENTS,
    FAULTS,
    MTU,
    Device,
    Fate,
    Message,
    event,
    fate_of,
    fates,
    frame,
    job,
    opened,
)
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import (
    ConfigError,
    Crash,
    DeviceError,
    EmulatorError,
    Hang,
    LabError,
    OutOfMemory,
    ProtocolError,
    TransportError,
)
from lab.events import Done, Event, Job, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.wire import PROFILE_LAYERS, SILENT_MARKER, Session

# ---- opening ------------------------------------------------------------------------------------------------------


def test_hello_says_who_it_is() -> None:
    hello = opened(Device(cr=3)).hello
    assert (hello.protocol, hello.build_id, hello.board, hello.clock, hello.clock_hz) == (
        1, "0123456789abcdef", "model-board", "virtual", 25_000_000,
    )  # fmt: skip
    assert (hello.mtu, hello.credits, hello.blob_address, hello.blob_bytes) == (MTU, 3, 0, BLOB_BYTES)
    assert (hello.arena_bytes, hello.stack_bytes, hello.model) == (1024, 2048, "tiny")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("direction", ["to_device", "to_host"])
def test_a_hello_is_asked_again(fault: Fate, direction: str) -> None:
    device = Device()
    getattr(device, direction).fates = iter([fault])
    session = Session(device)
    session.open(0.5)
    session.put("samples", b"abc")
    assert device.blobs["samples"] == b"abc"


def test_a_late_second_answer_to_hello_is_no_restart() -> None:
    device = Device()
    session = opened(device)
    device.restart()
    session.put("samples", bytes(300))
    assert device.blobs["samples"] == bytes(300)


def test_a_device_that_announces_itself_is_not_asked() -> None:
    device = Device()
    device.to_device.fates = iter(["drop"] * 100)
    device.restart()
    assert Session(device).open(1.0, ask=False).model == "tiny"


def test_a_device_whose_announcement_was_lost_is_asked_after_half_the_time() -> None:
    assert Session(Device()).open(0.1, ask=False).model == "tiny"


def test_wrong_build_names_both() -> None:
    with pytest.raises(ProtocolError, match=r"runs build 0123456789abcdef, deployed was fedcba9876543210"):
        Session(Device()).open(1.0, build_id="fedcba9876543210")


def test_wrong_version_names_both() -> None:
    with pytest.raises(ProtocolError, match="speaks wire version 2, this lab speaks 1"):
        Session(Device(v=2)).open(1.0)


def test_a_device_that_refuses_our_version() -> None:
    device = Device()
    device.deaf = True
    device.say({"t": "error", "c": "version", "p": "hello", "m": "this device speaks version 2", "a": 0})
    with pytest.raises(ProtocolError, match="this device speaks version 2"):
        Session(device).open(1.0)


def silent() -> Device:
    device = Device()
    device.deaf = True
    return device


def test_silence_is_a_hang() -> None:
    with pytest.raises(Hang, match="said nothing"):
        Session(silent()).open(0.01)


def test_only_garbage_names_the_baud_rate() -> None:
    device = silent()
    device.babble(b"\x80\xff\x13\x00" * 50)
    with pytest.raises(TransportError, match=r"200 bytes .* none a frame") as error:
        Session(device).open(0.01)
    assert "baud" in error.value.hint


def test_endless_garbage_does_not_outlast_the_time() -> None:
    """A device at another baud rate never pauses: every read has something."""

    class Endless(Device):
        def read(self, timeout_s: float) -> bytes:
            return b"\x55\xaa\x00\xf0" * 16

    with pytest.raises(TransportError, match="none a frame"):
        Session(Endless()).open(0.02)


def test_endless_logs_do_not_keep_a_frame_waiting_for_ever() -> None:
    class Chatty(Device):
        def read(self, timeout_s: float) -> bytes:
            self.say({"t": "log", "m": "tick"})
            return super().read(timeout_s)

    device = Chatty()
    session = Session(device, acknowledge_s=0.01, attempts=2)
    session.open(1.0)
    device.deaf = True
    with pytest.raises(Hang, match="not acknowledged in 2 tries"):
        session.put("samples", b"abc")


def test_frames_of_an_old_job_are_no_garbage() -> None:
    device = silent()
    for index in range(3):
        device.say(event(index))
    with pytest.raises(Hang, match=r"sent 3 frame\(s\) .* but no hello"):
        Session(device).open(0.01)


def test_nothing_goes_without_a_session() -> None:
    session = Session(Device())
    for use in (lambda: session.hello, lambda: session.put("a", b""), lambda: list(session.run(job())), session.reset):
        with pytest.raises(ProtocolError, match="not open"):
            use()


# ---- blobs --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.binary(max_size=900), fates, fates)
def test_a_blob_arrives_exactly_or_an_error_says_so(
    credits: int, data: bytes, outward: list[Fate], homeward: list[Fate]
) -> None:
    device = Device(cr=credits)
    session = opened(device)
    device.to_device.fates, device.to_host.fates = iter(outward), iter(homeward)
    try:
        session.put("samples", data)
    except LabError:
        return
    assert device.blobs["samples"] == data
    assert [message["s"] for message in device.executed] == list(range(1, len(device.executed) + 1))


@given(st.integers(1, 4), st.binary(max_size=900), st.lists(st.sampled_from(["pass", "repeat"]), max_size=40))
def test_repeated_frames_are_harmless(credits: int, data: bytes, repeats: list[Fate]) -> None:
    device = Device([event(0), event(1), DONE], cr=credits)
    session = opened(device)
    device.to_device.fates, device.to_host.fates = iter(repeats), iter(repeats)
    session.put("samples", data)
    assert list(session.run(job()))[:-1] == EVENTS
    assert device.blobs["samples"] == data
    assert [message["t"] for message in device.executed].count("run") == 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("credits", [1, 2, 3, 4])
@pytest.mark.parametrize("place", range(6))
def test_one_fault_on_the_way_out_is_mended(fault: Fate, credits: int, place: int) -> None:
    """Whichever of the six frames it hits; and mended with one repetition, not one per refused frame of the window."""
    data = bytes(range(200)) + bytes(130)
    device = Device(cr=credits)
    session = opened(device)
    device.to_device.fates = fate_of(place, fault)
    session.put("samples", data)
    assert len(device.executed) == 6
    assert device.blobs["samples"] == data
    assert session.resent_frames <= credits + (fault == "cut") * credits


@pytest.mark.parametrize("credits", [1, 2, 3, 4])
@pytest.mark.parametrize("place", range(6))
def test_a_lost_acknowledgement_is_mended(credits: int, place: int) -> None:
    device = Device(cr=credits)
    session = opened(device)
    device.to_host.fates = fate_of(place, "damage")
    session.put("samples", bytes(330))
    assert device.blobs["samples"] == bytes(330)
    assert len(device.executed) == 6


def test_at_most_credits_frames_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(cr=3)
    session = opened(device, attempts=1)
    device.deaf = True
    written: list[bytes] = []
    monkeypatch.setattr(device, "write", written.append)
    with pytest.raises(Hang):
        session.put("samples", bytes(900))
    assert len(written) == 3


def test_no_acknowledgement_is_a_hang_after_all_attempts() -> None:
    device = Device()
    session = opened(device, attempts=4)
    device.deaf = True
    with pytest.raises(Hang, match="not acknowledged in 4 tries"):
        session.put("samples", b"abc")
    assert session.resent_frames == 3


@given(st.binary(max_size=2000), st.text(max_size=10))
def test_no_message_is_longer_than_the_device_takes(data: bytes, name: str) -> None:
    device = Device()
    opened(device).put(name, data)
    assert device.blobs[name] == data
    assert max(len(cbor2.dumps(message)) for message in device.executed) <= MTU


def test_a_device_with_too_small_a_buffer_is_refused_not_ignored() -> None:
    with pytest.raises(ProtocolError, match="takes messages of 64 bytes; blob 'samples' needs more than 71"):
        opened(Device(u=64)).put("samples", b"abc")


def test_a_blob_that_is_too_large_is_not_sent() -> None:
    device = Device(bs=10)
    with pytest.raises(ProtocolError, match="'samples' has 11 bytes; model-board has room for 10"):
        opened(device).put("samples", bytes(11))
    assert device.executed == []


def test_the_number_of_a_refused_frame_is_used_again() -> None:
    """Else every later frame would be out of order for ever."""
    device = Device(bs=BLOB_BYTES + 100, cr=4)
    session = opened(device)
    with pytest.raises(ProtocolError, match="'size' at put"):
        session.put("samples", bytes(BLOB_BYTES + 1))
    session.put("samples", b"fits")
    assert device.blobs["samples"] == b"fits"


def test_memory_port() -> None:
    device = Device(ba=BLOB_ADDRESS)
    session = opened(device)
    data = bytes(range(256)) * 10
    session.put("samples", data, device)
    assert device.blobs["samples"] == data
    assert [sorted(message) for message in device.executed] == [["k", "n", "p", "s", "t", "z"]]


def test_the_blobs_of_a_job_lie_behind_each_other_in_memory() -> None:
    device = Device(ba=BLOB_ADDRESS)
    blobs = {"samples": bytes(range(33)), "targets": b"", "order": b"xy", "checkpoint": b"z" * 16}
    opened(device).put_all(blobs, device)
    assert device.blobs == blobs
    assert [message["p"] - BLOB_ADDRESS for message in device.executed] == [0, 48, 48, 64]


def test_blobs_that_do_not_fit_together_are_refused_before_they_are_sent() -> None:
    device = Device(ba=BLOB_ADDRESS)
    with pytest.raises(ProtocolError, match=r"'targets' has 17 bytes; .* behind the 4080"):
        opened(device).put_all({"samples": bytes(4080), "targets": bytes(17)}, device)


def test_over_the_wire_the_blobs_of_the_last_job_make_room_first() -> None:
    """A blob may grow only where nothing lies behind it; the same sizes again find their places as they are."""
    device = Device()
    session = opened(device)
    session.put_all({"samples": b"12", "targets": b"3"})
    session.put_all({"samples": b"34", "targets": b"5"})
    session.put_all({"samples": b"4567", "order": b"8"})
    sent = [(message["n"], message["d"]) for message in device.executed]
    first, second = [("samples", b"12"), ("targets", b"3")], [("samples", b"34"), ("targets", b"5")]
    assert sent == [*first, *second, ("samples", b""), ("targets", b""), ("samples", b"4567"), ("order", b"8")]


def test_memory_that_does_not_hold_what_was_placed() -> None:
    device = Device(ba=BLOB_ADDRESS)

    class Broken:
        def write_memory(self, address: int, data: bytes) -> None:
            device.write_memory(address, data[:-1] + b"?")

    with pytest.raises(ProtocolError, match="'checksum' at put"):
        opened(device).put("samples", b"abcdef", Broken())


def test_a_device_without_a_place_for_blobs_gets_them_over_the_wire() -> None:
    device = Device(ba=0)
    opened(device).put("samples", b"abc", device)
    assert "d" in device.executed[0]


# ---- jobs ---------------------------------------------------------------------------------------------------------


def test_a_job_and_its_parameters() -> None:
    frames: list[Message] = [
        event(0),
        {"t": "log", "m": "warm"},
        {"t": "metric", "n": "loss", "v": 0.5},
        {"t": "metric", "n": "epoch", "v": 3},
        {"t": "result", "i": 0, "d": b"\x01\x02"},
        {"t": "weather", "rain": True},
        {**DONE, "n": 1, "x": 1, "z": "a key of the future"},
    ]
    device = Device(frames)
    got = list(opened(device).run(Job("infer", b"", 2, 3, 4, True, 5000, parameters={"lanes": 8})))
    assert got == [
        RegionEvent("inference", 0, 0, 42),
        LogEvent("warm"),
        MetricEvent("loss", 0.5),
        MetricEvent("epoch", 3.0),
        ResultEvent(0, b"\x01\x02"),
        Done(700, 96, 12345, 1, 1),
    ]
    sent = {"t": "run", "s": 1, "j": "infer", "n": "samples", "c": 2, "w": 3, "r": 4, "f": PROFILE_LAYERS, "q": 5000}
    assert device.executed == [{**sent, "lanes": 8}]


def test_the_marker_line_is_left_silent_on_request() -> None:
    device = Device([DONE])
    list(opened(device).run(Job("infer", b"", 1, marker_line=False)))
    assert device.executed[0]["f"] == SILENT_MARKER


@given(st.integers(1, 4), fates, fates)
def test_what_a_job_yields_is_right_as_far_as_it_goes(
    credits: int, outward: list[Fate], homeward: list[Fate]
) -> None:
    device = Device([event(0), event(1), DONE], cr=credits)
    session = opened(device)
    device.to_device.fates, device.to_host.fates = iter(outward), iter(homeward)
    got: list[Event] = []
    try:
        for one in session.run(job(), silence_s=0.0):
            got.append(one)
    except LabError:
        assert got == EVENTS[: len(got)]
    else:
        assert got == [*EVENTS, Done(700, 96, 12345, 2, 0)]
    assert [message["t"] for message in device.executed] in ([], ["run"])


def test_a_lost_acknowledgement_of_a_job_that_reports() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    device.to_host.fates = iter(["drop"])
    assert list(session.run(job()))[:-1] == EVENTS
    session.put("samples", b"next")
    assert device.blobs["samples"] == b"next"


def test_a_gap_names_the_numbers() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    device.to_host.fates = iter(["pass", "pass", "damage"])
    said = r"lost 1 frame\(s\): expected number 2, got 3 \('done'\); 1 damaged"
    with pytest.raises(TransportError, match=said) as lost:
        list(session.run(job()))
    assert lost.value.transient, "the line's fault: worth another try"
    assert session.garbage_bytes > 0


def test_a_gap_without_any_damage_is_the_devices() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    device.to_host.fates = iter(["pass", "pass", "drop"])
    with pytest.raises(ProtocolError, match=r"lost 1 frame\(s\): expected number 2, got 3 \('done'\); 0 damaged"):
        list(session.run(job()))


def test_damage_from_before_the_hello_says_nothing_of_a_gap() -> None:
    device = Device([event(0), event(1), DONE])
    device._outgoing = b"the boot loader says hello\0"
    session = opened(device)
    assert session.garbage_bytes > 0
    device.to_host.fates = iter(["pass", "pass", "drop"])
    with pytest.raises(ProtocolError, match="lost 1 frame"):
        list(session.run(job()))


def test_frames_sent_twice_are_counted_and_dropped() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    device.to_host.fates = iter(["pass", "repeat", "repeat"])
    assert list(session.run(job()))[:-1] == EVENTS
    assert session.repeated_frames == 2


def test_a_restart_in_the_middle_of_a_session() -> None:
    device = Device([event(0)])
    session = opened(device)
    events = session.run(job())
    assert next(events) == EVENTS[0]
    device.restart()
    with pytest.raises(ProtocolError, match="restarted by itself"):
        next(events)
    with pytest.raises(ProtocolError):
        session.put("samples", b"")
    session.open(1.0)
    session.put("samples", b"again")
    assert device.blobs["samples"] == b"again"


def test_a_silent_job_is_a_hang() -> None:
    session = opened(Device([event(0)]))
    with pytest.raises(Hang, match="'infer' sent nothing for 0 s"):
        list(session.run(job(), silence_s=0.0))


def test_a_job_behind_a_line_that_says_anything_but_frames_is_the_lines_failure() -> None:
    device = Device([event(0)])
    events = opened(device).run(job(), silence_s=0.0)
    next(events)
    device._outgoing += b"U" * (2 * MTU + 1)
    with pytest.raises(TransportError, match=rf"but noise: 0 damaged frame\(s\), then {2 * MTU + 1} bytes") as stuck:
        next(events)
    assert stuck.value.transient


def test_a_last_frame_that_the_line_damages_is_the_lines_failure() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    device.to_host.fates = iter(["pass", "pass", "pass", "damage"])
    with pytest.raises(TransportError, match=r"sent nothing for 0 s but noise: 1 damaged"):
        list(session.run(job(), silence_s=0.0))


def test_a_frame_that_is_answered_with_noise_only_is_the_lines_failure() -> None:
    device = Device()
    session = opened(device)
    device.to_host.fates = itertools.repeat("damage")
    with pytest.raises(TransportError, match=r"not acknowledged in 8 tries of 0\.0 s but noise"):
        session.put("samples", b"data")


def test_a_device_that_hangs_in_the_middle_of_a_frame_hangs() -> None:
    device = Device([event(0)])
    events = opened(device).run(job(), silence_s=0.0)
    next(events)
    device._outgoing += frame(event(1))[:-3]
    with pytest.raises(Hang, match="sent nothing"):
        next(events)


def test_frames_of_an_abandoned_job_never_reach_the_next_one() -> None:
    device = Device([event(0), event(1), DONE])
    session = opened(device)
    next(session.run(job()))
    assert session.unfinished_job == "infer"
    for use in (lambda: session.put("samples", b""), lambda: next(session.run(job("other")))):
        with pytest.raises(ProtocolError, match="'infer' was not followed to its end"):
            use()
    session.open(1.0)
    assert list(session.run(job()))[:-1] == EVENTS
    assert session.unfinished_job == ""


def test_reset_and_open_again_even_if_all_comes_in_one_piece() -> None:
    device = Device()
    session = opened(device)
    session.put("samples", b"abc")
    session.reset()
    device.to_device.fates = iter(["drop"] * 9)
    assert session.open(1.0, ask=False).board == "model-board"
    device.to_device.fates = iter(())
    session.put("samples", b"def")
    assert device.blobs["samples"] == b"def"


def test_a_frame_without_a_number() -> None:
    device = Device()
    session = opened(device)
    device.send({"t": "log", "m": "hello"})
    with pytest.raises(ProtocolError, match="'log' carries no sequence number"):
        session.put("samples", b"")


# ---- what a device reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "expected"), [("crash", Crash), ("overflow", OutOfMemory)])
def test_a_fault_carries_the_stack_and_may_follow_a_gap(code: str, expected: type[DeviceError]) -> None:
    """A fault cuts off the frame that is being sent: its number is never seen, which must not hide the fault."""
    pieces = [
        {"t": "stack", "s": 3, "a": 0x20000100, "d": b"abcd"},
        {"t": "stack", "s": 5, "a": 0x20000104, "d": b"efgh"},
    ]
    fault = {"t": "error", "s": 7, "c": code, "p": "fault", "m": "fault", "g": {"sp": 0x20000100}, "r": "", "y": 316}
    device = Device([event(0), *pieces, fault])
    with pytest.raises(expected) as error:
        list(opened(device).run(job()))
    report = error.value.report
    assert report.memory == ((0x20000100, b"abcd"), (0x20000104, b"efgh"))
    assert report.stack_high_water_bytes == 316
    assert report.registers == {"sp": 0x20000100}


def test_a_device_that_crashes_before_its_hello_says_so() -> None:
    """It resets after each crash and comes back to it; the last one counts, with its own stack only."""
    device = Device()
    device.deaf = True
    for number in range(3):
        piece = {"t": "stack", "s": 0, "a": 0x20000100, "d": bytes([number])}
        fault = {"t": "error", "s": 1, "c": "crash", "p": "fault", "m": "fault", "g": {"pc": number}, "r": ""}
        device.send(piece)
        device.send(fault)
    with pytest.raises(Crash) as error:
        Session(device).open(0.2)
    assert error.value.report.registers == {"pc": 2}
    assert error.value.report.memory == ((0x20000100, b"\x02"),)


def test_a_fault_left_over_from_before_the_hello_is_none_of_the_new_session() -> None:
    device = Device()
    device.send({"t": "stack", "s": 4, "a": 0x20000100, "d": b"old"})
    device.send({"t": "error", "s": 5, "c": "crash", "p": "fault", "m": "fault", "g": {"pc": 1}, "r": ""})
    opened(device).put("samples", b"the session goes on")
    assert device.blobs["samples"] == b"the session goes on"


def test_a_device_that_crashes_at_every_start_is_not_waited_for() -> None:
    device = Device()
    device.deaf = True
    for _ in range(3):
        device.send({"t": "error", "s": 0, "c": "crash", "p": "fault", "m": "fault", "g": {"pc": 1}, "r": ""})
    with pytest.raises(Crash):
        Session(device).open(3600.0, ask=False)


def test_an_error_that_is_no_fault_may_not_follow_a_gap() -> None:
    device = Device([{"t": "error", "s": 2, "c": "input", "p": "infer", "m": "no"}])
    with pytest.raises(ProtocolError, match="lost 1 frame"):
        list(opened(device).run(job()))


# ---- what a user asks ---------------------------------------------------------------------------------------------


def test_parameters_may_not_hide_the_protocols_own_keys() -> None:
    device = Device([DONE])
    with pytest.raises(ConfigError, match="parameters c, t have names"):
        list(opened(device).run(job(parameters={"t": 1, "c": 2, "lanes": 3})))
    assert device.executed == []


def test_a_job_with_too_many_parameters_is_refused_before_it_is_sent() -> None:
    device = Device([DONE])
    with pytest.raises(ProtocolError, match=r"a 'run' message of \d+ bytes; model-board takes 128"):
        list(opened(device).run(job(parameters={f"parameter_{n}": n for n in range(10)})))
    assert device.executed == []


# ---- a line that breaks -------------------------------------------------------------------------------------------


@dataclass
class Grave:
    """Asked whether the peer is alive; says it is dead from the third time on."""

    asked: int = field(default=0)

    def __call__(self) -> None:
        self.asked += 1
        if self.asked > 2:
            raise EmulatorError("QEMU died")


def broken(*_: object) -> bytes:
    raise TransportError("the line broke")


@pytest.mark.parametrize("method", ["read", "write"])
def test_the_death_notice_of_the_peer_comes_first(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    device = Device()
    session = Session(device, board_is_alive=Grave())
    session.open(1.0)
    setattr(device, method, broken)
    with pytest.raises(EmulatorError, match="QEMU died"):
        session.put("samples", b"abc")


@pytest.mark.parametrize("method", ["read", "write"])
def test_a_broken_line_to_a_peer_that_lives(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    device = Device()
    session = opened(device)
    setattr(device, method, broken)
    with pytest.raises(TransportError, match="the line broke"):
        session.put("samples", b"abc")


def test_a_peer_that_dies_while_we_wait() -> None:
    device = Device([event(0)])
    alive: list[Callable[[], None]] = [lambda: None]
    session = Session(device, board_is_alive=lambda: alive[0]())
    session.open(1.0)
    events = session.run(job())
    assert next(events) == EVENTS[0]
    alive[0] = Grave(asked=2)
    with pytest.raises(EmulatorError, match="QEMU died"):
        next(events)
