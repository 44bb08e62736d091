"""Frames of docs/wire.md, host side, against cobs, zlib and cbor2 used independently."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import cbor2
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from lab.wire_frames import LONGEST_FRAME, FrameDecoder, decode_frame, encode_frame
from lab.wire_messages import Value

Messages = list[dict[str, Value]]

keys = st.text(max_size=6)
numbers = st.integers(min_value=0, max_value=2**64 - 1)
texts = st.text(max_size=40) | st.binary(max_size=600)
scalars = numbers | texts | st.booleans() | st.none() | st.floats(allow_nan=False)
messages = st.dictionaries(keys, scalars | st.dictionaries(keys, numbers, max_size=4), max_size=8)


def decode_independently(frame: bytes) -> object:
    """Section "Frames" of docs/wire.md, word by word."""
    assert frame.endswith(b"\0")
    assert frame.count(b"\0") == 1
    raw = cobs.decode(frame[:-1])
    payload, check = raw[:-4], raw[-4:]
    assert int.from_bytes(check, "little") == zlib.crc32(payload)
    return cbor2.loads(payload)


def frame_around(payload: bytes) -> bytes:
    """A frame whose COBS and CRC are right, whatever the payload is."""
    encoded: bytes = cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))
    return encoded + b"\0"


def received(data: bytes) -> Messages:
    return FrameDecoder().feed(data)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@given(messages)
def test_a_frame_is_what_the_specification_says(message: dict[str, Value]) -> None:
    frame = encode_frame(message)
    assert decode_independently(frame) == message
    assert decode_frame(frame[:-1]) == message


@given(st.lists(messages, max_size=5), st.lists(st.integers(min_value=0), max_size=8))
def test_any_cutting_of_the_stream_yields_the_same_messages(sent: Messages, places: list[int]) -> None:
    decoder = FrameDecoder()
    stream = b"".join(map(encode_frame, sent))
    got = [message for chunk in cut(stream, places) for message in decoder.feed(chunk)]
    assert got == sent
    assert (decoder.garbage_frames, decoder.garbage_bytes, decoder.pending_bytes) == (0, 0, 0)


@given(messages, messages)
def test_byte_by_byte(first: dict[str, Value], second: dict[str, Value]) -> None:
    decoder = FrameDecoder()
    got = [message for byte in encode_frame(first) + encode_frame(second) for message in decoder.feed(bytes([byte]))]
    assert got == [first, second]


@given(messages, st.data())
def test_a_truncated_frame_is_no_frame(message: dict[str, Value], data: st.DataObject) -> None:
    frame = encode_frame(message)
    length = data.draw(st.integers(min_value=1, max_value=len(frame) - 2))
    decoder = FrameDecoder()
    assert decoder.feed(frame[:length]) == []
    assert decoder.pending_bytes == length
    # The frame behind it is lost with it, the one behind a flushing zero is not.
    assert decoder.feed(b"\0" + frame) == [message]
    assert (decoder.garbage_frames, decoder.garbage_bytes) == (1, length)


def test_every_single_bit_flip_is_noticed() -> None:
    """All of them, in frames with and without zeros and longer than a COBS block: CRC-32 sees every flip of one bit in
    the data; a flip in a COBS length moves a zero or cuts the frame, which the CRC sees as well."""
    sent: Messages = [
        {"t": "ack", "a": 7},
        {"t": "put", "s": 1, "n": "samples", "z": 300, "o": 0, "d": bytes(range(256)) + bytes(44)},
        {"t": "result", "s": 2, "i": 0, "d": b"\xff" * 600},
    ]
    for message in sent:
        frame = encode_frame(message)
        for place in range(8 * (len(frame) - 1)):
            damaged = bytearray(frame)
            damaged[place // 8] ^= 1 << place % 8
            assert received(bytes(damaged)) == [], place


@given(messages, st.lists(st.integers(min_value=0), min_size=1, max_size=20, unique=True))
def test_flipped_bits_never_make_another_message(message: dict[str, Value], places: list[int]) -> None:
    """Up to three flips in data bytes are always seen (CRC-32 has Hamming distance 4 up to 11 kB); more than that, and
    flips in COBS lengths, pass with probability 2^-32. Another encoding of the very same message is no harm."""
    frame = bytearray(encode_frame(message))
    for place in places:
        frame[place // 8 % len(frame)] ^= 1 << place % 8
    assert [got for got in received(bytes(frame) + b"\0") if got != message] == []


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=80), messages), max_size=4))
def test_garbage_between_frames_is_skipped_and_counted(pairs: list[tuple[bytes, dict[str, Value]]]) -> None:
    stream, frames, size = b"", 0, 0
    for noise, message in pairs:
        stream += noise + b"\0" + encode_frame(message)
        pieces = [piece for piece in noise.split(b"\0") if piece]
        frames += len(pieces)
        size += sum(map(len, pieces))
    decoder = FrameDecoder()
    assert decoder.feed(stream) == [message for _, message in pairs]
    assert (decoder.garbage_frames, decoder.garbage_bytes) == (frames, size)


@given(st.integers(min_value=0, max_value=50), messages)
def test_zeros_between_frames_are_nothing(zeros: int, message: dict[str, Value]) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(bytes(zeros) + encode_frame(message) + bytes(zeros)) == [message]
    assert decoder.garbage_frames == 0


@given(st.binary(max_size=300))
def test_a_right_checksum_around_anything_never_raises(payload: bytes) -> None:
    """Firmware of another kind may send well-formed frames of things that are no message."""
    message = decode_frame(frame_around(payload)[:-1])
    assert message is None or cbor2.loads(payload) == message or message != message


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    assert decoder.garbage_bytes + decoder.pending_bytes <= len(data)


def test_payloads_that_are_no_map_of_text_keys_are_garbage() -> None:
    for content in ([1, 2], 7, "hello", {1: 2}, {"t": "ack", 3: 4}, None, b"bytes"):
        assert decode_frame(frame_around(cbor2.dumps(content))[:-1]) is None
    two_items = cbor2.dumps({"t": "ack"}) + cbor2.dumps({"t": "ack"})
    assert decode_frame(frame_around(two_items)[:-1]) is None
    assert decode_frame(frame_around(b"\x81" * 5000)[:-1]) is None, "nested too deep"
    assert decode_frame(frame_around(b"\xc0\x01")[:-1]) is None, "a date that is none"
    assert decode_frame(b"\x01") is None
    assert decode_frame(b"") is None


@given(st.lists(st.integers(min_value=0), max_size=6))
def test_a_line_without_zeros_fills_no_memory_and_counts_once(places: list[int]) -> None:
    noise = b"\x55" * (LONGEST_FRAME + 1000)
    message: dict[str, Value] = {"t": "ack", "a": 1}
    decoder = FrameDecoder()
    got = []
    for chunk in cut(noise + encode_frame(message) + encode_frame(message), places):
        got += decoder.feed(chunk)
        assert decoder.pending_bytes <= LONGEST_FRAME
    # The first frame is glued to the noise.
    assert got == [message]
    assert (decoder.garbage_frames, decoder.garbage_bytes) == (1, len(noise) + len(encode_frame(message)) - 1)


@given(st.lists(st.integers(min_value=0), max_size=3))
def test_a_valid_frame_that_is_too_long_is_refused_however_it_is_cut(places: list[int]) -> None:
    frame = encode_frame({"d": b"\x11" * LONGEST_FRAME})
    decoder = FrameDecoder()
    assert [message for chunk in cut(frame, places) for message in decoder.feed(chunk)] == []
    assert (decoder.garbage_frames, decoder.garbage_bytes) == (1, len(frame) - 1)
