"""The runner protocol, host side. ``docs/wire.md`` is the specification."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import cbor2
from cobs import cobs

from lab.errors import (
    ConfigError,
    Crash,
    CrashReport,
    DeviceError,
    Hang,
    OutOfMemory,
    ProtocolError,
    TransportError,
    WorkloadError,
)
from lab.events import ClockKind, Done, Event, Hello, Job, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.transports.base import ByteStream, MemoryPort

VERSION = 1
LONGEST_FRAME = 1 << 16
PROFILE_LAYERS = 1
SILENT_MARKER = 2
_RUN_KEYS = frozenset(("t", "s", "j", "n", "c", "w", "r", "f", "q"))
BLOB_ALIGNMENT = 16  # BLOB_ALIGNMENT in firmware/runner/blob.h
_PUT_OVERHEAD = 64
_PASS = struct.Struct("<II")
_DEATH_NOTICE_TRIES = 20

Value = int | float | str | bytes | bool | None | Mapping[str, int]
Message = Mapping[str, Value]


def encode_frame(message: Message) -> bytes:
    """One message as ``COBS(CBOR ‖ CRC-32) 00``."""
    return _framed(cbor2.dumps(dict(message)))


def _framed(payload: bytes) -> bytes:
    return bytes(cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))) + b"\x00"


def decode_frame(encoded: bytes) -> dict[str, Value] | None:
    """The message of one frame without its closing zero; None where it is not a valid frame."""
    try:
        raw = bytes(cobs.decode(encoded))
    except cobs.DecodeError:
        return None
    payload, check = raw[:-4], raw[-4:]
    if len(raw) < 5 or zlib.crc32(payload).to_bytes(4, "little") != check:
        return None
    stream = io.BytesIO(payload)
    try:
        message = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, RecursionError):
        return None
    whole = stream.tell() == len(payload)
    if not whole or not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        return None
    return cast(dict[str, Value], message)


class FrameDecoder:
    """Finds frames in a byte stream; anything that is not a frame is skipped and counted.

    What comes out does not depend on how the stream is cut into calls of :meth:`feed`.

    Attributes:
        garbage_frames: zero-terminated pieces that were no valid frame, or longer than ``LONGEST_FRAME``.
        garbage_bytes: bytes in them.
    """

    def __init__(self) -> None:
        self.garbage_frames = 0
        self.garbage_bytes = 0
        self._pending = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[dict[str, Value]]:
        """Take bytes in; return the messages completed by them, in order."""
        messages = []
        *pieces, rest = data.split(b"\x00")
        for piece in pieces:
            self._append(piece)
            message = self._end_frame()
            if message is not None:
                messages.append(message)
        self._append(rest)
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes kept of a frame that is not complete yet."""
        return len(self._pending)

    def _append(self, piece: bytes) -> None:
        if self._too_long:
            self.garbage_bytes += len(piece)
            return
        self._pending += piece
        if len(self._pending) > LONGEST_FRAME:
            # Nobody sends such a frame: do not keep what a line with no zeros says all night.
            self._too_long = True
            self._skip()

    def _end_frame(self) -> dict[str, Value] | None:
        self._too_long = False
        if not self._pending:
            return None
        message = decode_frame(bytes(self._pending))
        if message is None:
            self._skip()
        self._pending.clear()
        return message

    def _skip(self) -> None:
        self.garbage_frames += 1
        self.garbage_bytes += len(self._pending)
        self._pending.clear()


class Session:
    """A session with a runner over a byte stream.

    Call order: :meth:`open`, then any number of :meth:`put` and :meth:`run`. After a job that was not followed to its
    end, and after any :class:`lab.errors.Hang`, :meth:`open` again.

    Args:
        stream: the byte stream.
        board_is_alive: asked while waiting; raises the right error when the peer is known to be dead.
        acknowledge_s: how long to wait for an acknowledgement before a frame is sent again.
        attempts: how often a frame is sent before the device counts as hung.

    Attributes:
        resent_frames: frames that had to be sent again.
        repeated_frames: frames the device sent twice.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        board_is_alive: Callable[[], None] = lambda: None,
        acknowledge_s: float = 3.0,
        attempts: int = 4,
    ) -> None:
        self._stream = stream
        self._alive = board_is_alive
        self._acknowledge_s = acknowledge_s
        self._attempts = attempts
        self._decoder = FrameDecoder()
        self._inbox: deque[dict[str, Value]] = deque()
        self._early: deque[dict[str, Value]] = deque()
        self._settled = False
        self._job = ""
        self._blobs: dict[str, int] = {}
        self._next_out = 0
        self._next_in = 0
        self._hello: Hello | None = None
        self._bytes_seen = 0
        self._other_frames = 0
        self.resent_frames = 0
        self.repeated_frames = 0

    @property
    def garbage_bytes(self) -> int:
        """Bytes that arrived and formed no frame."""
        return self._decoder.garbage_bytes

    @property
    def hello(self) -> Hello:
        """What the device said at :meth:`open`.

        Raises:
            ProtocolError: the session is not open.
        """
        if self._hello is None:
            raise ProtocolError("the session is not open", hint="call open() first")
        return self._hello

    @property
    def unfinished_job(self) -> str:
        """Name of a job that was started and not followed to its end; empty where there is none."""
        return self._job

    def open(self, timeout_s: float = 5.0, *, build_id: str | None = None, ask: bool = True) -> Hello:
        """Open the session.

        Args:
            timeout_s: how long the device may take.
            build_id: refuse any other firmware than this.
            ask: send ``hello`` at once; False gives a device that was reset the first half of the time to say it by
                itself, and asks only then.

        Raises:
            Hang: the device said nothing, or nothing to the point.
            TransportError: bytes arrived, but no frame: wrong baud rate or another program.
            ProtocolError: wrong protocol version or firmware.
        """
        self._hello = None
        self._job = ""
        self._bytes_seen = self._other_frames = 0
        hello = _parse_hello(self._wait_for_hello(timeout_s, ask))
        if hello.protocol != VERSION:
            raise ProtocolError(
                f"{self._stream.name} speaks wire version {hello.protocol}, this lab speaks {VERSION}",
                hint="deploy again: the firmware is from another version of the lab",
            )
        if build_id is not None and hello.build_id != build_id:
            raise ProtocolError(
                f"{self._stream.name} runs build {hello.build_id}, deployed was {build_id}",
                hint="the deployment did not take, or somebody else flashed the board: deploy again",
            )
        self._next_out = 1
        self._next_in = 1
        self._settled = False
        self._early.clear()
        self._hello = hello
        return hello

    def _wait_for_hello(self, timeout_s: float, ask: bool) -> Mapping[str, Value]:
        begin = time.monotonic()
        deadline = begin + timeout_s
        question = b"\x00" + encode_frame({"t": "hello", "s": 0, "v": VERSION})
        again = begin if ask else begin + timeout_s / 2
        while True:
            if time.monotonic() >= again:
                self._write(question)
                again = time.monotonic() + timeout_s / 8
            message = self._receive(min(deadline, again))
            if message is not None and message.get("t") == "hello":
                return message
            if message is not None and message.get("c") == "version":
                raise _parse_error(message)
            if time.monotonic() >= deadline:
                raise self._no_hello(timeout_s)

    def put(self, name: str, data: bytes, memory: MemoryPort | None = None) -> None:
        """Give the device a named blob, through ``memory`` where there is such a way, else over the wire.

        Raises:
            ProtocolError: the device has no room for it, it arrived damaged, or a job was not followed to its end.
            Hang: the device does not acknowledge.
        """
        hello = self._idle_hello()
        if memory is not None and hello.blob_address:
            self._place(name, data, memory, 0)
            return
        head = self._put_head(name, data, 0)
        room = hello.mtu - _PUT_OVERHEAD - len(name.encode())
        if room < 1:
            raise ProtocolError(
                f"{hello.board} takes messages of {hello.mtu} bytes; blob {name!r} needs more than "
                f"{_PUT_OVERHEAD + len(name.encode())}",
                hint="a shorter name, or a larger mtu in the firmware",
            )
        self._send_all({**head, "o": at, "d": data[at : at + room]} for at in range(0, max(len(data), 1), room))

    def _place(self, name: str, data: bytes, memory: MemoryPort, at: int) -> None:
        """Put a blob at an offset of the blob store through a memory port."""
        head = self._put_head(name, data, at)
        address = self.hello.blob_address + at
        memory.write_memory(address, data)
        self._send_all(iter([{**head, "p": address, "k": zlib.crc32(data)}]))

    def _put_head(self, name: str, data: bytes, at: int) -> dict[str, Value]:
        hello = self.hello
        if len(data) > hello.blob_bytes - at:
            others = f" behind the {at} bytes of others" if at else ""
            raise ProtocolError(
                f"blob {name!r} has {len(data)} bytes; {hello.board} has room for {hello.blob_bytes}{others}",
                hint="send fewer samples per job",
            )
        return {"t": "put", "n": name, "z": len(data)}

    def put_all(self, blobs: Mapping[str, bytes], memory: MemoryPort | None = None) -> None:
        """Give the device all the blobs of a job; those of earlier jobs make room for them.

        Raises:
            ProtocolError, Hang: as :meth:`put`.
        """
        hello = self._idle_hello()
        if memory is None or not hello.blob_address:
            sizes = {name: len(data) for name, data in blobs.items()}
            # What is no longer needed may lie where the new blobs would fit.
            for name in self._blobs if sizes != self._blobs else ():
                self._send_all(iter([{"t": "put", "n": name, "z": 0, "o": 0, "d": b""}]))
            self._blobs = sizes
            for name, data in blobs.items():
                self.put(name, data)
            return
        at = 0
        for name, data in blobs.items():
            self._place(name, data, memory, at)
            at += -(-len(data) // BLOB_ALIGNMENT) * BLOB_ALIGNMENT

    def run(self, job: Job, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job whose blobs were put before; yields its events, :class:`Done` last.

        Args:
            job: what to run.
            silence_s: longest time without a frame before the device counts as hung.

        Raises:
            ConfigError: a parameter of the job has a name the protocol uses itself.
            Hang: no frame for ``silence_s``.
            DeviceError: what the device reported, or a gap in what it sent.
        """
        self._idle_hello()
        reserved = sorted(_RUN_KEYS & job.parameters.keys())
        if reserved:
            raise ConfigError(
                f"job {job.name!r}: parameters {', '.join(reserved)} have names the protocol uses itself",
                hint=f"any name but {', '.join(sorted(_RUN_KEYS))}",
            )
        flags = (PROFILE_LAYERS if job.profile else 0) | (0 if job.marker_line else SILENT_MARKER)
        message: dict[str, Value] = {"t": "run", "j": job.name, "n": "samples", "c": job.count, "w": job.warmup}
        message |= {"r": job.repeats, "f": flags, "q": job.quiet_us, **job.parameters}
        self._job = job.name
        self._send_all(iter([message]))
        partial: dict[int, bytearray] = {}
        while True:
            received = self._early.popleft() if self._early else self._receive(time.monotonic() + silence_s)
            if received is None:
                raise Hang(
                    f"{self._stream.name}: job {job.name!r} sent nothing for {silence_s:.0f} s",
                    hint="the firmware hangs, or the job is longer than the silence allowed: raise silence_s",
                )
            if received.get("t") in ("done", "error"):
                self._job = ""
            if received.get("t") == "events":
                yield from _parse_passes(received)
                continue
            in_pieces = received.get("t") == "result" and "z" in received
            event = _join_result(received, partial) if in_pieces else _parse_event(received)
            if event is None:
                continue
            if isinstance(event, Done):
                _check_joined(partial)
                yield event
                return
            yield event
            if isinstance(event, RegionEvent) and "v" in received:
                yield _parse_metric(received)

    def reset(self) -> None:
        """Ask the device to reset itself; open the session again afterwards."""
        self._send_all(iter([{"t": "reset"}]))
        self._hello = None

    def _idle_hello(self) -> Hello:
        if self._job:
            raise ProtocolError(
                f"{self._stream.name}: job {self._job!r} was not followed to its end; its frames may still come",
                hint="read all events up to Done, or open() the session again",
            )
        return self.hello

    def _send_all(self, messages: Iterator[dict[str, Value]]) -> None:
        """Send messages with at most ``credits`` unacknowledged; go back to the first one not acknowledged on loss."""
        window: deque[tuple[int, bytes]] = deque()
        attempts = 1
        deadline = self._fill(window, messages)
        while window:
            answer = self._receive(deadline)
            if answer is not None and answer.get("t") not in ("ack", "error"):
                self._early.append(answer)
                if self._job and answer.get("t") != "log":
                    # A job that reports has been accepted, even if the acknowledgement was lost.
                    self._settled = True
                    return
                if time.monotonic() < deadline:
                    continue
                answer = None
            if answer is None or self._wants_repetition(answer, window):
                if attempts >= self._attempts:
                    raise Hang(
                        f"{self._stream.name}: not acknowledged in {attempts} tries of {self._acknowledge_s:.1f} s",
                        hint="the firmware hangs or the line loses bytes; `lab console` shows what it says",
                    )
                attempts += 1
                self.resent_frames += len(window)
                # The zero ends whatever is left of a frame that was cut short.
                self._write(b"\x00" + b"".join(frame for _, frame in window))
                deadline = time.monotonic() + self._acknowledge_s
            elif answer.get("t") == "ack" and _drop_acknowledged(window, answer.get("a")):
                attempts = 1
                self._settled = True
                deadline = self._fill(window, messages)

    def _fill(self, window: deque[tuple[int, bytes]], messages: Iterator[dict[str, Value]]) -> float:
        """Send as many new frames as there are credits; returns until when an answer is due."""
        hello = self.hello
        while len(window) < max(1, hello.credits) and (message := next(messages, None)) is not None:
            payload = cbor2.dumps({**message, "s": self._next_out})
            if len(payload) > hello.mtu:
                raise ProtocolError(
                    f"a {message.get('t')!r} message of {len(payload)} bytes; {hello.board} takes {hello.mtu}",
                    hint="fewer job parameters, or a larger mtu in the firmware",
                )
            window.append((self._next_out, _framed(payload)))
            self._next_out += 1
            self._write(window[-1][1])
        return time.monotonic() + self._acknowledge_s

    def _wants_repetition(self, answer: Mapping[str, Value], window: deque[tuple[int, bytes]]) -> bool:
        """Whether an answer says that a frame before it was lost.

        The device answers every frame. Behind a lost one it refuses all of the window, so only the refusal of the last
        one asks for a repetition; others, and those of frames acknowledged since, ask for nothing.

        Raises:
            DeviceError, WorkloadError: any other error the device reports.
        """
        if answer.get("t") != "error":
            return False
        refused = answer.get("a")
        if answer.get("c") == "sequence" and isinstance(refused, int):
            return refused == window[-1][0]
        if isinstance(refused, int) and refused >= window[0][0]:
            # The number of a refused frame stays free (docs/wire.md), and so do those behind it.
            self._next_out = refused
        self._job = ""
        raise _parse_error(answer)

    def _receive(self, deadline: float) -> dict[str, Value] | None:
        """The next message in order; None at the deadline.

        Raises:
            ProtocolError: a gap in the sequence numbers, or a device that restarted by itself.
        """
        late = False
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if self._in_order(message):
                    return message
            if late:
                return None
            left = deadline - time.monotonic()
            late = left <= 0
            data = self._read(min(max(left, 0.0), 0.25))
            self._bytes_seen += len(data)
            self._inbox.extend(self._decoder.feed(data))
            if not data:
                self._alive()

    def _read(self, timeout_s: float) -> bytes:
        try:
            return self._stream.read(timeout_s)
        except TransportError:
            self._await_death_notice()
            raise

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except TransportError:
            self._await_death_notice()
            raise

    def _await_death_notice(self) -> None:
        """A stream that closes is often the first sign of a dead peer; its own death notice says more."""
        for _ in range(_DEATH_NOTICE_TRIES):
            self._alive()
            time.sleep(0.05)

    def _in_order(self, message: dict[str, Value]) -> bool:
        kind = message.get("t")
        if kind == "ack":
            return True
        if kind == "hello":
            # Until the first acknowledgement an answer to an earlier question may still be on its way.
            if self._hello is not None and not self._settled:
                return False
            if self._hello is not None:
                self._hello = None
                raise ProtocolError(
                    f"{self._stream.name} restarted by itself in the middle of a session",
                    hint="a watchdog, a brown-out or a crash before the fault handler was ready",
                )
            return True
        if self._hello is None:
            self._other_frames += 1
            # The refusal of a hello; all else is left over from before it.
            return kind == "error" and message.get("c") == "version"
        number = message.get("s")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ProtocolError(f"{self._stream.name}: frame {kind!r} carries no sequence number")
        if number < self._next_in:
            self.repeated_frames += 1
            return False
        if number > self._next_in:
            lost = number - self._next_in
            raise ProtocolError(
                f"{self._stream.name} lost {lost} frame(s): expected number {self._next_in}, got {number} ({kind!r}); "
                f"{self._decoder.garbage_frames} damaged frame(s) were skipped",
                hint="a slower baud rate or a better cable",
            )
        self._next_in += 1
        return True

    def _no_hello(self, timeout_s: float) -> DeviceError | TransportError:
        if self._other_frames:
            return Hang(
                f"{self._stream.name} sent {self._other_frames} frame(s) in {timeout_s:.1f} s, but no hello",
                hint="it is busy with a job that does not end: `lab reset`",
            )
        if self._bytes_seen:
            return TransportError(
                f"{self._stream.name}: {self._bytes_seen} bytes came in {timeout_s:.1f} s, none a frame of the runner",
                hint="wrong baud rate, or another program on the device: check `baud` in the bench file, deploy again",
            )
        return Hang(
            f"{self._stream.name} said nothing for {timeout_s:.1f} s",
            hint="is it powered, is this the right port, was the firmware deployed? try `lab reset`",
        )


def _drop_acknowledged(window: deque[tuple[int, bytes]], number: Value) -> bool:
    """Take out of the window what an acknowledgement covers; whether there was any."""
    before = len(window)
    while window and isinstance(number, int) and window[0][0] <= number:
        window.popleft()
    return len(window) < before


def _integer(message: Mapping[str, Value], key: str) -> int:
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected a number of at least 0")
    return value


def _text(message: Mapping[str, Value], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected text")
    return value


def _bytes(message: Mapping[str, Value], key: str) -> bytes:
    value = message.get(key)
    if not isinstance(value, bytes):
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected bytes")
    return value


def _parse_hello(message: Mapping[str, Value]) -> Hello:
    kind = _text(message, "k")
    if kind not in ("dwt", "systick", "cntvct", "monotonic", "virtual"):
        raise ProtocolError(f"the device names an unknown clock kind {kind!r}")
    if _integer(message, "h") == 0:
        raise ProtocolError("frame 'hello': 'h' is 0, expected the rate of the clock in Hz")
    return Hello(
        protocol=_integer(message, "v"),
        build_id=_text(message, "b"),
        board=_text(message, "d"),
        clock=cast(ClockKind, kind),
        clock_hz=_integer(message, "h"),
        mtu=_integer(message, "u"),
        credits=_integer(message, "cr"),
        blob_address=_integer(message, "ba"),
        blob_bytes=_integer(message, "bs"),
        arena_bytes=_integer(message, "ar"),
        stack_bytes=_integer(message, "st"),
        model=_text(message, "mo"),
    )


def _parse_event(message: Mapping[str, Value]) -> Event | None:
    match message.get("t"):
        case "event":
            begin, end = _integer(message, "b"), _integer(message, "e")
            if end < begin:
                raise ProtocolError(f"frame 'event': 'e' is {end}, before 'b' {begin}")
            return RegionEvent(_text(message, "r"), _integer(message, "i"), begin, end)
        case "metric":
            return _parse_metric(message)
        case "result":
            return ResultEvent(_integer(message, "i"), _bytes(message, "d"), _optional_name(message))
        case "log":
            return LogEvent(_text(message, "m"))
        case "done":
            numbers = [_integer(message, key) for key in ("y", "a", "c", "n", "x")]
            return Done(*numbers)
        case "error":
            raise _parse_error(message)
        case _:
            return None


def _parse_passes(message: Mapping[str, Value]) -> Iterator[Event]:
    """Passes that share a frame, each followed by its result where there are results."""
    passes, results = _bytes(message, "p"), _bytes(message, "d") if "d" in message else b""
    count, rest = divmod(len(passes), _PASS.size)
    if count == 0 or rest or len(results) % count:
        raise ProtocolError(
            f"frame 'events': 'p' has {len(passes)} bytes and 'd' {len(results)}, which is no whole number of passes"
        )
    region, first, end = _text(message, "r"), _integer(message, "i"), _integer(message, "b")
    size = len(results) // count
    for number, (gap, cycles) in enumerate(_PASS.iter_unpack(passes)):
        begin = end + gap
        end = begin + cycles
        yield RegionEvent(region, first + number, begin, end)
        if size:
            yield ResultEvent(first + number, results[number * size : (number + 1) * size])


def _parse_metric(message: Mapping[str, Value]) -> MetricEvent:
    value = message.get("v")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ProtocolError(f"frame {message.get('t')!r}: 'v' is {value!r}, expected a number")
    return MetricEvent(_text(message, "n"), float(value))


def _optional_name(message: Mapping[str, Value]) -> str:
    return _text(message, "n") if "n" in message else ""


def _join_result(message: Mapping[str, Value], partial: dict[int, bytearray]) -> ResultEvent | None:
    """Collect a result that comes in several frames; the result once it is whole."""
    index, offset, total = (_integer(message, key) for key in ("i", "o", "z"))
    so_far = partial.setdefault(index, bytearray())
    if offset != len(so_far):
        raise ProtocolError(f"result {index}: a piece at offset {offset} came after {len(so_far)} bytes")
    so_far += _bytes(message, "d")
    if len(so_far) > total:
        raise ProtocolError(f"result {index}: {len(so_far)} bytes came, {total} were announced")
    if len(so_far) < total:
        return None
    return ResultEvent(index, bytes(partial.pop(index)), _optional_name(message))


def _check_joined(partial: Mapping[int, bytearray]) -> None:
    for index, so_far in partial.items():
        raise ProtocolError(f"result {index}: the job ended after {len(so_far)} bytes of it")


def _parse_error(message: Mapping[str, Value]) -> DeviceError | WorkloadError:
    code, text, place = str(message.get("c")), str(message.get("m", "")), str(message.get("p", ""))
    where = f" at {place}" if place else ""
    said = f"the device reported {code!r}{where}: {text}"
    if code == "crash":
        registers = message.get("g")
        pairs = registers.items() if isinstance(registers, Mapping) else ()
        found = {str(name): value for name, value in pairs if isinstance(value, int)}
        region = str(message.get("r", ""))
        return Crash(said, report=CrashReport(found, region=region))
    if code == "overflow":
        return OutOfMemory(said, hint="more stack or a larger arena, or a smaller model")
    if code == "nan":
        return WorkloadError(said, hint="a smaller learning rate, or samples of a smaller scale")
    return ProtocolError(said)
