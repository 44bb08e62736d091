"""Frames in order and acknowledged, between this host and a runner, over a stream that may damage or lose some.

``docs/wire.md`` is the specification.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import cbor2

from lab.errors import DeviceError, Hang, LeaseLost, ProtocolError, TransportError, WorkloadError
from lab.events import Hello
from lab.fence import Fence
from lab.transports.base import ByteStream, Reopenable, Tunable
from lab.wire_frames import FrameDecoder, encode_frame, framed
from lab.wire_messages import Message, Value, integer_field, parse_error, parse_hello, tells_of_a_fault
from lab.wire_overheard import Overheard

VERSION = 1
_DEATH_NOTICE_TRIES = 20
_BAUD_ACKNOWLEDGE_S = 1.0
_BAUD_SETTLE_S = 0.02


class Link:
    """What carries a session's messages.

    Args:
        stream: the byte stream.
        board_is_alive: asked while waiting; raises the right error when the peer is known to be dead.
        heard: is given all that came from the device, as it comes.
        acknowledge_s: how long to wait for an acknowledgement before a frame is sent again.
        attempts: how often a frame is sent before the device counts as hung.
        fence: the lease under which all this happens, which every message names; None where nobody holds the device.

    Attributes:
        stream: as given.
        job: name of the job the device works on, whose frames may come at any time; empty where there is none.
        resent_frames: frames that had to be sent again.
        repeated_frames: frames the device sent twice.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        board_is_alive: Callable[[], None],
        heard: Callable[[bytes], None],
        acknowledge_s: float,
        attempts: int,
        fence: Fence | None,
    ) -> None:
        self.stream = stream
        self.job = ""
        self.resent_frames = 0
        self.repeated_frames = 0
        self._fence = fence
        self._signature: Message = {} if fence is None else {"tk": fence.token}
        self._alive = board_is_alive
        self._heard = heard
        self._acknowledge_s = acknowledge_s
        self._attempts = attempts
        self._decoder = FrameDecoder()
        self._inbox: deque[dict[str, Value]] = deque()
        self._early: deque[dict[str, Value]] = deque()
        self._overheard = Overheard()
        self._settled = False
        self._next_out = 0
        self._next_in = 0
        self._hello: Hello | None = None
        self._garbage_before = 0
        self._noise_bytes = 0

    @property
    def garbage_bytes(self) -> int:
        """Bytes that arrived and formed no frame."""
        return self._decoder.garbage_bytes

    @property
    def greeted(self) -> bool:
        """Whether the device has said what it is."""
        return self._hello is not None

    @property
    def acknowledge_s(self) -> float:
        """How long is waited for an acknowledgement."""
        return self._acknowledge_s

    @property
    def damaged_frames(self) -> int:
        """Pieces that arrived and were no frame."""
        return self._decoder.garbage_frames

    @property
    def hello(self) -> Hello:
        """What the device said when it greeted.

        Raises:
            ProtocolError: the session is not open.
        """
        if self._hello is None:
            raise ProtocolError("the session is not open", hint="call open() first")
        return self._hello

    def forget(self) -> None:
        """The device is about to restart: what it said of itself no longer counts."""
        self._hello = None

    def greet(self, timeout_s: float, ask: bool, build_id: str | None) -> Hello:
        """Wait for the device's hello, from which on both sides count their frames.

        Args:
            timeout_s: how long the device may take.
            ask: send ``hello`` at once; else the device has half of the time to say it by itself.
            build_id: refuse any other firmware than this; None takes any.

        Raises:
            Hang, TransportError, ProtocolError, LeaseLost: as :meth:`lab.wire.Session.open`.
        """
        self._hello = None
        self._overheard = Overheard()
        hello = parse_hello(self._wait_for_hello(timeout_s, ask))
        if hello.protocol != VERSION:
            raise ProtocolError(
                f"{self.stream.name} speaks wire version {hello.protocol}, this lab speaks {VERSION}",
                hint="deploy again: the firmware is from another version of the lab",
            )
        if build_id is not None and hello.build_id != build_id:
            raise ProtocolError(
                f"{self.stream.name} runs build {hello.build_id}, deployed was {build_id}",
                hint="the deployment did not take, or somebody else flashed the board: deploy again",
            )
        self._next_out = 1
        self._next_in = 1
        self._garbage_before = self.damaged_frames
        self._settled = False
        self._early.clear()
        self._hello = hello
        return hello

    def _wait_for_hello(self, timeout_s: float, ask: bool) -> Mapping[str, Value]:
        begin = time.monotonic()
        deadline = begin + timeout_s
        question = b"\x00" + encode_frame({"t": "hello", "s": 0, "v": VERSION, **self._signature})
        again = begin if ask else begin + timeout_s / 2
        # A device that was reset, by whatever, is back at its first rate; and so is one that hears garbage.
        avoided = isinstance(self.stream, Tunable) and self.stream.baud > self.stream.max_baud
        first_rate = begin + timeout_s / 2 if ask and not avoided else begin
        while True:
            before = time.monotonic()
            try:
                if before >= first_rate:
                    self.go_at_first_rate()
                if time.monotonic() >= again:
                    self.write(question)
                    again = time.monotonic() + timeout_s / 8
                message = self._receive(min(deadline, again))
            except TransportError:
                # What broke was first given time to say why.
                again = time.monotonic()
                left_s = deadline - before
                if not isinstance(self.stream, Reopenable) or left_s <= 0:
                    raise
                deadline = again + left_s
                self.stream.reopen(left_s)
                continue
            if message is not None and message.get("t") == "hello":
                return message
            if message is not None and message.get("c") == "version":
                raise parse_error(message)
            if time.monotonic() >= deadline:
                raise self._overheard.no_hello(self.stream.name, timeout_s)

    def go_at_first_rate(self) -> None:
        """Change this end to the rate at which every device starts."""
        stream = self.stream
        if isinstance(stream, Tunable) and stream.baud != stream.first_baud:
            self.go_at(stream, stream.first_baud)

    def go_at(self, stream: Tunable, baud: int) -> None:
        """Change this end to another rate, as the device has agreed to or does by itself."""
        stream.set_baud(baud)
        # The device changes after its acknowledgement has left, which it cannot see to the bit.
        time.sleep(_BAUD_SETTLE_S)
        # Both ends may have taken the change itself for a byte; a zero ends what that began.
        self._inbox.extend(self._decoder.feed(b"\x00"))
        self.write(b"\x00")

    @contextlib.contextmanager
    def hurried(self, attempts: int) -> Iterator[None]:
        """Waits less long meanwhile, since there is another rate to fall back on."""
        patience = self._acknowledge_s, self._attempts
        self._acknowledge_s, self._attempts = min(_BAUD_ACKNOWLEDGE_S, self._acknowledge_s), attempts
        try:
            yield
        finally:
            self._acknowledge_s, self._attempts = patience

    def unheard(self, said: str, before: int, *, hint: str) -> Hang | TransportError:
        """Silence is the device's; frames damaged since then, and more bytes than the begin of one, are the line's.

        Args:
            said: what did not come.
            before: how many damaged frames had come by then.
            hint: the way out where nothing came.
        """
        damaged = self.damaged_frames - before
        if damaged or self._noise_bytes > 2 * self.hello.mtu:
            self._avoid_rate()
            return TransportError(
                f"{self.stream.name}: {said} but noise: {damaged} damaged frame(s), then {self._noise_bytes} bytes",
                hint="a line that is stuck or at another rate, a bad cable, or another program on the device",
                transient=True,
            )
        return Hang(f"{self.stream.name}: {said}", hint=hint)

    def _avoid_rate(self) -> None:
        """A rate at which the line damages frames is none to go on at; the first one is all there is below it."""
        stream = self.stream
        if isinstance(stream, Tunable) and stream.baud > stream.first_baud:
            stream.limit_baud(stream.baud - 1)

    def send(self, messages: Iterator[dict[str, Value]]) -> None:
        """Send messages with at most ``credits`` unacknowledged; go back to the first one not acknowledged on loss.

        Raises:
            Hang, TransportError: no acknowledgement comes.
            DeviceError, WorkloadError: what the device reported instead.
        """
        window: deque[tuple[int, bytes]] = deque()
        attempts = 1
        damaged = self.damaged_frames
        deadline = self._fill(window, messages)
        while window:
            answer = self._receive(deadline)
            if answer is not None and answer.get("t") not in ("ack", "error"):
                self._early.append(answer)
                if self.job and answer.get("t") != "log":
                    # A job that reports has been accepted, even if the acknowledgement was lost.
                    self._settled = True
                    return
                if time.monotonic() < deadline:
                    continue
                answer = None
            if answer is None or self._wants_repetition(answer, window):
                if attempts >= self._attempts:
                    raise self.unheard(
                        f"not acknowledged in {attempts} tries of {self._acknowledge_s:.1f} s",
                        damaged,
                        hint="the firmware hangs or the line loses bytes; `lab console` shows what it says",
                    )
                attempts += 1
                self.resent_frames += len(window)
                # The zero ends whatever is left of a frame that was cut short.
                self.write(b"\x00" + b"".join(frame for _, frame in window))
                deadline = time.monotonic() + self._acknowledge_s
            elif answer.get("t") == "ack" and _drop_acknowledged(window, answer.get("a")):
                attempts = 1
                self._settled = True
                deadline = self._fill(window, messages)

    def _fill(self, window: deque[tuple[int, bytes]], messages: Iterator[dict[str, Value]]) -> float:
        """Send as many new frames as there are credits; returns until when an answer is due."""
        hello = self.hello
        while len(window) < max(1, hello.credits) and (message := next(messages, None)) is not None:
            payload = cbor2.dumps({**message, "s": self._next_out, **self._signature})
            if len(payload) > hello.mtu:
                raise ProtocolError(
                    f"a {message.get('t')!r} message of {len(payload)} bytes; {hello.board} takes {hello.mtu}",
                    hint="fewer job parameters, or a larger mtu in the firmware",
                )
            window.append((self._next_out, framed(payload)))
            self._next_out += 1
            self.write(window[-1][1])
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
        self.job = ""
        raise self.error_of(answer)

    def error_of(self, message: Mapping[str, Value]) -> DeviceError | WorkloadError:
        """The error that a frame tells of, with the stack that came before it."""
        return parse_error(message, tuple(self._overheard.stack))

    def next(self, timeout_s: float) -> dict[str, Value] | None:
        """The next message that is no acknowledgement; None where none comes in time.

        Raises:
            ProtocolError, TransportError: as for :meth:`greet`, and a gap in the frames.
        """
        return self._early.popleft() if self._early else self._receive(time.monotonic() + timeout_s)

    def _receive(self, deadline: float) -> dict[str, Value] | None:
        """The next message in order; None at the deadline.

        Raises:
            ProtocolError: a gap in the sequence numbers, or a device that restarted by itself.
            TransportError: the stream broke, or the line damaged the frames that are missing.
        """
        late = False
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if not self._in_order(message):
                    continue
                if message.get("t") != "stack":
                    return message
                self._overheard.keep_stack(message)
            if late:
                return None
            left = deadline - time.monotonic()
            late = left <= 0
            data = self._read(min(max(left, 0.0), 0.25))
            self._overheard.data_bytes += len(data)
            self._heard(data)
            messages = self._decoder.feed(data)
            self._noise_bytes = 0 if messages else self._noise_bytes + len(data)
            self._inbox.extend(messages)
            if not data:
                self._alive()

    def _read(self, timeout_s: float) -> bytes:
        try:
            return self.stream.read(timeout_s)
        except TransportError:
            self._await_death_notice()
            raise

    def write(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            TransportError: the stream broke.
        """
        try:
            self.stream.write(data)
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
        if kind == "error" and message.get("c") == "stale-lease":
            self._check_refusal(message)
            return False
        if kind == "hello":
            # Until the first acknowledgement an answer to an earlier question may still be on its way.
            if self._hello is not None and not self._settled:
                return False
            if self._hello is not None:
                self._hello = None
                raise ProtocolError(
                    f"{self.stream.name} restarted by itself in the middle of a session",
                    hint="a watchdog, a brown-out or a crash before the fault handler was ready",
                )
            return True
        if self._hello is None:
            self._overheard.keep(message)
            # The refusal of a hello; all else is left over from before it.
            return kind == "error" and message.get("c") == "version"
        number = message.get("s")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ProtocolError(f"{self.stream.name}: frame {kind!r} carries no sequence number")
        if number < self._next_in:
            self.repeated_frames += 1
            return False
        if number > self._next_in and not tells_of_a_fault(message):
            raise self._gap(kind, number)
        self._next_in = number + 1
        return True

    def _gap(self, kind: Value, number: int) -> ProtocolError | TransportError:
        """What frames that never came say: of the line where it damaged some, else of the device."""
        damaged = self.damaged_frames - self._garbage_before
        said = (
            f"{self.stream.name} lost {number - self._next_in} frame(s): expected number {self._next_in}, "
            f"got {number} ({kind!r}); {damaged} damaged frame(s) were skipped"
        )
        if damaged:
            self._avoid_rate()
            return TransportError(said, hint="a slower baud rate or a better cable", transient=True)
        return ProtocolError(said, hint="the firmware left them out, or the line loses whole frames")

    def _check_refusal(self, refusal: Mapping[str, Value]) -> None:
        """One that somebody else was given on the same line is none of ours."""
        if self._fence is None or refusal.get("tk") != self._fence.token:
            return
        # Says who holds the device now, where the records of this host know it.
        self._fence.check()
        raise LeaseLost(
            f"{self.stream.name} refuses the lease of this process (token {self._fence.token}): it has been used with "
            f"token {integer_field(refusal, 'n')} since",
            hint="it is also used from another host, or records were lost and the clock set back: a reset by hand or a "
            "power cycle makes it forget",
        )


def _drop_acknowledged(window: deque[tuple[int, bytes]], number: Value) -> bool:
    """Take out of the window what an acknowledgement covers; whether there was any."""
    before = len(window)
    while window and isinstance(number, int) and window[0][0] <= number:
        window.popleft()
    return len(window) < before
