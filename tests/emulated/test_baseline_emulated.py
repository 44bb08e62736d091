"""``pytest --lab-compare`` on an emulated microcontroller: first without baselines, then with edited ones."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from measurements.store import Store

pytestmark = needs_qemu

_CONFTEST = """
from helpers import tiny_workload

tiny_workload.register()
"""

_TESTS = """
import pytest

@pytest.mark.devices("m4f")
def test_plain(deploy, measure):
    measure(deploy("tiny"), samples=4)

@pytest.mark.devices("m4f")
def test_longer(deploy, measure):
    measure(deploy("tiny"), samples=4, repeats=2)

def test_without_a_device():
    pass
"""


@dataclass(frozen=True)
class Sessions:
    """Two inner sessions: what each said, and what the second left in JUnit and the store."""

    first: str
    accepted: str
    second: str
    status: tuple[int, int]
    cases: Mapping[str, ET.Element]
    statuses: Mapping[str, str]
    baseline: Path


def _edit(path: Path) -> None:
    """As if the figures of the plain test had been lower in two and higher in one."""
    plain = yaml.safe_load(path.read_text())
    (series,) = [one for one in plain["series"] if one["repeats"] == 4]
    series["figures"]["inference"]["instructions"]["value"] -= 1
    series["figures"]["run"]["peak_ram.stack"]["value"] -= 8
    series["figures"]["run"]["flash"]["value"] += 4
    path.write_text(yaml.safe_dump(plain))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Sessions:
    folder = tmp_path_factory.mktemp("baselines")
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text(_TESTS)
    # Without a meter: the tiny model's passes are three samples long, and how they lie on them moves their energy.
    (folder / "bench.yaml").write_text("devices: {m4f: {board: mps2-an386, emulated: true}}")
    private = environment(
        folder / "lab",
        shared_cache,
        COLUMNS="200",
        LAB_BASELINES=str(folder / "accepted"),
        LAB_CONFIG=str(folder / "bench.yaml"),
    )

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", *command]
        return subprocess.run(words, cwd=folder, env=private, capture_output=True, text=True, check=False)

    compare = ("pytest", "-p", "no:cacheprovider", "--lab-compare", "--lab-no-report", "--junitxml=junit.xml")
    first = run(*compare)
    accepted = run("lab", "baseline", "accept")
    baseline = folder / "accepted" / "emulated" / "m4f" / "tiny.yaml"
    assert baseline.is_file(), first.stdout + accepted.stdout + accepted.stderr
    _edit(baseline)
    second = run(*compare, "-n", "1")
    with Store(folder / "lab" / "store") as store:
        latest = store.latest_session()
        statuses = {run.test.split("::")[1]: run.status for run in store.runs(latest)}
    cases = {case.get("name", "").split("[")[0]: case for case in ET.parse(folder / "junit.xml").iter("testcase")}
    return Sessions(
        first.stdout, accepted.stdout, second.stdout, (first.returncode, second.returncode), cases, statuses, baseline
    )


def test_without_baselines_nothing_fails_and_that_is_said(sessions: Sessions) -> None:
    assert sessions.status[0] == 0, sessions.first
    assert "m4f: tiny: no baseline yet; `lab baseline accept` accepts these figures" in sessions.first
    assert "1 files changed" in sessions.accepted


def test_a_regression_fails_the_test_with_a_table(sessions: Sessions) -> None:
    assert sessions.status[1] == 1, sessions.second
    assert "1 failed, 2 passed" in sessions.second
    failure = sessions.cases["test_plain"].find("failure")
    assert failure is not None
    text = failure.text or ""
    assert "worse than the baseline:" in text
    assert "m4f: tiny: 2 regressions" in text
    assert re.search(r"FIGURE +MEASURED +BASELINE +ALLOWED +CHANGE", text)
    count = r"[\d,]+ instructions"
    assert re.search(rf"instructions \[inference\] +{count} +{count} += {count} +worse \(\+1\)", text)
    assert re.search(r"peak_ram\.stack \[run\] .*worse \(\+8\)", text)
    assert "lab baseline accept --failed" in text
    assert "Traceback" not in text
    assert "plugin.py" not in text


def test_what_was_measured_otherwise_has_a_series_of_its_own(sessions: Sessions) -> None:
    assert sessions.cases["test_longer"].find("failure") is None
    assert {one["repeats"] for one in yaml.safe_load(sessions.baseline.read_text())["series"]} == {4, 8}


def test_improvements_are_reported_in_the_summary_and_in_junit(sessions: Sessions) -> None:
    section = sessions.second.split(" baselines ")[1]
    assert re.search(r"m4f: tiny: 1 improvement\n +FIGURE .*\n +flash \[run\] .* better \(-4\)", section)
    assert section.count("1 improvement") == 1
    properties = [one.get("value", "") for one in sessions.cases["test_plain"].iter("property")
                  if one.get("name") == "lab.compare"]  # fmt: skip
    assert properties[0] == "m4f: tiny: 1 improvement"


def test_the_store_knows_which_test_failed(sessions: Sessions) -> None:
    assert sessions.statuses == {"test_plain[m4f]": "failed", "test_longer[m4f]": "passed"}
