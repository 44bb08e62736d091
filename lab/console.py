"""Listening to a device: frames of the runner and whatever else comes, as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.build import build
from lab.devices.connect import emulated_target
from lab.errors import ConfigError
from lab.inventory import Device as Entry
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort, port_of
from lab.wire import decode_frame
from lab.workloads import get


def listen(entry: Entry, workload: str, cache: Path, seconds: float | None) -> Iterator[str]:
    """What a device says, one line a frame or a line of text.

    Args:
        entry: the device. An emulated one is started with the image of ``workload``; real hardware is left as it is.
        workload: workload id, for an emulated device.
        cache: where prepared workloads and images lie.
        seconds: how long to listen; None for ever.

    Raises:
        ConfigError: the device has no console.
        InfrastructureError: its port broke.
    """
    with _stream(entry, workload, cache) as stream:
        yield f"# {entry.name} on {stream.name}"
        deadline = None if seconds is None else time.monotonic() + seconds
        pending = b""
        while deadline is None or time.monotonic() < deadline:
            lines, pending = split(pending + stream.read(0.2))
            yield from lines


def split(data: bytes) -> tuple[list[str], bytes]:
    """Lines to show for bytes that came in, and the bytes that are not complete yet."""
    shown = []
    *pieces, rest = data.split(b"\x00")
    for piece in pieces:
        message = decode_frame(piece) if piece else None
        if message is not None:
            shown.append(json.dumps(message, default=lambda value: f"{len(value)} bytes"))
        elif piece:
            shown += _text(piece).splitlines()
    # Firmware that prints text never sends a zero; whole lines of it are shown as they come.
    if b"\n" in rest and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in rest):
        whole, _, rest = rest.rpartition(b"\n")
        shown += _text(whole).splitlines()
    return shown, rest


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="backslashreplace")


@contextmanager
def _stream(entry: Entry, workload: str, cache: Path) -> Iterator[ByteStream]:
    with ExitStack() as stack:
        if entry.emulated and entry.board.firmware_board is not None:
            target = emulated_target(entry, cache)
            stack.callback(target.close)
            model = get(workload).prepare(cache).model
            stream = target.load(build(model, entry.board.firmware_board, cache=cache))
            target.release()
        elif entry.config.serial is not None:
            stream = SerialPort(port_of(entry.config.serial.port, entry.config.serial.by_id), entry.config.serial.baud)
        else:
            raise ConfigError(f"{entry.origin}: {entry.name!r} has no console: neither emulated nor serial")
        stack.callback(stream.close)
        yield stream
