"""What goes wrong with SSH: each ends in an error with a name, and where waiting helps, in a connection again."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import remote_conformance as conformance
from helpers.ssh_peer import SshPeer
from helpers.tcp_proxy import TcpProxy
from pydantic import SecretStr

from lab.connection_config import SshHost
from lab.emulator_config import LoopbackEmulator
from lab.emulators.sshd import LoopbackSshd
from lab.errors import ConfigError, DiskFull, EmulatorError, HostKeyChanged, HostKeyUnknown, LabError, TransportError
from lab.transports import ssh_remote
from lab.transports.local import LocalRemote
from lab.transports.remote_files import RemoteFiles, shell_of
from lab.transports.ssh import open_ssh

SECTION = LoopbackEmulator(kind="sshd")
PASSWORD = "correct horse 'battery\" staple"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(SECTION, tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with LoopbackSshd(SECTION, tmp_path_factory.mktemp("cache")) as started:
        yield started.start()


@pytest.fixture
def own() -> str:
    return f"3600.{uuid.uuid4().int % 10**12}"


def by(host: SshHost, way: TcpProxy, **changes: object) -> SshHost:
    return host.model_copy(update={"port": way.port, **changes})


def of_peer(peer: SshPeer, password: str = PASSWORD) -> SshHost:
    key = f"{peer.key.get_name()} {peer.key.get_base64()}"
    return SshHost(host="127.0.0.1", port=peer.port, user="user", password=SecretStr(password), host_key=key)


# ---- host keys ----


def test_first_contact_is_refused_and_what_it_says_to_add_helps(host: SshHost, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    unknown = host.model_copy(update={"host_key": None, "known_hosts": str(known)})
    with TcpProxy("127.0.0.1", host.port) as way, pytest.raises(HostKeyUnknown, match="not known yet") as caught:
        open_ssh(by(unknown, way), origin="bench.yaml:7")
    assert str(caught.value).startswith("bench.yaml:7: ")
    assert not known.exists()
    with pytest.raises(HostKeyUnknown) as caught:
        open_ssh(unknown)
    line = re.search(r"host_key: (ssh-ed25519 [A-Za-z0-9+/=]+)", caught.value.hint)
    in_file = re.search(r"known_hosts: (.*)", caught.value.hint)
    assert line is not None
    assert in_file is not None
    with open_ssh(unknown.model_copy(update={"host_key": line[1]})) as remote:
        assert remote.run(("true",)).status == 0
    known.write_text(in_file[1] + "\n")
    with open_ssh(unknown) as remote:
        assert remote.run(("true",)).status == 0


@pytest.mark.parametrize("pinned", ["key", "fingerprint", "known_hosts", "revoked"])
def test_a_changed_host_key_has_a_name_and_is_never_tried_again(host: SshHost, tmp_path: Path, pinned: str) -> None:
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "old"), check=True)
    old = " ".join((tmp_path / "old.pub").read_text().split()[:2])
    known = tmp_path / "known_hosts"
    settings: dict[str, object] = {"host_key": None, "known_hosts": str(known)}
    with TcpProxy("127.0.0.1", host.port) as way:
        if pinned == "key":
            settings = {"host_key": old}
        elif pinned == "fingerprint":
            settings = {"host_key": "SHA256:" + "A" * 43}
        elif pinned == "known_hosts":
            known.write_text(f"[127.0.0.1]:{way.port} {old}\n")
        else:
            known.write_text(f"[127.0.0.1]:{way.port} {host.host_key}\n@revoked * {host.host_key}\n")
        with pytest.raises(HostKeyChanged, match="revokes" if pinned == "revoked" else "another key") as caught:
            open_ssh(by(host, way, **settings))
        assert not caught.value.transient
        assert way.connections == 1


def test_a_host_key_that_changes_while_it_is_away(server: LoopbackSshd) -> None:
    first = server.start()
    way = TcpProxy("127.0.0.1", first.port)
    remote = open_ssh(by(first, way))
    second = server.start()
    with TcpProxy("127.0.0.1", second.port) as other:
        remote._config = by(first, other)
        with pytest.raises(HostKeyChanged):
            remote.reconnect(60.0)
        assert other.connections == 1


# ---- logging in ----


def test_a_password_from_the_environment_is_seen_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with SshPeer(PASSWORD) as peer, caplog.at_level(logging.DEBUG):
        config = of_peer(peer)
        with open_ssh(config) as remote:
            lines = remote.run(("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null")).stdout
            with pytest.raises(TransportError) as caught:
                remote.run(("sleep", "60"), timeout_s=0.2)
            said = [str(caught.value), repr(remote), remote.name]
        with pytest.raises(TransportError, match=r"does not let user in; tried: a password") as caught:
            open_ssh(of_peer(peer, "wrong " + PASSWORD))
        said += [str(caught.value), repr(caught.value.__cause__), repr(config), caplog.text]
    assert len(lines) > 100
    assert caplog.text
    for text in (lines.decode(errors="replace"), *said):
        assert PASSWORD not in text


def test_a_user_that_is_not_let_in(host: SshHost, tmp_path: Path) -> None:
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"), check=True)
    with pytest.raises(TransportError, match=r"does not let \S+ in; tried: key .*other; it takes: publickey") as caught:
        open_ssh(host.model_copy(update={"key": str(tmp_path / "other")}))
    assert not caught.value.transient
    assert "ssh-copy-id" in caught.value.hint


def test_no_server_and_no_such_host(host: SshHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match="cannot be reached") as caught:
        open_ssh(host.model_copy(update={"port": port}))
    assert caught.value.transient
    with pytest.raises(TransportError, match="no such host") as caught:
        open_ssh(host.model_copy(update={"host": "nowhere.invalid"}))
    assert not caught.value.transient


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(256)) * 40])
def test_something_else_answers(host: SshHost, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TransportError, match="does not answer as an SSH server") as caught:
            open_ssh(host.model_copy(update={"port": listener.getsockname()[1]}))
    assert caught.value.transient


@pytest.mark.parametrize(
    ("shell", "message"),
    [(("python3", "-c"), "POSIX"), (("sh", "-c", 'echo Welcome; eval "$0"'), "Welcome"), (("true",), "POSIX")],
)
def test_shells_that_spoil_what_commands_say(shell: tuple[str, ...], message: str) -> None:
    with SshPeer(PASSWORD, shell=shell) as peer, pytest.raises(ConfigError, match=message):
        open_ssh(of_peer(peer))


# ---- while it runs ----


def test_a_connection_that_is_cut_in_mid_stream(host: SshHost, own: str) -> None:
    with TcpProxy("127.0.0.1", host.port) as way:
        remote = open_ssh(by(host, way))
        process = remote.start(("sh", "-c", f"trap '' HUP TERM; echo ready; sleep {own}"))
        assert conformance.read_all(process, 6) == b"ready\n"
        way.cut()
        calls: tuple[Callable[[], object], ...] = (
            lambda: process.read(20.0), lambda: process.write(b"x"), process.poll, lambda: process.wait(20.0),
            lambda: remote.run(("true",)),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(TransportError, match="lost") as caught:
                call()
            assert caught.value.transient
        process.kill()
        # What ran on is killed by the next connection: nothing of it may disturb the next run.
        remote.reconnect(20.0)
        assert conformance.gone(remote, own)
        assert remote.run(("echo", "again")).text == "again"
        remote.close()


def test_a_session_whose_server_process_is_killed(host: SshHost) -> None:
    with open_ssh(host) as remote:
        process = remote.start(("cat",))
        with pytest.raises(TransportError, match="lost"):
            remote.run(("sh", "-c", "kill -9 $PPID; sleep 60"))
        with pytest.raises(TransportError, match="lost"):
            process.read(20.0)
        remote.reconnect(20.0)
        assert remote.run(("echo", "again")).text == "again"


def test_silence_is_a_lost_connection(host: SshHost) -> None:
    with TcpProxy("127.0.0.1", host.port) as way:
        remote = open_ssh(by(host, way, keepalive_s=0.3))
        process = remote.start(("cat",))
        way.fall_silent()
        with pytest.raises(TransportError, match=r"did not answer for 0\.9 s"):
            process.read(60.0)
        remote.close()


def test_reconnecting_waits_until_the_device_is_back(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with TcpProxy("127.0.0.1", host.port) as way:
        remote = open_ssh(by(host, way))
        way.cut_after = 0
        way.cut()
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                way.cut_after = None

        monkeypatch.setattr(ssh_remote.time, "sleep", pause)
        remote.reconnect(60.0)
        assert len(pauses) == 3
        assert pauses == sorted(pauses)
        assert remote.run(("echo", "back")).text == "back"
        way.cut_after = 0
        way.cut()
        with pytest.raises(TransportError, match=r"SSH server|ended the connection|broke off"):
            remote.reconnect(0.0)


def test_as_many_commands_at_once_as_the_server_allows(tmp_path: Path) -> None:
    with LoopbackSshd(SECTION, tmp_path, settings="MaxSessions 2\n") as server, open_ssh(server.start()) as remote:
        held = [remote.start(("cat",)), remote.start(("cat",))]
        with pytest.raises(TransportError, match="another command") as caught:
            remote.run(("true",))
        assert "MaxSessions" in caught.value.hint
        held[0].close()
        assert remote.run(("true",)).status == 0


def test_an_end_without_a_status() -> None:
    with SshPeer(PASSWORD) as peer, open_ssh(of_peer(peer)) as remote:
        peer._end_without_status = True
        with pytest.raises(TransportError, match="without a status"):
            remote.run(("true",))


def test_a_command_that_takes_no_input(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_remote, "_WRITE_S", 0.2)
    with open_ssh(host) as remote:
        process = remote.start(("sleep", "60"))
        with pytest.raises(TransportError, match="took no input"):
            process.write(bytes(16 << 20))
        process.kill()


# ---- files ----


def test_a_push_that_was_cut_off_goes_on(host: SshHost, tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    with TcpProxy("127.0.0.1", host.port) as way:
        remote = open_ssh(by(host, way))
        # Three of four megabytes: no more than two can be on the way (the window), so that some must have arrived.
        way.cut_after = way.forwarded + (3 << 20)
        with pytest.raises(TransportError) as caught:
            remote.push(source, f"{tmp_path}/there/file")
        assert caught.value.transient
        way.cut_after = None
        part = tmp_path / f"there/file.{hashlib.sha256(data).hexdigest()[:16]}.part"
        assert conformance.gone(LocalRemote(), part.name)
        assert list(part.parent.iterdir()) == [part]
        kept = part.stat().st_size
        assert 0 < kept < len(data)
        remote.reconnect(20.0)
        assert remote.push(source, f"{tmp_path}/there/file").sent_bytes == len(data) - kept
        assert (tmp_path / "there/file").read_bytes() == data
        assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]
        remote.close()


def test_the_rest_of_a_push_that_is_damaged_is_not_continued(host: SshHost, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    with open_ssh(host) as remote:
        there = Path(remote.push(source, f"{tmp_path}/there/file").path)
        digest = remote.run(("sha256sum", str(there))).text[:16]
        there.unlink()
        there.with_name(f"file.{digest}.part").write_bytes(b"not its beginning")
        assert remote.push(source, str(there)).sent_bytes == 100_000
        assert there.read_bytes() == source.read_bytes()


def test_a_disk_that_is_full(host: SshHost, tmp_path: Path) -> None:
    """The disk fills up in mid-file: `df` said there was room, and writing says there is none."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    with open_ssh(host) as remote:
        there = Path(remote.push(source, f"{tmp_path}/there/file").path)
        digest = remote.run(("sha256sum", str(there))).text[:16]
        there.unlink()
        there.with_name(f"file.{digest}.part").symlink_to("/dev/full")
        with pytest.raises(DiskFull, match=r"full; free now: [\d.]+ \wiB.*No space left") as caught:
            remote.push(source, str(there))
        assert "folder" in caught.value.hint
        assert list(there.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_too_small(host: SshHost, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    source = tmp_path / "source"
    source.write_bytes(os.urandom(600_000))
    small = tmp_path / "small"
    small.write_bytes(os.urandom(200_000))
    half = tmp_path / "half"
    half.write_bytes(os.urandom(100_000))
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=512k", "lab-test", disk), check=True)
    try:
        with open_ssh(host) as remote:
            with pytest.raises(DiskFull, match=r"585.9 KiB are to be written, 512 KiB are free"):
                remote.push(source, f"{disk}/file")
            assert list(disk.iterdir()) == []
            assert remote.push(small, f"{disk}/file").sent_bytes == 200_000
            subprocess.run(("mount", "-o", "remount,ro", disk), check=True)
            with pytest.raises(LabError, match=r"[Rr]ead-only"):
                remote.push(half, f"{disk}/file")
    finally:
        subprocess.run(("umount", disk), check=True)


# ---- files and commands of the kernel ----


def test_files_of_a_device_keep_the_kernels_numbers(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1\n")
    (tmp_path / "two lines").write_text("a\nb\n\n")
    (tmp_path / "no end").write_bytes(b"\0no end")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with open_ssh(host) as remote:
        files = RemoteFiles(remote)
        names = ("one", "missing", "two lines", ".", "one/under", "no end")
        read = files.read_many([f"{tmp_path}/{name}" for name in names])
        assert read[0::2] == ["1\n", "a\nb\n\n", read[4]]
        assert [type(one) for one in read[1::2]] == [FileNotFoundError, IsADirectoryError, str]
        assert isinstance(read[4], NotADirectoryError)
        assert read[5] == "\0no end"
        assert files.read_many([]) == []
        assert files.names(str(tmp_path)) == sorted(os.listdir(tmp_path))
        assert files.resolve(f"{tmp_path}/link") == os.path.realpath(tmp_path / "one")
        assert files.resolve("/nowhere/at/all") == "/nowhere/at/all"
        for call, error in (
            (lambda: files.names(f"{tmp_path}/one"), NotADirectoryError),
            (lambda: files.names(f"{tmp_path}/missing"), FileNotFoundError),
            (lambda: files.read_text(f"{tmp_path}/missing"), FileNotFoundError),
        ):
            with pytest.raises(error):
                call()
        assert shell_of(remote)(("echo", "a  b")) == "a  b\n"
        files.close()
        assert files.read_text(f"{tmp_path}/one") == "1\n"
        files.close()


def test_files_of_a_device_that_was_lost(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1\n")
    with TcpProxy("127.0.0.1", host.port) as way, open_ssh(by(host, way)) as remote:
        files = RemoteFiles(remote)
        files.read_text(f"{tmp_path}/one")
        way.cut()
        with pytest.raises(TransportError):
            files.read_text(f"{tmp_path}/one")
        remote.reconnect(20.0)
        assert files.read_text(f"{tmp_path}/one") == "1\n"


# ---- the server itself ----


def test_a_server_that_dies_and_one_that_cannot_start(server: LoopbackSshd, tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="not running"):
        server.check_alive()
    with open_ssh(server.start()) as remote:
        server.power_cut()
        with pytest.raises(TransportError):
            remote.run(("true",))
    with pytest.raises(EmulatorError, match="not running"):
        server.check_alive()
    broken = LoopbackSshd(SECTION, tmp_path, settings="NoSuchSetting yes\n")
    with pytest.raises(EmulatorError, match="NoSuchSetting"):
        broken.start()


def test_nothing_outlives_a_lab_that_is_killed(own: str) -> None:
    program = f"""
import pathlib, sys
from lab.emulators.sshd import LoopbackSshd
from lab.emulator_config import LoopbackEmulator
from lab.transports.ssh import open_ssh
server = LoopbackSshd(LoopbackEmulator(kind="sshd"), pathlib.Path("/"))
remote = open_ssh(server.start())
process = remote.start(("sh", "-c", "trap '' TERM HUP; setsid sleep {own} & echo ready; sleep {own}"))
print(process.read(20.0).decode().strip(), server._process.pid, server._folder, flush=True)
sys.stdin.read()
"""
    lab = subprocess.Popen((sys.executable, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    ready, server, folder = lab.stdout.readline().split()
    assert ready == "ready"
    assert Path(folder, "user_key").exists()
    lab.send_signal(signal.SIGKILL)
    lab.communicate()
    assert conformance.gone(LocalRemote(), own)
    assert conformance.gone(LocalRemote(), f"lab-sshd-{server}")
    assert not Path(f"/proc/{int(server)}/cmdline").exists() or not Path(f"/proc/{int(server)}/cmdline").read_bytes()
    while Path(folder).exists():
        time.sleep(0.01)
