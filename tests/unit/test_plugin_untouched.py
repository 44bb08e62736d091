"""What the pytest plugin does not do: sessions that only collect, or use no device, leave everything alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sandbox import environment

_HEAVY = ("torch", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "numpy")

# Says at the end of the session which modules it imported and which processes it started.
_WITNESS = """
import sys

started = []

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system"):
        started.append(f"{event} {arguments[:1]}")

sys.addaudithook(watch)

def pytest_unconfigure(config):
    print("\\nIMPORTED", *sorted(sys.modules))
    print("STARTED", *started)
"""

_TESTS = """
import pytest

@pytest.mark.devices("class:mcu")
@pytest.mark.budget(latency="20 ms")
def test_job(deploy, measure, record):
    measure(deploy("spoken-digits"))

def test_plain():
    pass
"""


def _session(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(_WITNESS)
    (folder / "test_job.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    private = environment(folder / "lab", folder / "lab/cache", **variables)
    return subprocess.run(command, cwd=folder, env=private, capture_output=True, text=True, check=False)


def _words(output: str, after: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.startswith(after)]
    return line.split()[1:]


@pytest.fixture(scope="module")
def only_collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder and what collecting in it said: without tools, and with a file where the store ought to be."""
    folder = tmp_path_factory.mktemp("collected")
    poison = folder / "poison"
    poison.write_text("no store")
    done = _session(folder, "--collect-only", "-q", "-s", PATH="/nowhere", LAB_STORE=str(poison))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_collecting_finds_all_devices_without_any_tool(only_collected: tuple[Path, str]) -> None:
    _, output = only_collected
    found = {line.removeprefix("test_job.py::") for line in output.splitlines() if "::" in line}
    assert found >= {"test_job[m4f]", "test_job[m7]", "test_plain"}
    assert "test_job[host]" not in found


def test_collecting_starts_no_process(only_collected: tuple[Path, str]) -> None:
    assert _words(only_collected[1], "STARTED") == []


def test_collecting_opens_no_store_and_takes_no_lease(only_collected: tuple[Path, str]) -> None:
    folder, output = only_collected
    assert (folder / "poison").read_text() == "no store"
    assert not (folder / "lab").exists(), "neither state, nor reports, nor a cache"
    assert not {"lab.lease", "measurements.store", "sqlite3", "numpy"} & set(_words(output, "IMPORTED"))


def test_collecting_imports_nothing_of_the_devices(only_collected: tuple[Path, str]) -> None:
    imported = set(_words(only_collected[1], "IMPORTED"))
    assert not {"torch", "matplotlib", "sklearn", "lab.runs", "lab.devices", "lab.emulators", "serial"} & imported


def test_a_session_without_devices_imports_and_writes_nothing(tmp_path: Path) -> None:
    done = _session(tmp_path, "-s", "-k", "plain", "-m", "not hil", "--lab-device=host", PATH="/nowhere")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "lab").exists()
    assert _words(done.stdout, "STARTED") == []


def test_a_session_without_devices_is_silent_about_a_broken_store(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    poison.write_text("no store")
    done = _session(tmp_path, "-k", "plain", LAB_STORE=str(poison))
    assert done.returncode == 0
    assert "poison" not in done.stdout + done.stderr


def test_loading_the_plugin_is_light(tmp_path: Path) -> None:
    program = "import sys; before = set(sys.modules); import fixtures.plugin; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "fixtures.plugin" in imported
    assert not {*_HEAVY, "pydantic", "yaml", "serial", "sqlite3"} & set(imported)


def test_nothing_measured_makes_no_report(tmp_path: Path) -> None:
    done = _session(tmp_path, "-rs", "--lab-device=m4f", PATH="/nowhere")
    assert "1 passed, 1 skipped" in done.stdout
    assert "report:" not in done.stdout
    assert not (tmp_path / "lab/reports").exists()
