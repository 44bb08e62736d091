"""Limits of phases under pytest: a native call that blocks is interrupted, and the error says which phase it was."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.desk_bench import run
from helpers.toolchain import needs_host_compiler

from lab import health
from lab.quarantine import quarantined
from measurements.store import Store

pytestmark = needs_host_compiler

_BLOCKED = """
import ctypes

def blocked(*_, **__):
    # A wait that knows no time-out, as in a vendor's library: Python code does not run meanwhile.
    ctypes.CDLL(None).pause()

@pytest.fixture
def deaf(device, monkeypatch):
    monkeypatch.setattr(device, "deploy", blocked)

def test_deploy(deaf, deploy):
    deploy("tiny")

def half_way(run):
    def run_and_block(job, **options):
        for number, event in enumerate(run(job, **options)):
            if number == 5:
                blocked()
            yield event
    return run_and_block

def test_run(deploy, measure, device, monkeypatch):
    deployment = deploy("tiny")
    monkeypatch.setattr(device, "run", half_way(device.run))
    measure(deployment)

def test_next(deploy, measure):
    measure(deploy("tiny"), samples=2)
"""


def test_a_blocked_phase_ends_at_its_limit(tmp_path: Path, shared_cache: Path) -> None:
    session = run(tmp_path, shared_cache, _BLOCKED, "good", "--lab-timeout-deploy=2 s", "--lab-timeout-run=3 s")
    assert "1 failed, 1 passed, 1 error" in session.output, session.output[-3000:]
    assert re.search(r"ERROR .*test_deploy.*InfrastructureError: good: the phase deploy of tiny took longer than its "
                     r"limit of 2 s", session.output)  # fmt: skip
    assert re.search(r"FAILED .*test_run.*Hang: good: the phase run of tiny took longer than its limit of 3 s",
                     session.output)  # fmt: skip
    with Store(session.store) as store:
        deployed, ran, passed = store.runs()
    assert (deployed.status, deployed.records) == ("error", ())
    assert deployed.provenance.workload == "tiny"
    assert ran.status == "failed"
    assert len(next(one for one in ran.records if one.metric == "latency").raw) >= 2
    assert passed.status == "passed"
    assert [one.verdict for one in health.outcomes(session.store, "good")] == ["infrastructure", "device", "passed"]
    assert quarantined(session.store) == {}
