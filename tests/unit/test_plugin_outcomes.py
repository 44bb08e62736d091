"""What becomes of a test that measures: terminal, JUnit, store and report, on the host device with a real runner."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.sandbox import environment
from helpers.toolchain import needs_host_compiler

from measurements.record import Run
from measurements.store import Store

pytestmark = needs_host_compiler

_CONFTEST = """
from helpers import tiny_workload

tiny_workload.register()
"""

# One session for all outcomes: a session costs a second, a test milliseconds.
_OUTCOMES = """
import pytest
from lab.errors import ConfigError, Crash, MeterError, TransportError, WorkloadError

@pytest.mark.budget(latency="1 s", peak_ram="64 MiB", flash="64 MiB")
def test_good(deploy, measure):
    measurement = measure(deploy("tiny"), repeats=3)
    assert measurement.median("bit_exact", "run") == 1.0

def test_own_figure(deploy, measure, record):
    measure(deploy("tiny"), samples=2)
    record("temperature", 41.5, "°C")
    record("retained", 0.25, region="inference")

def test_own_figure_twice(deploy, measure, record):
    measure(deploy("tiny"), samples=2)
    record("temperature", 41.5, "°C")
    record("temperature", 42.5, "°C")

def test_own_figure_of_nothing(device, record):
    record("temperature", 41.5, "°C")

def test_fails_after_measuring(deploy, measure):
    measure(deploy("tiny"), samples=2)
    assert 1 == 2, "the author is not content"

def test_bench_breaks(deploy, measure):
    measure(deploy("tiny"), samples=2)
    raise TransportError("the cable fell out", hint="push it in")

def test_device_breaks(deploy, measure):
    measure(deploy("tiny"), samples=2)
    raise Crash("hard fault at main")

def test_refused_by_the_workload(deploy, measure):
    measure(deploy("tiny", "refused"))

def test_unknown_workload(deploy):
    deploy("tinny")

def test_unknown_variant(deploy):
    deploy("tiny", "huge")

@pytest.mark.budget(latency="1 ns", peak_ram="1 KiB", flash="64 MiB")
def test_over_budget(deploy, measure):
    measure(deploy("tiny"))

@pytest.mark.budget(energy="1 mJ")
def test_budget_without_measurement(deploy, measure):
    measure(deploy("tiny"))

@pytest.fixture
def saturated(monkeypatch):
    from lab.attempt import Attempt
    from measurements.rejection import rejected

    def measure_power(attempt, job):
        attempt._rejected = rejected("saturation", "3 of 1000 samples lie at the end of the meter's highest range")

    monkeypatch.setattr(Attempt, "_run_metered", measure_power)

@pytest.mark.budget(energy="1 mJ")
def test_energy_rejected(deploy, measure, saturated):
    measure(deploy("tiny"), samples=2)

@pytest.mark.budget(energy="1 mJ")
def test_energy_rejected_and_swallowed(deploy, measure, saturated):
    with pytest.raises(MeterError, match="saturation"):
        measure(deploy("tiny"), samples=2)

@pytest.mark.budget(latency="1 ns")
class TestClass:
    @pytest.mark.budget(latency="1 s")
    def test_nearer_budget_counts(self, deploy, measure):
        measure(deploy("tiny"), samples=2)

    @pytest.mark.budget(flash="64 MiB")
    def test_budget_of_the_class_counts_too(self, deploy, measure):
        measure(deploy("tiny"), samples=2)

def claim(monkeypatch, least):
    # The workload claims that its flash is so many times its RAM.
    from helpers import tiny_workload
    from lab.workloads.base import Claim

    made = Claim("S001", "is large", "table 1", "flash", "", "factor", 1.0, "it is tiny", at_least=least,
                 against=("peak_ram", "run"))
    monkeypatch.setattr(tiny_workload.WORKLOAD, "claims", (made,))

def test_claim_holds(compare, record, monkeypatch):
    claim(monkeypatch, 0.0)
    assert compare("tiny", rounds=2).claims[0].rounds == 2
    record("after_claims", 1.0)

def test_claim_is_broken(compare, monkeypatch):
    claim(monkeypatch, 1e9)
    compare("tiny")

def test_bench_breaks_elsewhere():
    raise TransportError("not on a device of ours")
"""

_ERRORS = {"test_bench_breaks", "test_energy_rejected"}
_FAILURES = {
    "test_own_figure_twice",
    "test_own_figure_of_nothing",
    "test_fails_after_measuring",
    "test_device_breaks",
    "test_refused_by_the_workload",
    "test_unknown_workload",
    "test_unknown_variant",
    "test_over_budget",
    "test_budget_without_measurement",
    "test_energy_rejected_and_swallowed",
    "test_budget_of_the_class_counts_too",
    "test_bench_breaks_elsewhere",
    "test_claim_is_broken",
}
_PASSES = {"test_good", "test_own_figure", "test_nearer_budget_counts", "test_claim_holds"}


@dataclass(frozen=True)
class Session:
    """A finished inner session."""

    folder: Path
    output: str
    status: int

    @property
    def runs(self) -> Sequence[Run]:
        with Store(self.folder / "lab/store") as store:
            return store.runs()

    def run_of(self, test: str) -> Run:
        (run,) = [run for run in self.runs if re.search(rf"::{test}\[host\]$", run.test)]
        return run

    def case(self, test: str) -> ET.Element:
        cases = ET.parse(self.folder / "junit.xml").iter("testcase")
        (case,) = [case for case in cases if case.get("name", "").split("[")[0] == test]
        return case

    def failure_text(self, test: str) -> str:
        """What JUnit has of a failure or an error."""
        found = [child for child in self.case(test) if child.tag in ("failure", "error")]
        assert len(found) == 1
        return f"{found[0].get('message')}\n{found[0].text}"

    def report(self) -> Path:
        (line,) = [line for line in self.output.splitlines() if line.startswith("report: ")]
        return Path(line.removeprefix("report: "))


def run_session(folder: Path, cache: Path, tests: str, *arguments: str, **variables: str) -> Session:
    """Run tests in a folder of their own on the host device."""
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=junit.xml", *arguments]
    private = environment(folder / "lab", cache, LAB_DEVICE="host", COLUMNS="300", **variables)
    done = subprocess.run(command, cwd=folder, env=private, capture_output=True, text=True, check=False)
    return Session(folder, done.stdout + done.stderr, done.returncode)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Session:
    """The session of all outcomes."""
    session = run_session(tmp_path_factory.mktemp("outcomes"), shared_cache, _OUTCOMES)
    assert session.status == pytest.ExitCode.TESTS_FAILED, session.output
    assert "INTERNALERROR" not in session.output
    return session


# Terminal and JUnit


def test_every_outcome_is_what_it_should_be(outcomes: Session) -> None:
    suite = ET.parse(outcomes.folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    found: dict[str, set[str]] = {"error": set(), "failure": set(), "": set()}
    for case in suite.iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found["".join(kinds)].add(case.get("name", "").split("[")[0])
    assert found == {"error": _ERRORS, "failure": _FAILURES, "": _PASSES}
    totals = (suite.get("errors"), suite.get("failures"), suite.get("skipped"))
    assert totals == (str(len(_ERRORS)), str(len(_FAILURES)), "0")
    assert f"{len(_FAILURES)} failed, {len(_PASSES)} passed, {len(_ERRORS)} error" in outcomes.output


def test_a_failure_of_the_bench_is_an_error_with_its_way_out(outcomes: Session) -> None:
    assert outcomes.case("test_bench_breaks").find("error") is not None
    assert "the cable fell out" in outcomes.failure_text("test_bench_breaks")
    assert "-> push it in" in outcomes.failure_text("test_bench_breaks")
    assert re.search(r"ERROR test_job.py::test_bench_breaks\[host\] - .*the cable fell out", outcomes.output)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("test_device_breaks", "hard fault at main"),
        ("test_refused_by_the_workload", "accuracy 0.1 is below its floor of 0.9"),
        ("test_unknown_workload", "there is no workload 'tinny'; there are: baffle, cema, digits-transfer, "),
        ("test_unknown_variant", "tiny has no variant 'huge'"),
        ("test_own_figure_twice", "record('temperature'): this run already has one in region 'run'"),
        ("test_own_figure_of_nothing", "record('temperature'): nothing was measured yet"),
        ("test_budget_without_measurement", "the budget limits energy, but this test measured none"),
        ("test_budget_without_measurement", "ask for a metered device"),
        ("test_over_budget", "over budget:"),
        ("test_claim_is_broken", "it must be at least 1e+09× (the paper: 1×)"),
    ],
)
def test_failures_say_what_was_found(outcomes: Session, test: str, told: str) -> None:
    assert told in outcomes.failure_text(test)


def test_over_budget_says_measured_and_allowed_for_every_figure(outcomes: Session) -> None:
    text = outcomes.failure_text("test_over_budget")
    run = outcomes.run_of("test_over_budget")
    assert re.search(r"host: latency \(p95\) measured \S+ .?s, allowed 1 ns \(\+[\d.]+ %\)", text)
    peak = next(record for record in run.records if record.metric == "peak_ram")
    over = 100 * (max(peak.raw) / 1024 - 1)
    assert re.search(rf"host: peak_ram \(largest\) measured .+, allowed 1 KiB \(\+{over:.1f} %\)", text)
    assert "flash" not in text.partition("over budget:")[2].partition("\n\n")[0]


def test_a_broken_budget_shows_no_code_of_the_plugin(outcomes: Session) -> None:
    assert "fixtures/plugin.py" not in outcomes.failure_text("test_over_budget")


def _properties(case: ET.Element) -> dict[str, str]:
    found = [(one.get("name", ""), one.get("value", "")) for one in case.iter("property")]
    assert len(found) == len(dict(found)), "every property once"
    return dict(found)


def test_junit_carries_the_figures_as_properties(outcomes: Session) -> None:
    properties = _properties(outcomes.case("test_good"))
    run = outcomes.run_of("test_good")
    assert properties["host.run_id"] == run.run_id
    for record in run.records:
        assert float(properties[f"host.{record.metric}[{record.region}] {record.unit}"]) == record.median
        assert properties[f"host.{record.metric}[{record.region}].source"] == record.source
    assert {record.metric for record in run.records} >= {"latency", "peak_ram", "flash", "accuracy"}


@pytest.mark.parametrize("test", ["test_fails_after_measuring", "test_bench_breaks", "test_over_budget"])
def test_junit_carries_the_figures_of_tests_that_fail(outcomes: Session, test: str) -> None:
    assert _properties(outcomes.case(test))["host.run_id"] == outcomes.run_of(test).run_id


# The store


@pytest.mark.parametrize(
    ("test", "status", "told"),
    [
        ("test_good", "passed", ""),
        ("test_fails_after_measuring", "failed", "the author is not content"),
        ("test_device_breaks", "failed", "hard fault at main"),
        ("test_bench_breaks", "error", "the cable fell out"),
        ("test_refused_by_the_workload", "failed", "accuracy 0.1 is below"),
        ("test_over_budget", "failed", "over budget"),
        ("test_budget_without_measurement", "failed", "measured none"),
        ("test_claim_is_broken", "failed", "a claim does not hold"),
        ("test_energy_rejected", "error", "energy is rejected (saturation)"),
    ],
)
def test_the_store_knows_how_the_test_ended(outcomes: Session, test: str, status: str, told: str) -> None:
    run = outcomes.run_of(test)
    assert run.status == status
    assert told in run.error
    assert (run.error == "") == (status == "passed")


def test_figures_of_the_test_are_stored_with_the_run(outcomes: Session) -> None:
    records = {(one.region, one.metric): one for one in outcomes.run_of("test_own_figure").records}
    temperature, retained = records["run", "temperature"], records["inference", "retained"]
    assert (temperature.raw, temperature.unit, temperature.source) == ((41.5,), "°C", "hardware")
    assert "recorded by the test" in temperature.note
    assert (retained.median, retained.unit, retained.source) == (0.25, "1", "hardware")
    assert float(_properties(outcomes.case("test_own_figure"))["host.temperature[run] °C"]) == 41.5


def test_repeats_and_samples_reach_the_device(outcomes: Session) -> None:
    def passes(test: str) -> int:
        return next(one.n for one in outcomes.run_of(test).records if one.metric == "latency")

    assert (passes("test_good"), passes("test_own_figure")) == (3 * 8, 2)


def test_one_session_holds_all_runs(outcomes: Session) -> None:
    assert len({run.session_id for run in outcomes.runs}) == 1


# The report


def test_the_report_is_the_last_thing_said_and_lies_where_it_says(outcomes: Session) -> None:
    page = outcomes.report()
    assert outcomes.output.splitlines()[-1] == f"report: {page}"
    assert page.is_file()
    assert page.parent.parent == outcomes.folder / "lab/reports"
    assert (outcomes.folder / "lab/reports/latest").resolve() == page.parent
    assert page.parent.name == outcomes.runs[0].session_id


def test_without_a_report_the_runs_are_still_stored(tmp_path: Path, shared_cache: Path) -> None:
    tests = 'def test_it(deploy, measure): measure(deploy("tiny"))'
    session = run_session(tmp_path, shared_cache, tests, "--lab-no-report")
    assert session.status == 0, session.output
    assert "report:" not in session.output
    assert not (tmp_path / "lab/reports").exists()
    assert session.run_of("test_it").status == "passed"


def test_a_store_that_cannot_be_written_is_an_error_of_the_bench(tmp_path: Path, shared_cache: Path) -> None:
    (tmp_path / "poison").write_text("no store")
    tests = 'def test_it(deploy, measure): measure(deploy("tiny"))'
    session = run_session(tmp_path, shared_cache, tests, LAB_STORE=str(tmp_path / "poison"))
    assert session.status == 1, session.output
    assert session.case("test_it").find("error") is not None
    assert str(tmp_path / "poison") in session.failure_text("test_it")
    assert "INTERNALERROR" not in session.output


def test_a_store_that_breaks_under_a_failing_test_keeps_the_tests_own_words(
    tmp_path: Path, shared_cache: Path
) -> None:
    tests = """
from lab.errors import StoreError
from measurements.store import Store

def full(self, run):
    raise StoreError("the disk is full")

def test_it(deploy, measure):
    measure(deploy("tiny"))
    Store.amend = full
    assert False, "what the test found"

def test_next(deploy, measure):
    measure(deploy("tiny"))
"""
    session = run_session(tmp_path, shared_cache, tests)
    assert "1 failed, 1 passed" in session.output
    assert "what the test found" in session.failure_text("test_it")
    assert "the disk is full" in session.output


def test_two_workers_make_one_session_and_one_report(tmp_path: Path, shared_cache: Path) -> None:
    tests = """
import pytest

@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_it(deploy, measure, repeats):
    measure(deploy("tiny"), repeats=repeats)
"""
    session = run_session(tmp_path, shared_cache, tests, "-n", "2")
    assert session.status == 0, session.output
    assert session.output.count("report: ") == 1
    assert session.report().parent.name == session.runs[0].session_id
    assert {run.session_id for run in session.runs} == {session.runs[0].session_id}
    names = {run.test for run in session.runs}
    assert len(names) == 3
    assert all(re.fullmatch(r"test_job.py::test_it\[host-\d\]", name) for name in names), "as without workers"
    assert len(list((tmp_path / "lab/reports").iterdir())) == 2, "the report, and `latest`"
    properties = _properties(next(iter(ET.parse(tmp_path / "junit.xml").iter("testcase"))))
    assert "host.run_id" in properties


def test_progress_is_shown_past_capture_and_leaves_redirected_output_alone(tmp_path: Path, shared_cache: Path) -> None:
    tests = """
import contextlib
import io
from lab import progress

def test_redirected():
    taken = io.StringIO()
    with contextlib.redirect_stdout(taken):
        with progress.step("training a network"):
            print("inside")
        print("after")
    assert taken.getvalue() == "inside\\nafter\\n"

def test_captured(capsys):
    with progress.step("measuring"):
        print("inside")
    assert capsys.readouterr().out == "inside\\n"
"""
    for workers in ([], ["-n", "1"]):
        session = run_session(tmp_path, shared_cache, tests, *workers)
        assert session.status == 0, session.output
        assert "* training a network …" in session.output
        assert re.search(r"measuring: done in [\d.]+ s", session.output)
