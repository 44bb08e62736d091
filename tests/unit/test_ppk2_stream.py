"""The PPK2 stream decoder against a scalar reading of the documented word, and its accounting of damage."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError
from lab.power.base import SampleBlock, join
from lab.power.ppk2_stream import Calibration, StreamDecoder, StreamReport

VOLTAGE_V = 3.3
ROWS = {
    "R": [1001.0, 99.0, 10.4, 0.97, 0.051],
    "GS": [0.1, 111.0, 18.0, 2.4, 0.07],
    "GI": [0.99, 0.97, 0.96, 0.95, 0.94],
    "O": [110.0, 80.0, 70.0, 60.0, 90.0],
    "S": [4e-8, 6e-7, 5e-6, 6e-5, 3e-3],
    "I": [-1e-7, -1.4e-6, 3e-5, -3.7e-4, -9e-3],
    "UG": [1.0, 1.01, 0.99, 1.02, 1.0],
}


def text(**changes: str) -> str:
    """Metadata of a calibrated meter; a change to ``""`` leaves the line out."""
    lines = {"Calibrated": "1", "HW": "9173", "mode": "2", "VDD": "3300", "IA": "56"}
    lines |= {f"{name}{k}": repr(value) for name, row in ROWS.items() for k, value in enumerate(row)}
    lines |= changes
    return "".join(f"{key}: {value}\n" for key, value in lines.items() if value) + "END\n"


TABLE = Calibration.parse(text(), "port").currents(VOLTAGE_V)


def scalar_current(word: int) -> float:
    """Nordic's formula, one word at a time."""
    rg = (word >> 14) & 7
    if rg > 4:
        return math.nan
    adc = (word & 0x3FFF) * 4
    r = (adc - ROWS["O"][rg]) * (1.8 / 163840) / ROWS["R"][rg]
    offset = ROWS["S"][rg] * VOLTAGE_V + ROWS["I"][rg]
    return ROWS["UG"][rg] * (r * (ROWS["GS"][rg] * r + ROWS["GI"][rg]) + offset)


def make_words(count: int, *, seed: int = 0, counter: int = 0) -> list[int]:
    """Valid words with random readings, all below full scale and 1 A."""
    draw = random.Random(seed)
    return [
        draw.randrange(0x1000) | draw.randrange(4) << 14 | (counter + k) % 64 << 18 | draw.randrange(256) << 24
        for k in range(count)
    ]


def to_bytes(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def decode(data: bytes, cuts: list[int] | None = None) -> tuple[SampleBlock, StreamReport]:
    decoder = StreamDecoder(TABLE)
    edges = [0, *sorted(cuts or []), len(data)]
    blocks = [decoder.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    return join([*blocks, decoder.finish()]), decoder.report


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 300), st.integers(0, 1000), st.integers(0, 63))
def test_clean_stream_equals_the_scalar_formula(count: int, seed: int, counter: int) -> None:
    words = make_words(count, seed=seed, counter=counter)
    block, report = decode(to_bytes(words))
    assert block.current_a == pytest.approx([scalar_current(word) for word in words], rel=1e-6, abs=1e-12)
    assert block.logic.tolist() == [word >> 24 for word in words]
    assert (report.samples, report.lost, report.corrupted, report.misaligned) == (count, 0, 0, 0)
    assert sum(report.in_range) == count


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_any_chunking_gives_the_same_samples_even_of_a_damaged_stream(data: st.DataObject, seed: int) -> None:
    words = make_words(200, seed=seed)
    stream = bytearray(to_bytes(words))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        match data.draw(st.sampled_from(["flip", "remove", "insert"])):
            case "flip":
                stream[place] ^= 1 << data.draw(st.integers(0, 7))
            case "remove":
                del stream[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                stream[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    whole, whole_report = decode(bytes(stream))
    cut, cut_report = decode(bytes(stream), cuts)
    assert np.array_equal(whole.current_a, cut.current_a, equal_nan=True)
    assert np.array_equal(whole.logic, cut.logic)
    assert whole_report == cut_report


def test_one_byte_at_a_time() -> None:
    stream = to_bytes(make_words(80))
    whole, _ = decode(stream)
    cut, _ = decode(stream, list(range(len(stream))))
    assert np.array_equal(whole.current_a, cut.current_a)


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 100), st.integers(1, 200), st.integers(0, 50))
def test_dropped_samples_are_counted_exactly_but_for_multiples_of_64(at: int, dropped: int, seed: int) -> None:
    words = make_words(400, seed=seed)
    block, report = decode(to_bytes(words[:at] + words[at + dropped :]))
    visible = dropped % 64
    assert block.lost == report.lost == visible
    assert report.samples == 400 - dropped + visible
    assert np.all(np.isnan(block.current_a[at : at + visible]))
    assert not block.logic[at : at + visible].any()
    after = [scalar_current(word) for word in words[at + dropped :]]
    assert block.current_a[at + visible :] == pytest.approx(after, rel=1e-6, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(10, 150), st.integers(1, 3), st.integers(0, 50))
def test_lost_bytes_cost_at_most_two_samples_and_the_numbering_stays(at: int, size: int, seed: int) -> None:
    words = make_words(300, seed=seed)
    stream = bytearray(to_bytes(words))
    del stream[4 * at + 1 : 4 * at + 1 + size]
    block, report = decode(bytes(stream))
    assert report.samples == 300
    assert report.misaligned == 1
    assert 1 <= report.lost <= 2
    good = ~np.isnan(block.current_a)
    expected = np.array([scalar_current(word) for word in words])
    # A byte can be lost such that the pieces happen to carry the right counter: that word alone may be wrong.
    good[at] = False
    assert block.current_a[good] == pytest.approx(expected[good], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_stream_that_begins_inside_a_word_is_aligned_on_the_counter(offset: int) -> None:
    words = make_words(100)
    block, report = decode(to_bytes(words)[offset:])
    assert report.misaligned == 1
    assert block.lost == 0
    assert block.current_a == pytest.approx([scalar_current(word) for word in words[1:]], rel=1e-6, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 19), max_size=6), st.integers(0, 50))
def test_corrupted_words_are_counted_and_nothing_else_is_lost(places: set[int], seed: int) -> None:
    words = make_words(300, seed=seed)
    stream = list(words)
    for place in places:
        stream[place * 13] ^= 0x00500000
    block, report = decode(to_bytes(stream))
    assert report.samples == 300
    assert report.lost == report.corrupted == len(places)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == sorted(place * 13 for place in places)


def test_a_range_that_does_not_exist_is_a_corrupted_word() -> None:
    words = make_words(50)
    words[20] |= 7 << 14
    block, report = decode(to_bytes(words))
    assert math.isnan(block.current_a[20])
    assert block.logic[20] == 0
    assert (report.lost, report.corrupted) == (1, 1)


def test_a_word_sent_twice_is_taken_once() -> None:
    words = make_words(60)
    block, report = decode(to_bytes([*words[:30], words[29], *words[30:]]))
    assert report.duplicated == 1
    assert report.lost == 0
    assert block.current_a == pytest.approx([scalar_current(word) for word in words], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("field", [0x3FFF, 0x3FFE])
def test_full_scale_is_saturated(field: int) -> None:
    words = make_words(40)
    words[7] = words[7] & ~0x1FFFF | 2 << 14 | field
    block, report = decode(to_bytes(words))
    assert block.saturated == report.saturated == (field == 0x3FFF)


def test_more_than_one_ampere_is_saturated() -> None:
    words = make_words(40)
    words[7] = words[7] & ~0x1FFFF | 4 << 14 | 4000
    assert scalar_current(words[7]) > 1.0
    assert decode(to_bytes(words))[0].saturated == 1


def test_a_loss_just_before_the_end_is_seen() -> None:
    words = make_words(100)
    block, report = decode(to_bytes(words[:90] + words[93:96]))
    assert (report.samples, block.lost) == (96, 3)


def test_garbage_at_the_end_is_lost_not_measured() -> None:
    words = make_words(60)
    block, report = decode(to_bytes(words) + bytes(12))
    assert block.current_a[:60] == pytest.approx([scalar_current(word) for word in words], rel=1e-6, abs=1e-12)
    assert np.all(np.isnan(block.current_a[60:]))
    assert report.corrupted == report.lost == 3


def test_blocks_number_their_samples() -> None:
    words = make_words(100)
    decoder = StreamDecoder(TABLE)
    first = decoder.feed(to_bytes(words[:40]))
    second = decoder.feed(to_bytes(words[42:]))
    assert first.first == 0
    assert second.first == first.current_a.size
    assert second.lost == 2
    with pytest.raises(MeterError, match="begins at sample"):
        join([second, first])


def test_calibration_is_read() -> None:
    calibration = Calibration.parse(text(), "port")
    assert calibration.calibrated
    assert calibration.hardware == "9173"
    assert calibration.replaced == ()
    assert {name: list(row) for name, row in calibration.constants.items()} == ROWS


@pytest.mark.parametrize("end", range(0, 390, 31))
def test_cut_calibration_is_an_error(end: int) -> None:
    with pytest.raises(MeterError, match=r"port: .* cut off"):
        Calibration.parse(text()[:end], "port")


@pytest.mark.parametrize("key", [f"{name}{k}" for name in ROWS for k in range(5)])
def test_calibrated_meter_must_give_every_value(key: str) -> None:
    with pytest.raises(MeterError, match=f"no {key}"):
        Calibration.parse(text(**{key: ""}), "port")


def test_uncalibrated_meter_gets_nominal_values_and_it_is_said() -> None:
    calibration = Calibration.parse(text(Calibrated="0", R3="", GI1="nan"), "port")
    assert not calibration.calibrated
    assert calibration.replaced == ("R3", "GI1")
    assert calibration.constants["R"][3] == 0.94
    assert calibration.constants["R"][2] == ROWS["R"][2]


@pytest.mark.parametrize(("key", "value"), [("R1", "nan"), ("R1", "-nan"), ("R1", "0"), ("R1", "0.000")])
def test_nan_and_zero_resistance_are_replaced_and_it_is_said(key: str, value: str) -> None:
    calibration = Calibration.parse(text(**{key: value}), "port")
    assert calibration.replaced == (key,)
    assert calibration.constants["R"][1] == 101.65


def test_a_value_that_is_no_number_is_an_error() -> None:
    with pytest.raises(MeterError, match="R2 is 'ten'"):
        Calibration.parse(text(R2="ten"), "port")


def test_report_adds_up_over_blocks() -> None:
    words = make_words(500)
    block, report = decode(to_bytes(words[:100] + words[107:]), [77, 401, 402, 900])
    assert report == dataclasses.replace(StreamReport(), samples=500, lost=7, in_range=report.in_range)
    assert sum(report.in_range) + block.lost == 500
