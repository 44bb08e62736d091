"""How a device with an operating system is reached, and brought back from the outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from lab.connection_config import AdbDevice, SshHost
from lab.emulators.base import LinuxEmulator
from lab.errors import InfrastructureError, TransportError
from lab.heard import SHOWN_LINES
from lab.power.switches.base import PowerSwitch
from lab.printable import printable
from lab.transports.remote import Remote

REBOOT_S = 180.0
_ASK_S = 10.0
_LOOK_EVERY_S = 1.0


class Machine(Protocol):
    """A computer that runs the lab's runner and can be logged in to."""

    def connect(self) -> Remote:
        """Open a connection, once the computer is up.

        Raises:
            ConfigError, InfrastructureError: it cannot be reached; says why.
        """

    def check_alive(self) -> None:
        """Raise what is known of its death: a kernel that panicked, an emulator that ended."""

    def reboot(self, remote: Remote) -> None:
        """Start its system anew and wait until ``remote`` is connected again.

        Raises:
            InfrastructureError: it may not be asked to, or does not come back.
        """

    def power_cycle(self) -> bool:
        """Take its supply away and give it back; False where nothing can. Connect anew afterwards."""

    def close(self) -> None:
        """Let go of it; safe to call twice."""


class RealMachine:
    """A computer on the network or on a cable.

    Args:
        name: the device's.
        connect: opens a connection.
        switch: makes the switch in its supply, or None.
        sleep: waits, seconds.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Remote],
        switch: Callable[[], PowerSwitch] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._connect = connect
        self._make_switch = switch
        self._sleep = sleep

    def connect(self) -> Remote:
        """Open a connection."""
        return self._connect()

    def check_alive(self) -> None:
        """A network tells nothing of the computer's health."""

    def reboot(self, remote: Remote) -> None:
        """Ask for a reboot, and wait until it is back.

        Raises:
            InfrastructureError: it may not be asked to, or does not come back.
        """
        before = boot_id(remote)
        # A board's user is seldom root; sudo must not ask for a password.
        refused = ask_for_reboot(remote, ("reboot",))
        if refused is not None:
            refused = ask_for_reboot(remote, ("sudo", "-n", "reboot"))
        if refused is not None:
            raise InfrastructureError(
                f"{self._name} cannot be rebooted: {refused}",
                hint="let its user run `sudo -n reboot`, or add power_switch: to the bench file",
            )
        await_boot(remote, before, self._name, REBOOT_S, self._sleep)

    def power_cycle(self) -> bool:
        """Switch its supply off and on, where there is a switch."""
        if self._make_switch is None:
            return False
        self._make_switch().do("cycle")
        return True

    def close(self) -> None:
        """Nothing is held but the connection."""


class EmulatedMachine:
    """An emulated computer: rebooting and power cycling it mean a clean start.

    Args:
        make: makes the emulator, not yet started.
        connect: opens a connection by what the emulator says of itself.
    """

    def __init__(
        self, make: Callable[[], LinuxEmulator], connect: Callable[[SshHost | AdbDevice], Remote]
    ) -> None:
        self._make = make
        self._connect = connect
        self._emulator: LinuxEmulator | None = None

    @property
    def emulator(self) -> LinuxEmulator | None:
        """What runs, for faults; None before the first connection."""
        return self._emulator

    def connect(self) -> Remote:
        """Start the emulator where it does not run, and log in."""
        if self._emulator is None:
            self._emulator = self._make()
        return self._connect(self._emulator.start())

    def check_alive(self) -> None:
        """Raise what is known of its death."""
        if self._emulator is not None:
            self._emulator.check_alive()

    def reboot(self, remote: Remote) -> None:
        """An emulated computer starts anew by its supply: it comes back at another port.

        Raises:
            InfrastructureError: always; the next rung does it.
        """
        raise InfrastructureError(f"{remote.name} is emulated: it is started anew, not rebooted")

    def power_cycle(self) -> bool:
        """Take its supply away; :meth:`connect` starts it."""
        if self._emulator is not None:
            self._emulator.power_cut()
        return True

    def evidence(self) -> Mapping[str, str]:
        """The last of its system's console; see :class:`lab.devices.base.Evident`."""
        if self._emulator is None:
            return {}
        return {"system": "\n".join(printable(self._emulator.console()).splitlines()[-SHOWN_LINES:])}

    def close(self) -> None:
        """End the emulator; safe to call twice."""
        if self._emulator is not None:
            self._emulator.stop()
            self._emulator = None


def absolute(remote: Remote, path: str) -> str:
    """A path on a device, seen from its user's home where it is relative or begins with ``~/``."""
    if path.startswith("/"):
        return path
    home = remote.run(("sh", "-c", 'printf %s "$HOME"'), timeout_s=10.0).text or "/"
    return f"{home.rstrip('/')}/{path.removeprefix('~/')}"


def boot_id(remote: Remote) -> str:
    """What tells this boot from others; empty where the system does not say."""
    return remote.run(("cat", "/proc/sys/kernel/random/boot_id"), timeout_s=10.0).text


def ask_for_reboot(remote: Remote, command: Sequence[str]) -> str | None:
    """Run a command that reboots; what it complains where it does not.

    Android's waits for the end of the system, and on others the connection may go before the status comes (AOSP,
    system/core, reboot/reboot.c): whether the system went down shows in its boot.
    """
    try:
        asked = remote.run(command, timeout_s=_ASK_S)
    except TransportError:
        return None
    said = asked.stderr.decode(errors="replace").strip()
    return None if asked.status == 0 else said or f"status {asked.status}"


def await_boot(remote: Remote, before: str, name: str, limit_s: float, sleep: Callable[[float], None]) -> None:
    """Wait until a device that was asked to reboot is in another boot, and ``remote`` connected.

    A system that goes down still answers for a while.

    Args:
        before: its boot when it was asked, empty where it does not say: then an answer is enough.
        name: the device's.
        limit_s: how long to wait, seconds.
        sleep: waits, seconds.

    Raises:
        InfrastructureError: it does not come back, or did not go down.
    """
    deadline = time.monotonic() + limit_s
    while True:
        left_s = deadline - time.monotonic()
        remote.reconnect(max(0.0, left_s))
        try:
            if not before or boot_id(remote) != before:
                return
        except TransportError:
            # It went down just now.
            if left_s <= 0.0:
                raise
        if left_s <= 0.0:
            raise InfrastructureError(f"{name} was asked to reboot and did not", transient=True)
        sleep(_LOOK_EVERY_S)
