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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from lab.emulators.process import end, spawn
from lab.emulators.tcg_plugin import QEMU, MarkerCount, read_counts
from lab.errors import Crash, CrashReport, EmulatorError

_START_TIMEOUT_S = 20.0
_DEATH_S = 1.0
_FOLDER_PREFIX = "lab-qemu-"


@dataclass(frozen=True)
class QemuMachine:
    """What QEMU is asked to be.

    Attributes:
        machine: QEMU's machine name.
        icount_shift: one instruction takes ``2**icount_shift`` ns of QEMU's virtual time.
        shared_address: guest address of the memory that is shared with the host; 0 for none.
        shared_bytes: its size.
        marker_address: guest address of the marker register, for the counting plug-in.
    """

    machine: str
    icount_shift: int
    shared_address: int
    shared_bytes: int
    marker_address: int


class _Monitor:
    """QEMU's machine protocol (QMP): one JSON object per line, over a connection QEMU opened to us."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_START_TIMEOUT_S)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: str) -> object:
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
        self._lines.close()
        self._connection.close()


class Qemu:
    """One running instance; a context manager.

    Args:
        spec: what to emulate.
        firmware: ELF to run.
        marker_socket: listening unix socket that takes the second UART, or None.
        plugin: the counting plug-in, or None. Counting roughly halves the speed.

    Attributes:
        serial_url: URL of the first UART, for pyserial.
    """

    def __init__(
        self, spec: QemuMachine, firmware: Path, *, marker_socket: Path | None = None, plugin: Path | None = None
    ) -> None:
        # QEMU runs in a folder of its own.
        self._spec = spec
        self._firmware = firmware.absolute()
        self._marker_socket = None if marker_socket is None else marker_socket.absolute()
        self._plugin = None if plugin is None else plugin.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: _Monitor | None = None
        self._memory: mmap.mmap | None = None
        self._folder: Path | None = None
        self._log: IO[bytes] | None = None
        self._exit_words = ""
        self.serial_url = ""

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
        _sweep_folders()
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
            self._monitor = _Monitor(self._accept(listener))
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
        command: list[str | Path] = [QEMU, "-M", spec.machine, "-display", "none", "-nodefaults", "-S"]
        command += ["-kernel", self._firmware, "-icount", f"shift={spec.icount_shift}"]
        command += ["-chardev", "socket,id=qmp,path=qmp", "-mon", "chardev=qmp,mode=control"]
        # Nagle's algorithm stays on: QEMU sends every byte by itself, and gathering them halves what that costs.
        command += ["-chardev", "socket,id=ser0,host=127.0.0.1,port=0,server=on,wait=off", "-serial", "chardev:ser0"]
        if self._marker_socket is not None:
            command += ["-chardev", f"socket,id=marker,path={self._marker_socket}", "-serial", "chardev:marker"]
        if spec.shared_bytes:
            backend = f"memory-backend-file,id=shared,size={spec.shared_bytes},mem-path=memory,share=on"
            command += ["-object", backend, "-machine", "memory-backend=shared"]
            (folder / "memory").touch()
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

    def release(self) -> None:
        """Let the core run."""
        self._running().execute("cont")

    def reset(self) -> None:
        """Reset the machine as its reset pin would; the UART link stays."""
        self._running().execute("system_reset")

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in the memory shared with the guest.

        Raises:
            EmulatorError: the range is not shared memory.
        """
        spec = self._spec
        offset = address - spec.shared_address
        if self._memory is None or offset < 0 or offset + len(data) > spec.shared_bytes:
            end_address = spec.shared_address + spec.shared_bytes
            raise EmulatorError(
                f"{spec.machine}: {len(data)} bytes at {address:#x} are not all in shared memory "
                f"[{spec.shared_address:#x}, {end_address:#x})"
            )
        self._memory[offset : offset + len(data)] = data

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of the memory shared with the guest."""
        if self._memory is None:
            raise EmulatorError(f"{self._spec.machine} shares no memory")
        offset = address - self._spec.shared_address
        return bytes(self._memory[offset : offset + size])

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
        if "Lockup" in words:
            raise Crash(
                f"{self._spec.machine}: the core locked up (a fault inside the fault handler)\n{words}",
                hint="look for a smashed stack or vector table",
                report=CrashReport(_parse_registers(words)),
            )
        raise EmulatorError(f"{QEMU} {self._spec.machine} ended with status {status}:\n{words}", transient=True)

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

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        if self._process is None:
            raise EmulatorError("QEMU is not running")
        return self._process.pid

    def _words(self) -> str:
        if self._folder is None:
            return self._exit_words
        text = (self._folder / "qemu.log").read_text(errors="replace").strip()
        return text[-2000:] or "(it said nothing)"

    def _running(self) -> _Monitor:
        if self._monitor is None:
            raise EmulatorError("QEMU is not running")
        return self._monitor

    def _here(self) -> Path:
        if self._folder is None:
            raise EmulatorError("QEMU was not started")
        return self._folder


def _parse_registers(words: str) -> Mapping[str, int]:
    names = {"R13": "sp", "R14": "lr", "R15": "pc"}
    found = re.findall(r"\b(R\d\d|XPSR)=([0-9a-f]{8})", words)
    return {names.get(name, name.lower().replace("r0", "r")): int(value, 16) for name, value in found}


def _sweep_folders() -> None:
    """Remove folders of lab processes that were killed before they could do it themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        owner = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
