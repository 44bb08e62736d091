"""Microcontrollers emulated by QEMU: one process per instance, its own ports, exact instruction clock.

QEMU runs with ``-icount``: every instruction takes ``2**icount_shift`` nanoseconds of its virtual time, whatever the
host does. QEMU's facts used here were measured; see ``docs/emulation.md``.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from lab.emulator_config import QemuEmulator, RegisterWrite, Watchdog
from lab.emulators.base import FaultKind
from lab.emulators.probe.qtest import Qtest
from lab.emulators.probe.rsp import GdbRemote
from lab.emulators.probe.signals import BusFault, TargetLost
from lab.emulators.process import end, spawn
from lab.emulators.tcg_plugin import QEMU, MarkerCount, qemu_version, read_counts
from lab.errors import ConfigError, Crash, CrashReport, EmulatorError
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort

_START_TIMEOUT_S = 20.0
_DEATH_S = 1.0
_FOLDER_PREFIX = "lab-qemu-"

# Arm DDI 0479 4.4. The reset comes with the second expiry, after an interrupt that is an NMI on most boards; an
# instruction takes a few ticks, so there is no time for a report in between.
_WATCHDOG_LOAD, _WATCHDOG_CONTROL = 0x0, 0x8
_WATCHDOG_TICKS = 1000
_WATCHDOG_INTERRUPT_AND_RESET = 3


@dataclass(frozen=True)
class QemuMachine:
    """What QEMU is asked to be.

    Attributes:
        machine: QEMU's machine name.
        icount_shift: one instruction takes ``2**icount_shift`` ns of QEMU's virtual time.
        shared_address: guest address of the memory that is shared with the host; 0 for none.
        shared_bytes: its size.
        marker_address: guest address of the marker register, for the counting plug-in.
        card_bytes: of an empty SD card in the machine's slot; 0 for none.
        program: QEMU's program for the architecture.
        nmi_path: QOM path of the object with the core's NMI line, empty where there is none.
        watchdog: the watchdog QEMU models, None for none.
        stop_clock: stores that stop what the firmware measures with.
    """

    machine: str
    icount_shift: int
    shared_address: int
    shared_bytes: int
    marker_address: int
    card_bytes: int = 0
    program: str = QEMU
    nmi_path: str = ""
    watchdog: Watchdog | None = None
    stop_clock: tuple[RegisterWrite, ...] = ()


def machine_of(section: QemuEmulator) -> QemuMachine:
    """The machine of a board's ``emulator:`` section."""
    shared = section.shared_memory
    return QemuMachine(
        machine=section.machine,
        icount_shift=section.icount_shift,
        shared_address=shared.address if shared else 0,
        shared_bytes=shared.bytes if shared else 0,
        marker_address=section.marker_address or 0,
        card_bytes=section.card_bytes or 0,
        program=section.program,
        nmi_path=section.nmi_path or "",
        watchdog=section.watchdog,
        stop_clock=section.stop_clock,
    )


class Monitor:
    """QEMU's machine protocol (QMP): one JSON object per line, over a connection QEMU opened to us."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_START_TIMEOUT_S)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        """Run a command and return its answer.

        Raises:
            EmulatorError: QEMU refused it, or is gone.
        """
        request = {"execute": command, "arguments": arguments}
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            # Its greeting and its events come in between; they have neither key.
            while line := self._lines.readline():
                answer = json.loads(line)
                if "return" in answer:
                    return cast(object, answer["return"])
                if "error" in answer:
                    raise EmulatorError(f"QEMU refused {command}: {answer['error'].get('desc')}")
        except (OSError, ValueError) as error:
            raise EmulatorError(f"QEMU's monitor broke at {command}: {error}", transient=True) from error
        raise EmulatorError(f"QEMU's monitor closed at {command}", transient=True)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._connection.close()


class Qemu:
    """One running instance; a context manager.

    Args:
        spec: what to emulate.
        firmware: ELF to run; None for a board with empty memory, which a debug probe fills.
        debug: open the sockets ``gdb``, ``qtest`` and ``control`` (QMP), one client each, in :attr:`folder`. Without it
            the first two open when a fault or an access to memory first needs them.
        marker_socket: listening unix socket that takes the second UART, or None.
        plugin: the counting plug-in, or None. Counting roughly halves the speed.

    Attributes:
        serial_url: URL of the first UART, for pyserial.
        version: program and version.
        faults: the faults this machine can take.
    """

    kind = "qemu"

    def __init__(
        self,
        spec: QemuMachine,
        firmware: Path | None,
        *,
        marker_socket: Path | None = None,
        plugin: Path | None = None,
        debug: bool = False,
    ) -> None:
        # QEMU runs in a folder of its own.
        self._spec = spec
        self._firmware = None if firmware is None else firmware.absolute()
        self._debug = debug
        self._marker_socket = None if marker_socket is None else marker_socket.absolute()
        self._plugin = None if plugin is None else plugin.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._memory: mmap.mmap | None = None
        self._folder: Path | None = None
        self._log: IO[bytes] | None = None
        self._exit_words = ""
        self.serial_url = ""
        self.version = qemu_version(spec.program)
        self.faults = _faults_of(spec)
        self._supply_cut = False
        self._open_ports: set[str] = set()

    def __enter__(self) -> Qemu:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start QEMU with the core held; :meth:`release` lets it run.

        Raises:
            ToolMissing: QEMU is not installed.
            EmulatorError: QEMU died at start; carries its own words.
        """
        self.stop()
        self._supply_cut = False
        self._open_ports = {"gdb", "qtest"} if self._debug else set()
        sweep_folders(_FOLDER_PREFIX)
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))
            self._log = (self._folder / "qemu.log").open("wb")
            listener.bind(str(self._folder / "qmp"))
            listener.listen(1)
            self._process = spawn(self._command(), cwd=self._folder, log=self._log)
            self._connect(listener)
        except OSError as error:
            self.stop()
            raise EmulatorError(
                f"QEMU cannot be started in {tempfile.gettempdir()}: {error}",
                hint="free some space, or name another folder, with a short path, with TMPDIR",
            ) from error
        except BaseException:
            self.stop()
            raise
        finally:
            listener.close()

    def _connect(self, listener: socket.socket) -> None:
        try:
            self._monitor = Monitor(self._accept(listener))
            self.serial_url = self._find_serial()
        except EmulatorError:
            # QEMU opens its monitor before it looks at the rest of its orders: if it dies of them, its own words count.
            self._await_end()
            self.check_alive()
            raise
        self._map_memory()

    def _await_end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_DEATH_S)

    def _command(self) -> list[str | Path]:
        spec, folder = self._spec, self._here()
        command: list[str | Path] = [spec.program, "-M", spec.machine, "-display", "none", "-nodefaults", "-S"]
        command += ["-icount", f"shift={spec.icount_shift}"]
        if spec.program != QEMU:
            # Else a machine of RISC-V loads OpenSBI in front of the firmware.
            command += ["-bios", "none"]
        if self._firmware is not None:
            command += ["-kernel", self._firmware]
        command += ["-chardev", "socket,id=qmp,path=qmp", "-mon", "chardev=qmp,mode=control"]
        # Nagle's algorithm stays on: QEMU sends every byte by itself, and gathering them halves what that costs.
        command += ["-chardev", "socket,id=ser0,host=127.0.0.1,port=0,server=on,wait=off", "-serial", "chardev:ser0"]
        if self._marker_socket is not None:
            command += ["-chardev", f"socket,id=marker,path={self._marker_socket}", "-serial", "chardev:marker"]
        if spec.shared_bytes:
            backend = f"memory-backend-file,id=shared,size={spec.shared_bytes},mem-path=memory,share=on"
            command += ["-object", backend, "-machine", "memory-backend=shared"]
            (folder / "memory").touch()
        if spec.card_bytes:
            with (folder / "card").open("wb") as card:
                card.truncate(spec.card_bytes)
            command += ["-drive", "if=sd,format=raw,file=card"]
        if self._debug:
            command += ["-gdb", "unix:gdb,server=on,wait=off", "-qmp", "unix:control,server=on,wait=off"]
            # Its log would fill a pipe that nobody reads, and QEMU would wait for ever.
            command += ["-accel", "tcg", "-qtest", "unix:qtest,server=on,wait=off", "-qtest-log", "/dev/null"]
        if self._plugin is not None:
            command += ["-plugin", f"{self._plugin},marker={spec.marker_address:#x},out=counts"]
        return command

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.05)
        for _ in range(int(_START_TIMEOUT_S / 0.05)):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                self.check_alive()
            else:
                return connection
        raise EmulatorError(f"QEMU did not answer within {_START_TIMEOUT_S:.0f} s:\n{self._words()}", transient=True)

    def _find_serial(self) -> str:
        devices = self._running().execute("query-chardev")
        if isinstance(devices, list):
            for device in devices:
                found = re.search(r"tcp:127\.0\.0\.1:(\d+)", str(device.get("filename", "")))
                if device.get("label") == "ser0" and found:
                    return f"socket://127.0.0.1:{found.group(1)}"
        raise EmulatorError(f"QEMU names no port for its first UART: {devices}")

    def _map_memory(self) -> None:
        if not self._spec.shared_bytes:
            return
        path = self._here() / "memory"
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self._spec.shared_bytes)
        # Both sides hold the mapping now; without a name nothing is left behind even after kill -9.
        path.unlink()

    def open_serial(self) -> ByteStream:
        """The board's first UART."""
        return SerialPort(self.serial_url)

    def release(self) -> None:
        """Let the core run."""
        self._running().execute("cont")

    def hold(self) -> None:
        """Stop the core where it is."""
        self._running().execute("stop")

    def reset(self) -> None:
        """Reset the machine as its reset pin would; the UART link stays."""
        self._running().execute("system_reset")

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in the guest's memory, read-only memory too; the core stands for a moment, unless it is shared.

        Raises:
            EmulatorError: nothing is there.
        """
        shared = self._shared(address, len(data))
        if shared is not None:
            shared[:] = data
            return
        with self._stopped_core() as core:
            core.write_memory(address, data)
            # Where no memory is, gdb's stores are dropped without a word.
            if self.read_memory(address, len(data)) != data:
                raise EmulatorError(f"{self._spec.machine}: {len(data)} bytes at {address:#x} are not all memory")

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory as the core sees it, its system registers too.

        Raises:
            EmulatorError: nothing is there.
        """
        shared = self._shared(address, size)
        if shared is not None:
            return bytes(shared)
        file = self._here() / "memory-read"
        try:
            self._running().execute("memsave", val=address, size=size, filename=file.name)
            data = file.read_bytes()
        finally:
            file.unlink(missing_ok=True)
        if len(data) != size:
            raise EmulatorError(f"{self._spec.machine}: {size} bytes at {address:#x} are not all memory")
        return data

    def _shared(self, address: int, size: int) -> memoryview | None:
        """The part of the shared memory that a range is, None where it is not all in there."""
        offset = address - self._spec.shared_address
        if self._memory is None or offset < 0 or offset + size > self._spec.shared_bytes:
            return None
        return memoryview(self._memory)[offset : offset + size]

    def registers(self) -> Mapping[str, int]:
        """Core registers as they are now, lower-case names."""
        text = self._running().execute("human-monitor-command", **{"command-line": "info registers"})
        return _parse_registers(str(text))

    def counts(self) -> list[MarkerCount]:
        """What the counting plug-in has written so far, one entry per store to the marker register."""
        if self._plugin is None:
            raise EmulatorError("this instance runs without the counting plug-in")
        return read_counts(self._here() / "counts")

    def check_alive(self) -> None:
        """Return while QEMU runs.

        Raises:
            Crash: the core locked up, which QEMU answers by aborting.
            EmulatorError: QEMU died for another reason.
        """
        process = self._process
        status = None if process is None else process.poll()
        if process is not None and status is None:
            return
        words = self._words()
        if self._supply_cut:
            raise EmulatorError(
                f"{self._spec.machine} has no power: its supply was cut", hint="deploy again", transient=True
            )
        if "Lockup" in words:
            raise Crash(
                # Its registers follow in the report.
                f"{self._spec.machine}: the core locked up (a fault inside the fault handler)\n"
                + words.partition("\nR00=")[0].rstrip(),
                hint="look for a smashed stack or vector table",
                report=CrashReport(_parse_registers(words)),
            )
        ended = f"{self._spec.program} {self._spec.machine} ended with status {status}"
        raise EmulatorError(f"{ended}:\n{words}", transient=True)

    def stop(self) -> None:
        """End QEMU and remove what it left; safe to call twice."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._process is not None:
            end(self._process)
            self._process = None
        if self._log is not None:
            self._exit_words = self._words()
            self._log.close()
            self._log = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def power_cut(self) -> None:
        """Kill QEMU: RAM is lost. What is open of it breaks, as with a board that loses its supply."""
        if self._process is not None:
            self._supply_cut = True
            end(self._process)

    def flip_bit(self, address: int, bit: int) -> None:
        """Invert bit 0–7 of a byte of RAM or flash.

        Raises:
            EmulatorError: nothing is there.
        """
        # Through gdb in any case: a store to the shared memory would leave code that QEMU has translated as it was.
        with self._stopped_core() as core:
            core.write_memory(address, bytes([self.read_memory(address, 1)[0] ^ 1 << bit]))

    def raise_nmi(self) -> None:
        """Raise the non-maskable interrupt."""
        self._require("nmi")
        with self._bus() as bus:
            bus.set_line(self._spec.nmi_path, "NMI", 1)
            bus.set_line(self._spec.nmi_path, "NMI", 0)

    def bite_watchdog(self) -> None:
        """Start the board's watchdog with little time left; nobody feeds it."""
        self._require("watchdog")
        if self._spec.watchdog is not None:
            base = self._spec.watchdog.address
            with self._stopped_machine(), self._bus() as bus:
                bus.write(base + _WATCHDOG_LOAD, _WATCHDOG_TICKS, 4)
                bus.write(base + _WATCHDOG_CONTROL, _WATCHDOG_INTERRUPT_AND_RESET, 4)

    def freeze_clock(self) -> None:
        """Stop the timers the firmware measures with; the core goes on."""
        self._require("frozen-clock")
        with self._stopped_machine(), self._bus() as bus:
            for store in self._spec.stop_clock:
                bus.write(store.address, store.value, 4)

    def _require(self, fault: FaultKind) -> None:
        if fault not in self.faults:
            allowed = ", ".join(sorted(self.faults))
            raise ConfigError(
                f"{self._spec.machine} in QEMU cannot take the fault {fault!r}; allowed: {allowed}",
                hint="docs/emulation.md says which board takes which fault",
            )

    @contextmanager
    def _bus(self) -> Iterator[Qtest]:
        """The memory bus and the lines of the machine."""
        monitor = self._running()
        if "qtest" not in self._open_ports:
            address = {"type": "unix", "data": {"path": "qtest"}}
            backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
            monitor.execute("chardev-add", id="qtest", backend=backend)
            # Its log would fill a pipe that nobody reads, and QEMU would wait for ever.
            arguments = {"qom-type": "qtest", "id": "qtest-server", "chardev": "qtest", "log": "/dev/null"}
            monitor.execute("object-add", **arguments)
            self._open_ports.add("qtest")
        with self._own_words():
            bus = Qtest(str(self._here() / "qtest"))
            try:
                yield bus
            finally:
                bus.close()

    @contextmanager
    def _stopped_machine(self) -> Iterator[bool]:
        """Stands meanwhile; gives whether it ran before."""
        monitor = self._running()
        status = monitor.execute("query-status")
        ran = isinstance(status, dict) and status.get("running") is True
        if ran:
            monitor.execute("stop")
        try:
            yield ran
        finally:
            if ran:
                monitor.execute("cont")

    @contextmanager
    def _stopped_core(self) -> Iterator[GdbRemote]:
        """The core as a debugger has it."""
        if "gdb" not in self._open_ports:
            command = "gdbserver unix:gdb,server=on,wait=off"
            self._running().execute("human-monitor-command", **{"command-line": command})
            self._open_ports.add("gdb")
        with self._stopped_machine(), self._own_words():
            core = GdbRemote(str(self._here() / "gdb"), running=False)
            try:
                yield core
            finally:
                core.close()

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        """Turns the debug ports' errors into the emulator's."""
        try:
            yield
        except TargetLost as error:
            self.check_alive()
            raise EmulatorError(
                f"{self._spec.machine}: {error.message}", hint="a debug port takes one client: is a probe in use?"
            ) from error
        except BusFault as error:
            raise EmulatorError(f"{self._spec.machine}: {error.message}") from error

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        if self._process is None:
            raise EmulatorError("QEMU is not running")
        return self._process.pid

    @property
    def folder(self) -> Path:
        """The folder QEMU runs in; holds the sockets of ``debug``."""
        return self._here()

    def _words(self) -> str:
        if self._folder is None:
            return self._exit_words
        text = (self._folder / "qemu.log").read_text(errors="replace").strip()
        return text[-2000:] or "(it said nothing)"

    def _running(self) -> Monitor:
        if self._monitor is None:
            raise EmulatorError("QEMU is not running")
        return self._monitor

    def _here(self) -> Path:
        if self._folder is None:
            raise EmulatorError("QEMU was not started")
        return self._folder


def _parse_registers(words: str) -> Mapping[str, int]:
    """Registers as QEMU prints them: ``R00=…`` on Arm, ``x10/a0 …`` and ``pc …`` on RISC-V."""
    names = {"R13": "sp", "R14": "lr", "R15": "pc"}
    found = re.findall(r"\b(R\d\d|XPSR)=([0-9a-f]{8})", words)
    found += re.findall(r"\b(?:x\d+/)(\w+)\s+([0-9a-f]{8})\b", words)
    found += re.findall(r"^ *(pc|mcause|mtval) +([0-9a-f]{8})\b", words, re.MULTILINE)
    return {names.get(name, name.lower().replace("r0", "r")): int(value, 16) for name, value in found}


def _faults_of(spec: QemuMachine) -> frozenset[FaultKind]:
    faults: set[FaultKind] = {"power-cut", "flip-ram", "flip-flash"}
    if spec.nmi_path:
        faults.add("nmi")
    if spec.watchdog is not None:
        faults.add("watchdog")
    if spec.stop_clock:
        faults.add("frozen-clock")
    return frozenset(faults)


def sweep_folders(prefix: str) -> None:
    """Remove folders ``<prefix><pid>-…`` of lab processes that were killed before they could do it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = folder.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
