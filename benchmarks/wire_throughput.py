"""Useful bytes per second over the emulated UART, against a raw firmware that only copies bytes.

Towards the device: a blob by :meth:`lab.wire.Session.put`, chunk by chunk over the wire. From the device: the result
of a model whose output is copies of its input, so that what comes back is compared with what was sent, byte by byte.
The baseline sends the same number of bytes through the same QEMU machine and the same
:class:`lab.transports.serial.SerialPort`, with polled loops, no frames and no checks but a hash. In turns, one instance
at a time.
The best turns are compared, since other load on the machine can only slow a turn down.
Claim: at least 80 % of the raw rate in each direction, nothing lost, nothing repeated.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import BOARDS, Claim, build_raw_firmware, image, machine, target, verdict
from copy_model import copy_model

from lab.emulators.qemu import Qemu
from lab.events import Job, ResultEvent
from lab.transports.serial import SerialPort
from lab.wire import Session

TURNS = 25
SENT_BYTES = 8192
COPIES = 40
BOUND = 0.8
TIMEOUT_S = 60.0


@dataclass
class Rates:
    """Useful bytes per second, turn by turn."""

    to_device: list[float] = field(default_factory=list)
    from_device: list[float] = field(default_factory=list)


@contextmanager
def opened(name: str) -> Iterator[Session]:
    emulator = target(name)
    stream = emulator.load(image(name, copy_model(SENT_BYTES, COPIES)))
    try:
        emulator.release()
        session = Session(stream, board_is_alive=emulator.check_alive)
        session.open(ask=False)
        yield session
    finally:
        stream.close()
        emulator.close()


def wire_turn(name: str, data: bytes, rates: Rates) -> None:
    """One blob to the device over the wire, and a result of several copies of it back."""
    with opened(name) as session:
        begin = time.perf_counter()
        session.put("samples", data)
        rates.to_device.append(len(data) / (time.perf_counter() - begin))
        job = Job("infer", data, 1, warmup=0, repeats=1, quiet_us=0)
        begin = time.perf_counter()
        results = [event.data for event in session.run(job) if isinstance(event, ResultEvent)]
        rates.from_device.append(COPIES * len(data) / (time.perf_counter() - begin))
        lost = session.resent_frames, session.repeated_frames, session.garbage_bytes
    if results != [COPIES * data]:
        raise SystemExit(f"{name}: what came back is not what was sent")
    if any(lost):
        raise SystemExit(f"{name}: resent frames, repeated frames, garbage bytes: {lost}")


def read_exactly(stream: SerialPort, count: int) -> bytes:
    data = bytearray()
    deadline = time.monotonic() + TIMEOUT_S
    while len(data) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"the raw firmware sent {len(data)} of {count} bytes in {TIMEOUT_S} s")
        data += stream.read(1.0)
    return bytes(data)


def generated(count: int) -> bytes:
    """What the raw firmware's 'g' sends."""
    state, data = 1, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        data.append(state >> 24)
    return bytes(data)


def hashed(data: bytes) -> bytes:
    """What the raw firmware's 's' answers."""
    value = 0
    for byte in data:
        value = (31 * value + byte) & 0xFFFFFFFF
    return value.to_bytes(4, "little")


def raw_turn(name: str, elf: Path, data: bytes, back: bytes, rates: Rates) -> None:
    with Qemu(machine(name), elf) as qemu:
        stream = SerialPort(qemu.serial_url)
        try:
            qemu.release()
            read_exactly(stream, 1)
            begin = time.perf_counter()
            stream.write(b"s" + len(data).to_bytes(4, "little") + data)
            answer = read_exactly(stream, 4)
            rates.to_device.append(len(data) / (time.perf_counter() - begin))
            begin = time.perf_counter()
            stream.write(b"g" + len(back).to_bytes(4, "little"))
            came = read_exactly(stream, len(back))
            rates.from_device.append(len(back) / (time.perf_counter() - begin))
        finally:
            stream.close()
    if answer != hashed(data) or came != back:
        raise SystemExit(f"{name}: the raw firmware lost bytes")


def compare(name: str, elf: Path) -> list[Claim]:
    data = np.random.default_rng(0).integers(0, 256, SENT_BYTES, np.uint8).tobytes()
    back = generated(COPIES * SENT_BYTES)
    wire, raw = Rates(), Rates()
    for _ in range(TURNS):
        raw_turn(name, elf, data, back, raw)
        wire_turn(name, data, wire)
    return [
        claim(f"wire to {name}", wire.to_device, raw.to_device),
        claim(f"wire from {name}", wire.from_device, raw.from_device),
    ]


def claim(what: str, wire: list[float], raw: list[float]) -> Claim:
    ours, theirs = (
        f"best {max(each) / 1e3:.1f} kB/s, median {statistics.median(each) / 1e3:.1f}" for each in (wire, raw)
    )
    return Claim(what, f"{ours}; raw {theirs}; n={len(wire)}", max(wire) / max(raw), BOUND, at_least=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        elf = build_raw_firmware(Path(folder))
        return verdict([claim for name in BOARDS for claim in compare(name, elf)])


if __name__ == "__main__":
    sys.exit(main())
