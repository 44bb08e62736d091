"""Ctrl-C and SIGTERM in each phase of a test: nothing runs on, nothing is held, and what was captured is kept."""

from __future__ import annotations

import re
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest
from helpers import desk_bench
from helpers.inner_session import REACH, InnerSession
from helpers.sandbox import environment
from helpers.toolchain import needs_host_compiler, needs_qemu

from lab import health
from lab.lease import holder
from measurements.record import Run
from measurements.store import Store

_CONFTEST = """
from helpers import tiny_workload

tiny_workload.register()
"""

_TESTS = (
    """
import pytest
"""
    + REACH
    + """
@pytest.fixture
def user_fixture():
    yield
    reach("teardown")

@pytest.fixture(scope="session")
def slow_to_end():
    yield
    reach_and_go_on("cleaning up")

def after_deploying(device):
    plain = device.deploy
    def deploy(artifact):
        plain(artifact)
        reach("deploy")
    return deploy

def in_the_middle(device, metered):
    plain = device.run
    def run(job, **options):
        for number, event in enumerate(plain(job, **options)):
            yield event
            if number == 4 and job.marker_line == metered:
                reach("metered" if metered else "run")
    return run

def test_deploy(deploy, device, monkeypatch):
    monkeypatch.setattr(device, "deploy", after_deploying(device))
    deploy("tiny")

def test_run(deploy, measure, device, monkeypatch, slow_to_end):
    deployment = deploy("tiny")
    monkeypatch.setattr(device, "run", in_the_middle(device, False))
    measure(deployment)

def test_metered(deploy, measure, device, monkeypatch):
    deployment = deploy("tiny")
    monkeypatch.setattr(device, "run", in_the_middle(device, True))
    measure(deployment)

def test_teardown(deploy, measure, user_fixture):
    measure(deploy("tiny"))
"""
)


def _runs(folder: Path) -> list[Run]:
    with Store(folder / "lab" / "store") as store:
        return store.runs()


def _inner(folder: Path, cache: Path, test: str, *arguments: str) -> InnerSession:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text(_TESTS)
    places = environment(folder / "lab", cache, LAB_DEVICE="m4f", LAB_NO_REPORT="1")
    return InnerSession(folder, places, "-k", test, *arguments)


@needs_qemu
@pytest.mark.parametrize(
    ("phase", "number", "kept"),
    [
        ("deploy", SIGINT, []),
        ("run", SIGTERM, ["incomplete"]),
        ("metered", SIGINT, ["incomplete"]),
        ("teardown", SIGTERM, ["passed"]),
    ],
)
def test_a_signal_ends_the_session_in_order(
    tmp_path: Path, shared_cache: Path, phase: str, number: Signals, kept: list[str]
) -> None:
    with _inner(tmp_path, shared_cache, f"test_{phase}") as session:
        session.wait_for(phase)
        assert len(session.children) >= 2, "QEMU and the meter's process"
        session.send(number)
        if phase == "run":
            session.wait_for("cleaning up")
            # Whoever is impatient does not break the clean-up.
            session.send(number)
            session.go_on()
        assert session.ended() == pytest.ExitCode.INTERRUPTED, session.output
        assert session.left_over() == []
        assert "INTERNALERROR" not in session.output
    runs = _runs(tmp_path)
    assert [one.status for one in runs] == kept
    if phase == "run":
        (latency,) = [one for one in runs[0].records if one.metric == "latency"]
        assert latency.n >= 1
    if phase == "metered":
        assert {"latency", "peak_ram"} <= {one.metric for one in runs[0].records}
        with Store(tmp_path / "lab" / "store") as store:
            assert store.trace(runs[0].run_id) is not None


@needs_qemu
def test_a_cancelled_job_of_several_workers_leaves_nothing_either(tmp_path: Path, shared_cache: Path) -> None:
    with _inner(tmp_path, shared_cache, "test_metered", "-n", "1") as session:
        session.wait_for("metered")
        assert len(session.children) >= 3, "the worker, QEMU and the meter's process"
        session.send(SIGTERM)
        assert session.ended() == pytest.ExitCode.INTERRUPTED, session.output
        assert session.left_over() == []
    assert [one.status for one in _runs(tmp_path)] == ["incomplete"]


@needs_host_compiler
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_hardware_is_brought_to_rest_and_its_lease_given_back(
    tmp_path: Path, shared_cache: Path, number: Signals
) -> None:
    desk_bench.write(tmp_path, _TESTS)
    places = desk_bench.places_of(tmp_path, shared_cache, "good")
    with InnerSession(tmp_path, places, "-k", "test_run") as session:
        session.wait_for("run")
        leases = tmp_path / "lab" / "state" / "leases"
        assert holder("good", folder=leases) is not None
        session.send(number)
        session.wait_for("cleaning up")
        session.go_on()
        assert session.ended() == pytest.ExitCode.INTERRUPTED, session.output
        assert session.left_over() == []
    assert re.search(r"good was brought to rest by \w+", session.output)
    assert holder("good", folder=leases) is None
    assert health.outcomes(tmp_path / "lab" / "store", "good") == []
    assert [one.status for one in _runs(tmp_path)] == ["incomplete"]


@needs_host_compiler
def test_the_third_signal_ends_the_clean_up_as_well(tmp_path: Path, shared_cache: Path) -> None:
    desk_bench.write(tmp_path, _TESTS)
    places = desk_bench.places_of(tmp_path, shared_cache, "good")
    with InnerSession(tmp_path, places, "-k", "test_run") as session:
        session.wait_for("run")
        session.send(SIGINT)
        session.wait_for("cleaning up")
        session.send(SIGTERM)
        # At once, the kernel may hand the third to another thread, which does not wake the one that waits.
        session.wait_printed("once more ends that too")
        session.send(SIGINT)
        assert session.ended() != 0
        assert holder("good", folder=tmp_path / "lab" / "state" / "leases") is None
