"""The bench of pip in a Python without POSIX: no fcntl, termios or fork, no unix sockets, no links, no UTF-8.

That is as near to Windows as Linux comes; docs/without-qemu.md says what it leaves open.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.posix_free import poor_environment
from helpers.sandbox import TESTS

from lab.build import tool_path
from lab.paths import cache_dir, config_dir, project_root

pytestmark = pytest.mark.skipif(
    tool_path("zig") is None or importlib.util.find_spec("unicorn") is None,
    reason="pip install 'hil-lab[emulate-pip]' was not done",
)

LAB = """
import os, signal, socket, sys
for module, name in ((os, "fork"), (os, "openpty"), (socket, "AF_UNIX"), (signal, "SIGKILL")):
    assert not hasattr(module, name), name
for name in ("fcntl", "termios", "tty", "pty", "resource", "grp", "pwd", "readline"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
from helpers import tiny_workload
tiny_workload.register()
from lab.cli import main
main(sys.argv[1:], prog_name="lab")
"""

HIL = """
import pytest
from helpers import tiny_workload
tiny_workload.register()

@pytest.mark.hil
def test_tiny(deploy, measure):
    assert measure(deploy("tiny")).median("bit_exact", "run") == 1.0
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Empty but for Zig's run-time library, which takes ten seconds to build; with a space, as names of users have."""
    folder = tmp_path / "the cache"
    folder.mkdir()
    (cache_dir() / "zig").mkdir(parents=True, exist_ok=True)
    (folder / "zig").symlink_to(cache_dir() / "zig")
    return folder


def ran(folder: Path, cache: Path, *arguments: str, status: int = 0) -> str:
    """What Python says, run in the poor environment."""
    environment = poor_environment(folder, cache, LAB_CONFIG=str(config_dir() / "pip-only.yaml"))
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, encoding="cp1252", check=False, cwd=folder
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_pip_bench(tmp_path: Path, cache: Path) -> None:
    devices = ran(tmp_path, cache, "-c", LAB, "devices")
    assert len(re.findall(r"-pip .* ready\b", devices)) == 4

    # Status 1: of what is looked for, QEMU, the host's compiler and setpriv are missing.
    told = ran(tmp_path, cache, "-c", LAB, "doctor", status=1)
    assert len(re.findall(r"ok +m\w+-pip: ", told)) == 4
    assert set(re.findall(r"MISSING +(.*?):", told)) >= {"QEMU for Arm", "host C compiler", "setpriv"}

    run = ran(tmp_path, cache, "-c", LAB, "run", "tiny", "--device", "m4f-pip")
    assert "m4f-pip: tiny passed" in run
    assert re.search(r"bit_exact +1 ", run)
    assert re.search(r"latency +[\d.]+ µs", run)

    reported = Path(ran(tmp_path, cache, "-c", LAB, "report").strip().removeprefix("report: "))
    assert "m4f-pip" in reported.read_text(encoding="utf-8")
    newest = (tmp_path / "reports" / "latest.html").read_text(encoding="utf-8")
    assert f"url={reported.parent.name}/index.html" in newest
    assert all(":" not in path.name for path in tmp_path.rglob("*")), "no name of a file on Windows has a colon"


def test_pytest_with_the_pip_bench(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "test_tiny.py").write_text(HIL, encoding="utf-8")
    bench = str(config_dir() / "pip-only.yaml")
    told = ran(
        tmp_path, cache, "-m", "pytest", "-q", "-m", "hil", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
        "-c", str(project_root() / "pyproject.toml"), "--lab-config", bench, "--lab-device", "m4f-pip", "test_tiny.py",
    )  # fmt: skip
    assert "1 passed" in told


def test_an_emulated_meter_says_what_it_needs(tmp_path: Path, cache: Path) -> None:
    """Not a traceback of something that the system has not."""
    bench = tmp_path / "metered.yaml"
    bench.write_text(
        "devices:\n  metered:\n    board: mps2-an386\n    emulated: true\n    emulator: unicorn\n"
        "    meter: {kind: ppk2, emulated: true, voltage_v: 3.3}\n",
        encoding="utf-8",
    )
    environment = poor_environment(tmp_path, cache, LAB_CONFIG=str(bench))
    done = subprocess.run(
        [sys.executable, "-c", LAB, "run", "tiny", "--device", "metered"],
        env=environment, capture_output=True, encoding="cp1252", check=False, cwd=TESTS,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "setpriv is not installed" in done.stderr
    assert "Traceback" not in done.stderr
