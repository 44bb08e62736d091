"""The runner protocol, host side: sessions and jobs. ``docs/wire.md`` is the specification."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping

from lab.errors import ConfigError, DeviceError, Hang, ProtocolError, TransportError
from lab.events import Done, Event, Hello, Job, RegionEvent
from lab.fence import Fence
from lab.transports.base import ByteStream, MemoryPort, Reopenable, Tunable
from lab.wire_link import Link
from lab.wire_messages import Value, check_joined, join_result, parse_event, parse_metric, parse_passes

PROFILE_LAYERS = 1
SILENT_MARKER = 2
SLEEP_WHEN_QUIET = 4
_RUN_KEYS = frozenset(("t", "s", "tk", "j", "n", "c", "w", "r", "f", "q", "window"))
BLOB_ALIGNMENT = 16  # BLOB_ALIGNMENT in firmware/runner/blob.h
_PUT_OVERHEAD = 64
_BAUD_ATTEMPTS = 2
# Long enough for a device to go back by itself, which takes it half a second of garbage.
_BACK_S = 4.0
# Each way: 2 KiB of every byte value show a rate at which one bit in ten thousand is wrong.
_BAUD_PROBES = 4
_BAUD_PROBE = bytes(range(256)) * 2


class Session:
    """A session with a runner over a byte stream.

    Call order: :meth:`open`, then any number of :meth:`put` and :meth:`run`. After a job that was not followed to its
    end, and after any :class:`lab.errors.Hang`, :meth:`open` again.

    Args:
        stream: the byte stream.
        board_is_alive: asked while waiting; raises the right error when the peer is known to be dead.
        heard: is given all that came from the device, as it comes.
        acknowledge_s: how long to wait for an acknowledgement before a frame is sent again.
        attempts: how often a frame is sent before the device counts as hung.
        fence: the lease under which all this happens, which every message names; None where nobody holds the device.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        board_is_alive: Callable[[], None] = lambda: None,
        heard: Callable[[bytes], None] = lambda data: None,
        acknowledge_s: float = 3.0,
        attempts: int = 4,
        fence: Fence | None = None,
    ) -> None:
        self._stream = stream
        self._link = Link(
            stream, board_is_alive=board_is_alive, heard=heard, acknowledge_s=acknowledge_s, attempts=attempts,
            fence=fence,
        )  # fmt: skip
        self._blobs: dict[str, int] = {}

    @property
    def garbage_bytes(self) -> int:
        """Bytes that arrived and formed no frame."""
        return self._link.garbage_bytes

    @property
    def resent_frames(self) -> int:
        """Frames that had to be sent again."""
        return self._link.resent_frames

    @property
    def repeated_frames(self) -> int:
        """Frames the device sent twice."""
        return self._link.repeated_frames

    @property
    def hello(self) -> Hello:
        """What the device said at :meth:`open`.

        Raises:
            ProtocolError: the session is not open.
        """
        return self._link.hello

    @property
    def unfinished_job(self) -> str:
        """Name of a job that was started and not followed to its end; empty where there is none."""
        return self._link.job

    def open(self, timeout_s: float = 5.0, *, build_id: str | None = None, ask: bool = True) -> Hello:
        """Open the session.

        Args:
            timeout_s: how long the device may take.
            build_id: refuse any other firmware than this.
            ask: send ``hello`` at once; False gives a device that was reset the first half of the time to say it by
                itself, and asks only then.

        A stream that breaks meanwhile is opened anew where it can be (:class:`lab.transports.base.Reopenable`). Where
        the device and the stream have a faster rate in common (:class:`lab.transports.base.Tunable`) they go on at
        the fastest that carries data without damage.

        Raises:
            Hang: the device said nothing, or nothing to the point.
            TransportError: bytes arrived, but no frame: wrong baud rate or another program.
            ProtocolError: wrong protocol version or firmware.
            LeaseLost: the device has been used under a newer lease; so may all that follows.
        """
        self._link.job = ""
        hello = self._link.greet(timeout_s, ask, build_id)
        return self._speed_up(hello, timeout_s, build_id)

    def _speed_up(self, hello: Hello, timeout_s: float, build_id: str | None) -> Hello:
        """Go on at the fastest rate that both ends have and that carries data; the first one where none does."""
        stream = self._stream
        if not isinstance(stream, Tunable):
            return hello
        for baud in sorted(hello.baud_rates, reverse=True):
            if not stream.baud < baud <= stream.max_baud:
                continue
            try:
                self._change_baud(stream, baud)
            except (DeviceError, TransportError):
                stream.limit_baud(baud - 1)
                self._link.go_at_first_rate()
                # The device hears this as garbage, and goes back as well.
                hello = self._link.greet(min(timeout_s, _BACK_S), True, build_id)
            else:
                break
        return hello

    def _change_baud(self, stream: Tunable, baud: int) -> None:
        """Change the rate of both ends, and try the new one.

        Raises:
            DeviceError, TransportError: it does not carry data; the device may be at either rate.
        """
        self._ask_for_rate(stream, baud)
        probe = _BAUD_PROBE[: self.hello.mtu - _PUT_OVERHEAD]
        with self._link.hurried(_BAUD_ATTEMPTS):
            for _ in range(_BAUD_PROBES):
                self._link.send(iter([{"t": "baud", "b": baud, "d": probe}]))
                answer = self._link.next(self._link.acknowledge_s)
                if answer is None or answer.get("d") != probe:
                    raise ProtocolError(f"{self._stream.name} answered a probe at {baud} bits per second with {answer}")

    def _ask_for_rate(self, stream: Tunable, baud: int) -> None:
        # Without an acknowledgement it may have been that which was lost: the device may be there already.
        with contextlib.suppress(Hang), self._link.hurried(1):
            self._link.send(iter([{"t": "baud", "b": baud}]))
        self._link.go_at(stream, baud)

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
        self._link.send({**head, "o": at, "d": data[at : at + room]} for at in range(0, max(len(data), 1), room))

    def _place(self, name: str, data: bytes, memory: MemoryPort, at: int) -> None:
        """Put a blob at an offset of the blob store through a memory port."""
        head = self._put_head(name, data, at)
        address = self.hello.blob_address + at
        memory.write_memory(address, data)
        self._link.send(iter([{**head, "p": address, "k": zlib.crc32(data)}]))

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
                self._link.send(iter([{"t": "put", "n": name, "z": 0, "o": 0, "d": b""}]))
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
            silence_s: longest time without a frame before the device counts as hung, besides the job's own silence.

        Raises:
            ConfigError: a parameter of the job has a name the protocol uses itself.
            Hang: no frame for ``silence_s``.
            DeviceError: what the device reported, or a gap in what it sent.
            TransportError: the line damaged what the device sent, or carried nothing but noise for ``silence_s``.
        """
        self._idle_hello()
        reserved = sorted(_RUN_KEYS & job.parameters.keys())
        if reserved:
            raise ConfigError(
                f"job {job.name!r}: parameters {', '.join(reserved)} have names the protocol uses itself",
                hint=f"any name but {', '.join(sorted(_RUN_KEYS))}",
            )
        flags = (PROFILE_LAYERS if job.profile else 0) | (0 if job.marker_line else SILENT_MARKER)
        flags |= SLEEP_WHEN_QUIET if job.sleep else 0
        silence_s += job.silent_s
        message: dict[str, Value] = {"t": "run", "j": job.name, "n": "samples", "c": job.count, "w": job.warmup}
        message |= {"r": job.repeats, "f": flags, "q": job.quiet_us, **job.parameters}
        if job.window:
            message["window"] = job.window
        self._link.job = job.name
        damaged = self._link.damaged_frames
        self._link.send(iter([message]))
        partial: dict[int, bytearray] = {}
        while True:
            received = self._link.next(silence_s)
            if received is None:
                raise self._link.unheard(
                    f"job {job.name!r} sent nothing for {silence_s:.0f} s",
                    damaged,
                    hint="the firmware hangs, or the job is longer than the silence allowed: raise silence_s",
                )
            if received.get("t") in ("done", "error"):
                self._link.job = ""
            if received.get("t") == "events":
                yield from parse_passes(received)
                continue
            if received.get("t") == "error":
                raise self._link.error_of(received)
            in_pieces = received.get("t") == "result" and "z" in received
            event = join_result(received, partial) if in_pieces else parse_event(received)
            if event is None:
                continue
            if isinstance(event, Done):
                check_joined(partial)
                yield event
                return
            yield event
            if isinstance(event, RegionEvent) and "v" in received:
                yield parse_metric(received)

    def leave(self) -> None:
        """Put the first rate back, for whoever talks to the device next.

        Raises:
            TransportError: the stream broke.
        """
        stream = self._stream
        if self._link.greeted and isinstance(stream, Tunable) and stream.baud != stream.first_baud:
            self._ask_for_rate(stream, stream.first_baud)

    def reset(self) -> None:
        """Ask the device to reset itself; open the session again afterwards."""
        stream = self._stream
        # So that its hello is not said at a rate nobody listens at.
        self.leave()
        try:
            self._link.send(iter([{"t": "reset"}]))
        except TransportError:
            # The port of a USB device goes with it, often before the acknowledgement.
            if not isinstance(stream, Reopenable):
                raise
        self._link.forget()

    def _idle_hello(self) -> Hello:
        if self._link.job:
            raise ProtocolError(
                f"{self._stream.name}: job {self._link.job!r} was not followed to its end; its frames may still come",
                hint="read all events up to Done, or open() the session again",
            )
        return self.hello
