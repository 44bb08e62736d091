"""Faults of Linux devices: of their network, their supply, their system, their disk and their memory."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import computer_drills as drills
from faults.catalogue import of
from faults.computer_drills import ComputerBench, RackBench
from helpers import faulty_workload
from helpers.fault_bench import hold
from helpers.toolchain import entry, needs_host_compiler

from lab.doctor import availability
from lab.paths import cache_dir
from lab.transports.adb_server import adb_path

pytestmark = needs_host_compiler

FAULTS = {fault.name: fault for fault in of("Linux devices and phones")}


def usable(name: str) -> str:
    if reason := availability(entry(name)):
        pytest.skip(reason)
    return name


def ready(bench: ComputerBench) -> None:
    """Every fault meets a device that has worked before."""
    faulty_workload.register()
    assert bench.suffer().error is None


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputerBench]:
    with drills.bench_of(usable("pi"), tmp_path_factory.mktemp("pi")) as bench:
        ready(bench)
        yield bench


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputerBench]:
    """A phone behind an ADB server that nobody else uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ANDROID_ADB_SERVER_PORT", port)
        # The keys of `adb` lie in the home, and so does the cache unless it is named.
        patched.setenv("LAB_CACHE", str(cache_dir()))
        patched.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        try:
            with drills.bench_of(usable("phone"), tmp_path_factory.mktemp("phone")) as bench:
                ready(bench)
                yield bench
        finally:
            subprocess.run([adb_path(), "kill-server"], capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RackBench]:
    usable("loopback")
    with drills.rack(tmp_path_factory.mktemp("rack")) as bench:
        ready(bench)
        yield bench


@pytest.mark.parametrize("name", drills.RACK)
def test_a_fault_of_the_network(name: str, rack: RackBench, tmp_path: Path) -> None:
    rack.anew(tmp_path)
    hold(FAULTS[name], rack, drills.RACK[name](rack))


@pytest.mark.parametrize("name", drills.LOOPBACK)
def test_a_fault_of_the_supply(name: str, tmp_path: Path) -> None:
    with drills.bench_of(usable("loopback"), tmp_path) as bench:
        ready(bench)
        before = Path(bench.computer.folder)
        bench.anew(tmp_path / "after")
        hold(FAULTS[name], bench, drills.LOOPBACK[name](bench))
        assert Path(bench.computer.folder) != before, "the home of the server that was started anew"
        assert not before.exists()


@pytest.mark.parametrize("name", drills.PI)
def test_a_fault_of_the_system(name: str, pi: ComputerBench, tmp_path: Path) -> None:
    pi.anew(tmp_path)
    after = drills.PI[name](pi)
    if "wall clock" in name:
        assert after.run.detail.environment is not None
        assert any("wall clock jumped by +" in note for note in after.run.detail.environment.notes)
    hold(FAULTS[name], pi, after)


@pytest.mark.parametrize("name", drills.PHONE)
def test_a_fault_of_the_phone(name: str, phone: ComputerBench, tmp_path: Path) -> None:
    phone.anew(tmp_path)
    hold(FAULTS[name], phone, drills.PHONE[name](phone))


def test_every_fault_is_met() -> None:
    assert set(FAULTS) == {*drills.RACK, *drills.LOOPBACK, *drills.PI, *drills.PHONE}
