"""Devices that fail under pytest: brought back and checked, told from tests that break them, or put into quarantine.

The devices of the inner session are real runner processes; the bench takes them for hardware.
"""

from __future__ import annotations

import re
from pathlib import Path

from helpers.desk_bench import run
from helpers.toolchain import needs_host_compiler

from lab import health
from lab.errors import Crash
from lab.health import outcome_of
from lab.lease import kick
from lab.quarantine import quarantined

pytestmark = needs_host_compiler

_ONE_TEST = """
def test_breaks_it(device):
    raise Hang("silent for 60 s")

def test_works(deploy, measure):
    measure(deploy("tiny"), samples=2)

def test_breaks_it_again(device):
    raise Hang("silent for 60 s")
"""


def test_a_device_that_failed_is_brought_back_and_the_next_test_runs(tmp_path: Path, shared_cache: Path) -> None:
    session = run(tmp_path, shared_cache, "def test_first(deploy, measure):\n    deploy('tiny')\n" + _ONE_TEST, "good")
    assert "2 failed, 2 passed" in session.output
    history = health.outcomes(session.store, "good")
    assert [one.verdict for one in history] == ["passed", "device", "passed", "device"]
    assert [bool(one.rung) for one in history] == [False, True, False, True]
    assert history[1].error == "Hang: silent for 60 s"
    assert history[1].recovery_s > 0
    assert re.search(r"good was brought back by \w+ in \d+\.\d s and passed its health check", session.output)
    assert quarantined(session.store) == {}


_ALWAYS = """
@pytest.mark.parametrize("number", range(5))
def test_under_all(deploy, measure, number):
    deploy("tiny")
    raise Crash(f"hard fault {number}")
"""


def test_one_that_fails_under_every_test_is_kept_out_with_the_evidence(tmp_path: Path, shared_cache: Path) -> None:
    session = run(tmp_path, shared_cache, _ALWAYS, "good")
    assert "3 failed, 2 skipped" in session.output
    kept_out = quarantined(session.store)["good"]
    assert kept_out.reason == "failed 3 times in a row, under 3 tests"
    assert [f"hard fault {number}" in line for number, line in enumerate(kept_out.evidence)] == [True] * 3
    assert "`lab device heal good` ends that" in session.output
    strict = run(tmp_path, shared_cache, "def test_any(device):\n    pass\n", "good", "--lab-strict")
    assert "1 error" in strict.output
    assert "--lab-strict: good is in quarantine since" in strict.output


def test_one_that_fails_under_one_test_only_goes_on_and_the_test_is_named(tmp_path: Path, shared_cache: Path) -> None:
    tests = "def test_bad(deploy):\n    deploy('tiny')\n    raise Crash('hard fault')\n"
    tests += "def test_fine(deploy):\n    deploy('tiny')\n"
    for _ in range(2):
        for test, error in (("bad", Crash("hard fault")), ("fine", None)):
            health.note(tmp_path / "lab" / "store", outcome_of("good", f"test_job.py::test_{test}[good]", error))
    session = run(tmp_path, shared_cache, tests, "good")
    assert "failed 3 times in a row under test_job.py::test_bad[good]; other tests worked 2 times" in session.output
    assert "the device is well, this test is the suspect" in session.output
    assert quarantined(session.store) == {}


def test_one_that_cannot_be_brought_back_is_kept_out_at_once(tmp_path: Path, shared_cache: Path) -> None:
    session = run(tmp_path, shared_cache, _ONE_TEST, "wedged")
    assert "1 failed, 2 skipped" in session.output
    kept_out = quarantined(session.store)["wedged"]
    assert kept_out.reason == "it could not be brought back: no answer from any rung"
    assert "Hang: silent for 60 s" in kept_out.evidence[0]


def test_failures_of_the_product_and_skips_say_nothing_of_the_device(tmp_path: Path, shared_cache: Path) -> None:
    tests = "@pytest.mark.parametrize('n', range(4))\ndef test_fails(device, n):\n    assert n > 10\n"
    tests += "def test_skips(device):\n    pytest.skip('not today')\n"
    session = run(tmp_path, shared_cache, tests, "good")
    assert "4 failed, 1 skipped" in session.output
    assert [one.verdict for one in health.outcomes(session.store, "good")] == ["product"] * 4


_KICKED = """
import select, os
from lab.lease import kick

def test_loses_its_device(device):
    kick("good", "the demo is now")
    select.select([os.pipe()[0]], [], [])

def test_gets_it_again(deploy):
    deploy("tiny")
"""


def test_a_device_that_is_taken_away_ends_the_test_as_an_error_within_seconds(
    tmp_path: Path, shared_cache: Path
) -> None:
    session = run(tmp_path, shared_cache, _KICKED, "good")
    assert "1 passed, 1 error" in session.output
    assert "was taken away from this process by" in session.output
    assert "the demo is now" in session.output
    assert [one.verdict for one in health.outcomes(session.store, "good")] == ["passed"]
    assert kick("good", "nobody is left", folder=tmp_path / "lab" / "state" / "leases") is None
