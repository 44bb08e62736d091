"""The remotes against other people's daemons: Debian's adbd and OpenSSH, busybox and toybox, in emulated devices."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import remote_conformance as conformance

from lab.connection_config import SshHost
from lab.emulator_config import GuestEmulator
from lab.emulators.registry import create_linux
from lab.inventory import load_board
from lab.paths import cache_dir, config_dir
from lab.transports.adb import open_adb
from lab.transports.adb_remote import Adb
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

OWN = "3600.271828"


@pytest.fixture(scope="module", params=["raspberry-pi-4", "android-phone"])
def remote(request: pytest.FixtureRequest) -> Iterator[Ssh | Adb]:
    board = load_board(config_dir() / "boards" / f"{request.param}.yaml")
    (section,) = board.emulators
    assert isinstance(section, GuestEmulator)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
        listener.close()
        guest = create_linux(board, section, cache_dir())
        reached = guest.start()
        try:
            with open_ssh(reached) if isinstance(reached, SshHost) else open_adb(reached) as opened:
                yield opened
        finally:
            guest.stop()
            if not isinstance(reached, SshHost):
                pytest.importorskip("adbutils").AdbClient().server_kill()


def test_commands(remote: Ssh | Adb) -> None:
    conformance.check_arguments_arrive(remote)
    conformance.check_statuses(remote)
    conformance.check_conversation(remote)
    conformance.check_last_words(remote)
    much = bytes(range(256)) * 2000
    assert remote.run(("cat",), stdin=much).stdout == much


def test_what_does_not_end_is_killed(remote: Ssh | Adb) -> None:
    conformance.check_timeout_kills(remote, OWN)
    conformance.check_kill(remote, OWN + "1")


def test_files(remote: Ssh | Adb, tmp_path: Path) -> None:
    conformance.check_files(remote, f"{remote.folder}/test", tmp_path)
    conformance.check_file_refusals(remote, f"{remote.folder}/test", tmp_path)


def test_it_comes_back(remote: Ssh | Adb) -> None:
    process = remote.start(("sh", "-c", f"trap '' HUP TERM; echo ready; sleep {OWN}2"))
    assert conformance.read_all(process, 6) == b"ready\n"
    boot = remote.boot_id
    remote.reconnect(60.0)
    assert remote.boot_id == boot
    assert conformance.gone(remote, OWN + "2")
