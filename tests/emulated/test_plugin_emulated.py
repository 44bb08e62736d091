"""The pytest plugin with real emulated devices, side by side in two workers, and with an emulator that dies."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.inventory import load_bench
from lab.paths import config_dir
from measurements.record import Record, Run
from measurements.store import Store

pytestmark = needs_qemu

_CONFTEST = """
from helpers import tiny_workload

tiny_workload.register()
"""

_TESTS = """
import os
import signal

import pytest

pytestmark = pytest.mark.devices("m4f, m7")

def worker():
    return float(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))

@pytest.mark.budget(latency="1 ms", energy="10 µJ", peak_ram="64 KiB", instructions=100_000)
@pytest.mark.devices("feature:meter")
def test_within_budget(deploy, measure, record):
    measurement = measure(deploy("tiny"), repeats=2)
    assert measurement.median("bit_exact", "run") == 1.0
    record("worker", worker())

@pytest.mark.budget(energy="1 nJ")
def test_over_budget(deploy, measure, record):
    measure(deploy("tiny"))
    record("worker", worker())

def test_repeats_exactly(deploy, measure):
    first, second = (measure(deploy("tiny")).record("instructions").raw for _ in range(2))
    assert first == second

def dying(device, times):
    run, left = device.run, [times]

    def run_and_die(job, **options):
        killed = False
        for number, event in enumerate(run(job, **options)):
            yield event
            if number == 2 and left[0]:
                left[0] -= 1
                killed = True
                os.kill(device._target.emulator.pid, signal.SIGKILL)
        if killed:  # all of the job was on its way already
            device._target.emulator._process.wait()
            device._target.check_alive()
    return run_and_die

def test_emulator_dies_once(deploy, measure, device, monkeypatch):
    deployment = deploy("tiny")
    monkeypatch.setattr(device, "run", dying(device, 1))
    measure(deployment, repeats=200)

def test_emulator_dies_twice(deploy, measure, device, monkeypatch):
    deployment = deploy("tiny")
    monkeypatch.setattr(device, "run", dying(device, 2))
    measure(deployment, repeats=200)

def test_next_one_finds_a_working_device(deploy, measure, record):
    measure(deploy("tiny"))
    record("worker", worker())
"""

DEVICES = ("m4f", "m7")


@dataclass(frozen=True)
class Session:
    """A finished inner session."""

    folder: Path
    output: str
    status: int

    def runs(self, test: str, device: str) -> list[Run]:
        with Store(self.folder / "lab/store") as store:
            return [run for run in store.runs() if run.test == f"test_job.py::{test}[{device}]"]

    def run_of(self, test: str, device: str) -> Run:
        (run,) = self.runs(test, device)
        return run

    def case(self, test: str, device: str) -> ET.Element:
        cases = ET.parse(self.folder / "junit.xml").iter("testcase")
        (case,) = [case for case in cases if case.get("name", "").startswith(f"{test}[{device}]")]
        return case


def _record(run: Run, metric: str, region: str = "inference") -> Record:
    (found,) = [one for one in run.records if (one.region, one.metric) == (region, metric)]
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Session:
    """Two workers, two devices."""
    folder = tmp_path_factory.mktemp("emulated")
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=junit.xml", "-n", "2"]
    private = environment(folder / "lab", shared_cache, COLUMNS="300")
    done = subprocess.run(command, cwd=folder, env=private, capture_output=True, text=True, check=False)
    assert "INTERNALERROR" not in done.stdout, done.stdout + done.stderr
    return Session(folder, done.stdout + done.stderr, done.returncode)


def test_outcomes(session: Session) -> None:
    assert re.search(r"2 failed, 8 passed, 2 errors", session.output), session.output
    for device in DEVICES:
        assert session.case("test_over_budget", device).find("failure") is not None
        assert session.case("test_emulator_dies_twice", device).find("error") is not None


def test_each_device_has_a_worker_of_its_own(session: Session) -> None:
    workers = {
        device: {
            _record(session.run_of(test, device), "worker", "run").median
            for test in ("test_within_budget", "test_over_budget", "test_next_one_finds_a_working_device")
        }
        for device in DEVICES
    }
    assert sorted(workers.values(), key=min) == [{0.0}, {1.0}]
    # By luck that may come out without groups as well.
    for device in DEVICES:
        assert session.case("test_within_budget", device).get("name", "").endswith(f"@{device}")


def test_one_session_and_one_report_from_the_controller(session: Session) -> None:
    with Store(session.folder / "lab/store") as store:
        assert len({run.session_id for run in store.runs()}) == 1
    (line,) = [line for line in session.output.splitlines() if line.startswith("report: ")]
    page = Path(line.removeprefix("report: "))
    text = page.read_text()
    assert all(device in text for device in DEVICES)
    assert sorted(path.name for path in (session.folder / "lab/reports").iterdir()) == [page.parent.name, "latest"]


@pytest.mark.parametrize("device", DEVICES)
def test_energy_lies_between_idle_and_active_power(session: Session, device: str) -> None:
    """Between the idle and the active power for as long: the tiny model's passes are shorter than the settling."""
    run = session.run_of("test_within_budget", device)
    energy, latency = _record(run, "energy"), _record(run, "latency")
    entry = load_bench(config_dir() / "emulated.yaml").devices[device]
    model = entry.board.energy_model
    assert model is not None
    ceiling_j = entry.meter_voltage_v * model.active_current_a * latency.median
    floor_j = entry.meter_voltage_v * model.idle_current_a * latency.median
    assert floor_j < energy.median < ceiling_j
    assert (energy.source, energy.alignment) == ("modelled", "marker")
    assert run.provenance.meter.startswith("emulated ppk2")
    assert run.provenance.energy_model == model.source
    with Store(session.folder / "lab/store") as store:
        assert store.trace(run.run_id) is not None


@pytest.mark.parametrize("device", DEVICES)
def test_an_energy_budget_says_measured_and_allowed(session: Session, device: str) -> None:
    failure = session.case("test_over_budget", device).find("failure")
    assert failure is not None
    assert failure.text is not None
    assert re.search(rf"{device}: energy \(median\) measured [\d.]+ \wJ, allowed 1 nJ \(\+[\d.]+ %\)", failure.text)
    assert session.run_of("test_over_budget", device).status == "failed"


@pytest.mark.parametrize("device", DEVICES)
def test_provenance_of_an_emulated_run(session: Session, device: str) -> None:
    found = session.run_of("test_within_budget", device).provenance
    assert found.clock == "virtual"
    assert found.emulator.startswith("QEMU ")
    assert found.artifact_digest
    assert "arm-none-eabi-gcc" in found.toolchain


@pytest.mark.parametrize("device", DEVICES)
def test_an_emulator_that_dies_once_is_replaced_and_that_is_written_down(session: Session, device: str) -> None:
    run = session.run_of("test_emulator_dies_once", device)
    assert run.status == "passed"
    (retry,) = run.retries
    assert retry.endswith("(recovered by re-deploy)")
    assert _record(run, "latency").n == 200 * 8


@pytest.mark.parametrize("device", DEVICES)
def test_an_emulator_that_dies_twice_is_an_error_of_the_bench_with_its_records_kept(
    session: Session, device: str
) -> None:
    run = session.run_of("test_emulator_dies_twice", device)
    assert run.status == "error"
    assert len(run.retries) == 1
    assert "qemu-system-arm" in run.error
    assert _record(run, "latency").n >= 3


@pytest.mark.parametrize("device", DEVICES)
def test_junit_carries_the_energy_with_its_source(session: Session, device: str) -> None:
    case = session.case("test_within_budget", device)
    properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
    energy = _record(session.run_of("test_within_budget", device), "energy")
    assert properties[f"{device}.energy[inference].source"] == "modelled"
    assert float(properties[f"{device}.energy[inference] J"]) == energy.median


def test_the_next_test_finds_a_working_device(session: Session) -> None:
    for device in DEVICES:
        assert session.run_of("test_next_one_finds_a_working_device", device).status == "passed"
