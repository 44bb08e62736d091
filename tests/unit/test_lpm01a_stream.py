"""The LPM01A's two formats against values worked out by hand, and what is damaged in them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.power.base import SampleBlock, join
from lab.power.lpm01a_stream import AsciiDecoder, BinaryDecoder, Lpm01aReport, Timeline

RATE = 100


def ascii_stamp(seconds: int, buffer: int = 3) -> bytes:
    return b"TimeStamp: %03ds 000ms, buff %02d%%\r\n\x00" % (seconds, buffer)


def binary_stamp(seconds: int, buffer: int = 3) -> bytes:
    return b"\xf0\xf3" + (seconds * 1000).to_bytes(4, "big") + bytes([buffer]) + b"\xff\xff"


def line(value: int, exponent: int = -7) -> bytes:
    return b"%04d%+03d\r\n" % (value, exponent)


def word(mantissa: int, exponent: int = 5) -> bytes:
    return (exponent << 12 | mantissa).to_bytes(2, "big")


def decode(
    binary: bool, data: bytes, *, pulses: bool = False, ampere_per_unit: float = 1.0
) -> tuple[SampleBlock, Lpm01aReport]:
    timeline = Timeline(RATE, ampere_per_unit, pulses)
    decoder = BinaryDecoder(timeline) if binary else AsciiDecoder(timeline)
    decoder.feed(data)
    decoder.finish()
    return join(timeline.take()), timeline.report


# The two examples of ST's help text, and values of other exponents worked out by hand.
@pytest.mark.parametrize(
    ("text", "ampere"),
    [(b"6409-07", 640.9e-6), (b"1000-05", 10e-3), (b"4999-05", 49.99e-3), (b"2000-10", 200e-9), (b"0000-00", 0.0)],
)
def test_ascii_values(text: bytes, ampere: float) -> None:
    block, _ = decode(False, ascii_stamp(0) + text + b"\r\n")
    assert block.current_a.tolist() == [pytest.approx(ampere, rel=1e-6)]


@pytest.mark.parametrize(
    ("data", "ampere"),
    [
        ("52A0", 640.8691e-6),  # 0x2A0 = 672; 672 / 16**5 = 672 / 1048576
        ("4CCC", 3276 / 65536),
        ("8001", 16.0**-8),
        ("3010", 16 / 4096),
        ("0000", 0.0),
    ],
)
def test_binary_values(data: str, ampere: float) -> None:
    block, _ = decode(True, binary_stamp(0) + bytes.fromhex(data))
    assert block.current_a.tolist() == [pytest.approx(ampere, rel=1e-6)]


def test_energy_becomes_current_by_rate_and_voltage() -> None:
    # 33 µJ in 10 ms at 3.3 V are 1 mA.
    block, _ = decode(False, ascii_stamp(0) + b"3300-08\r\n", ampere_per_unit=RATE / 3.3)
    assert block.current_a.tolist() == [pytest.approx(1e-3, rel=1e-6)]


def second(binary: bool, values: list[int]) -> bytes:
    return b"".join(word(value) if binary else line(value) for value in values)


def whole(binary: bool, count: int) -> tuple[list[int], bytes]:
    """A stream without damage of ``count`` whole seconds, and its values."""
    draw = random.Random(count)
    stamp = binary_stamp if binary else ascii_stamp
    values = [draw.randrange(1000, 4096) for _ in range(count * RATE)]
    data = stamp(0)
    for k in range(count):
        data += second(binary, values[k * RATE : (k + 1) * RATE]) + stamp(k + 1)
    return values, data


def ampere(binary: bool, values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values) * (16.0**-5 if binary else 1e-7)


@pytest.mark.parametrize("binary", [False, True])
def test_a_whole_stream(binary: bool) -> None:
    values, data = whole(binary, 3)
    block, report = decode(binary, data)
    assert block.current_a == pytest.approx(ampere(binary, values), rel=1e-6)
    assert report == Lpm01aReport(samples=300, buffer_percent=3)


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_the_result_does_not_depend_on_where_bytes_are_cut(binary: bool, sizes: list[int]) -> None:
    _, data = whole(binary, 2)
    data += b"\xf0\xf2event 0 ris\xff\xff" + word(1000) * 3 if binary else b"event 0 ris\r\n" + line(1000) * 3
    at_once = decode(binary, data)
    timeline = Timeline(RATE)
    decoder = BinaryDecoder(timeline) if binary else AsciiDecoder(timeline)
    at = 0
    for size in sizes:
        decoder.feed(data[at : at + size])
        at += size
    decoder.feed(data[at:])
    decoder.finish()
    block = join(timeline.take())
    assert np.array_equal(block.current_a, at_once[0].current_a, equal_nan=True)
    assert np.array_equal(block.logic, at_once[0].logic)
    assert timeline.report == at_once[1]


def test_samples_wait_for_the_time_stamp_behind_them() -> None:
    timeline = Timeline(RATE)
    decoder = AsciiDecoder(timeline)
    decoder.feed(ascii_stamp(0) + second(False, [1000] * RATE))
    assert timeline.take() == []
    decoder.feed(ascii_stamp(1))
    assert [block.current_a.size for block in timeline.take()] == [RATE]


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.sets(st.integers(0, 99), min_size=1, max_size=20))
def test_dropped_samples_are_counted_and_later_seconds_stay_in_place(binary: bool, dropped: set[int]) -> None:
    values, _ = whole(binary, 2)
    stamp = binary_stamp if binary else ascii_stamp
    kept = [value for k, value in enumerate(values[:RATE]) if k not in dropped]
    data = stamp(0) + second(binary, kept) + stamp(1) + second(binary, values[RATE:]) + stamp(2)
    block, report = decode(binary, data)
    assert report.lost == block.lost == len(dropped) == int(np.count_nonzero(np.isnan(block.current_a)))
    assert block.current_a.size == 2 * RATE
    assert block.current_a[RATE:] == pytest.approx(ampere(binary, values[RATE:]), rel=1e-6)
    assert block.current_a[: len(kept)] == pytest.approx(ampere(binary, kept), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.sets(st.integers(0, 99), min_size=1, max_size=20))
def test_repeated_samples_are_left_out_and_count_as_lost(binary: bool, repeated: set[int]) -> None:
    values, _ = whole(binary, 2)
    stamp = binary_stamp if binary else ascii_stamp
    sent = [value for k, value in enumerate(values[:RATE]) for _ in range(2 if k in repeated else 1)]
    data = stamp(0) + second(binary, sent) + stamp(1) + second(binary, values[RATE:]) + stamp(2)
    block, report = decode(binary, data)
    assert report.surplus == report.lost == block.lost == len(repeated)
    assert block.current_a[RATE:] == pytest.approx(ampere(binary, values[RATE:]), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(0, 1))
def test_a_lost_byte_of_the_binary_format_spoils_its_second_and_no_other(at: int, half: int) -> None:
    """Behind it words are read from their middles: nothing of that second may be believed."""
    values, _ = whole(True, 3)
    middle = bytearray(second(True, values[RATE : 2 * RATE]))
    del middle[2 * at + half]
    parts = [second(True, values[:RATE]), bytes(middle), second(True, values[2 * RATE :])]
    data = binary_stamp(0) + b"".join(part + binary_stamp(k + 1) for k, part in enumerate(parts))
    block, report = decode(True, data)
    assert report.misaligned == 1
    assert np.isnan(block.current_a).tolist() == [False] * RATE + [True] * RATE + [False] * RATE
    assert block.current_a[2 * RATE :] == pytest.approx(ampere(True, values[2 * RATE :]), rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_a_wrong_byte_is_seen_or_harms_one_value(binary: bool, where: int, flip: int, lose: bool) -> None:
    """No damage of a byte goes further than one value without being told of."""
    values, data = whole(binary, 3)
    right = ampere(binary, values)
    damaged = bytearray(data)
    at = where % len(damaged)
    if lose:
        del damaged[at]
    else:
        damaged[at] ^= flip
    block, report = decode(binary, bytes(damaged))
    current = block.current_a[: right.size]
    same = np.isclose(current, right[: current.size], rtol=1e-5, atol=0)
    wrong = int(np.count_nonzero(~same & ~np.isnan(current)))
    told = report.lost + report.corrupted + report.surplus + report.misaligned + report.bad_time_stamps
    told += report.overcurrent + len(report.errors) + report.edges + int(report.ended)
    assert wrong <= 1 or told > 0
    assert current.size == right.size or told > 0 or abs(current.size - right.size) <= 1


def test_a_value_that_cannot_be_is_lost() -> None:
    # 0x1A0·16**-1 is 26 A; 6409-01 is 641 A; a line of letters is no value.
    block, report = decode(True, binary_stamp(0) + word(1000) + word(0x1A0, 1) + b"\xf7\x00" + word(1000))
    assert np.isnan(block.current_a).tolist() == [False, True, True, False]
    assert report.corrupted == 2
    block, report = decode(False, ascii_stamp(0) + line(1000) + line(6409, -1) + b"64?9-07\r\n" + line(1000))
    assert np.isnan(block.current_a).tolist() == [False, True, True, False]
    assert report.corrupted == 2


@pytest.mark.parametrize("binary", [False, True])
def test_edges_become_levels_of_the_logic_input(binary: bool) -> None:
    def event(number: int, edge: bytes) -> bytes:
        text = b"event %d %s" % (number, edge)
        return b"\xf0\xf2" + text + b"\xff\xff" if binary else text + b"\r\n"

    stamp = binary_stamp if binary else ascii_stamp
    data = stamp(0) + second(binary, [1000] * 40) + event(0, b"ris") + second(binary, [1000] * 50)
    data += event(1, b"fal") + second(binary, [1000] * 10) + stamp(1) + event(2, b"ris") + second(binary, [1000] * 5)
    block, report = decode(binary, data)
    assert block.logic.tolist() == [0] * 40 + [1] * 50 + [0] * 10 + [1] * 5
    assert (report.edges, report.missing_edges) == (3, 0)


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        ([(0, "ris"), (1, "fal"), (2, "ris")], 0),
        ([(0, "ris"), (2, "ris")], 1),
        ([(0, "ris"), (1, "ris")], 1),
        ([(3, "ris"), (9, "fal")], 5),
    ],
)
def test_missing_edges_are_counted(events: list[tuple[int, str]], missing: int) -> None:
    data = ascii_stamp(0) + b"".join(f"event {n} {edge}\r\n".encode() + line(1000) for n, edge in events)
    _, report = decode(False, data)
    assert (report.edges, report.missing_edges) == (len(events), missing)


def test_pulses_turn_the_level_over() -> None:
    """MLPerf Tiny's time stamp pin falls at the begin and falls again at the end."""
    events = [b"event 0 ris\r\n" + line(1000) * 3, b"event 1 ris\r\n" + line(1000) * 2]
    block, report = decode(False, ascii_stamp(0) + line(1000) + b"".join(events), pulses=True)
    assert block.logic.tolist() == [0, 1, 1, 1, 0, 0]
    assert report.missing_edges == 0


@pytest.mark.parametrize("binary", [False, True])
def test_saturation_and_overcurrent_are_reported(binary: bool) -> None:
    full = word(3277, 4) if binary else line(5000, -5)
    stamp = binary_stamp if binary else ascii_stamp
    over = b"\xf0\xf5\xff\xff" if binary else b"error: overcurrent\r\n"
    block, report = decode(binary, stamp(0) + second(binary, [1000]) + full + full + over + second(binary, [1000]))
    assert (block.saturated, report.saturated, report.overcurrent) == (2, 2, 1)
    block, report = decode(binary, stamp(0) + second(binary, [1000]) + over + second(binary, [1000]))
    assert (block.saturated, report.overcurrent) == (1, 1)


def test_texts_of_the_board() -> None:
    text = b"\xf0\xf1calibration needed\xff\xff\xf0\xf2hello\xff\xff\xf0\xf7\x0c\xe4\xff\xff\xf0\xf8\x01\xff\xff"
    block, report = decode(True, binary_stamp(0, 40) + word(1000) + text + word(1001))
    assert report.errors == ("calibration needed",)
    assert report.buffer_percent == 40
    assert block.current_a.size == 2
    _, report = decode(False, ascii_stamp(0) + line(1000) + b"Error: temperature too high\r\n")
    assert report.errors == ("Error: temperature too high",)


@pytest.mark.parametrize("binary", [False, True])
def test_what_comes_behind_the_end_is_no_data(binary: bool) -> None:
    end = b"\xf0\xf4\xff\xff" if binary else b"end\r\n"
    stamp = binary_stamp if binary else ascii_stamp
    tail = b"summary beg\r\n1234-05\r\nsummary end\r\nPowerShield > Acquisition completed\r\n"
    block, report = decode(binary, stamp(0) + second(binary, [1000] * 3) + end + tail)
    assert report.ended
    assert block.current_a.size == 3


def test_nothing_before_the_first_binary_time_stamp_is_data() -> None:
    block, _ = decode(True, b"\r\nPowerShield > ack start\r\n\r\n" + binary_stamp(0) + word(1000))
    assert block.current_a.size == 1


def test_a_time_stamp_that_cannot_be_is_told_and_not_believed() -> None:
    data = ascii_stamp(0) + second(False, [1000] * RATE) + ascii_stamp(1) + second(False, [1000] * RATE)
    _, report = decode(False, data + ascii_stamp(900) + ascii_stamp(2))
    assert (report.bad_time_stamps, report.lost, report.samples) == (1, 0, 2 * RATE)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.binary(max_size=400))
def test_garbage_never_ends_the_decoder(binary: bool, data: bytes) -> None:
    block, report = decode(binary, (binary_stamp(0) if binary else ascii_stamp(0)) + data)
    assert report.samples == block.current_a.size
    assert report.lost == int(np.count_nonzero(np.isnan(block.current_a)))
    with np.errstate(invalid="ignore"):
        assert not np.any(block.current_a > 55e-3)
        assert not np.any(block.current_a < 0)


def test_no_sample_is_made_up_of_a_text() -> None:
    block, _ = decode(False, ascii_stamp(0) + b"hello\r\n")
    assert [math.isnan(value) for value in block.current_a] == [True]
