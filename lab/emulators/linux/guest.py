"""Emulated arm64 Linux devices, one QEMU per instance, each start from the same clean state (docs/linux-guests.md)."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
import time
import uuid
from pathlib import Path

from lab.connection_config import AdbDevice, SshHost
from lab.emulator_config import GuestEmulator
from lab.emulators.base import Preparation
from lab.emulators.linux.image import image
from lab.emulators.linux.keys import keys
from lab.emulators.linux.machine import FOLDER_PREFIX, Machine, Memory, Settings, guest_qemu_version
from lab.emulators.linux.recipes import RECIPES, SSH_PORT
from lab.emulators.linux.saved import prepare_boot, root_login, saved_state, set_clock
from lab.emulators.linux.sensors import Sensor, read_sensors
from lab.errors import ConfigError, EmulatorError


class Guest:
    """One emulated Linux device, for one user; see :class:`lab.emulators.base.LinuxEmulator`. A context manager.

    Args:
        section: the board's ``emulator:`` section.
        cache: the lab's cache folder; the image, the keys and the saved state lie there.
        resume: go on from the saved state; without it the guest boots.
        preparation: what is done before the state is saved; None for nothing. A guest that boots has none of it.

    Attributes:
        version: program and version.
    """

    kind = "qemu-linux"

    def __init__(
        self, section: GuestEmulator, cache: Path, *, resume: bool = True, preparation: Preparation | None = None
    ) -> None:
        self._section = section
        self._cache = cache
        self._resume = resume
        self._preparation = preparation
        self._recipe = RECIPES[section.image]
        self._settings = Settings(
            section.cpu, section.cpus, section.memory_bytes, section.icount_shift, self._recipe.port
        )
        self._machine: Machine | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._host_port = 0
        self._power_cut = False
        self._console = ""
        self.version = guest_qemu_version()

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> SshHost | AdbDevice:
        """Start from a clean state and wait until it can be logged in to; says how it is reached.

        The port stays the same from start to start. The first start of a cache downloads packages and boots once.

        Raises:
            ToolMissing: QEMU is missing, or the image is and cannot be built; says how to get it.
            EmulatorError: it does not start; carries its own words.
        """
        self.stop()
        built = image(self._section.image, self._cache)
        pair = keys(self._cache)
        if self._resume:
            saved = saved_state(self._cache, built, pair, self._section, self._settings, self._preparation)
            self._machine = Machine(
                self._settings, saved.boot, memory=Memory(saved.memory, kept=False), state=saved.state,
                host_port=self._host_port, console_before=saved.console,
            )  # fmt: skip
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
            folder = Path(self._scratch.name)
            boot = prepare_boot(folder, self._cache, built, pair, self._section, self._settings)
            self._machine = Machine(self._settings, boot, host_port=self._host_port)
            self._machine.wait_ready()
        self._host_port = self._machine.host_port
        self.run((_new_boot() if self._resume else "") + set_clock(time.time()))
        return self._reached()

    def _reached(self) -> SshHost | AdbDevice:
        return self.address_of_ssh() if self._recipe.port == SSH_PORT else self.address_of_adb()

    def address_of_ssh(self) -> SshHost:
        """How root logs in; with the user ``lab`` in its place there is one without rights."""
        return root_login(keys(self._cache), self._host_port)

    def address_of_adb(self) -> AdbDevice:
        """Where a phone's daemon listens."""
        return AdbDevice(address=f"127.0.0.1:{self._host_port}")

    def check_alive(self) -> None:
        """Return while it runs.

        Raises:
            Crash: its kernel panicked; carries the console's last words.
            EmulatorError: it was switched off, or QEMU died for reasons of its own.
        """
        if self._power_cut:
            raise EmulatorError("the emulated device has no power: its supply was cut", hint="start it", transient=True)
        self._running().check_alive()

    def console(self) -> str:
        """What its console said so far, from its boot on."""
        return self._console if self._machine is None else self._machine.console()

    def stop(self) -> None:
        """End it and remove what it left; safe to call twice."""
        self._end_machine()
        self._power_cut = False

    def _end_machine(self) -> None:
        if self._machine is not None:
            self._machine.stop()
            self._console = self._machine.console()
            self._machine = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _running(self) -> Machine:
        if self._machine is None:
            raise EmulatorError("the emulated device is not running", hint="start it")
        return self._machine

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._running().pid

    # --- what a hand at the bench does ---------------------------------------------------------------------------

    def run(self, script: str) -> str:
        """Run a shell script in the guest, not through its network; gives what it printed, less line ends at its end.

        Raises:
            EmulatorError: its status was not 0, or the guest does not answer.
        """
        status, said = self._running().agent(script)
        text = said.decode(errors="replace")
        if status:
            raise EmulatorError(f"the guest's shell ended with status {status}: {text.strip()[-500:]}")
        return text

    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors whose values :meth:`set_sensor` sets: quantity and SI unit are part of the name."""
        return tuple(dict.fromkeys(one.name for one in self._known_sensors()))

    def set_sensor(self, name: str, value: float | str) -> None:
        """Let a sensor of the board tell something else, from now on.

        Args:
            name: one of :meth:`sensors`, such as ``cpu-thermal.temperature_c`` or ``VDD_IN.current_a``.
            value: in the unit the name says; text for those that tell words.

        Raises:
            ConfigError: the board has no such sensor, or it tells no such value.
            EmulatorError: the guest does not answer.
        """
        chosen = [one for one in self._known_sensors() if one.name == name]
        if not chosen:
            raise ConfigError(
                f"the emulated {self._section.image} has no sensor {name!r}; it has: {', '.join(self.sensors())}"
            )
        lines = (f"echo {shlex.quote(one.text(value))} >{shlex.quote(one.path)}" for one in chosen)
        self.run(" && ".join((*lines, "if [ -x /etc/lab/changed ]; then /etc/lab/changed; fi")))

    def _known_sensors(self) -> list[Sensor]:
        return read_sensors(self.run("cat /run/lab/sensors 2>/dev/null || true"))

    def set_clock(self, unix_s: float) -> None:
        """Set the guest's wall clock, as time from the network or a dead battery would."""
        self.run(set_clock(unix_s))

    def power_cut(self) -> None:
        """Take the supply away: QEMU is killed. :meth:`start` powers it up again, clean and at the same port."""
        if self._machine is not None:
            self._machine.kill()
            self._power_cut = True

    def panic(self) -> None:
        """Make the kernel panic; it hangs then, as boards do unless ``panic=`` is on their command line."""
        self._running().agent_send("echo c >/proc/sysrq-trigger")

    def reboot(self) -> None:
        """Press reset: no clean-up, what lay in its RAM disk is gone; it boots from the image, at the same port."""
        self._running().monitor.execute("system_reset")

    def network(self, connected: bool) -> None:
        """Pull the network cable, or put it back."""
        self._running().monitor.execute("set_link", name="net", up=connected)

    def limit_disk(self, folder: str, size_bytes: int) -> None:
        """Put an empty disk of its own, so large, at a folder of the guest; what lay there is hidden."""
        quoted = shlex.quote(folder)
        self.run(f"mkdir -p {quoted} && mount -t tmpfs -o size={size_bytes} tmpfs {quoted}")


def _new_boot() -> str:
    """A script that gives a resumed guest what every boot has of its own: its number, and other random numbers."""
    number = "/proc/sys/kernel/random/boot_id"
    return (
        f"echo {uuid.uuid4()} >/run/boot_id && mount --bind /run/boot_id {number} && "
        f"echo {secrets.token_hex(32)} >/dev/urandom && "
    )
