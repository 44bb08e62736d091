"""Pinned dependencies of CI: the file, and when the set-up script uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_setup_script import Computer, computer, equipped

from lab.paths import project_root

__all__ = ["computer", "equipped"]

_PINS = project_root() / "requirements" / "ci.txt"
_HERE = "3.11 Linux x86_64"


def _pinned(one: Computer, platform: str = _HERE) -> Computer:
    """A project with pins for a platform, on a computer that says it is of ours."""
    folder = one.project / "requirements"
    folder.mkdir()
    (folder / "ci.txt").write_text(f"# platform: {platform}\nclick==8.1.0 --hash=sha256:00\n")
    one.program("python3", _python())
    return one


def _python(more: str = "") -> str:
    """Makes an environment whose Python is a stand-in as well."""
    make = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python" 2>/dev/null'
    return f'case "$*" in {more} "-m venv "*) {make};; *"p.system"*) echo {_HERE};; esac'


def _calls(one: Computer) -> list[str]:
    return [call for call in one.calls if "--require-hashes" in call]


@pytest.fixture
def pinned(equipped: Computer) -> Computer:
    (equipped.folder / "bin" / "cp").symlink_to("/bin/cp")
    return _pinned(equipped)


def test_in_ci_every_package_is_checked_before_the_rest_is_installed(pinned: Computer) -> None:
    done = pinned.set_up("run", CI="1")
    assert done.returncode == 0, done.stdout
    (call,) = _calls(pinned)
    assert call.endswith("--require-hashes --no-deps -r requirements/ci.txt")
    assert "not all pinned packages" not in done.stdout
    installs = [one for one in pinned.calls if " pip " in one and " install " in one]
    assert installs.index(call) < next(at for at, one in enumerate(installs) if "-e ." in one)


def test_elsewhere_and_on_other_platforms_it_is_left_alone(pinned: Computer) -> None:
    assert pinned.set_up("run").returncode == 0
    assert _calls(pinned) == []


def test_pins_of_another_platform_are_not_used(pinned: Computer) -> None:
    (pinned.project / "requirements" / "ci.txt").write_text("# platform: 3.12 Darwin arm64\n")
    assert pinned.set_up("run", CI="1").returncode == 0
    assert _calls(pinned) == []


def test_a_package_that_is_another_one_is_told_and_refused_where_that_is_asked_for(pinned: Computer) -> None:
    pinned.program("python3", _python('*"--require-hashes"*) exit 1;;'))
    done = pinned.set_up("run", CI="1")
    assert done.returncode == 0
    assert "not all pinned packages can be had as they were" in done.stdout
    (pinned.project / "pyproject.toml").write_text("[project]\nname = 'again'\n")
    done = pinned.set_up("run", CI="1", LAB_PINNED="1")
    assert done.returncode != 0
    assert "setup: a pinned package cannot be had as it was" in done.stdout


def test_every_line_of_the_file_has_a_digest_and_pytorch_is_not_there() -> None:
    head, *lines = [line for line in _PINS.read_text().splitlines() if line]
    assert re.fullmatch(r"# platform: 3\.\d+ \w+ \w+", head)
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", line)] == []
    assert not any(line.startswith("torch==") for line in pins)


def test_every_direct_dependency_is_pinned() -> None:
    text = (project_root() / "pyproject.toml").read_text()
    listed = text.partition("dependencies = [")[2].partition("]")[0]
    names = {re.match(r"[\w-]+", one)[0].lower() for one in re.findall(r'"([^"]+)"', listed)} - {"torch"}  # type: ignore[index]
    pinned = {line.partition("==")[0] for line in _PINS.read_text().splitlines()}
    assert names <= pinned


def test_no_file_of_pins_names_where_packages_come_from() -> None:
    assert "://" not in Path(_PINS).read_text()
