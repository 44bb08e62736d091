"""Listening to a device: frames of the runner and whatever else comes, as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.build import build
from lab.connection_config import SerialPort as SerialConfig
from lab.devices.connect import console_of, emulated_target, firmware_of
from lab.devices.probed import image_on, reached
from lab.devices.swd_mcu import SwdTarget
from lab.errors import ConfigError, ProbeError
from lab.heard import split
from lab.inventory import Device as Entry
from lab.labgrid.lease import wired
from lab.lease import held
from lab.transports.base import ByteStream
from lab.transports.rtt import SYMBOL, RttStream, find_block
from lab.transports.serial import open_port
from lab.transports.swd_image import Range
from lab.transports.swd_settings import open_swd
from lab.workloads import get

# Firmware that was not built here is searched for its rings: all RAM of a large part would take a minute.
_SEARCHED_BYTES = 256 << 10


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


@contextmanager
def _stream(entry: Entry, workload: str, cache: Path) -> Iterator[ByteStream]:
    with ExitStack() as stack:
        if entry.config.swd is not None and (entry.emulated or entry.config.swd.rtt):
            stream = _probed_stream(entry, workload, cache, stack)
        elif entry.emulated and entry.board.firmware_board is not None:
            target = emulated_target(entry, cache)
            stack.callback(target.close)
            model = get(workload).prepare(cache).model
            stream = target.load(build(model, entry.board.firmware_board, cache=cache))
            target.release()
        elif entry.config.serial is not None:
            stream = open_port(entry.config.serial)
        elif entry.config.place is not None:
            # A board of another host has a port only while it is held.
            stream = open_port(_port(wired(entry, stack.enter_context(held(entry, "lab console")))))
        else:
            raise ConfigError(f"{entry.origin}: {entry.name!r} has no console: neither emulated nor serial")
        stack.callback(stream.close)
        yield stream


def _port(entry: Entry) -> SerialConfig:
    if entry.config.serial is None:
        raise ConfigError(f"{entry.origin}: {entry.name!r} has no console: its place has no serial port")
    return entry.config.serial


def _probed_stream(entry: Entry, workload: str, cache: Path, stack: ExitStack) -> ByteStream:
    """The line of a board behind a debug probe: left as it is where it runs already, else started."""
    probe, through_probe = stack.enter_context(reached(entry)), console_of(entry) == "rtt"
    if probe.fresh:
        target = SwdTarget(probe.settings, None if through_probe else probe.open_serial)
        stack.callback(target.close)
        model = get(workload).prepare(cache).model
        stream = target.load(build(model, firmware_of(entry.board), cache=cache, console=console_of(entry)))
        target.release()
        return stream
    if not through_probe and probe.open_serial is not None:
        return probe.open_serial()
    swd = stack.enter_context(open_swd(probe.settings, "attach"))
    image = image_on(swd, cache)
    if image is not None and SYMBOL in image.symbols:
        return RttStream(swd, image.symbols[SYMBOL], f"RTT over {probe.settings.unique_id}")
    searched = Range(swd.ram_ranges[0].start, min(swd.ram_ranges[0].end, swd.ram_ranges[0].start + _SEARCHED_BYTES))
    address = find_block(swd, searched.start, searched.end)
    if address is None:
        raise ProbeError(
            f"{entry.name}: no RTT control block in {searched}",
            hint="the firmware was built for a serial console, or has not started: `lab flash` first",
        )
    return RttStream(swd, address, f"RTT over {probe.settings.unique_id}")
