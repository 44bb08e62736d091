"""One running QEMU with an arm64 Linux in it: its process, monitor, console, and the lab's own line to the guest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.emulators.process import end, spawn
from lab.emulators.qemu import Monitor, sweep_folders
from lab.emulators.tcg_plugin import qemu_version
from lab.errors import Crash, EmulatorError, ToolMissing
from lab.system_packages import install

PROGRAM = "qemu-system-aarch64"
READY = "HIL-READY"
# What a boot can do without: the kernel's tests of its own ciphers, BPF, security modules, cleared memory for itself,
# files about its trace points and its allocator, its own certificates, memory for devices that write past the caches,
# and pages that it must not write to itself. A kernel at a random address unmaps its pages while programs run, which a
# Cortex-A72 on a board does not need; that and the barriers against Spectre, which an emulated core does not have,
# would cost every system call.
_NOT_STARTED = (
    "blake2s_mod_init", "init_kprobe_trace", "cubictcp_register", "kfunc_init", "bpf_rstat_kfunc_init",
    "bpf_key_sig_kfuncs_init", "bpf_prog_test_run_init", "bpf_tcp_ca_kfunc_init", "tracer_init_tracefs",
    "trace_eval_init", "slab_sysfs_init", "load_system_certificate_list", "rsa_init", "init_ima",
    "dma_atomic_pool_init",
)  # fmt: skip
KERNEL_OPTIONS = (
    "console=ttyAMA0 quiet cryptomgr.notests lsm= init_on_alloc=0 nokaslr mitigations=off rodata=off "
    f"initcall_blacklist={','.join(_NOT_STARTED)}"
)

FOLDER_PREFIX = "lab-linux-"
_CONNECT_S = 20.0
_READY_S = 300.0
_STATE_S = 60.0
_ANSWER_S = 60.0
_POLL_S = 0.01
_LOOK_S = 0.2
_GUEST_ADDRESS = "10.0.2.15"
# A boot and a login fill 60 of them; full, QEMU forgets all and translates anew.
_TRANSLATED_MIB = 128


@dataclass(frozen=True)
class Settings:
    """What QEMU is asked to be.

    Attributes:
        cpu, cpus, memory_bytes, icount_shift: as in :class:`lab.emulator_config.GuestEmulator`.
        port: TCP port of the guest that is reachable from here.
    """

    cpu: str
    cpus: int
    memory_bytes: int
    icount_shift: int
    port: int

    @property
    def board(self) -> list[str]:
        """The part of the command line that the device tree depends on."""
        return ["-cpu", self.cpu, "-smp", str(self.cpus), "-m", f"{self.memory_bytes}B"]


@dataclass(frozen=True)
class Boot:
    """What QEMU boots; also a resumed one has it, for the case that its guest restarts.

    Attributes:
        kernel, initramfs: ELF files (:mod:`lab.emulators.linux.boot_files`).
        device_tree: the board's, with where the initial file system lies.
    """

    kernel: Path
    initramfs: Path
    device_tree: Path


@dataclass(frozen=True)
class Memory:
    """The guest's memory as a file.

    Attributes:
        path: the file.
        kept: whether what the guest stores is seen in the file; else the file stays as it is and the guest has its own
            copy of what it changes.
    """

    path: Path
    kept: bool


def guest_qemu_version() -> str:
    """Program and version; empty where it is not installed."""
    return qemu_version(PROGRAM)


def dump_device_tree(settings: Settings) -> bytes:
    """The device tree QEMU would make for these settings.

    Raises:
        ToolMissing: QEMU is not installed.
        EmulatorError: QEMU refused the settings; carries its words.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise missing_program()
    with tempfile.TemporaryDirectory(prefix="lab-tree-") as folder:
        command = [program, "-M", "virt,gic-version=3,dumpdtb=tree", *settings.board, "-display", "none", "-nodefaults"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_CONNECT_S)
        tree = Path(folder) / "tree"
        if done.returncode or not tree.exists():
            raise EmulatorError(f"{PROGRAM} makes no device tree: {done.stderr.strip()[-500:]}")
        return tree.read_bytes()


def missing_program() -> ToolMissing:
    """The error for a computer without QEMU."""
    return ToolMissing(
        f"{PROGRAM} is not installed, emulated Linux devices need it", hint=install("qemu-system-arm")
    )


class Machine:
    """A running QEMU.

    Args:
        settings: the machine.
        boot: what it boots.
        memory: its memory; None for memory that nobody keeps.
        state: saved state to resume instead of booting.
        host_port: port on the loopback address; 0 for any free one.
        console_before: what the console said before the state was saved.

    Raises:
        ToolMissing: QEMU is not installed.
        EmulatorError: it does not start; carries its own words.
    """

    def __init__(
        self,
        settings: Settings,
        boot: Boot,
        *,
        memory: Memory | None = None,
        state: Path | None = None,
        host_port: int = 0,
        console_before: bytes = b"",
    ) -> None:
        if not guest_qemu_version():
            raise missing_program()
        sweep_folders(FOLDER_PREFIX)
        self._settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self._resumed = state is not None
        self._console_before = len(console_before)
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._agent: socket.socket | None = None
        self._last_words = ""
        self.host_port = 0
        try:
            (self.folder / "console").write_bytes(console_before)
            self._start(boot, memory, host_port)
            if state is not None:
                self._resume(state)
            self.host_port = self._find_port()
            self.monitor.execute("cont")
        except BaseException:
            self.stop()
            raise

    def _start(self, boot: Boot, memory: Memory | None, host_port: int) -> None:
        listeners = []
        try:
            for name in ("qmp", "agent"):
                listeners.append(socket.socket(socket.AF_UNIX))
                listeners[-1].bind(str(self.folder / name))
                listeners[-1].listen(1)
            self._log = (self.folder / "qemu.log").open("wb")
            self._process = spawn(self._command(boot, memory, host_port), cwd=self.folder, log=self._log)
            self._agent = self._accept(listeners[1])
            self._monitor = Monitor(self._accept(listeners[0]))
        except OSError as error:
            raise EmulatorError(
                f"{PROGRAM} cannot be started in {tempfile.gettempdir()}: {error}",
                hint="free some space, or name another folder, with a short path, with TMPDIR",
            ) from error
        finally:
            for listener in listeners:
                listener.close()

    def _command(self, boot: Boot, memory: Memory | None, host_port: int) -> list[str | Path]:
        settings = self._settings
        machine = "virt,gic-version=3" + (",memory-backend=memory" if memory else "")
        command: list[str | Path] = [PROGRAM, "-M", machine, *settings.board, "-S", "-display", "none", "-nodefaults"]
        if memory is not None:
            backend = f"memory-backend-file,id=memory,size={settings.memory_bytes},share="
            backend += "on" if memory.kept else "off"
            command += ["-object", f"{backend},mem-path={_value(memory.path)}"]
        command += ["-accel", f"tcg,tb-size={_TRANSLATED_MIB}", "-icount", f"shift={settings.icount_shift},sleep=on"]
        command += ["-kernel", boot.kernel, "-dtb", boot.device_tree]
        command += ["-device", f"loader,file={_value(boot.initramfs)}"]
        command += ["-append", KERNEL_OPTIONS]
        command += ["-chardev", "socket,id=agent,path=agent", "-device", "virtio-serial-device"]
        command += ["-device", "virtserialport,chardev=agent,name=lab"]
        command += ["-chardev", "socket,id=qmp,path=qmp", "-mon", "chardev=qmp,mode=control"]
        command += ["-chardev", "file,id=console,path=console,append=on", "-serial", "chardev:console"]
        forward = f"hostfwd=tcp:127.0.0.1:{host_port}-{_GUEST_ADDRESS}:{settings.port}"
        # restrict=on: the guest reaches nobody, neither this computer nor the network.
        command += ["-netdev", f"user,id=net,restrict=on,{forward}", "-device", "virtio-net-device,netdev=net"]
        return command + (["-incoming", "defer"] if self._resumed else [])

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(_POLL_S)
        for _ in range(int(_CONNECT_S / _POLL_S)):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                self.check_alive()
            else:
                connection.settimeout(_LOOK_S)
                return connection
        raise EmulatorError(f"{PROGRAM} did not answer within {_CONNECT_S:g} s:\n{self._words()}", transient=True)

    def _ignore_shared(self) -> None:
        """What lies in the memory's file is not written into a saved state, nor expected there."""
        self.monitor.execute(
            "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}]
        )

    def _resume(self, state: Path) -> None:
        self._ignore_shared()
        self.monitor.execute("migrate-incoming", uri=f"exec:cat {shlex.quote(str(state))}")
        self._until(lambda: self._state_word("query-status") != "inmigrate", _STATE_S, "resume its saved state")

    def save(self, state: Path) -> None:
        """Stop the guest for good and write what is not its memory into a file.

        Raises:
            EmulatorError: QEMU cannot.
        """
        self.monitor.execute("stop")
        self._ignore_shared()
        self.monitor.execute("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
        self._until(lambda: self._state_word("query-migrate") in ("completed", "failed"), _STATE_S, "save its state")
        if self._state_word("query-migrate") == "failed":
            raise EmulatorError(f"{PROGRAM} cannot save its state:\n{self._words()}")

    def _state_word(self, query: str) -> str:
        answer = self.monitor.execute(query)
        return str(answer.get("status")) if isinstance(answer, dict) else ""

    def _find_port(self) -> int:
        text = self.hmp("info usernet")
        found = re.search(rf"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+{_GUEST_ADDRESS}", text)
        if found is None:
            raise EmulatorError(f"{PROGRAM} names no port that leads to the guest: {text}")
        return int(found[1])

    def hmp(self, line: str) -> str:
        """What a command of QEMU's human monitor prints."""
        return str(self.monitor.execute("human-monitor-command", **{"command-line": line}))

    def wait_ready(self) -> None:
        """Wait until the guest says on its console that it can be logged in to.

        Raises:
            Crash: its kernel panicked.
            EmulatorError: it does not come up.
        """
        self._until(lambda: READY in self.console(), _READY_S, "boot")

    def _until(self, done: Callable[[], bool], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            self.check_alive()
            if time.monotonic() > deadline:
                raise EmulatorError(
                    f"{PROGRAM} did not {what} within {limit_s:g} s:\n{self._words()}\n{self.console()[-1000:]}",
                    transient=True,
                )
            time.sleep(_POLL_S)

    def agent(self, script: str) -> tuple[int, bytes]:
        """Run a shell script in the guest, not through its network.

        Returns:
            Its status, and what it printed, less line ends at its end.

        Raises:
            Crash: the guest's kernel panicked.
            EmulatorError: the guest does not answer.
        """
        self.agent_send(script)
        answer = b""
        deadline = time.monotonic() + _ANSWER_S
        while True:
            head, ended, said = answer.partition(b"\n")
            if ended and len(said) >= int(head.split()[1]):
                return int(head.split()[0]), said
            if time.monotonic() > deadline:
                raise EmulatorError(f"the guest did not answer the lab within {_ANSWER_S:g} s", transient=True)
            answer += self._agent_bytes()

    def _agent_bytes(self) -> bytes:
        try:
            data = b"" if self._agent is None else self._agent.recv(1 << 16)
        except TimeoutError:
            # A guest that panicked does not answer, but its console tells.
            self.check_alive()
            return b""
        except OSError:
            data = b""
        if not data:
            self._await_end()
            self.check_alive()
            raise EmulatorError("the lab's own line to the guest broke", transient=True)
        return data

    def agent_send(self, script: str) -> None:
        """Start a shell script in the guest that is not waited for, because nothing comes back of it."""
        if self._agent is None:
            raise EmulatorError("the guest is not running")
        with contextlib.suppress(OSError):
            self._agent.sendall("".join(map(_escaped, script.encode())).encode() + b"\n")

    def console(self) -> str:
        """What the console said, from the boot on."""
        with contextlib.suppress(OSError):
            self._last_words = (self.folder / "console").read_bytes().decode(errors="replace")
        return self._last_words

    def panic(self) -> str:
        """The kernel's words when it panicked since this machine started; empty when it did not."""
        text = self.console()[self._console_before :]
        found = re.search(r"^.*Kernel panic - not syncing.*$", text, re.MULTILINE)
        return "" if found is None else text[max(0, found.start() - 500) :][:2000].strip()

    def check_alive(self) -> None:
        """Return while it runs.

        Raises:
            Crash: the guest's kernel panicked.
            EmulatorError: QEMU ended.
        """
        if words := self.panic():
            raise Crash(f"the emulated device's kernel panicked:\n{words}", hint="cut its power and start it again")
        process = self._process
        status = None if process is None else process.poll()
        if process is None or status is not None:
            raise EmulatorError(f"{PROGRAM} ended with status {status}:\n{self._words()}", transient=True)

    def _await_end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)

    def _words(self) -> str:
        with contextlib.suppress(OSError):
            text = (self.folder / "qemu.log").read_text(errors="replace").strip()
            return text[-2000:] or "(it said nothing)"
        return "(its log is gone)"

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor."""
        if self._monitor is None:
            raise EmulatorError("the emulated device is not running")
        return self._monitor

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        if self._process is None:
            raise EmulatorError("the emulated device is not running")
        return self._process.pid

    def kill(self) -> None:
        """End QEMU and leave what it wrote."""
        if self._process is not None:
            end(self._process)

    def stop(self) -> None:
        """End QEMU and remove its folder; safe to call twice."""
        self.console()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        if self._process is not None:
            end(self._process)
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        shutil.rmtree(self.folder, ignore_errors=True)


def _value(path: Path) -> str:
    """A path inside one of QEMU's options: there a comma of a value is written twice."""
    return str(path).replace(",", ",,")


def _escaped(byte: int) -> str:
    """A byte for ``printf %b``: letters and digits as they are, others as a backslash, 0 and three octal digits."""
    return chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\0{byte:03o}"


def digest_of(*parts: object) -> str:
    """A name for what these say, 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]

