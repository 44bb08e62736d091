"""Workloads on an emulated Raspberry Pi and on this computer behind SSH: records as everywhere, and what can fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import tiny_workload
from helpers.toolchain import built, entry, needs_host_compiler

from lab.deployment import Deployment
from lab.devices.connect import connected
from lab.devices.linux import Linux
from lab.devices.machine import EmulatedMachine
from lab.doctor import availability
from lab.emulators.sshd import LoopbackSshd
from lab.errors import InfrastructureError, TransportError
from lab.events import Job
from lab.inventory import Device
from lab.paths import cache_dir
from lab.runs import deploy, measure
from measurements.record import Run
from measurements.store import Store

pytestmark = needs_host_compiler


@dataclass
class Desk:
    """A device with the tiny workload, and a store of its own."""

    device: Linux
    deployment: Deployment
    store: Store

    @property
    def machine(self) -> EmulatedMachine:
        machine = self.device._machine
        assert isinstance(machine, EmulatedMachine)
        return machine

    @property
    def last(self) -> Run:
        return self.store.runs()[-1]


def usable(name: str) -> Device:
    found = entry(name)
    if reason := availability(found):
        pytest.skip(reason)
    return found


@contextmanager
def desk_of(found: Device, folder: Path) -> Iterator[Desk]:
    tiny_workload.register()
    with ExitStack() as stack:
        device = stack.enter_context(connected(found, cache_dir()))
        assert isinstance(device, Linux)
        deployment = deploy(found, device, "tiny", cache_dir())
        yield Desk(device, deployment, stack.enter_context(Store(folder / "store")))


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_of(usable("pi"), tmp_path_factory.mktemp("pi")) as desk:
        yield desk


def test_records_of_an_emulated_pi(pi: Desk) -> None:
    runs = [measure(pi.deployment, pi.store, "s").run for _ in range(2)]
    for run in runs:
        records = {(one.region, one.metric): one for one in run.records}
        assert records["run", "bit_exact"].median == 1.0
        assert {one.source for one in run.records} <= {"emulated", "modelled"}
        assert 100_000 < records["run", "peak_ram.process"].median < 4 << 20
        assert "memory.peak" in records["run", "peak_ram.process"].note
        assert "not comparable with hardware" in records["inference", "latency"].note
        provenance = run.provenance
        assert (provenance.clock, provenance.clock_hz, provenance.board) == ("guest", 1e9, "raspberry-pi-4")
        assert provenance.emulator.startswith("QEMU")
        environment = run.detail.environment
        assert environment is not None
        assert [one.moment for one in environment.snapshots] == ["before", "during", "after"]
    # Latency counts what the kernel does besides; the instructions of the runner are the same to the last one.
    first, second = ({one.metric: one.median for one in run.records if one.region == "inference"} for run in runs)
    assert first["instructions"] == second["instructions"] > tiny_workload.SIZE


# ---- this computer behind its own SSH server -------------------------------------------------------------------------


def test_data_of_a_lost_run_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk_of(usable("loopback"), tmp_path) as desk:
        server = desk.machine.emulator
        assert isinstance(server, LoopbackSshd)
        run = Linux.run

        def cut(device: Linux, job: Job, *, silence_s: float = 60.0) -> Iterator[object]:
            events = run(device, job, silence_s=silence_s)
            yield next(events)
            server.power_cut()
            yield from events

        monkeypatch.setattr(Linux, "run", cut)
        monkeypatch.setattr(Linux, "recover", lambda _: (_ for _ in ()).throw(TransportError("it is gone")))
        with pytest.raises(InfrastructureError, match=r"not running|lost"):
            measure(desk.deployment, desk.store, "s", repeats=1_000_000)
        kept = desk.last
    assert kept.status == "error"
    assert any(one.metric == "latency" for one in kept.records)


def test_the_same_image_is_sent_once(tmp_path: Path) -> None:
    with desk_of(usable("loopback"), tmp_path) as desk:
        place = Path(desk.device.folder) / "builds"
        (runner,) = place.glob("*/runner")
        before = runner.stat().st_mtime_ns
        desk.device.deploy(desk.deployment.artifact)
        assert (list(place.glob("*/*")), runner.stat().st_mtime_ns) == ([runner], before)
        assert desk.device.identity.source == "hardware"
        desk.device.deploy(built("linux-x86-64"))
        assert len(list(place.glob("*/runner"))) == 2
