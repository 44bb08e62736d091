"""Phones: rebooting them, and which machine a bench entry of class phone makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.desk_remote import DeskRemote
from helpers.toolchain import entry

import lab.devices.computers
import lab.devices.phone
from lab.connection_config import AdbDevice, SshHost
from lab.devices.computers import computer_of, folder_of
from lab.devices.linux import Linux
from lab.devices.machine import RealMachine
from lab.devices.phone import AndroidMachine
from lab.errors import ConfigError, InfrastructureError
from lab.inventory import load_bench
from lab.transports.remote import Finished

BENCH = """
devices:
  cable: {board: android-phone, adb: {serial: R58M123}}
  termux: {board: android-phone, ssh: {host: 10.0.0.9, user: u0_a123, port: 8022, folder: lab}}
  pi: {board: raspberry-pi-5, ssh: {host: 10.0.0.8, user: pi}}
  away: {board: linux-armv7, ssh: {host: 10.0.0.7, user: pi}}
"""


def answers(*said: tuple[tuple[str, ...], Finished]) -> dict[tuple[str, ...], Callable[[], Finished]]:
    found: dict[tuple[str, ...], list[Finished]] = {}
    for words, finished in said:
        found.setdefault(words, []).append(finished)
    return {words: lambda left=left: left.pop(0) if len(left) > 1 else left[0] for words, left in found.items()}


def test_a_reboot_waits_for_android(tmp_path: Path) -> None:
    remote = DeskRemote(
        tmp_path,
        answers(
            (("cat",), Finished(0, b"first", b"")),
            (("cat",), Finished(0, b"second", b"")),
            (("reboot",), Finished(0, b"", b"")),
            (("getprop",), Finished(0, b"\n", b"")),
            (("getprop",), Finished(0, b"1\n", b"")),
        ),
    )
    pauses: list[float] = []
    machine = AndroidMachine("phone", lambda: remote, sleep=pauses.append)
    machine.reboot(machine.connect())
    assert (remote.reconnections, len(pauses)) == (1, 1)
    machine.check_alive()
    machine.close()


def test_a_reboot_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.devices.phone, "REBOOT_S", -1.0)
    nothing = Finished(0, b"", b"")
    remote = DeskRemote(tmp_path, answers((("cat",), nothing), (("reboot",), nothing), (("getprop",), nothing)))
    with pytest.raises(InfrastructureError, match="Android has not started"):
        AndroidMachine("phone", lambda: remote).reboot(remote)


def test_apps_may_not_reboot(tmp_path: Path) -> None:
    remote = DeskRemote(tmp_path, answers((("reboot",), Finished(1, b"", b"Operation not permitted"))))
    machine = AndroidMachine("phone", lambda: remote)
    with pytest.raises(InfrastructureError, match="Operation not permitted") as caught:
        machine.reboot(remote)
    assert "Termux" in caught.value.hint
    assert not machine.power_cycle()


def test_entries_and_how_they_are_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.yaml").write_text(BENCH)
    bench = load_bench(tmp_path / "bench.yaml").devices
    reached: list[SshHost | AdbDevice] = []

    def connect(how: SshHost | AdbDevice, origin: str) -> DeskRemote:
        assert "bench.yaml" in origin
        reached.append(how)
        return DeskRemote(tmp_path)

    monkeypatch.setattr(lab.devices.computers, "open_remote", connect)
    for name, machine, folder, board in (
        ("cable", AndroidMachine, "/data/local/tmp/hil-lab", "linux-aarch64"),
        ("termux", AndroidMachine, str(tmp_path / "lab"), "linux-aarch64"),
        ("pi", RealMachine, str(tmp_path / ".cache/hil-lab"), "linux-aarch64"),
        ("away", RealMachine, str(tmp_path / ".cache/hil-lab"), "linux-armv7"),
    ):
        device = computer_of(bench[name], tmp_path, None)
        assert isinstance(device, Linux)
        assert isinstance(device._machine, machine)
        assert device.folder == folder
        assert (device.identity.board, device.identity.source, device.meter()) == (board, "hardware", None)
    assert [type(one) for one in reached] == [AdbDevice, SshHost, SshHost, SshHost]


def test_emulated_ones_keep_their_files_in_memory() -> None:
    assert folder_of(entry("phone")) == folder_of(entry("pi")) == "/tmp/hil-lab"
    assert not folder_of(entry("loopback")).startswith("/")


def test_a_board_without_firmware(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text(BENCH)
    found = load_bench(tmp_path / "bench.yaml").devices["pi"]
    bare = found.board.model_copy(update={"firmware_board": None})
    with pytest.raises(ConfigError, match="has no firmware yet"):
        computer_of(replace(found, board=bare), tmp_path, None)
