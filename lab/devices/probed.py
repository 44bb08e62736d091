"""Devices with a debug probe: how an entry of the bench file says that the probe is reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.emulator_config import QemuEmulator
from lab.emulators.probe.board import ProbedBoard, ProbedMachine
from lab.emulators.probe.registry import BoardEntry, boards
from lab.emulators.qemu import machine_of
from lab.errors import ConfigError
from lab.inventory import Device as Entry
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort
from lab.transports.swd_image import Image, read_image
from lab.transports.swd_settings import SwdSettings

if TYPE_CHECKING:
    from lab.transports.swd import Swd

_BUILD_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}(?=\0)")
_PIECE_BYTES = 1 << 15
_OVERLAP_BYTES = 32


@dataclass(frozen=True)
class Reached:
    """A board whose probe can be opened.

    Attributes:
        settings: how.
        open_serial: opens the UART of an emulated board; None on hardware, whose port is in the bench file.
        fresh: whether the board was started for this and is gone afterwards, with nothing on it yet.
    """

    settings: SwdSettings
    open_serial: Callable[[], ByteStream] | None
    fresh: bool


def swd_settings(entry: Entry, unique_id: str = "") -> SwdSettings:
    """How the probe of an entry is reached.

    Args:
        entry: a device with ``swd:``.
        unique_id: of its virtual probe; a real one's is in the bench file.

    Raises:
        ConfigError: the device has no probe.
    """
    probe, target = entry.config.swd, entry.board.pyocd_target
    if target is None or (probe is None and not unique_id):
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} has no debug probe",
            hint="add swd: {unique_id: …} to its entry; its board file must name the pyocd_target",
        )
    if probe is None:
        return SwdSettings(unique_id, target)
    pack = None if probe.pack is None else Path(probe.pack)
    return SwdSettings(unique_id or probe.unique_id or "", target, pack, probe.frequency, probe.under_reset)


def probed_machine(entry: Entry) -> ProbedMachine:
    """The machine behind the virtual probe of an emulated device; any that QEMU emulates may be put behind one.

    Raises:
        ConfigError: it cannot.
    """
    section, target = entry.emulator, entry.board.pyocd_target
    if not entry.emulated or not isinstance(section, QemuEmulator) or target is None:
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} ({entry.board.kind}) cannot be put behind a virtual probe",
            hint="it has to be emulated by QEMU, and its board file must name its pyocd_target",
        )
    return ProbedMachine(machine_of(section), entry.board.kind, entry.board.cpu, target)


def kept_id(entry: Entry) -> str:
    """Unique id of the probe of a board that ``lab emulate`` keeps: the device's name."""
    return entry.name


def kept_board(entry: Entry) -> BoardEntry | None:
    """The board that ``lab emulate`` keeps running for a device; None where it keeps none."""
    kept = (listed.entry for listed in boards())
    return next((one for one in kept if (one.unique_id, one.board) == (kept_id(entry), entry.board.kind)), None)


@contextmanager
def reached(entry: Entry) -> Iterator[Reached]:
    """The board of a device: the real one, the one that ``lab emulate`` keeps, or one started for this.

    Raises:
        ConfigError: the device has no probe.
        EmulatorError: the emulator cannot be started.
    """
    if not entry.emulated:
        yield Reached(swd_settings(entry), None, False)
        return
    machine = probed_machine(entry)
    kept = kept_board(entry)
    if kept is not None:
        yield Reached(swd_settings(entry, kept.unique_id), lambda: SerialPort(kept.serial_url), False)
        return
    with ProbedBoard(machine) as board:
        yield Reached(swd_settings(entry, board.unique_id), board.open_serial, True)


def image_on(swd: Swd, cache: Path) -> Image | None:
    """The image that a board holds, if it was built here: found by the build id in flash, and compared whole.

    Args:
        swd: a session with the board.
        cache: where built images lie.
    """
    for flash in swd.flash_ranges:
        data = b""
        for start in range(flash.start, flash.end, _PIECE_BYTES):
            piece = swd.read_memory(start, min(_PIECE_BYTES, flash.end - start))
            for found in _BUILD_ID.findall(data[-_OVERLAP_BYTES:] + piece):
                for elf in (cache / "builds").glob(f"{found.decode()}*/firmware.elf"):
                    image = read_image(elf)
                    if swd.holds(image):
                        return image
            if set(piece) <= {0xFF} or set(piece) <= {0}:
                # Behind the image.
                break
            data = piece
    return None
