"""This computer as a remote: what it does otherwise than others; the rest is in tests/emulated/test_ssh.py."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from lab.errors import ConfigError, DiskFull, InfrastructureError, TransportError
from lab.transports import remote_push
from lab.transports.local import LocalRemote
from lab.transports.remote_push import push_all


def test_programs_that_cannot_be_run(tmp_path: Path) -> None:
    remote = LocalRemote(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    foreign.chmod(0o755)
    assert remote.run((str(foreign),)).status == 126
    assert b"Exec format error" in remote.run((str(foreign),)).stderr
    assert remote.run((str(tmp_path),)).status == 126
    assert remote.run(("no-such-program",)).status == 127
    with pytest.raises(TransportError, match="no-such-program on this computer cannot be started: No such file"):
        remote.start(("no-such-program",))


def test_commands_start_in_its_folder(tmp_path: Path) -> None:
    assert LocalRemote(tmp_path).run(("pwd", "-P")).text == os.path.realpath(tmp_path)
    assert LocalRemote().run(("pwd", "-P")).text == os.path.realpath(Path.home())


def test_pushing_is_copying_what_is_not_there(tmp_path: Path) -> None:
    remote = LocalRemote(tmp_path)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    first = remote.push(source, "new/file", executable=True)
    assert (first.path, first.size_bytes, first.sent_bytes) == (str(tmp_path / "new/file"), 7, 7)
    assert stat.S_IMODE((tmp_path / "new/file").stat().st_mode) == 0o755
    again = remote.push(source, "new/file")
    assert again.sent_bytes == 0
    assert stat.S_IMODE((tmp_path / "new/file").stat().st_mode) == 0o644


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disks_that_are_full_or_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    source = tmp_path / "source"
    source.write_bytes(b"content")
    monkeypatch.setattr(remote_push.os, "replace", refuse)
    expected = InfrastructureError if number == errno.EROFS else DiskFull
    with pytest.raises(expected, match=os.strerror(number)):
        LocalRemote(tmp_path).push(source, "there/file")
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(ConfigError, match="cannot be written"):
        LocalRemote(tmp_path).pull("source", tmp_path / "back")


def test_of_several_files_the_first_failure_is_told(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"x")
    with pytest.raises(ConfigError, match="missing: cannot be read"):
        push_all(LocalRemote(tmp_path), [(good, f"{tmp_path}/a"), (tmp_path / "missing", f"{tmp_path}/b")])
    with pytest.raises(ConfigError, match="names no file"):
        push_all(LocalRemote(tmp_path), [(good, f"{tmp_path}/folder/")])


def test_reconnecting_ends_what_runs(tmp_path: Path) -> None:
    remote = LocalRemote(tmp_path)
    process = remote.start(("sleep", "3600"))
    remote.reconnect(1.0)
    assert process.poll() == 137
    assert remote.run(("true",)).status == 0
