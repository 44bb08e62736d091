"""Supervised services, with small programs in place of labgrid's, and the ser2net that stays on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from helpers.killed_lab import all_gone

from lab.errors import ConfigError, ToolMissing
from lab.labgrid import supervise
from lab.labgrid.supervise import (
    Service,
    coordinator_service,
    exporter_service,
    refuse_others,
    write_ser2net,
)


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def labgrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose programs do nothing, and a ser2net that prints its arguments."""
    programs = tmp_path / "labgrid" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "labgrid-coordinator", "labgrid-exporter"):
        _program(programs / name, "exit 0")
    (tmp_path / "path").mkdir()
    _program(tmp_path / "path" / "ser2net", 'printf "%s\\n" "$@"')
    monkeypatch.setenv("LAB_LABGRID", str(programs.parent))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    return tmp_path


def test_a_program_that_ends_is_started_again_until_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE_S", 0.01)
    starts = tmp_path / "starts"
    # The third stays, and writes down that it was asked to end.
    script = _program(
        tmp_path / "service",
        f'echo x >> {starts}\n[ "$(wc -l < {starts})" -lt 3 ] && exit 7\n'
        f"trap 'echo ended >> {starts}; exit 0' TERM\nwhile :; do sleep 0.01; done",
    )
    said: list[str] = []

    def meanwhile(ending: threading.Event) -> None:
        while not starts.exists() or starts.read_text().count("x") < 3:
            ending.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    supervise.supervise(Service("it", [str(script)], tmp_path, os.environ), said.append, meanwhile)
    assert starts.read_text().count("x") == 3
    assert [line for line in said if "ended with 7; starting it again" in line] == [
        "it ended with 7; starting it again in 0.01 s", "it ended with 7; starting it again in 0.02 s",
    ]  # fmt: skip
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_left_of_a_program_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exporter's ser2net, which would serve a board that nobody holds; here no kernel sees to it."""
    monkeypatch.setattr(supervise, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("shutil.which", lambda name: None)
    started = tmp_path / "started"
    script = _program(tmp_path / "service", f"sleep 600 &\necho $! >> {started}\nkill -9 $$")

    def meanwhile(ending: threading.Event) -> None:
        while not started.exists() or len(started.read_text().splitlines()) < 2:
            ending.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    supervise.supervise(Service("it", [str(script)], tmp_path, os.environ), [].append, meanwhile)
    assert all_gone({int(pid) for pid in started.read_text().split()}, 30.0)


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ToolMissing, match="nowhere cannot be started"):
        supervise.supervise(Service("it", ["/nowhere"], tmp_path, os.environ), [].append)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("connection: &con01#  accepter: telnet(rfc2217,mode=server),tcp,4001",
         "connection: &con01#  accepter: telnet(rfc2217,mode=server),tcp,127.0.0.1,4001"),
        ("4001:telnet:0:/dev/ttyUSB0:115200 NONE 8DATABITS 1STOPBIT LOCAL",
         "127.0.0.1,4001:telnet:0:/dev/ttyUSB0:115200 NONE 8DATABITS 1STOPBIT LOCAL"),
        ("  connector: serialdev(nouucplock=true),/dev/ttyUSB0,115200n81,local", None),
        ("    max-connections: 10", None),
        ("-Y", None),
        ("$(touch owned) `id` \"quoted\"", None),
    ],
)  # fmt: skip
def test_ser2net_is_told_to_listen_on_one_address(labgrid: Path, given: str, expected: str | None) -> None:
    """The first two are what labgrid 26.0 says to ser2net 4 and 3."""
    program = labgrid / "ser2net"
    write_ser2net(program, "127.0.0.1")
    done = subprocess.run([program, "-d", given, "-n"], capture_output=True, text=True, check=True, cwd=labgrid)
    assert done.stdout.splitlines() == ["-d", expected or given, "-n"]
    assert not (labgrid / "owned").exists()


def test_an_exporter_finds_the_labs_ser2net_first(labgrid: Path, tmp_path: Path) -> None:
    file = tmp_path / "exporter.yaml"
    file.write_text("{}")
    with exporter_service("127.0.0.1:1", "desk", file, "127.0.0.1", unprotected=False) as service:
        found = service.environment["PATH"].partition(":")[0]
        assert (Path(found) / "ser2net").exists()
        assert list(service.command[1:]) == ["-c", "127.0.0.1:1", "-n", "desk", "--hostname", "127.0.0.1", str(file)]
    assert not Path(found).exists()
    with (
        pytest.raises(ConfigError, match="no such file"),
        exporter_service("127.0.0.1:1", "desk", tmp_path / "none.yaml", "127.0.0.1", unprotected=False),
    ):
        pass


def test_without_ser2net_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ToolMissing, match="ser2net is not installed"):
        write_ser2net(tmp_path / "ser2net", "127.0.0.1")


def test_addresses_that_others_reach_are_refused_unless_asked(labgrid: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'0\.0\.0\.0' can be reached by other computers"):
        coordinator_service("0.0.0.0:20408", tmp_path / "c", unprotected=False)
    with pytest.raises(ConfigError, match="'all addresses' can be reached by other computers"):
        refuse_others("", unprotected=False)
    service = coordinator_service("[::]:20408", tmp_path / "c", unprotected=True)
    assert list(service.command[1:]) == ["-l", "[::]:20408"]
    assert service.folder.is_dir()
