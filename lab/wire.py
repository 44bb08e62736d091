"""The runner protocol, host side. ``docs/wire.md`` is the specification."""

from __future__ import annotations

import io
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import cbor2
from cobs import cobs

from lab.errors import Crash, CrashReport, DeviceError, Hang, OutOfMemory, ProtocolError, TransportError, WorkloadError
from lab.events import ClockKind, Done, Event, Hello, Job, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.transports.base import ByteStream, MemoryPort

VERSION = 1
LONGEST_FRAME = 1 << 16
PROFILE_LAYERS = 1

Value = int | float | str | bytes | bool | None | Mapping[str, int]
Message = Mapping[str, Value]


def encode_frame(message: Message) -> bytes:
    """One message as ``COBS(CBOR ‖ CRC-32) 00``."""
    payload = cbor2.dumps(dict(message))
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

    Attributes:
        garbage_frames: zero-terminated pieces that were no valid frame.
        garbage_bytes: bytes in them.
    """

    def __init__(self) -> None:
        self.garbage_frames = 0
        self.garbage_bytes = 0
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Value]]:
        """Take bytes in; return the messages completed by them, in order."""
        self._pending += data
        messages = []
        *pieces, rest = self._pending.split(b"\x00")
        self._pending = rest
        for piece in pieces:
            if not piece:
                continue
            message = decode_frame(bytes(piece))
            if message is None:
                self._skip(len(piece))
            else:
                messages.append(message)
        if len(self._pending) > LONGEST_FRAME:
            self._skip(len(self._pending))
            self._pending.clear()
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._pending)

    def _skip(self, size: int) -> None:
        self.garbage_frames += 1
        self.garbage_bytes += size


class Session:
    """A session with a runner over a byte stream.

    Call order: :meth:`open`, then any number of :meth:`put` and :meth:`run`.

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
        self._next_out = 0
        self._next_in = 0
        self._hello: Hello | None = None
        self._bytes_seen = 0
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

    def open(self, timeout_s: float = 5.0, *, build_id: str | None = None, ask: bool = True) -> Hello:
        """Open the session.

        Args:
            timeout_s: how long the device may take.
            build_id: refuse any other firmware than this.
            ask: send ``hello``; False waits for the one a device sends by itself after a reset.

        Raises:
            Hang: the device said nothing.
            TransportError: bytes arrived, but no frame: wrong baud rate or another program.
            ProtocolError: wrong protocol version or firmware.
        """
        deadline = time.monotonic() + timeout_s
        question = b"\x00" + encode_frame({"t": "hello", "s": 0, "v": VERSION})
        again = time.monotonic() if ask else deadline
        while True:
            if time.monotonic() >= again:
                self._stream.write(question)
                again = time.monotonic() + max(0.5, timeout_s / 8)
            message = self._receive(min(deadline, again) if ask else deadline)
            if message is not None and message.get("t") == "hello":
                break
            if time.monotonic() >= deadline:
                raise self._no_hello(timeout_s)
        hello = _parse_hello(message)
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

    def put(self, name: str, data: bytes, memory: MemoryPort | None = None) -> None:
        """Give the device a named blob, through ``memory`` where there is such a way, else over the wire.

        Raises:
            ProtocolError: the device has no room for it, or it arrived damaged.
            Hang: the device does not acknowledge.
        """
        hello = self.hello
        if len(data) > hello.blob_bytes:
            raise ProtocolError(
                f"blob {name!r} has {len(data)} bytes; {hello.board} has room for {hello.blob_bytes}",
                hint="send fewer samples per job",
            )
        head: dict[str, Value] = {"t": "put", "n": name, "z": len(data)}
        if memory is not None and hello.blob_address:
            memory.write_memory(hello.blob_address, data)
            self._send_all(iter([{**head, "p": hello.blob_address, "k": zlib.crc32(data)}]))
            return
        room = hello.mtu - 64 - len(name.encode())
        self._send_all({**head, "o": at, "d": data[at : at + room]} for at in range(0, max(len(data), 1), room))

    def run(self, job: Job, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job whose blob was put before; yields its events, :class:`Done` last.

        Args:
            job: what to run.
            silence_s: longest time without a frame before the device counts as hung.

        Raises:
            Hang: no frame for ``silence_s``.
            DeviceError: what the device reported, or a gap in what it sent.
        """
        flags = PROFILE_LAYERS if job.profile else 0
        message: dict[str, Value] = {"t": "run", "j": job.name, "n": "samples", "c": job.count, "w": job.warmup}
        message |= {"r": job.repeats, "f": flags, "q": job.quiet_us, **job.parameters}
        self._send_all(iter([message]))
        partial: dict[int, bytearray] = {}
        while True:
            received = self._early.popleft() if self._early else self._receive(time.monotonic() + silence_s)
            if received is None:
                raise Hang(
                    f"{self._stream.name}: job {job.name!r} sent nothing for {silence_s:.0f} s",
                    hint="the firmware hangs, or the job is longer than the silence allowed: raise silence_s",
                )
            event = _parse_event(received) if "z" not in received else _join_result(received, partial)
            if event is None:
                continue
            yield event
            if isinstance(event, Done):
                return

    def reset(self) -> None:
        """Ask the device to reset itself; open the session again afterwards."""
        self._send_all(iter([{"t": "reset"}]))
        self._hello = None

    def _send_all(self, messages: Iterator[dict[str, Value]]) -> None:
        """Send messages with at most ``credits`` unacknowledged; go back to the first one not acknowledged on loss."""
        window: deque[tuple[int, bytes]] = deque()
        attempts = 0
        exhausted = False
        deadline = time.monotonic() + self._acknowledge_s
        while True:
            while not exhausted and len(window) < max(1, self.hello.credits):
                message = next(messages, None)
                if message is None:
                    exhausted = True
                    break
                window.append((self._next_out, encode_frame({**message, "s": self._next_out})))
                self._next_out += 1
                self._stream.write(window[-1][1])
            if not window:
                return
            answer = self._receive(deadline)
            if answer is None or self._refused_for_order(answer, window):
                attempts += 1
                if attempts >= self._attempts:
                    raise Hang(
                        f"{self._stream.name}: not acknowledged in {attempts} tries of {self._acknowledge_s:.1f} s",
                        hint="the firmware hangs or the line loses bytes; `lab console` shows what it says",
                    )
                self.resent_frames += len(window)
                for _, frame in window:
                    self._stream.write(frame)
            elif answer.get("t") == "ack":
                number = answer.get("a")
                while window and isinstance(number, int) and window[0][0] <= number:
                    window.popleft()
                    attempts = 0
                    self._settled = True
            else:
                self._early.append(answer)
                if answer.get("t") != "log":
                    # A job that reports has been accepted, even if the acknowledgement was lost.
                    return
            deadline = time.monotonic() + self._acknowledge_s

    @staticmethod
    def _refused_for_order(answer: Mapping[str, Value], window: deque[tuple[int, bytes]]) -> bool:
        if answer.get("t") != "error":
            return False
        if answer.get("c") == "sequence" and answer.get("a") in [number for number, _ in window]:
            return True
        raise _parse_error(answer)

    def _receive(self, deadline: float) -> dict[str, Value] | None:
        """The next message in order; None at the deadline.

        Raises:
            ProtocolError: a gap in the sequence numbers, or a device that restarted by itself.
        """
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if self._in_order(message):
                    return message
            left = deadline - time.monotonic()
            data = self._read(min(max(left, 0.0), 0.25))
            self._bytes_seen += len(data)
            self._inbox.extend(self._decoder.feed(data))
            if not data:
                self._alive()
                if left <= 0:
                    return None

    def _read(self, timeout_s: float) -> bytes:
        try:
            return self._stream.read(timeout_s)
        except TransportError:
            # A stream that closes is often the first sign of a dead peer; its own death notice says more.
            for _ in range(20):
                self._alive()
                time.sleep(0.05)
            raise

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
            return False
        number = message.get("s")
        if not isinstance(number, int):
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
        if self._bytes_seen:
            return TransportError(
                f"{self._stream.name}: {self._bytes_seen} bytes came in {timeout_s:.1f} s, none a frame of the runner",
                hint="wrong baud rate, or another program on the device: check `baud` in the bench file, deploy again",
            )
        return Hang(
            f"{self._stream.name} said nothing for {timeout_s:.1f} s",
            hint="is it powered, is this the right port, was the firmware deployed? try `lab reset`",
        )


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
            return RegionEvent(
                _text(message, "r"), _integer(message, "i"), _integer(message, "b"), _integer(message, "e")
            )
        case "metric":
            value = message.get("v")
            if not isinstance(value, int | float):
                raise ProtocolError(f"metric {message.get('n')!r} is {value!r}, expected a number")
            return MetricEvent(_text(message, "n"), float(value))
        case "result":
            return ResultEvent(_integer(message, "i"), _bytes(message, "d"))
        case "log":
            return LogEvent(_text(message, "m"))
        case "done":
            numbers = [_integer(message, key) for key in ("y", "a", "c", "n", "x")]
            return Done(*numbers)
        case "error":
            raise _parse_error(message)
        case _:
            return None


def _join_result(message: Mapping[str, Value], partial: dict[int, bytearray]) -> ResultEvent | None:
    """Collect a result that comes in several frames; the result once it is whole."""
    index, offset, total = (_integer(message, key) for key in ("i", "o", "z"))
    so_far = partial.setdefault(index, bytearray())
    if offset != len(so_far):
        raise ProtocolError(f"result {index}: a piece at offset {offset} came after {len(so_far)} bytes")
    so_far += _bytes(message, "d")
    if len(so_far) < total:
        return None
    return ResultEvent(index, bytes(partial.pop(index)))


def _parse_error(message: Mapping[str, Value]) -> DeviceError | WorkloadError:
    code, text, place = str(message.get("c")), str(message.get("m", "")), str(message.get("p", ""))
    where = f" at {place}" if place else ""
    said = f"the device reported {code!r}{where}: {text}"
    if code == "crash":
        registers = message.get("g")
        found = {str(k): int(v) for k, v in registers.items()} if isinstance(registers, Mapping) else {}
        region = str(message.get("r", ""))
        return Crash(said, report=CrashReport(found, region=region))
    if code == "overflow":
        return OutOfMemory(said, hint="more stack or a larger arena, or a smaller model")
    if code == "nan":
        return WorkloadError(said)
    return ProtocolError(said)
