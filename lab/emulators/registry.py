"""From the ``emulator:`` section of a board file to an emulator; only the program that is asked for is imported."""

from __future__ import annotations

from pathlib import Path

from lab.emulator_config import GuestEmulator, LoopbackEmulator, McuEmulatorConfig, QemuEmulator, UnicornEmulator
from lab.emulators.base import LinuxEmulator, McuEmulator, Preparation
from lab.errors import ConfigError, ToolMissing
from lab.inventory import Board


def create(
    board: Board, section: McuEmulatorConfig, firmware: Path, *, marker_socket: Path | None = None
) -> McuEmulator:
    """An emulator of ``board``, not yet started.

    Args:
        board: the board kind.
        section: which emulator, and how: one of ``board.emulators``.
        firmware: ELF to run.
        marker_socket: listening unix socket that takes the marker line.

    Raises:
        ConfigError: the emulator has no marker line.
        ToolMissing: the program or a package it needs is not installed.
    """
    if isinstance(section, QemuEmulator):
        from lab.emulators.qemu import Qemu, machine_of

        return Qemu(machine_of(section), firmware, marker_socket=marker_socket)
    if isinstance(section, UnicornEmulator):
        try:
            from lab.emulators.unicorn.machine import Unicorn
        except ModuleNotFoundError as error:
            raise ToolMissing(
                f"board {board.kind!r}: the package unicorn is not installed", hint="pip install 'hil-lab[emulate-pip]'"
            ) from error
        return Unicorn(section.peripherals, firmware, marker_socket=marker_socket)
    if marker_socket is not None:
        raise ConfigError(
            f"board {board.kind!r}: Renode has no marker line, which an emulated meter needs",
            hint="remove the meter, or name another emulator of the board",
        )
    from lab.emulators.renode.machine import Renode, RenodeBoard

    return Renode(RenodeBoard(section.platform, section.uart, section.mips, section.iwdg), firmware)


def create_linux(
    board: Board, section: GuestEmulator | LoopbackEmulator, cache: Path, preparation: Preparation | None = None
) -> LinuxEmulator:
    """An emulated device with an operating system, not yet started.

    Args:
        board: the board kind.
        section: which emulator, and how: one of ``board.emulators``.
        cache: the lab's cache folder, for images, keys and saved states.
        preparation: what is done once in a guest and kept with its saved state.
    """
    if isinstance(section, GuestEmulator):
        from lab.emulators.linux.guest import Guest

        return Guest(section, cache, preparation=preparation)
    from lab.emulators.sshd import LoopbackSshd

    return LoopbackSshd(section, cache)


def version_of(section: McuEmulatorConfig) -> str:
    """Program and version that :func:`create` would use; empty where it is not installed."""
    if isinstance(section, QemuEmulator):
        from lab.emulators.tcg_plugin import qemu_version

        return qemu_version(section.program)
    if isinstance(section, UnicornEmulator):
        from lab.emulators.unicorn import unicorn_version

        return unicorn_version()
    from lab.emulators.renode import renode_version

    return renode_version()
