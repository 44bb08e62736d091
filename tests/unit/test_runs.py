"""Runs against a scripted device: the one retry, what an error says of whom, and what is not deployed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.scripted_runs import SAMPLES, ScriptedDevice, answers, kept, measured, model, prepared, stops

from lab import runs
from lab.bench import Bench
from lab.deployment import Deployment
from lab.errors import (
    CompileError,
    ConfigError,
    Crash,
    DeviceError,
    EmulatorError,
    HostKeyChanged,
    InfrastructureError,
    LabError,
    LeaseLost,
    MeterError,
    ToolMissing,
    TransportError,
    WorkloadError,
)
from lab.events import Event, Job
from lab.paths import config_dir
from lab.workloads.base import Prepared
from measurements.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def test_ctrl_c_keeps_what_came_before_it(store: Store) -> None:
    def interrupted(job: Job) -> Iterator[Event]:
        yield from list(answers(job))[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(store, ScriptedDevice([interrupted]))
    run = kept(store)
    assert (run.status, run.error) == ("incomplete", "KeyboardInterrupt")
    assert {record.n for record in run.records} == {3}


# Retries


def test_a_transient_failure_of_the_bench_is_tried_once_more_and_written_down(store: Store) -> None:
    device = ScriptedDevice([stops(7, EmulatorError("QEMU died\nlast words", transient=True)), answers])
    measurement = measured(store, device)
    assert device.recovered == 1
    assert measurement.run.retries == ("QEMU died (recovered by soft-reset)",)
    assert measurement.record("latency").n == SAMPLES, "nothing of the first attempt is mixed into the second"
    assert kept(store) == measurement.run


def test_a_second_failure_is_final(store: Store) -> None:
    first, second = (TransportError(text, transient=True) for text in ("first break", "second break"))
    device = ScriptedDevice([stops(7, first), stops(9, second), answers])
    with pytest.raises(TransportError, match="second break"):
        measured(store, device)
    assert device.recovered == 1
    assert len(device.jobs) == 2
    run = kept(store)
    assert (run.status, run.error) == ("error", "second break")
    assert run.retries == ("first break (recovered by soft-reset)",)


def test_a_retry_that_meets_a_crash_is_the_devices_failure(store: Store) -> None:
    device = ScriptedDevice([stops(7, TransportError("break", transient=True)), stops(3, Crash("hard fault"))])
    with pytest.raises(Crash):
        measured(store, device)
    assert kept(store).status == "failed"
    assert kept(store).retries == ("break (recovered by soft-reset)",)


@pytest.mark.parametrize("worse", [HostKeyChanged("another key"), LeaseLost("ann has it")], ids=repr)
def test_what_a_recovery_must_not_touch_is_what_the_run_ends_with(store: Store, worse: LabError) -> None:
    device = ScriptedDevice([stops(10, TransportError("break", transient=True))], recovery=worse)
    with pytest.raises(type(worse)) as caught:
        measured(store, device)
    assert isinstance(caught.value.__context__, TransportError)
    assert (kept(store).status, kept(store).error) == ("error", str(worse))


def test_a_device_that_cannot_be_recovered_keeps_the_first_attempt(store: Store) -> None:
    first, worse = TransportError("break", transient=True), DeviceError("stays dead")
    with pytest.raises(TransportError, match="break") as caught:
        measured(store, ScriptedDevice([stops(10, first)], recovery=worse))
    assert caught.value.__cause__ is worse
    run = kept(store)
    assert (run.status, run.error) == ("error", "break")
    assert {record.n for record in run.records} == {5}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InfrastructureError("x"), "error"),
        (MeterError("x"), "error"),
        (DeviceError("x"), "failed"),
        (WorkloadError("x"), "failed"),
        (AssertionError("x"), "failed"),
    ],
)
def test_status_of(error: Exception, status: str) -> None:
    assert runs.status_of(error) == status


# Deploying


@dataclass
class _Workload:
    ready: Prepared
    id: str = "w"
    title: str = "w"
    family: str = "inference"
    systems: tuple[str, ...] = ()

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        return self.ready


def _deploy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ready: Prepared, name: str = "m4f") -> Deployment:
    monkeypatch.setattr(runs, "get", lambda _: _Workload(ready))
    entry = Bench.load(config_dir() / "emulated.yaml").get(name)
    return runs.deploy(entry, ScriptedDevice(), "w", tmp_path)


def test_a_model_too_large_for_the_arena_is_refused_with_its_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = replace(prepared(), model=replace(model(), arena_bytes=300 * 1024))
    with pytest.raises(CompileError) as caught:
        _deploy(monkeypatch, tmp_path, ready)
    told = str(caught.value)
    assert "the arena of 'scripted' need 307200 bytes, the arena limit is 262144 bytes" in told
    assert all(layer.name in told for layer in model().layers)
    assert "choose a board with more memory" in told


def test_a_model_too_large_for_the_flash_is_refused_with_its_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = replace(model().layers[0], name="huge", weights_bytes=5 << 20)
    ready = replace(prepared(), model=replace(model(), layers=(large, model().layers[1])))
    with pytest.raises(CompileError, match="the flash is 4194304 bytes") as caught:
        _deploy(monkeypatch, tmp_path, ready)
    row = next(line.split() for line in str(caught.value).splitlines() if "huge" in line)
    assert str(5 << 20) in row


def test_a_board_without_firmware_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = Bench.load(config_dir() / "bench.example.yaml").devices[0]
    board = entry.board.model_copy(update={"firmware_board": None})
    with pytest.raises(ConfigError, match=f"board '{board.kind}' has no firmware yet") as caught:
        runs.deploy(replace(entry, board=board), ScriptedDevice(), "w", tmp_path)
    assert "firmware/boards" in caught.value.hint


@pytest.mark.usefixtures("no_tools_of_pip")
@pytest.mark.parametrize(
    ("name", "package"), [("m4f", "gcc-arm-none-eabi"), ("host", "gcc")], ids=["cross compiler", "host compiler"]
)
def test_a_missing_toolchain_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="is not installed; building firmware needs it") as caught:
        _deploy(monkeypatch, tmp_path / "cache", prepared(), name)
    assert f"apt-get install {package}" in caught.value.hint
