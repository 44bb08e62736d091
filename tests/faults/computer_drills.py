"""Faults of Linux devices, made on purpose."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.fault_bench import Aftermath, FaultBench, Struck
from helpers.tcp_proxy import TcpProxy
from helpers.toolchain import entry

from lab.devices.base import Device, Rung
from lab.devices.connect import connected
from lab.devices.linux import Linux
from lab.devices.machine import EmulatedMachine
from lab.emulator_config import LoopbackEmulator
from lab.emulators.linux.guest import Guest
from lab.emulators.sshd import LoopbackSshd
from lab.environment import EnvironmentLog
from lab.environment_config import EnvironmentConfig
from lab.events import Event, Job
from lab.inventory import Device as Entry
from lab.inventory import DeviceConfig
from lab.paths import cache_dir
from lab.transports import ssh_connect
from lab.transports.adb_server import adb_path
from measurements.environment import MemoryFigure

LIMIT_BYTES = 1 << 20
SILENCE = 0.3
"""Times without an answer before a connection to a kernel that panicked is lost, in place of three."""


def _nothing() -> None:
    pass


@dataclass
class StruckComputer(Struck):
    """A computer to which something happens: it is also set up, watched and counted by its kernel.

    Attributes:
        before_recovery: done when the lab begins to bring it back.
    """

    before_recovery: Callable[[], None] = _nothing

    def recover(self) -> Rung:
        self.before_recovery()
        return super().recover()

    @property
    def computer(self) -> Linux:
        """The device itself."""
        assert isinstance(self.device, Linux)
        return self.device

    def measuring(self) -> AbstractContextManager[EnvironmentLog]:
        return self.computer.measuring()

    def process_memory(self) -> list[MemoryFigure]:
        return self.computer.process_memory()

    def instructions(self, job: Job) -> dict[str, int]:
        return self.computer.instructions(job)


class ComputerBench(FaultBench):
    """A bench whose device has an operating system."""

    def __init__(self, entry: Entry, device: Device, folder: Path) -> None:
        super().__init__(entry, device, folder)
        self.device = StruckComputer(device)

    @property
    def computer(self) -> Linux:
        """The device itself."""
        assert isinstance(self.device, StruckComputer)
        return self.device.computer

    @property
    def served_by(self) -> object:
        """What emulates it, or serves it."""
        assert isinstance(self.computer._machine, EmulatedMachine)
        return self.computer._machine.emulator

    @property
    def guest(self) -> Guest:
        """Its emulator."""
        assert isinstance(self.served_by, Guest)
        return self.served_by

    def anew(self, folder: Path) -> None:
        """The same device for another test, whose store is to lie in ``folder``."""
        self.folder = folder / "store"
        self.device = StruckComputer(self.device.device)


class RackBench(ComputerBench):
    """A computer behind SSH that the lab takes for hardware: this one, over a way that can be cut and led elsewhere."""

    way: TcpProxy
    other: LoopbackSshd
    own_port: int

    def somebody_else_answers(self) -> None:
        """Another computer is at its address."""
        self.way.lead_to("127.0.0.1", self.other.start().port)
        self.way.cut()

    def mended(self) -> None:
        """It is at its address again, and a person says so."""
        self.way.lead_to("127.0.0.1", self.own_port)
        super().mended()


@contextmanager
def bench_of(name: str, folder: Path) -> Iterator[ComputerBench]:
    """A device of the emulated bench."""
    found = entry(name)
    with connected(found, cache_dir()) as device:
        yield ComputerBench(found, device, folder)


@contextmanager
def rack(folder: Path) -> Iterator[RackBench]:
    """A computer on the network."""
    with ExitStack() as stack:
        server, other = (
            stack.enter_context(LoopbackSshd(LoopbackEmulator(kind="sshd"), folder)) for _ in range(2)
        )
        host = server.start()
        way = stack.enter_context(TcpProxy("127.0.0.1", host.port))
        config = DeviceConfig(board="linux-x86-64", ssh=host.model_copy(update={"port": way.port}))
        found = replace(entry("loopback"), name="rack", config=config)
        bench = RackBench(found, stack.enter_context(connected(found, cache_dir())), folder)
        bench.way, bench.other, bench.own_port = way, other, host.port
        yield bench


# ---- a computer on the network -------------------------------------------------------------------------------------


def ssh_dropped(bench: RackBench) -> Aftermath:
    """All connections end."""
    return bench.suffer(bench.way.cut)


def host_key_changed(bench: RackBench) -> Aftermath:
    """The connection ends, and from then on somebody else answers."""
    return bench.suffer(bench.somebody_else_answers)


RACK: Mapping[str, Callable[[RackBench], Aftermath]] = {
    "SSH connection ends in mid-run": ssh_dropped,
    "host key changes in mid-run": host_key_changed,
}


# ---- this computer behind its own server ---------------------------------------------------------------------------


def supply_cut(bench: ComputerBench) -> Aftermath:
    """The server and all that ran on it end at once."""

    def cut() -> None:
        assert isinstance(bench.served_by, LoopbackSshd)
        bench.served_by.power_cut()

    return bench.suffer(cut)


def runner_killed(bench: ComputerBench) -> Aftermath:
    """Somebody on the device kills the runner."""
    computer = bench.computer

    def kill() -> None:
        computer.remote.run(("sh", "-c", 'kill -9 $(cat "$0"/*.pid)', computer.folder))

    return bench.suffer(kill)


LOOPBACK: Mapping[str, Callable[[ComputerBench], Aftermath]] = {
    "supply of a computer is cut in mid-run": supply_cut,
}


# ---- an emulated Raspberry Pi --------------------------------------------------------------------------------------


def panic(bench: ComputerBench) -> Aftermath:
    """The kernel panics.

    From then until the device is brought back a connection is given up a second and a half after it was last asked
    for, in place of fifteen: what died is known from the console. Only then, for a slow computer is silent as long.
    """
    with pytest.MonkeyPatch.context() as patched:

        def strike() -> None:
            patched.setattr(ssh_connect, "_LOST_AFTER", SILENCE)
            bench.guest.panic()

        bench.device.before_recovery = patched.undo
        return bench.suffer(strike)


def out_of_memory(bench: ComputerBench) -> Aftermath:
    """The samples take twice the memory that the runner may have: their pages are the runner's."""
    computer, plain = bench.computer, bench.computer.run
    greedy = [Job("infer", bytes(2 * LIMIT_BYTES), 1)]

    def run(job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        return plain(greedy.pop() if greedy else job, silence_s=silence_s)

    usual, computer._memory = computer._environment, None
    computer._environment = EnvironmentConfig(memory_limit_bytes=LIMIT_BYTES)
    computer.run = run  # type: ignore[method-assign]
    try:
        return bench.suffer()
    finally:
        del computer.run
        computer._environment, computer._memory = usual, None


def disk_full(bench: ComputerBench) -> Aftermath:
    """No room for the image."""
    bench.guest.limit_disk(bench.computer.folder, 64 << 10)
    return bench.suffer()


def clock_jumps(bench: ComputerBench) -> Aftermath:
    """The wall clock jumps by decades."""
    return bench.suffer(lambda: bench.guest.set_clock(4_000_000_000.0))


PI: Mapping[str, Callable[[ComputerBench], Aftermath]] = {
    "runner on a computer is killed": runner_killed,
    "kernel panics in mid-run": panic,
    "runner out of memory": out_of_memory,
    "disk of the device is full": disk_full,
    "wall clock of the device jumps in mid-run": clock_jumps,
}


# ---- an emulated phone ---------------------------------------------------------------------------------------------

FEW = 12
"""Passes over eight samples: what a phone says comes through ADB, a second program on each side, and takes its time."""


def adb_server_killed(bench: ComputerBench) -> Aftermath:
    """An `adb` of another version takes over: it ends the server that it finds, and with it all connections."""

    def take_over() -> None:
        subprocess.run([adb_path(), "kill-server"], check=True, capture_output=True, timeout=60)

    return bench.suffer(take_over, repeats=FEW)


def adb_connection_lost(bench: ComputerBench) -> Aftermath:
    """The server loses the phone and forgets it, as when its cable is pulled for an instant."""

    def pull() -> None:
        address = str(bench.guest.address_of_adb().address)
        subprocess.run([adb_path(), "disconnect", address], check=True, capture_output=True, timeout=60)

    return bench.suffer(pull, repeats=FEW)


def adbd_restarts(bench: ComputerBench) -> Aftermath:
    """The phone's daemon dies with every shell that it serves; its init has another when the lab looks for it."""
    daemon = "/system/bin/adbd"

    def die() -> None:
        bench.guest.run(f"chmod 0 {daemon} && kill -9 $(pidof adbd)")
        asked = (adb_path(), "-s", str(bench.guest.address_of_adb().address), "get-state")
        # Until the server has noticed, it tells this or that of a phone that it takes for well.
        while subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0:
            time.sleep(0.1)

    def start() -> None:
        bench.guest.run(f"chmod 755 {daemon}")

    bench.device.before_recovery = start
    return bench.suffer(die, repeats=FEW)


PHONE: Mapping[str, Callable[[ComputerBench], Aftermath]] = {
    "ADB server is killed in mid-run": adb_server_killed,
    "ADB connection is lost in mid-run": adb_connection_lost,
    "adbd restarts in mid-run": adbd_restarts,
}
