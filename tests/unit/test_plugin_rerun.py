"""``--lab-rerun``: tests that the bench failed run again, with fresh function fixtures and the session's own ones."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers.desk_bench import run
from helpers.toolchain import needs_host_compiler

from fixtures.rerun import rerunnable
from lab.errors import BudgetExceeded, Crash, LabError, LeaseLost, StoreError, TransportError, WorkloadError
from measurements.record import Run
from measurements.store import Store

pytestmark = needs_host_compiler

_JOBS = """
made = {"session": 0, "module": 0, "function": 0}
ended = []
tries = {}

def fail_first(name, error, times=1):
    tries[name] = tries.get(name, 0) + 1
    if tries[name] <= times:
        raise error

@pytest.fixture(scope="session")
def whole():
    made["session"] += 1
    yield made["session"]
    ended.append("session")

@pytest.fixture(scope="module")
def part(whole):
    made["module"] += 1
    yield made["module"]
    ended.append("module")

@pytest.fixture
def own(part):
    made["function"] += 1
    yield made["function"]
    ended.append("function")

def test_call(whole, part, own, deploy, measure, record_property):
    record_property("attempt", own)
    print("said in attempt", own)
    measure(deploy("tiny"), samples=2)
    fail_first("call", TransportError("the cable fell out"))
    assert (whole, part, own) == (1, 1, 2)

@pytest.fixture
def unsteady(device):
    fail_first("setup", ProbeError("no probe"))

def test_setup(unsteady, whole, part):
    assert (whole, part) == (1, 1)

@pytest.fixture(scope="session")
def late_session():
    fail_first("late", TransportError("the rack has no power yet"))
    return "there"

def test_failed_session_fixture(late_session, device, whole):
    assert (late_session, whole) == ("there", 1)

def test_always(device):
    raise TransportError("the cable is cut")

def test_between(device):
    pass

def test_product_in_the_rerun(device):
    fail_first("product", TransportError("the cable fell out"))
    assert 1 == 2, "the product's own"

def test_product_hidden_below(device):
    try:
        raise Crash("hard fault")
    except Crash:
        raise TransportError("and then the cable")

def test_between_again(device):
    pass

@pytest.fixture
def checks_at_the_end(device):
    yield
    assert tries["torn"] > 1, "found at the end of the first attempt"

def test_product_in_the_teardown(checks_at_the_end):
    fail_first("torn", TransportError("the cable fell out"))

def test_device_failure(device):
    fail_first("device", Hang("silent"))

def test_last(whole, part):
    assert (whole, part) == (1, 1)
    assert "session" not in ended and "module" not in ended
"""


class _Done:
    """The inner session, once for all tests here."""

    def __init__(self, folder: Path, cache: Path) -> None:
        session = run(folder, cache, _JOBS, "good", "--lab-rerun", "1", "--junitxml=junit.xml")
        self.output = session.output
        with Store(session.store) as store:
            self.runs = store.runs()
        self.junit = ET.parse(folder / "junit.xml")

    def line(self, test: str) -> str:
        """What the summary of reruns says of a test."""
        summary = self.output.partition("run again: the bench had failed")[2]
        (found,) = re.findall(rf"^\S+::{test}\S*: .*; in the end: .*$", summary, re.MULTILINE)
        return str(found)

    def case(self, test: str) -> ET.Element:
        (found,) = [one for one in self.junit.iter("testcase") if one.get("name", "").startswith(f"{test}[")]
        return found

    def runs_of(self, test: str) -> list[Run]:
        return [one for one in self.runs if f"::{test}[" in one.test]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> _Done:
    return _Done(tmp_path_factory.mktemp("rerun"), shared_cache)


def test_outcomes(done: _Done) -> None:
    assert re.search(r"2 failed, 6 passed, .*4 errors, 5 rerun in", done.output), done.output[-2000:]


def test_a_rerun_that_passes_has_fresh_function_fixtures_and_the_old_session_ones(done: _Done) -> None:
    for test in ("test_call", "test_setup", "test_failed_session_fixture"):
        assert done.line(test).endswith("in the end: passed")
        assert not {one.tag for one in done.case(test)} & {"failure", "error"}
    assert "the cable fell out (run again on good)" in done.line("test_call")


def test_the_rerun_is_written_into_the_run_and_the_first_attempt_is_kept(done: _Done) -> None:
    first, second = done.runs_of("test_call")
    assert (first.status, first.retries) == ("error", ())
    assert first.error.startswith("the cable fell out")
    assert second.status == "passed"
    assert second.retries == ("the cable fell out (run again on good)",)


def test_the_last_report_holds_nothing_of_the_first_attempt_but_that_there_was_one(done: _Done) -> None:
    found = [(one.get("name"), one.get("value")) for one in done.case("test_call").iter("property")]
    assert [value for name, value in found if name == "attempt"] == ["2"]
    assert [value for name, value in found if name == "lab.rerun"] == ["the cable fell out (run again on good)"]
    assert len([name for name, _ in found if name == "good.run_id"]) == 1
    passed = done.output.partition("PASSES")[2].partition("short test summary")[0]
    assert passed.count("said in attempt 2") == 1
    assert "said in attempt 1" not in passed


def test_the_bench_may_fail_for_good(done: _Done) -> None:
    assert done.line("test_always").endswith("in the end: error")
    assert done.case("test_always").find("error") is not None


def test_a_product_failure_is_never_run_again_nor_hidden(done: _Done) -> None:
    assert done.case("test_product_in_the_rerun").find("failure") is not None
    for test in ("test_product_hidden_below", "test_product_in_the_teardown", "test_device_failure"):
        assert f"::{test}" not in done.output.partition("run again: the bench had failed")[2].partition("====")[0]
    assert done.case("test_product_in_the_teardown").find("error") is not None
    assert "found at the end of the first attempt" in done.output
    assert done.case("test_device_failure").find("failure") is not None


_ELSEWHERE = """
@pytest.mark.devices("wedged, good")
def test_moves(deploy, measure, device):
    measure(deploy("tiny"), samples=2)
    if device.identity.name == "wedged":
        raise TransportError("nothing comes through")
"""


def test_a_device_that_cannot_be_brought_back_is_replaced_by_another_that_fits(
    tmp_path: Path, shared_cache: Path
) -> None:
    session = run(tmp_path, shared_cache, _ELSEWHERE, "", "--lab-rerun", "2")
    assert "2 passed, 1 rerun" in session.output
    assert "nothing comes through (run again on good); in the end: passed" in session.output
    with Store(session.store) as store:
        runs = [one for one in store.runs() if "[wedged]" in one.test]
    assert [(one.provenance.device, one.status) for one in runs] == [("wedged", "error"), ("good", "passed")]


def test_without_another_device_the_error_stays(tmp_path: Path, shared_cache: Path) -> None:
    session = run(tmp_path, shared_cache, _ELSEWHERE, "wedged", "--lab-rerun", "2")
    assert "1 error" in session.output
    assert "run again" not in session.output


def test_it_works_in_workers_and_by_the_environment(tmp_path: Path, shared_cache: Path) -> None:
    tests = "tries = []\ndef test_one(device):\n    tries.append(1)\n    if len(tries) == 1:\n"
    tests += "        raise TransportError('gone')\n"
    session = run(tmp_path, shared_cache, tests, "good", "-n", "1", LAB_RERUN="1")
    assert "1 passed, 1 rerun" in session.output
    assert "gone (run again on good); in the end: passed" in session.output


def _from(cause: BaseException, error: LabError) -> LabError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TransportError("gone"), True),
        (LeaseLost("taken"), True),
        (StoreError("full"), False),
        (Crash("hard fault"), False),
        (BudgetExceeded("slow"), False),
        (_from(ValueError("of a library"), TransportError("gone")), True),
        (_from(WorkloadError("NaN"), TransportError("gone")), False),
        (_from(ExceptionGroup("all", [AssertionError("wrong")]), TransportError("gone")), False),
        (AssertionError("wrong"), False),
        (None, False),
    ],
)
def test_what_may_run_again(error: BaseException | None, again: bool) -> None:
    assert (rerunnable(error) is not None) == again


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--lab-rerun", "-1", "'-1' is no number of reruns"),
        ("--lab-timeout-run", "soon", "--lab-timeout-run: .*soon"),
        ("--lab-timeout-deploy", "0 s", "'0 s' leaves no time"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(
    pytester: pytest.Pytester, option: str, value: str, told: str
) -> None:
    pytester.makepyfile("def test_any(): pass")
    result = pytester.runpytest_subprocess(f"{option}={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(told, result.stderr.str())


def test_the_ini_file_counts_last(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nlab_rerun = 1\nlab_timeout_run = 5 min\nlab_timeout_deploy = 1 min\n")
    monkeypatch.setenv("LAB_TIMEOUT_RUN", "2 min")
    pytester.makepyfile(
        """
        from fixtures.options import read_options

        def test_options(pytestconfig):
            found = read_options(pytestconfig)
            assert (found.reruns, found.deploy_limit_s, found.run_limit_s) == (3, 60.0, 120.0)
        """
    )
    pytester.runpytest_subprocess("--lab-rerun=3").assert_outcomes(passed=1)
