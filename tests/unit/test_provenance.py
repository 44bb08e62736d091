"""Commit, version and tool versions, against real repositories and programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.provenance import checkout, lab_version, tool_version


def _git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(("git", *identity, *args), cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one\n")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


@pytest.fixture(autouse=True)
def _forget() -> None:
    checkout.cache_clear()
    tool_version.cache_clear()


def test_a_clean_checkout(repository: Path) -> None:
    state = checkout(repository)
    assert state.commit == (repository / ".git" / _git(repository, "symbolic-ref", "HEAD")).read_text().strip()
    assert not state.dirty


@pytest.mark.parametrize("name", ["file", "new"])
def test_a_changed_or_untracked_file_makes_it_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("two\n")
    assert checkout(repository).dirty


def test_an_ignored_file_does_not(repository: Path) -> None:
    (repository / ".gitignore").write_text("build\n.gitignore\n")
    (repository / "build").write_text("x")
    assert not checkout(repository).dirty


def test_outside_a_checkout_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = checkout(tmp_path)
    assert (state.commit, state.dirty) == ("", False)


def test_without_git_nothing_is_claimed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert checkout(repository).commit == ""


def _program(folder: Path, body: str) -> str:
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_line_of_a_tools_version_is_taken_once(tmp_path: Path) -> None:
    tool = _program(tmp_path, "echo tool 1.2; echo copyright")
    assert tool_version(tool) == "tool 1.2"
    _program(tmp_path, "echo tool 1.3")
    assert tool_version(tool) == "tool 1.2"


@pytest.mark.parametrize("body", ["echo broken; exit 3", "true"])
def test_a_tool_that_fails_or_is_silent_has_no_version(tmp_path: Path, body: str) -> None:
    assert tool_version(_program(tmp_path, body)) == ""


def test_a_missing_tool_has_no_version() -> None:
    assert tool_version("no-such-tool-of-the-lab") == ""


def test_the_lab_knows_its_version() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{lab_version()}"' in project
