"""The device side of the wire: the C codec against cbor2, cobs and zlib, the whole runner as a sanitized process."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest
from cobs import cobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.runtime_files import needed_sources

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "firmware"
TINY_MODEL = ROOT / "tests" / "data" / "tiny_model"
RUNNER = FIRMWARE / "runner"
MTU = 1024
# What the build gives runners that are processes: nothing is lost in a pipe.
HOSTED_MTU, HOSTED_CREDITS = 32000, 6
SAMPLE_BYTES = 64
# The thread sanitizer needs the larger one.
STACK_BYTES = (512 * 1024, 2 * 1024 * 1024)
OFFSETS = bytes(range(8)) + bytes(56)

Message = dict[str, object]


def frame(message: Message) -> bytes:
    """A frame as docs/wire.md defines it, by other people's CBOR, CRC and COBS."""
    return enframe(cbor2.dumps(message))


def enframe(payload: bytes) -> bytes:
    return bytes(cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))) + b"\0"


def expected_output(sample: bytes) -> bytes:
    """What the tiny model computes."""
    return bytes(((value ^ 0x55) + offset) & 0xFF for value, offset in zip(sample, OFFSETS, strict=True))


# ---- the codec ----------------------------------------------------------------------------------------------------


class Receiver(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_uint8 * (MTU + 4)),
        ("length", ctypes.c_size_t),
        ("raw_bytes", ctypes.c_uint32),
        ("block", ctypes.c_uint8),
        ("zero_due", ctypes.c_bool),
        ("broken", ctypes.c_bool),
        ("garbage_frames", ctypes.c_uint32),
        ("garbage_bytes", ctypes.c_uint32),
    )


class Span(ctypes.Structure):
    _fields_ = (("bytes", ctypes.POINTER(ctypes.c_uint8)), ("length", ctypes.c_size_t))


class Writer(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.POINTER(ctypes.c_uint8)),
        ("capacity", ctypes.c_size_t),
        ("length", ctypes.c_size_t),
        ("overflow", ctypes.c_bool),
    )


class Frame(ctypes.Structure):
    _fields_ = (("payload", ctypes.c_uint8 * (MTU + 4)), ("writer", Writer), ("entries", ctypes.c_uint32))


class Codec:
    """The C codec, loaded into this process."""

    def __init__(self, library: Path) -> None:
        self.c = ctypes.CDLL(str(library))
        for name in ("wire_receive", "cbor_map_open", "cbor_get_uint", "cbor_get_text", "cbor_get_bytes"):
            getattr(self.c, name).restype = ctypes.c_bool
        self.c.crc32_update.restype = ctypes.c_uint32
        self.c.wire_finish.restype = ctypes.c_size_t
        self.c.wire_add_uint.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64)
        self.c.wire_add_float.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float)
        self.c.wire_add_bytes.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
        self.c.cbor_map_open.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        self.c.crc32_update.argtypes = (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)

    def receive(self, stream: bytes) -> tuple[list[bytes], Receiver]:
        """Payloads of the valid frames in ``stream``."""
        receiver, span, payloads = Receiver(), Span(), []
        for byte in stream:
            if self.c.wire_receive(ctypes.byref(receiver), ctypes.c_uint8(byte), ctypes.byref(span)):
                payloads.append(bytes(span.bytes[: span.length]))
        return payloads, receiver

    def opens(self, payload: bytes) -> bool:
        return bool(self.c.cbor_map_open(ctypes.byref(Span()), payload, len(payload)))

    def lookup(self, payload: bytes, key: str) -> int | bytes | str | None:
        """The value of ``key``, by whichever of the three readers accepts its type."""
        view, span, number = Span(), Span(), ctypes.c_uint64()
        assert self.c.cbor_map_open(ctypes.byref(view), payload, len(payload))
        if self.c.cbor_get_uint(ctypes.byref(view), key.encode(), ctypes.byref(number)):
            return number.value
        if self.c.cbor_get_text(ctypes.byref(view), key.encode(), ctypes.byref(span)):
            return bytes(span.bytes[: span.length]).decode()
        if self.c.cbor_get_bytes(ctypes.byref(view), key.encode(), ctypes.byref(span)):
            return bytes(span.bytes[: span.length])
        return None

    def send(self, message: dict[str, int | str | bytes | float]) -> bytes:
        """The frame of ``message``; empty if it does not fit."""
        built, encoded = Frame(), ctypes.create_string_buffer(2 * MTU)
        self.c.wire_begin(ctypes.byref(built))
        for key, value in message.items():
            at, name = ctypes.byref(built), key.encode()
            if isinstance(value, int):
                self.c.wire_add_uint(at, name, value)
            elif isinstance(value, float):
                self.c.wire_add_float(at, name, value)
            elif isinstance(value, str):
                self.c.wire_add_text(at, name, value.encode())
            else:
                self.c.wire_add_bytes(at, name, value, len(value))
        length = self.c.wire_finish(ctypes.byref(built), encoded)
        return encoded.raw[:length]


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    library = tmp_path_factory.mktemp("codec") / "libcodec.so"
    sources = [str(RUNNER / name) for name in ("wire.c", "cbor.c", "crc32.c")]
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(library)], check=True)
    return Codec(library)


keys = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=0, max_size=8)
scalars = st.one_of(
    st.integers(-(2**64), 2**64 - 1),
    st.binary(max_size=300),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))
messages = st.dictionaries(keys, values, max_size=8).filter(lambda message: len(cbor2.dumps(message)) <= MTU)


@given(st.binary(max_size=2000))
def test_crc_is_that_of_zlib(codec: Codec, data: bytes) -> None:
    assert codec.c.crc32_update(0, data, len(data)) == zlib.crc32(data)


@given(st.lists(messages, max_size=4))
def test_every_valid_frame_is_received_as_sent(codec: Codec, sent: list[Message]) -> None:
    payloads, receiver = codec.receive(b"".join(frame(message) for message in sent))
    assert [cbor2.loads(payload) for payload in payloads] == sent
    assert receiver.garbage_frames == 0


@given(messages)
def test_the_reader_finds_what_cbor2_wrote(codec: Codec, message: Message) -> None:
    payload = cbor2.dumps(message)
    for key, value in message.items():
        readable = isinstance(value, str | bytes) or (type(value) is int and 0 <= value < 2**64)
        found = codec.lookup(payload, key)
        assert found == (value if readable else None)
        assert type(found) is (type(value) if readable else type(None))


@given(st.binary(min_size=1, max_size=200))
def test_what_the_reader_accepts_cbor2_reads_as_a_map(codec: Codec, payload: bytes) -> None:
    if codec.opens(payload):
        major = payload[0] >> 5
        assert major == 5


@given(messages, st.data())
def test_a_truncated_map_is_refused(codec: Codec, message: Message, data: st.DataObject) -> None:
    payload = cbor2.dumps(message)
    cut = data.draw(st.integers(0, len(payload) - 1))
    assert not codec.opens(payload[:cut])
    assert not codec.opens(payload + b"\0")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        cbor2.dumps([1]),
        cbor2.dumps({1: 2}),
        b"\xbf\x61a\x01\xff",  # indefinite length
        b"\xa1\x61a",  # value missing
        b"\xbb" + b"\xff" * 8,  # 2^64 - 1 entries
        b"\xa1\x61a\x9b" + b"\xff" * 8,  # an array of 2^64 - 1 items
        b"\xa1\x61a\xbb\x80" + b"\0" * 7,  # twice its entries wraps to zero
        b"\xa1\x61a\x5b" + b"\xff" * 8,  # a string of 2^64 - 1 bytes
        b"\xa1\x61a\x1c",  # reserved length
    ],
)
def test_impossible_maps_are_refused(codec: Codec, payload: bytes) -> None:
    assert not codec.opens(payload)


@given(st.lists(st.one_of(messages, st.binary(min_size=1, max_size=80))))
def test_garbage_between_frames_is_skipped_and_counted(codec: Codec, pieces: list[Message | bytes]) -> None:
    stream, garbage_bytes, garbage_frames, sent = b"", 0, 0, []
    for piece in pieces:
        if isinstance(piece, bytes):
            noise = piece.replace(b"\0", b"\1")
            stream += b"\0" + noise + b"\0"
            garbage_bytes += len(noise)
            garbage_frames += 1
        else:
            stream += frame(piece)
            sent.append(piece)
    payloads, receiver = codec.receive(stream)
    assert [cbor2.loads(payload) for payload in payloads] == sent
    assert (receiver.garbage_frames, receiver.garbage_bytes) == (garbage_frames, garbage_bytes)


@given(messages, st.data())
def test_a_flipped_bit_never_yields_another_message(codec: Codec, message: Message, data: st.DataObject) -> None:
    encoded = bytearray(frame(message))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    payloads, _ = codec.receive(bytes(encoded) + b"\0")
    assert [cbor2.loads(payload) for payload in payloads] in ([], [message])


@given(st.integers(1, 3000), st.integers(0, 255))
def test_a_frame_longer_than_the_mtu_does_not_harm_the_next(codec: Codec, excess: int, fill: int) -> None:
    long_frame = enframe(bytes([fill]) * (MTU + excess))
    payloads, receiver = codec.receive(long_frame + frame({"t": "hello"}))
    assert payloads == [cbor2.dumps({"t": "hello"})]
    assert receiver.garbage_frames == 1


sendable = st.dictionaries(
    keys.filter(lambda key: "\0" not in key),
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.binary(max_size=600),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=100),
        st.floats(width=32, allow_nan=False),
    ),
    max_size=23,
)


@given(sendable)
def test_frames_the_device_writes_are_read_by_cbor2(
    codec: Codec, message: dict[str, int | str | bytes | float]
) -> None:
    encoded = codec.send(message)
    size = len(cbor2.dumps(dict.fromkeys(message, 0))) + sum(
        (5 if isinstance(value, float) else len(cbor2.dumps(value))) - 1 for value in message.values()
    )
    if size > MTU:
        assert encoded == b""
        return
    assert encoded.endswith(b"\0")
    assert b"\0" not in encoded[:-1]
    raw = cobs.decode(encoded[:-1])
    assert zlib.crc32(raw[:-4]).to_bytes(4, "little") == raw[-4:]
    assert cbor2.loads(raw[:-4]) == message
    assert encoded == enframe(raw[:-4])


def test_more_entries_than_a_short_map_header_can_say_are_not_sent(codec: Codec) -> None:
    assert codec.send({f"k{i}": i for i in range(23)}) != b""
    assert codec.send({f"k{i}": i for i in range(24)}) == b""


# ---- the runner as a process --------------------------------------------------------------------------------------


class Runner:
    """A minimal client of the hosted runner: no retries, so that every answer can be looked at."""

    def __init__(self, elf: Path) -> None:
        self.process = subprocess.Popen(
            [str(elf)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._pending = b""
        self._queue: list[Message] = []
        self.garbage = 0

    def send(self, *sent: Message) -> None:
        self.send_raw(b"".join(frame(message) for message in sent))

    def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def next(self) -> Message:
        assert self.process.stdout is not None
        while not self._queue:
            ready, _, _ = select.select([self.process.stdout], [], [], 20)
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"the runner said nothing more: {self._errors()}"
            *pieces, self._pending = (self._pending + data).split(b"\0")
            for piece in filter(None, pieces):
                raw = cobs.decode(piece)
                assert zlib.crc32(raw[:-4]).to_bytes(4, "little") == raw[-4:]
                self._queue.append(cbor2.loads(raw[:-4]))
        return self._queue.pop(0)

    def until(self, *types: str) -> list[Message]:
        received = [self.next()]
        while received[-1]["t"] not in types:
            received.append(self.next())
        return received

    def hello(self) -> Message:
        """Open a session; whatever was on its way before is dropped."""
        # The device names the number it refuses: that answer cannot be mistaken for an older one.
        nonce = int.from_bytes(os.urandom(7), "little") + 2
        self.send_raw(b"\0" + frame({"t": "hello", "s": 0, "v": 1}) + frame({"t": "nonce", "s": nonce}))
        hello: Message = {}
        answer = self.next()
        while answer.get("a") != nonce:
            hello = answer if answer["t"] == "hello" else hello
            answer = self.next()
        return hello

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _errors(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode(errors="replace")


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def runner_elf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    options = {"LAB_BOARD": "host", "LAB_MODEL_DIR": TINY_MODEL, "LAB_BUILD_ID": "00112233445566ff"}
    options |= {"LAB_TEST_JOBS": "ON", "LAB_PEAKS": "ON", "LAB_SANITIZE": request.param}
    texts = [path.read_text() for root in (FIRMWARE / "runner", TINY_MODEL) for path in root.glob("*.[ch]")]
    options["LAB_RUNTIME_SOURCES"] = ";".join(map(str, needed_sources(texts)))
    configure = ["cmake", "-G", "Ninja", "-S", FIRMWARE, "-B", folder, *(f"-D{k}={v}" for k, v in options.items())]
    subprocess.run([str(part) for part in configure], check=True, capture_output=True)
    subprocess.run(["ninja", "-C", str(folder)], check=True, capture_output=True)
    return folder / "firmware.elf"


@pytest.fixture(scope="module")
def shared_runner(runner_elf: Path) -> Iterator[Runner]:
    runner = Runner(runner_elf)
    yield runner
    runner.close()


@pytest.fixture
def runner(runner_elf: Path) -> Iterator[Runner]:
    runner = Runner(runner_elf)
    assert runner.next()["t"] == "hello"
    yield runner
    runner.close()


def put(sequence: int, name: str, data: bytes, offset: int = 0, total: int | None = None) -> Message:
    return {"t": "put", "s": sequence, "n": name, "z": len(data) if total is None else total, "o": offset, "d": data}


def run(sequence: int, job: str, **parameters: int | str) -> Message:
    return {"t": "run", "s": sequence, "j": job, **parameters}


def test_the_device_says_hello_by_itself_with_all_that_the_specification_lists(runner_elf: Path) -> None:
    runner = Runner(runner_elf)
    hello = runner.next()
    runner.close()
    assert hello == {
        "t": "hello", "s": 0, "v": 1, "b": "00112233445566ff", "d": "host", "k": "monotonic", "h": 10**9,
        "u": HOSTED_MTU, "cr": HOSTED_CREDITS, "ba": 0, "bs": hello["bs"], "ar": 96, "st": hello["st"], "mo": "tiny",
    }  # fmt: skip
    assert 15 * 2**20 < int(str(hello["bs"])) < 16 * 2**20
    assert hello["st"] in STACK_BYTES


def unpacked(
    received: list[Message],
) -> tuple[list[tuple[object, int, int, int]], dict[int, bytes]]:
    """Region, index, begin and end of every pass, and the results by index, from frames ``events``."""
    passes: list[tuple[object, int, int, int]] = []
    results: dict[int, bytes] = {}
    for message in received:
        if message["t"] != "events":
            continue
        packed, data = message["p"], message.get("d", b"")
        assert isinstance(packed, bytes)
        assert isinstance(data, bytes)
        end, size = int(str(message["b"])), len(data) * 8 // len(packed)
        for number, (gap, cycles) in enumerate(struct.iter_unpack("<II", packed)):
            index = int(str(message["i"])) + number
            passes.append((message["r"], index, end + gap, end + gap + cycles))
            end += gap + cycles
            if size:
                results[index] = data[number * size : (number + 1) * size]
    return passes, results


def test_infer_reports_every_pass_every_result_and_the_end(runner: Runner) -> None:
    samples = [bytes((17 * k + i) & 0xFF for i in range(SAMPLE_BYTES)) for k in range(3)]
    runner.send(put(1, "samples", b"".join(samples)))
    assert runner.next() == {"t": "ack", "a": 1}
    runner.send(run(2, "infer", n="samples", c=3, w=2, r=2, f=1, q=50))
    assert runner.next() == {"t": "ack", "a": 2}
    *received, done = runner.until("done", "error")
    numbers = [message["s"] for message in [*received, done]]
    assert numbers == list(range(1, len(numbers) + 1))
    passes, results = unpacked(received)
    inferences, layers = [("inference", i) for i in (0, 0, 1, 1, 2, 2)], [("layer", i) for i in (0, 1)] * 3
    assert [one[:2] for one in passes] == inferences + layers
    assert all(begin <= end for _, _, begin, end in passes)
    assert [one[3] for one in passes[:6]] < [one[2] for one in passes[6:]]
    assert results == {k: expected_output(sample) for k, sample in enumerate(samples)}
    assert (done["n"], done["x"], done["a"]) == (12, 3, SAMPLE_BYTES)
    assert 0 < int(str(done["y"])) < max(STACK_BYTES)
    assert int(str(done["c"])) >= 2 * 50_000  # two quiet times of 50 µs, in ns


def test_peaks_reports_windows_of_equal_passes_of_both_loops_and_what_a_pass_does(runner: Runner) -> None:
    runner.send(run(1, "peaks", n="", c=0, w=0, r=3, least=20))
    assert runner.next() == {"t": "ack", "a": 1}
    *received, done = runner.until("done", "error")
    assert done["t"] == "done", done
    windows = [message for message in received if message["t"] == "event"]
    assert [(one["r"], one["i"]) for one in windows] == [
        (region, index) for region in ("peak.copy", "peak.multiply_add") for index in range(3)
    ]
    passes = {str(one["r"]): one["c"] for one in windows}
    assert all(one["c"] == passes[str(one["r"])] and int(str(one["b"])) <= int(str(one["e"])) for one in windows)
    metrics = {message["n"]: message["v"] for message in received if message["t"] == "metric"}
    # Of the 96 bytes of the arena half, in blocks of 32, is read and written.
    assert metrics["peak.copy/bytes"] == 2 * 32
    assert float(str(metrics["peak.multiply_add/flop"])) % (256 * 16) == 0


@pytest.mark.parametrize("wrong", [{"r": 0}, {"r": 1, "least": 1_000_001}])
def test_peaks_refuses_no_window_and_one_too_long(runner: Runner, wrong: dict[str, int]) -> None:
    runner.send(run(1, "peaks", n="", c=0, w=0, **wrong))
    assert runner.next() == {"t": "ack", "a": 1}
    (error,) = runner.until("done", "error")
    assert (error["c"], error["p"]) == ("input", "peaks")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=SAMPLE_BYTES, max_size=3000), chunk=st.integers(1, 960), repeat=st.booleans())
def test_blobs_arrive_whole_in_any_chunks_and_repeats_change_nothing(
    shared_runner: Runner, data: bytes, chunk: int, repeat: bool
) -> None:
    shared_runner.hello()
    sequence = 0
    for offset in range(0, len(data), chunk):
        sequence += 1
        message = put(sequence, "samples", data[offset : offset + chunk], offset, len(data))
        for _ in range(2 if repeat else 1):
            shared_runner.send(message)
            assert shared_runner.next() == {"t": "ack", "a": sequence}
    count = len(data) // SAMPLE_BYTES
    shared_runner.send(run(sequence + 1, "infer", n="samples", c=count, w=0, r=1, f=0, q=0))
    received = shared_runner.until("done", "error")
    samples = [data[i * SAMPLE_BYTES : (i + 1) * SAMPLE_BYTES] for i in range(count)]
    assert list(unpacked(received)[1].values()) == [expected_output(sample) for sample in samples]


garbled = st.one_of(
    st.binary(max_size=100),
    messages.map(frame),
    st.fixed_dictionaries(
        {"t": st.sampled_from(["put", "run", "hello", "nonsense"]), "s": st.integers(0, 3) | st.integers(0, 2**64 - 1)},
        optional={
            "n": st.sampled_from(["a", "samples", "x" * 40]) | scalars,
            "z": st.integers(0, 2**64 - 1),
            "o": st.integers(0, 200),
            "d": st.binary(max_size=100),
            "p": st.integers(0, 2**64 - 1),
            "k": st.integers(0, 2**32 - 1),
            "j": st.sampled_from(["infer", "nothing"]),
            "c": st.integers(0, 4),
            "v": st.integers(0, 2),
        },
    ).map(frame),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(garbled, max_size=12))
def test_after_any_bytes_the_device_still_opens_a_session(shared_runner: Runner, pieces: list[bytes]) -> None:
    for piece in pieces:
        shared_runner.send_raw(piece)
    assert shared_runner.hello()["v"] == 1
    shared_runner.send(run(1, "infer", c=0))
    assert [shared_runner.next()["t"], shared_runner.next().get("c")] == ["ack", "input"]


def test_a_number_out_of_order_is_refused_and_nothing_is_executed(runner: Runner) -> None:
    runner.send(put(2, "samples", bytes(SAMPLE_BYTES)))
    refused = runner.next()
    assert (refused["t"], refused["c"], refused["a"]) == ("error", "sequence", 2)
    runner.send(run(1, "infer", n="samples", c=1))
    assert runner.next() == {"t": "ack", "a": 1}
    assert runner.next()["c"] == "input"


def test_a_repeated_run_is_acknowledged_and_not_run_again(runner: Runner) -> None:
    runner.send(put(1, "samples", bytes(SAMPLE_BYTES)))
    job = run(2, "infer", n="samples", c=1)
    runner.send(job)
    runner.until("done")
    runner.send(job)
    assert runner.next() == {"t": "ack", "a": 2}
    runner.send(run(3, "infer", n="samples", c=1))
    assert [m["t"] for m in runner.until("done")] == ["ack", "events", "done"]


@pytest.mark.parametrize(
    "message",
    [
        put(1, "samples", b"abc", total=2**30),
        put(1, "samples", b"abc", total=2),
        put(1, "samples", b"abc", offset=3, total=6),
        put(1, "", b"abc"),
        put(1, "n" * 33, b"abc"),
        {"t": "put", "s": 1, "n": "samples", "z": 4, "p": 0x21000000, "k": 0},
        {"t": "put", "s": 1, "n": "samples"},
    ],
)
def test_a_blob_that_cannot_be_taken_is_refused_and_the_number_stays_free(runner: Runner, message: Message) -> None:
    runner.send(message)
    refused = runner.next()
    assert (refused["t"], refused["c"], refused["a"]) == ("error", "size", 1)
    runner.send(put(1, "samples", b"abc"))
    assert runner.next() == {"t": "ack", "a": 1}


def test_more_blobs_than_the_table_holds_are_refused_and_old_ones_survive(runner: Runner) -> None:
    runner.send(put(1, "samples", bytes(range(SAMPLE_BYTES))))
    for k in range(2, 9):
        runner.send(put(k, f"blob {k}", bytes([k]) * 500))
    assert [runner.next() for _ in range(8)] == [{"t": "ack", "a": k} for k in range(1, 9)]
    runner.send(put(9, "one too many", b"x"))
    assert runner.next()["c"] == "size"
    runner.send(run(9, "infer", n="samples", c=1))
    _, results = unpacked(runner.until("done"))
    assert list(results.values()) == [expected_output(bytes(range(SAMPLE_BYTES)))]


@pytest.mark.parametrize(
    ("message", "code", "refused"),
    [
        ({"t": "hello", "s": 0, "v": 2}, "version", True),
        ({"t": "dance", "s": 1}, "unknown", True),
        ({"t": "put"}, "unknown", False),
        (run(1, "nothing"), "unknown", False),
        (run(1, "infer", n="nothing", c=1), "input", False),
        (run(1, "overrun", c=1), "overflow", False),
    ],
)
def test_each_error_has_its_code(runner: Runner, message: Message, code: str, refused: bool) -> None:
    runner.send(message)
    error = runner.until("error")[-1]
    assert error["c"] == code
    assert ("a" in error) is refused
    assert error["m"]


@pytest.mark.parametrize(("count", "repeats"), [(0, 1), (2, 1), (1, 0)])
def test_infer_refuses_what_the_blob_does_not_hold(runner: Runner, count: int, repeats: int) -> None:
    runner.send(put(1, "samples", bytes(2 * SAMPLE_BYTES - 1)), run(2, "infer", n="samples", c=count, r=repeats))
    assert runner.until("error")[-1]["c"] == "input"


@pytest.mark.parametrize(
    ("job", "code", "region"),
    [(run(1, "crash"), "crash", "inference"), (run(1, "recurse", c=10**6), "overflow", "")],
)
def test_a_fault_is_reported_and_followed_by_a_restart(runner: Runner, job: Message, code: str, region: str) -> None:
    runner.send(job)
    error = runner.until("error")[-1]
    assert (error["c"], error["r"]) == (code, region)
    assert error["g"]
    assert runner.next()["t"] == "hello"


def test_reset_is_acknowledged_and_forgets_blobs(runner: Runner) -> None:
    runner.send(put(1, "samples", bytes(SAMPLE_BYTES)), {"t": "reset", "s": 2})
    assert [runner.next() for _ in range(2)] == [{"t": "ack", "a": 1}, {"t": "ack", "a": 2}]
    assert runner.next()["t"] == "hello"
    runner.send(run(1, "infer", n="samples", c=1))
    assert runner.until("error")[-1]["c"] == "input"


def test_a_hello_starts_the_numbers_anew(runner: Runner) -> None:
    runner.send(put(1, "a", b"1"), put(2, "b", b"2"))
    runner.until("ack"), runner.until("ack")
    assert runner.hello()["s"] == 0
    runner.send(put(1, "c", b"3"))
    assert runner.next() == {"t": "ack", "a": 1}
