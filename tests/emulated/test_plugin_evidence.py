"""What the report of a failed test shows of its device: console, the probe's log, the power trace. The store too."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.paths import config_dir
from measurements.record import Run
from measurements.store import Store

pytestmark = needs_qemu

_CONFTEST = """
from helpers import tiny_workload

tiny_workload.register()
"""

_TESTS = """
import pytest
from lab.errors import Crash, TransportError

def test_bench(deploy, measure):
    measure(deploy("tiny"), samples=2)
    raise TransportError("the cable fell out")

def test_device(deploy, measure):
    measure(deploy("tiny"), samples=2)
    raise Crash("hard fault")

def test_product(deploy, measure):
    measure(deploy("tiny"), samples=2)
    assert 1 == 2
"""


@dataclass(frozen=True)
class _Done:
    output: str
    folder: Path

    def section(self, test: str) -> str:
        """What pytest prints of a test that failed."""
        return re.split(r"^_{5,} .*\b(?=test_)", self.output, flags=re.MULTILINE)[self._number(test)]

    def _number(self, test: str) -> int:
        titles = re.findall(r"^_{5,} .*\b(test_\w+)", self.output, re.MULTILINE)
        return titles.index(test) + 1

    def run(self, test: str) -> Run:
        with Store(self.folder / "lab" / "store") as store:
            (found,) = [one for one in store.runs() if f"::{test}[" in one.test]
        return found


def _session(folder: Path, cache: Path, config: str, device: str) -> _Done:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_job.py").write_text(_TESTS)
    places = environment(
        folder / "lab", cache, LAB_CONFIG=str(config_dir() / config), LAB_DEVICE=device, COLUMNS="200"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True, check=False)
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return _Done(done.stdout + done.stderr, folder)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> _Done:
    return _session(tmp_path_factory.mktemp("metered"), shared_cache, "emulated.yaml", "m4f")


@pytest.mark.parametrize("test", ["test_bench", "test_device"])
def test_the_console_and_the_power_trace(metered: _Done, test: str) -> None:
    shown = metered.section(test)
    console = shown.partition("lab: console of m4f")[2]
    assert '"t": "done"' in console
    assert f"{metered.run(test).run_id}: " in shown
    (trace,) = re.findall(r"power trace: (\S+\.parquet)", shown)
    assert Path(trace).is_file()


@pytest.mark.parametrize("test", ["test_bench", "test_device"])
def test_the_store_and_the_report_have_it_too(metered: _Done, test: str) -> None:
    evidence = dict(metered.run(test).detail.evidence)
    assert '"t": "done"' in evidence["console"]
    page = (metered.folder / "lab" / "reports" / "latest" / "index.html").read_text()
    assert page.count("Evidence: console") == 2


def test_a_failure_of_the_product_needs_none(metered: _Done) -> None:
    assert "lab: console" not in metered.section("test_product")
    assert metered.run("test_product").detail.evidence == ()


def test_behind_a_probe_its_log_is_shown(tmp_path: Path, shared_cache: Path) -> None:
    pytest.importorskip("pyocd")
    done = _session(tmp_path, shared_cache, "probed.yaml", "m4f-swd")
    log = done.section("test_bench").partition("lab: probe of m4f-swd")[2]
    assert re.search(r"INFO pyocd\S*: ", log)
    assert dict(done.run("test_bench").detail.evidence)["probe"] in done.output


def test_of_a_linux_device_what_its_runner_and_its_system_said(tmp_path: Path, shared_cache: Path) -> None:
    if not Path("/usr/sbin/sshd").exists():
        pytest.skip("OpenSSH's server is not installed")
    done = _session(tmp_path, shared_cache, "emulated.yaml", "loopback")
    evidence = dict(done.run("test_bench").detail.evidence)
    assert '"t": "done"' in evidence["console"]
    assert "Accepted key ED25519" in evidence["system"]
    assert "lab: system of loopback" in done.section("test_bench")
