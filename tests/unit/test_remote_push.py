"""Files by digest over nothing but a shell, where this computer's tools play the device and one of them is broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import DiskFull, InfrastructureError
from lab.transports.local import LocalRemote
from lab.transports.remote_push import pull_file, push_file


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come before the system's."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 100)
    return path


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3000), kept=st.integers(0, 3000), damaged=st.booleans())
def test_what_an_earlier_push_left_is_used_only_where_it_is_right(
    tmp_path: Path, data: bytes, kept: int, damaged: bool
) -> None:
    remote = LocalRemote(tmp_path)
    (tmp_path / "data").write_bytes(data)
    target = tmp_path / "device/file"
    target.unlink(missing_ok=True)
    # What is on its way has the digest in its name.
    digest = remote.run(("sha256sum", "data")).text[:16]
    left = data[:kept]
    if damaged and left:
        left = left[:-1] + bytes([left[-1] ^ 1])
    target.parent.mkdir(exist_ok=True)
    (target.parent / f"file.{digest}.part").write_bytes(left)
    pushed = push_file(remote, tmp_path / "data", "device/file")
    assert target.read_bytes() == data
    assert pushed.sent_bytes == (len(data) if damaged else len(data) - len(left))
    assert os.listdir(target.parent) == ["file"]
    pull_file(remote, "device/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_file_that_arrives_damaged_is_sent_once_more(tmp_path: Path, tool: Path, source: Path) -> None:
    # The first `cat` loses a byte, as a failing card would; later ones are as they should be.
    script(tool / "cat", f'if mkdir {tool}/once 2>/dev/null; then head -c 25599; printf x; else exec /bin/cat "$@"; fi')
    pushed = push_file(LocalRemote(tmp_path), source, "device/file")
    assert pushed.sent_bytes == 2 * 25600
    assert (tmp_path / "device/file").read_bytes() == source.read_bytes()


def test_a_file_that_arrives_damaged_twice_is_no_file(tmp_path: Path, tool: Path, source: Path) -> None:
    script(tool / "cat", "head -c 25599; printf x")
    with pytest.raises(InfrastructureError, match=r"device/file on this computer: arrived damaged 2 times") as caught:
        push_file(LocalRemote(tmp_path), source, "device/file")
    assert not caught.value.transient
    assert os.listdir(tmp_path / "device") == []


def test_a_device_without_the_tools_is_not_called_damaged(tmp_path: Path, tool: Path, source: Path) -> None:
    script(tool / "sha256sum", "echo 'sha256sum: not found' >&2; exit 127")
    with pytest.raises(InfrastructureError, match="cannot be written: sha256sum: not found"):
        push_file(LocalRemote(tmp_path), source, "device/file")


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded", "File too large"])
def test_a_disk_that_fills_up_says_what_is_free(tmp_path: Path, tool: Path, source: Path, words: str) -> None:
    script(tool / "cat", f"echo 'cat: write error: {words}' >&2; exit 1")
    table = "Filesystem 1024-blocks Used Available Capacity Mounted\\nflash 100 70 30 70%% /"
    script(tool / "df", f'case "$*" in *.) printf "{table.replace(" 30 ", " 99 ")}\\n";; *) printf "{table}\\n";; esac')
    with pytest.raises(DiskFull, match=rf"the disk is full; free now: 30 KiB: cat: write error: {words}"):
        push_file(LocalRemote(tmp_path), source, "device/file")
    assert os.listdir(tmp_path / "device") == []


def test_what_does_not_fit_is_told_before_it_is_sent(tmp_path: Path, tool: Path, source: Path) -> None:
    script(tool / "df", 'printf "Filesystem 1024-blocks Used Available Capacity Mounted\\nflash 100 76 24 76%% /\\n"')
    with pytest.raises(DiskFull, match=r"25 KiB are to be written, 24 KiB are free"):
        push_file(LocalRemote(tmp_path), source, "device/file")
    # A device whose df tells nothing is simply tried.
    script(tool / "df", "exit 1")
    assert push_file(LocalRemote(tmp_path), source, "device/file").sent_bytes == 25600
