"""From an entry of a bench file to a computer that runs the runner: single-board computers and other Linux machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from lab.config_fields import reveal
from lab.connection_config import AdbDevice, SshHost
from lab.devices.base import Identity, Source
from lab.devices.linux import Linux
from lab.devices.machine import EmulatedMachine, Machine, RealMachine, absolute
from lab.devices.phone import AndroidMachine
from lab.devices.powered import switch_of
from lab.devices.python_payload import environment_key, environment_on
from lab.emulator_config import GuestEmulator, LoopbackEmulator
from lab.emulators.base import LinuxEmulator, Preparation
from lab.emulators.registry import create_linux
from lab.errors import ConfigError
from lab.fence import Fence
from lab.inventory import Device
from lab.power.base import Meter
from lab.transports.adb import open_adb
from lab.transports.remote import Remote
from lab.transports.ssh import open_ssh

UNIFIED_MEMORY = "unified-memory"
"""Feature of boards whose GPU shares the processor's memory."""

_IN_HOME = ".cache/hil-lab"
_IN_MEMORY = "/tmp/hil-lab"


def computer_of(
    entry: Device, cache: Path, meter: Callable[[Remote], Meter] | None, fence: Fence | None = None
) -> Linux:
    """The device of an entry of class ``linux`` or ``phone``, not yet connected.

    Args:
        entry: from a bench.
        cache: where images of emulated ones lie.
        meter: makes its meter, given the connection; None where it is not metered.
        fence: the lease under which it is used.

    Raises:
        ConfigError: its board has no firmware, or no way to reach it.
    """
    board = entry.board
    if board.firmware_board is None:
        raise ConfigError(
            f"board {board.kind!r} has no firmware yet", hint="name one of firmware/boards/linux-* in its board file"
        )
    emulated = isinstance(entry.emulator, GuestEmulator)
    source: Source = "emulated" if emulated else "hardware"
    machine, version = _machine(entry, cache)
    identity = Identity(
        entry.name, board.firmware_board, source, version if emulated else "", frozenset(entry.features)
    )
    return Linux(
        identity,
        machine,
        folder_of(entry),
        meter=meter,
        python=entry.config.python,
        environment=entry.config.environment,
        kind="phone" if board.device_class == "phone" else "linux",
        unified_memory=UNIFIED_MEMORY in board.features and not emulated,
        fence=fence,
    )


def folder_of(entry: Device) -> str:
    """Where the lab keeps its files on a device, seen from the user's home where it is relative."""
    reached = entry.config.ssh or entry.config.adb
    if reached is not None:
        return reveal(reached.folder)
    # The loopback's home is a folder of its own, which goes with it.
    return _IN_HOME if isinstance(entry.emulator, LoopbackEmulator) else _IN_MEMORY


def open_remote(reached: SshHost | AdbDevice, origin: str) -> Remote:
    """A connection to a device.

    Raises:
        ConfigError, InfrastructureError: see :func:`lab.transports.ssh.open_ssh` and
            :func:`lab.transports.adb.open_adb`.
    """
    if isinstance(reached, SshHost):
        return open_ssh(reached, origin=origin)
    return open_adb(reached, origin=origin)


def _machine(entry: Device, cache: Path) -> tuple[Machine, str]:
    """How a device is reached, and the version of what emulates it."""
    section, board = entry.emulator, entry.board
    if isinstance(section, GuestEmulator | LoopbackEmulator):
        emulator: LinuxEmulator = create_linux(board, section, cache, _preparation(entry))
        return EmulatedMachine(lambda: emulator, lambda reached: open_remote(reached, entry.origin)), emulator.version
    reached = entry.config.ssh or entry.config.adb
    if reached is None:
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r} has no way to be reached", hint="add ssh: or adb: to its entry"
        )
    switch = None if entry.config.power_switch is None else lambda: switch_of(entry)
    make = AndroidMachine if board.device_class == "phone" else RealMachine
    return make(entry.name, lambda: open_remote(reached, entry.origin), switch), ""


def _preparation(entry: Device) -> Preparation | None:
    """The Python of a guest, made of wheels before its state is saved: it takes minutes on an emulated core, and what
    a guest writes later is gone when it ends.

    Raises:
        ConfigError: there is no such folder of wheels.
    """
    python = entry.config.python
    if python is None or python.wheels is None or not isinstance(entry.emulator, GuestEmulator):
        return None

    def install(reached: SshHost) -> None:
        with closing(open_remote(reached, entry.origin)) as remote:
            environment_on(remote, python, absolute(remote, folder_of(entry)))

    return Preparation(environment_key(python), f"installing the wheels for {entry.name}'s Python", install)
