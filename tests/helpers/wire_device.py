"""A model of a device that speaks the runner protocol, over a line that loses, repeats, damages and cuts frames.

The model is written from docs/wire.md and uses cobs, zlib and cbor2 directly. The line is in memory and answers at
once, so every time-out here is zero and nothing sleeps.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import cbor2
from cobs import cobs
from hypothesis import strategies as st

from lab.events import Event, Job, RegionEvent
from lab.wire import Session

Message = dict[str, Any]
Fate = Literal["pass", "drop", "repeat", "damage", "cut"]

MTU = 128
BLOB_BYTES = 4096
BLOB_ADDRESS = 0x2000
HELLO: Message = {
    "v": 1, "b": "0123456789abcdef", "d": "model-board", "k": "virtual", "h": 25_000_000, "u": MTU, "cr": 1,
    "ba": 0, "bs": BLOB_BYTES, "ar": 1024, "st": 2048, "mo": "tiny",
}  # fmt: skip


def frame(message: Message) -> bytes:
    payload = cbor2.dumps(message)
    encoded: bytes = cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))
    return encoded + b"\0"


def unframe(piece: bytes) -> Message | None:
    try:
        raw = cobs.decode(piece)
    except cobs.DecodeError:
        return None
    good = len(raw) >= 4 and zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little")
    return cbor2.loads(raw[:-4]) if good else None


class Line:
    """One direction of the line; frames meet the fates in order, those behind the last fate pass."""

    def __init__(self) -> None:
        self.fates: Iterator[Fate] = iter(())
        self._rest = b""

    def carry(self, data: bytes) -> bytes:
        *pieces, self._rest = (self._rest + data).split(b"\0")
        return b"".join(self._one(piece + b"\0") if piece else b"\0" for piece in pieces)

    def _one(self, sent: bytes) -> bytes:
        match next(self.fates, "pass"):
            case "drop":
                return b""
            case "repeat":
                return sent + sent
            case "damage":
                middle = len(sent) // 2
                return sent[:middle] + bytes([sent[middle] ^ 0x10 or 0x11]) + sent[middle + 1 :]
            case "cut":
                return sent[: len(sent) // 2]
            case _:
                return sent


class Device:
    """A runner as docs/wire.md has it, with a line in each direction; a ByteStream for the host."""

    def __init__(self, job_frames: Iterable[Message] = (), **hello: object) -> None:
        self.name = "model"
        self.hello = {**HELLO, **hello}
        self.to_device = Line()
        self.to_host = Line()
        self.blobs: dict[str, bytearray] = {}
        self.totals: dict[str, int] = {}
        self.memory = bytearray(BLOB_BYTES)
        self.executed: list[Message] = []
        self.deaf = False
        self._job_frames = list(job_frames)
        self._last = 0
        self._next = 0
        self._incoming = b""
        self._outgoing = b""

    # ---- ByteStream and MemoryPort ----

    def write(self, data: bytes) -> None:
        *pieces, self._incoming = (self._incoming + self.to_device.carry(data)).split(b"\0")
        for piece in pieces:
            message = unframe(piece) if piece else None
            if message is not None and not self.deaf:
                self._take(message)

    def read(self, timeout_s: float) -> bytes:
        data, self._outgoing = self._outgoing, b""
        return data

    def close(self) -> None:
        pass

    def write_memory(self, address: int, data: bytes) -> None:
        self.memory[address - BLOB_ADDRESS : address - BLOB_ADDRESS + len(data)] = data

    # ---- the runner ----

    def say(self, message: Message) -> None:
        """Send a numbered frame."""
        self.send({"s": self._next, **message})
        self._next += 1

    def send(self, message: Message) -> None:
        self.babble(frame(message))

    def babble(self, data: bytes) -> None:
        self._outgoing += self.to_host.carry(data)

    def restart(self) -> None:
        self._last = self._next = 0
        self.say({"t": "hello", **self.hello})

    def _take(self, message: Message) -> None:
        number = message["s"]
        if message["t"] == "hello":
            self.restart()
        elif number == self._last != 0:
            self.send({"t": "ack", "a": number})
        elif number != self._last + 1:
            self.say({"t": "error", "c": "sequence", "p": "frame", "m": "not next", "a": number})
        elif message["t"] == "put" and (refused := self._put(message)):
            self.say({"t": "error", "c": refused, "p": "put", "m": "refused", "a": number})
        else:
            self._last = number
            self.executed.append(message)
            self.send({"t": "ack", "a": number})
            if message["t"] == "run":
                for job_frame in self._job_frames:
                    self.say(job_frame)
            elif message["t"] == "reset":
                self.restart()

    def _put(self, message: Message) -> str:
        name, total = message["n"], message["z"]
        if total > BLOB_BYTES:
            return "size"
        if "p" in message:
            at = message["p"] - BLOB_ADDRESS
            if at % 16:
                return "size"
            data = bytes(self.memory[at : at + total])
            self.blobs[name] = bytearray(data)
            return "" if zlib.crc32(data) == message["k"] else "checksum"
        if message["o"] == 0:
            self.blobs[name], self.totals[name] = bytearray(), total
        blob = self.blobs.get(name, bytearray())
        if len(blob) != message["o"] or self.totals.get(name) != total:
            return "size"
        blob += message["d"]
        return ""


def opened(device: Device, **settings: float) -> Session:
    session = Session(device, acknowledge_s=0.0, attempts=int(settings.get("attempts", 8)))
    session.open(1.0)
    return session


def job(name: str = "infer", parameters: Mapping[str, int] = MappingProxyType({})) -> Job:
    return Job(name, blob=b"", count=2, parameters=parameters)


def event(index: int) -> Message:
    return {"t": "event", "r": "inference", "i": index, "b": 100 * index, "e": 100 * index + 42}


DONE: Message = {"t": "done", "y": 700, "a": 96, "c": 12345, "n": 2, "x": 0}
EVENTS: list[Event] = [RegionEvent("inference", i, 100 * i, 100 * i + 42) for i in range(2)]

fates = st.lists(st.sampled_from(["pass", "pass", "drop", "repeat", "damage", "cut"]), max_size=40)
FAULTS: tuple[Fate, ...] = ("drop", "repeat", "damage", "cut")


def fate_of(place: int, fault: Fate) -> Iterator[Fate]:
    """Only the frame number ``place`` meets the fault."""
    yield from itertools.repeat("pass", place)
    yield fault
