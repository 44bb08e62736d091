"""One running Renode: its process, its monitor, the board's UART on a socket.

Renode's facts used here were measured with Renode 1.13 or read in the sources of later ones; see ``docs/renode.md``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from lab.emulators.base import FaultKind
from lab.emulators.process import end, spawn
from lab.emulators.renode import exposed, find_program, version_of
from lab.emulators.renode.monitor import Monitor
from lab.emulators.renode.platform import copy_platform, root_of
from lab.errors import ConfigError, Crash, CrashReport, EmulatorError
from lab.paths import config_dir
from lab.transports.serial import SerialPort

_START_S = 120.0
_COMMAND_S = 60.0
_POLL_S = 0.1
_DEATH_S = 3.0
_READ_BYTES = 4096
# Properties of a core that stands for good: halted, as without a vector table, or locked up (since 2026).
_STANDING = ("IsHalted", "IsLockedUp")
_FOLDER_PREFIX = "lab-renode-"
_TERMINAL = "lablink"
# Numbers of GetRegister: those of gdb's Cortex-M description.
_REGISTERS: Mapping[str, int] = {
    **{f"r{number}": number for number in range(13)}, "sp": 13, "lr": 14, "pc": 15, "xpsr": 25,
}  # fmt: skip
_ICSR = 0xE000ED04
_ICSR_NMI = 1 << 31
_DWT_CTRL = 0xE0001000
# Unlock, divide by 4, count from 1, load that, start (reference manual RM0090, 21.4): (register, value).
_IWDG_BITES = ((0x0, 0x5555), (0x4, 0), (0x8, 1), (0x0, 0xAAAA), (0x0, 0xCCCC))
_FAULTS: frozenset[FaultKind] = frozenset(("power-cut", "flip-ram", "flip-flash", "nmi", "frozen-clock"))


@dataclass(frozen=True)
class RenodeBoard:
    """What Renode is asked to be.

    Attributes:
        platform: description (.repl), below ``device_configs`` or below Renode's own folder.
        uart: the peripheral that carries the wire, without ``sysbus.``.
        mips: instructions per microsecond of virtual time.
        iwdg: address of the independent watchdog of an STM32; None where there is none.
    """

    platform: str
    uart: str
    mips: int
    iwdg: int | None = None


class Renode:
    """One running instance; a context manager.

    Args:
        board: what to emulate.
        firmware: ELF to run.
        monitor: makes the monitor of a server's port and a time-out in seconds.

    Attributes:
        version: program and version.
        faults: what it can inject; the watchdog where the board has one.
    """

    kind = "renode"

    def __init__(
        self, board: RenodeBoard, firmware: Path, *, monitor: Callable[[int, float], Monitor] = Monitor
    ) -> None:
        self._board = board
        self._make_monitor = monitor
        self._firmware = firmware.absolute()
        self._program = find_program()
        self.version = version_of(self._program)
        self.faults: frozenset[FaultKind] = _FAULTS if board.iwdg is None else _FAULTS | {"watchdog"}
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._folder: Path | None = None
        self._log: IO[bytes] | None = None
        self._exit_words = ""
        self._serial_port = 0
        self._register_command = ""
        self._flags: list[str] | None = None
        self._log_begin = 0
        self._running = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Renode with the image loaded and the core held.

        Raises:
            ConfigError: the platform description is not there, or others could reach Renode's ports.
            EmulatorError: Renode died, does not answer or refuses the platform; carries its own words.
        """
        self.stop()
        if reason := exposed():
            raise ConfigError(reason)
        _sweep_folders()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))
            self._launch()
            self._set_up()
        except OSError as error:
            self.stop()
            raise EmulatorError(
                f"Renode cannot be started in {tempfile.gettempdir()}: {error}",
                hint="free some space, or name another folder with TMPDIR",
            ) from error
        except BaseException:
            self.stop()
            raise

    def _launch(self) -> None:
        folder = self._here()
        self._log = (folder / "renode.log").open("wb")
        server_port, self._serial_port = _free_ports(2)
        # The older of two names of this option; later ones take both.
        command: list[str | Path] = [self._program, "--disable-xwt", "--plain", "--robot-server-port", str(server_port)]
        # Its settings and its temporary files stay in here.
        environment = {**os.environ, "TMPDIR": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self._process = spawn(command, cwd=folder, log=self._log, environment=environment)
        monitor = self._make_monitor(server_port, _COMMAND_S)
        deadline = time.monotonic() + _START_S
        while not monitor.is_ready():
            self._check_process()
            if time.monotonic() >= deadline:
                raise EmulatorError(
                    f"Renode opened no server at port {server_port} within {_START_S:.0f} s:\n{self._words()}",
                    hint="its first start unpacks it; or another program took that port",
                    transient=True,
                )
            time.sleep(_POLL_S)
        monitor.explain = self._await_end
        self._monitor = monitor

    def _await_end(self) -> None:
        """A server that breaks is often the first sign of a process that ends."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DEATH_S)
            self._check_process()

    def _set_up(self) -> None:
        folder, board = self._here(), self._board
        root = root_of(self._program)
        platform = copy_platform(board.platform, (config_dir(), *([root] if root else [])), folder)
        shutil.copyfile(self._firmware, folder / "firmware.elf")
        uart = f"sysbus.{board.uart}"
        for command in (
            "logLevel 3",
            'mach create "lab"',
            f"machine LoadPlatformDescription {monitor_path(platform)}",
            f"sysbus.cpu PerformanceInMips {board.mips}",
            # Its third argument is telnet, which would swallow the first bytes.
            f'emulation CreateServerSocketTerminal {self._serial_port} "{_TERMINAL}" false',
            f"connector Connect {uart} {_TERMINAL}",
            # A reset runs this; without it the core stays halted.
            f'macro reset "sysbus LoadELF {monitor_path(folder / "firmware.elf")}"',
            "runMacro $reset",
        ):
            self._execute(command)

    def open_serial(self) -> SerialPort:
        """The board's UART.

        Raises:
            TransportError: nothing listens there.
        """
        self._alive()
        return SerialPort(f"socket://127.0.0.1:{self._serial_port}")

    def release(self) -> None:
        """Let the core run; virtual time follows the host's as far as the host can keep up."""
        self._execute("start")
        self._running = True

    def hold(self) -> None:
        """Stop the core where it is, until :meth:`release`; virtual time stands as well."""
        self._execute("pause")
        self._running = False

    def run_for(self, virtual_s: float) -> None:
        """Let a held core run for a span of virtual time, exactly, and hold it again.

        Raises:
            ConfigError: it runs already.
        """
        if self._running:
            raise ConfigError("Renode runs already: only a held core can run for a span", hint="hold() it first")
        self._execute(f'emulation RunFor "{virtual_s:.9f}"')

    def executed_instructions(self) -> int:
        """Instructions since the reset, exact to Renode's quantum of virtual time (100 µs by default)."""
        return self._alive().number("sysbus.cpu ExecutedInstructions")

    def reset(self) -> None:
        """Reset the machine and load the image anew; the serial stream stays open."""
        monitor = self._alive()
        self._log_begin = len(self._log_text())
        monitor.execute("machine Reset")

    def check_alive(self) -> None:
        """Return while Renode runs and the core does.

        Raises:
            Crash: the core locked up, or Renode gave up on it.
            EmulatorError: Renode died; carries its own words.
        """
        self._check_process()
        why = self._why_it_stands() if self._running else ""
        if why:
            registers = self.registers()
            raise Crash(
                f"the core stands at pc={registers['pc']:#010x}: {why}",
                hint="look for a smashed stack or vector table",
                report=CrashReport(registers),
            )

    def _why_it_stands(self) -> str:
        # A core that executes what it cannot is aborted; that stands in the log only.
        aborted = re.search(r"CPU abort\b.*", self._log_text()[self._log_begin :])
        if aborted:
            return aborted[0]
        monitor = self._alive()
        if self._flags is None:
            self._flags = [flag for flag in _STANDING if self._has(f"sysbus.cpu {flag}")]
        return ", ".join(flag for flag in self._flags if monitor.execute(f"sysbus.cpu {flag}") == "True")

    def _has(self, command: str) -> bool:
        """Whether this Renode knows a command; they differ from version to version."""
        monitor = self._alive()
        try:
            monitor.execute(command)
        except EmulatorError:
            self._check_process()
            return False
        return True

    def registers(self) -> Mapping[str, int]:
        """Core registers as they are now, lower-case names."""
        monitor = self._alive()
        if not self._register_command:
            # The longer name is that of Renode 1.13.
            known = self._has("sysbus.cpu GetRegister 0")
            self._register_command = f"sysbus.cpu GetRegister{'' if known else 'Unsafe'}"
        return {name: monitor.number(f"{self._register_command} {number}") for name, number in _REGISTERS.items()}

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of the guest's memory."""
        data = b""
        while len(data) < size:
            count = min(_READ_BYTES, size - len(data))
            piece = self._alive().numbers(f"sysbus ReadBytes {address + len(data):#x} {count}")
            if len(piece) != count or max(piece) > 0xFF:
                raise EmulatorError(f"Renode gave {len(piece)} numbers for {count} bytes at {address + len(data):#x}")
            data += bytes(piece)
        return data

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in the guest's memory."""
        file = self._here() / "blob.bin"
        file.write_bytes(data)
        self._execute(f"sysbus LoadBinary {monitor_path(file)} {address:#x}")

    def power_cut(self) -> None:
        """Kill Renode: RAM is lost. What is open of it breaks, as with a board that loses its supply."""
        if self._process is not None:
            _kill(self._process)

    def flip_bit(self, address: int, bit: int) -> None:
        """Invert bit 0–7 of a byte of RAM or flash."""
        if self._running:
            self._execute("pause")
        value = self._alive().number(f"sysbus ReadByte {address:#x}")
        self._execute(f"sysbus WriteByte {address:#x} {value ^ 1 << bit:#x}")
        if self._running:
            self._execute("start")

    def raise_nmi(self) -> None:
        """Raise the non-maskable interrupt, by the core's own register for that."""
        self._execute(f"sysbus WriteDoubleWord {_ICSR:#x} {_ICSR_NMI:#x}")

    def bite_watchdog(self) -> None:
        """Start the board's watchdog with the least time; nobody feeds it.

        Raises:
            ConfigError: the board has none.
        """
        if self._board.iwdg is None:
            raise ConfigError(
                f"Renode cannot take the fault 'watchdog' here; allowed: {', '.join(sorted(self.faults))}",
                hint="name the watchdog's address in the board file: iwdg",
            )
        for register, value in _IWDG_BITES:
            self._execute(f"sysbus WriteDoubleWord {self._board.iwdg + register:#x} {value:#x}")

    def freeze_clock(self) -> None:
        """Stop the cycle counter that the firmware measures with; the core goes on."""
        self._execute(f"sysbus WriteDoubleWord {_DWT_CTRL:#x} 0x0")

    def stop(self) -> None:
        """End Renode and remove what it left; safe to call twice."""
        self._running = False
        self._log_begin = 0
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._process is not None:
            _kill(self._process)
            self._process = None
        if self._log is not None:
            self._exit_words = self._words()
            self._log.close()
            self._log = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def serial_port(self) -> int:
        """TCP port of the board's UART."""
        return self._serial_port

    @property
    def folder(self) -> Path:
        """The folder Renode runs in."""
        return self._here()

    def _execute(self, command: str) -> None:
        self._alive().execute(command)

    def _alive(self) -> Monitor:
        if self._monitor is None:
            raise EmulatorError("Renode is not running")
        self._check_process()
        return self._monitor

    def _check_process(self) -> None:
        status = None if self._process is None else self._process.poll()
        if self._process is None or status is not None:
            raise EmulatorError(f"{self._program} ended with status {status}:\n{self._words()}", transient=True)

    def _here(self) -> Path:
        if self._folder is None:
            raise EmulatorError("Renode was not started")
        return self._folder

    def _words(self) -> str:
        if self._folder is None:
            return self._exit_words
        return self._log_text().strip()[-2000:] or "(it said nothing)"

    def _log_text(self) -> str:
        return (self._here() / "renode.log").read_text(errors="replace")


def monitor_path(path: Path) -> str:
    """A path as the monitor takes it."""
    return f"@{str(path).replace(' ', chr(92) + ' ')}"


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens at now; Renode takes a number and does not say which it chose."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("0.0.0.0", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End Renode and what its start script may have started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    end(process)


def _sweep_folders() -> None:
    """Remove folders of lab processes that were killed before they could do it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
