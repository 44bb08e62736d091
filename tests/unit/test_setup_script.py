"""The set-up script and the Makefile, with stand-ins for everything that could install something."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.paths import project_root

SCRIPT = project_root() / "scripts" / "setup.sh"
_HARMLESS = ("bash", "cat", "cut", "dirname", "env", "grep", "ls", "mkdir", "rm", "sed", "sha256sum", "touch", "uname")
_TOOLS = (
    "qemu-system-arm", "arm-none-eabi-gcc", "aarch64-linux-gnu-gcc", "cmake", "ninja", "gcc", "setpriv", "python3",
)  # fmt: skip
_FILES_OF_DEBIAN = (Path("/usr/include/stdio.h"), Path("/usr/lib/arm-none-eabi/newlib/nano.specs"))
_newlib = pytest.mark.skipif(
    not all(path.exists() for path in _FILES_OF_DEBIAN),
    reason="the script looks for the C libraries of Debian's libc6-dev and libnewlib-arm-none-eabi, which are missing",
)


@dataclass
class Computer:
    """A project folder with a copy of the script, and a PATH that holds only what the test puts there."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def program(self, name: str, body: str = "exit 0") -> None:
        """Put a stand-in into PATH; it writes down how it was called."""
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.folder}/calls\n{body}\n')
        path.chmod(stat.S_IRWXU)

    def set_up(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script from another folder."""
        command = [str(self.project / "scripts/setup.sh"), *arguments]
        return subprocess.run(
            command,
            cwd="/",
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def make_environment(self) -> None:
        """A virtual environment as a finished set-up leaves it."""
        python = self.project / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        shutil.copy(self.folder / "bin/python3", python)
        content = (self.project / "pyproject.toml").read_bytes() + SCRIPT.read_bytes()
        (self.project / f".venv/.hil-lab-{hashlib.sha256(content).hexdigest()[:16]}").touch()


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    """A computer on which nothing but a shell is installed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "project/scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "project/scripts/setup.sh")
    (tmp_path / "project/pyproject.toml").write_text("[project]\n")
    for name in _HARMLESS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    one = Computer(tmp_path)
    one.program("id", "echo 0")
    return one


@pytest.fixture
def equipped(computer: Computer) -> Computer:
    """A computer on which all tools are installed."""
    for name in _TOOLS:
        computer.program(name)
    return computer


def test_the_script_is_valid_and_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_without_apt_it_says_what_to_install_by_hand(computer: Computer) -> None:
    done = computer.set_up("run")
    assert done.returncode != 0
    told = done.stdout.splitlines()[-1]
    assert told.startswith("setup: this is not a Debian-like system. Install these by hand, then run this again:")
    packages = set(told.partition("again: ")[2].split())
    assert packages >= {"qemu-system-arm", "gcc-arm-none-eabi", "cmake", "ninja-build", "gcc", "python3-venv"}
    assert "influxdb" not in packages, "only the tests need it"
    assert not (computer.project / ".venv").exists()


def test_the_tests_need_more(computer: Computer) -> None:
    told = computer.set_up("test").stdout
    assert {"influxdb", "clang", "git", "gcc-aarch64-linux-gnu", "qemu-system-arm"} <= set(told.split())


def test_only_what_is_missing_is_asked_for(equipped: Computer) -> None:
    (equipped.folder / "bin/cmake").unlink()
    (equipped.folder / "bin/ninja").unlink()
    packages = set(equipped.set_up("run").stdout.rpartition("again: ")[2].split())
    assert {"cmake", "ninja-build"} <= packages
    assert not {"qemu-system-arm", "gcc-arm-none-eabi", "gcc", "util-linux", "python3-venv"} & packages


def test_without_root_or_sudo_it_says_what_to_ask_for(computer: Computer) -> None:
    computer.program("id", "echo 1000")
    computer.program("apt-get")
    done = computer.set_up("run")
    assert done.returncode != 0
    assert "setup: neither root nor sudo. Ask an administrator for: apt-get install qemu-system-arm" in done.stdout
    assert not [call for call in computer.calls if call.startswith("apt-get")]


def test_with_sudo_it_installs_through_it(computer: Computer) -> None:
    computer.program("id", "echo 1000")
    computer.program("apt-get")
    computer.program("sudo", "exit 1")
    computer.set_up("run")
    assert [call.split()[:5] for call in computer.calls if call.startswith("sudo")] == [
        ["sudo", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "update"],
        ["sudo", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install"],
    ]


def test_packages_that_cannot_be_installed_end_with_the_way_out(computer: Computer) -> None:
    computer.program("apt-get", "exit 100")
    done = computer.set_up("run")
    assert done.returncode != 0
    assert "apt-get update failed; trying with the lists that are there" in done.stdout
    assert "setup: apt-get could not install: qemu-system-arm" in done.stdout
    assert "Without QEMU or the Arm toolchain the device tests are skipped with the reason" in done.stdout
    (install,) = [call for call in computer.calls if call.startswith("apt-get install")]
    assert install.startswith("apt-get install -q -y --no-install-recommends qemu-system-arm")


@_newlib
def test_a_finished_set_up_installs_nothing_from_any_folder(equipped: Computer) -> None:
    equipped.program("apt-get")
    equipped.make_environment()
    for _ in range(2):
        done = equipped.set_up("run")
        assert (done.returncode, done.stdout) == (0, "")
    assert not [call for call in equipped.calls if "apt-get" in call or " pip " in call or "venv" in call]


@_newlib
def test_a_changed_pyproject_brings_the_environment_up_to_date(equipped: Computer) -> None:
    equipped.make_environment()
    (equipped.project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    done = equipped.set_up("run")
    assert done.returncode == 0, done.stdout
    assert "installing Python packages" in done.stdout
    installs = [call for call in equipped.calls if " pip " in call]
    assert [call.rpartition(" ")[2] for call in installs] == [".[dev,influx]"], "PyTorch is there already"
    assert equipped.set_up("run").stdout == ""


@_newlib
def test_packages_that_pip_cannot_install_leave_no_stamp(equipped: Computer) -> None:
    equipped.program("python3", 'case "$*" in *" install "*) exit 1;; esac')
    equipped.make_environment()
    (equipped.project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    for _ in range(2):
        done = equipped.set_up("run")
        assert done.returncode != 0
        assert "setup: pip could not install the Python packages" in done.stdout


@_newlib
def test_an_old_python_is_refused(equipped: Computer) -> None:
    equipped.program("python3", 'case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac')
    done = equipped.set_up("run")
    assert done.returncode != 0
    assert "setup: Python 3.11 or newer is needed; found Python 3.9.2." in done.stdout


@_newlib
def test_a_plug_in_that_cannot_be_built_is_told_and_harmless(equipped: Computer) -> None:
    equipped.program("python3", 'case "$*" in *tcg_plugin*) exit 1;; esac')
    equipped.make_environment()
    done = equipped.set_up("run")
    assert done.returncode == 0
    assert "loads and stores are not counted, everything else works" in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "profile", "command"),
    [("demo", "run", "pytest -m hil tests/hil"), ("test", "test", "python scripts/run_tests.py -n 3")],
)
def test_make_works_from_any_folder(tmp_path: Path, target: str, profile: str, command: str) -> None:
    makefile = project_root() / "Makefile"
    plan = ["make", "-n", "--no-print-directory", "-f", str(makefile), target]
    done = subprocess.run(plan, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{project_root()}/scripts/setup.sh {profile}"
    assert lines[-1].startswith(f"cd {project_root()}/ && ")
    assert f" {project_root()}/.venv/bin/{command}" in lines[-1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_interpreters_of_tests_keep_what_they_compiled(tmp_path: Path) -> None:
    """Some images of containers forbid it; then each of some hundred children compiles the lab once more."""
    for name in ("scripts/setup.sh", ".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{program.name} <$PYTHONDONTWRITEBYTECODE>"\n')
        program.chmod(stat.S_IRWXU)
    shutil.copy(project_root() / "Makefile", tmp_path)
    # These tests may themselves run under make, which hands its own options on.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    forbidden = inherited | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["make", "test"], cwd=tmp_path, env=forbidden, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["setup.sh <>", "ruff <>", "mypy <>", "python <>"]
