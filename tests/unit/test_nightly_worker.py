"""What the night does with a real device: leases, recovery, which runs are its own. The devices here are scripted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers.night_runs import PROVENANCE, counted, night, save
from helpers.scripted_bench import devices

from lab.errors import CompileError, DeviceError, Hang, LeaseLost, TransportError
from lab.fence import Fence
from lab.inventory import Device as Entry
from lab.lease import holder, lease
from lab.nightly import bench_worker
from lab.nightly.bench_worker import BenchWorker
from lab.nightly.config import Cell


@dataclass
class ScriptedDevice:
    """Deploys and recovers as told; writes down what happened, and who held the device meanwhile."""

    deploying: Exception | None = None
    recovering: Exception | None = None
    calls: list[str] = field(default_factory=list)
    held_for: list[str] = field(default_factory=list)

    def deploy(self, entry: Entry, workload: str, variant: str) -> None:
        holding = holder(entry.name)
        self.held_for.append(holding.purpose if holding is not None else "")
        self.calls.append(f"deploy {workload} {variant}".rstrip())
        if self.deploying is not None:
            raise self.deploying

    def recover(self) -> None:
        self.calls.append("recover")
        if self.recovering is not None:
            raise self.recovering


@pytest.fixture
def device(private_lab: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedDevice:
    """The device that every entry of the bench leads to."""
    scripted = ScriptedDevice()

    @contextmanager
    def connected(entry: Entry, cache: Path, fence: Fence | None) -> Iterator[ScriptedDevice]:
        scripted.calls.append(f"connect {entry.name}")
        newest = holder(entry.name)
        mine = newest.token if newest is not None and entry.needs_lease else None
        assert (None if fence is None else fence.token) == mine, "the device is told of the lease"
        yield scripted
        scripted.calls.append("close")

    def deploy(entry: Entry, to: ScriptedDevice, workload: str, cache: Path, variant: str = "") -> None:
        to.deploy(entry, workload, variant)

    monkeypatch.setattr(bench_worker, "connected", connected)
    monkeypatch.setattr(bench_worker, "deploy", deploy)
    monkeypatch.setattr("lab.lease.WAIT_S", 0.0)
    return scripted


def check(folder: Path, name: str = "left") -> None:
    cell = Cell(devices(folder)[name], "kws", "q")
    BenchWorker(folder / "store", folder / "cache", "tonight").check(cell)


def test_a_healthy_device_is_only_given_its_image(device: ScriptedDevice, tmp_path: Path) -> None:
    check(tmp_path)
    assert device.calls == ["connect left", "deploy kws q", "close"]


def test_a_device_that_recovers_is_well(device: ScriptedDevice, tmp_path: Path) -> None:
    device.deploying = Hang("silent")
    check(tmp_path)
    assert device.calls == ["connect left", "deploy kws q", "recover", "close"]


def test_a_device_that_does_not_recover_is_told_by_its_first_failure(device: ScriptedDevice, tmp_path: Path) -> None:
    device.deploying, device.recovering = Hang("silent after the image"), TransportError("port gone")
    with pytest.raises(DeviceError, match="silent after the image") as caught:
        check(tmp_path)
    assert caught.value.__cause__ is device.recovering


@pytest.mark.parametrize("error", [CompileError("does not fit"), TransportError("port gone")])
def test_what_is_not_the_devices_doing_needs_no_recovery(
    device: ScriptedDevice, tmp_path: Path, error: Exception
) -> None:
    device.deploying = error
    with pytest.raises(type(error)):
        check(tmp_path)
    assert "recover" not in device.calls


def test_a_board_is_leased_while_it_is_used_and_free_afterwards(device: ScriptedDevice, tmp_path: Path) -> None:
    check(tmp_path)
    device.deploying = CompileError("does not fit")
    with pytest.raises(CompileError):
        check(tmp_path)
    assert device.held_for == ["lab nightly"] * 2
    assert holder("left") is None


def test_a_board_that_somebody_holds_is_left_alone(device: ScriptedDevice, tmp_path: Path) -> None:
    with lease("left", "ann looks at it"), pytest.raises(LeaseLost, match="ann looks at it"):
        check(tmp_path)
    assert device.calls == []


def test_an_emulator_is_nobodys_and_needs_no_lease(device: ScriptedDevice, tmp_path: Path) -> None:
    with lease("m4f", "somebody elses emulator"):
        check(tmp_path, "m4f")
    assert device.calls == ["connect m4f", "deploy kws q", "close"]


def test_the_runs_of_a_cell_are_those_of_this_night_device_workload_and_variant(tmp_path: Path) -> None:
    mine = night(7, counted([1.0]), variant="q")
    other = [
        night(6, counted([1.0]), variant="q"),
        replace(night(7, counted([1.0])), run_id="another-variant"),
        replace(night(7, counted([1.0]), variant="q", workload="vww"), run_id="another-workload"),
        replace(night(7, counted([1.0]), provenance=replace(PROVENANCE, device="m7"), variant="q"), run_id="another"),
    ]
    store = save(tmp_path / "store", [*other, mine])
    worker = BenchWorker(store, tmp_path / "cache", mine.session_id)
    found = worker.runs(Cell(devices(tmp_path)["m4f"], "kws", "q"))
    assert [run.run_id for run in found] == [mine.run_id]
