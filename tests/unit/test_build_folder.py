"""Folders that builds are made in: nobody takes another's, and what a killed build leaves the next one sweeps."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab.build_folder
from lab.build_folder import private_folder
from lab.paths import project_root

BUILD = """
import sys
from pathlib import Path
from lab.build_folder import private_folder
with private_folder(Path(sys.argv[1])) as folder:
    (folder / "object.o").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process in the midst of a build, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project_root(),
    )  # fmt: skip
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


def test_a_killed_builds_folder_is_swept_by_the_next(elsewhere: tuple[subprocess.Popen[str], Path]) -> None:
    process, left = elsewhere
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "object.o").exists()
    with private_folder(left.parent) as folder:
        assert list(left.parent.iterdir()) == [folder]
    assert not list(left.parent.iterdir())


def test_a_build_that_runs_keeps_its_folder(elsewhere: tuple[subprocess.Popen[str], Path]) -> None:
    process, theirs = elsewhere
    with private_folder(theirs.parent) as folder:
        assert {theirs, folder} == set(theirs.parent.iterdir())
        assert (theirs / "object.o").exists()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        assert [folder] == list(theirs.parent.iterdir())


def test_the_folder_goes_whatever_happens_in_it(tmp_path: Path) -> None:
    def fail() -> None:
        with private_folder(tmp_path / "builds") as folder:
            (folder / "half").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list((tmp_path / "builds").iterdir())


def test_finished_builds_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    for path in ("0123/firmware.elf", ".building-old/object.o", "lock"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    with private_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"0123", ".building-old", "lock"}


def test_who_lost_its_folder_before_it_was_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody sweeps between the opening of the file and its lock."""
    try_lock = lab.build_folder.try_lock
    swept: list[Path] = []

    def swept_before(descriptor: int) -> bool:
        if not swept:
            swept.extend(tmp_path.glob(".building-*"))
            monkeypatch.setattr(lab.build_folder, "try_lock", try_lock)
            lab.build_folder._sweep(tmp_path)
        return try_lock(descriptor)

    monkeypatch.setattr(lab.build_folder, "try_lock", swept_before)
    with private_folder(tmp_path) as folder:
        assert len(swept) == 1
        assert folder != swept[0]
        assert list(tmp_path.iterdir()) == [folder]


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lab.build_folder, "try_lock", none)
    with private_folder(tmp_path) as first, private_folder(tmp_path) as second:
        assert {first, second} == set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
