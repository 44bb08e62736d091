"""SSH against a real OpenSSH server on the loopback: all that a remote must do, and what only SSH can say."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import remote_conformance as conformance
from helpers.tcp_proxy import TcpProxy

from lab.connection_config import SshHost, SshJump
from lab.emulator_config import LoopbackEmulator
from lab.emulators.sshd import LoopbackSshd
from lab.errors import HostKeyUnknown, TransportError
from lab.transports.local import LocalRemote
from lab.transports.remote import Remote
from lab.transports.remote_push import push_all
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

SECTION = LoopbackEmulator(kind="sshd")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with LoopbackSshd(SECTION, tmp_path_factory.mktemp("cache")) as server:
        yield server.start()


@pytest.fixture
def ssh(host: SshHost) -> Iterator[Ssh]:
    with open_ssh(host) as remote:
        yield remote


@pytest.fixture
def own() -> str:
    return f"3600.{uuid.uuid4().int % 10**12}"


@pytest.fixture(params=["ssh", "local"])
def remote(request: pytest.FixtureRequest, host: SshHost) -> Iterator[Remote]:
    opened: Remote = open_ssh(host) if request.param == "ssh" else LocalRemote()
    yield opened
    opened.close()


def test_arguments_arrive_as_they_are(remote: Remote) -> None:
    conformance.check_arguments_arrive(remote)


def test_statuses_are_those_of_shells(remote: Remote) -> None:
    conformance.check_statuses(remote)


def test_streams_carry_any_bytes(remote: Remote) -> None:
    conformance.check_streams(remote)


def test_a_command_is_spoken_to(remote: Remote) -> None:
    conformance.check_conversation(remote)


def test_last_words(remote: Remote) -> None:
    conformance.check_last_words(remote)


def test_what_does_not_end_is_killed_with_all_it_started(remote: Remote, own: str) -> None:
    conformance.check_timeout_kills(remote, own)


def test_kill_reaches_what_ignores_signals(remote: Remote, own: str) -> None:
    conformance.check_kill(remote, own)


def test_files_by_digest(remote: Remote, tmp_path: Path) -> None:
    conformance.check_files(remote, str(tmp_path / "device"), tmp_path)


def test_files_that_cannot_be(remote: Remote, tmp_path: Path) -> None:
    conformance.check_file_refusals(remote, str(tmp_path / "device"), tmp_path)


def test_hostile_names(remote: Remote, tmp_path: Path) -> None:
    conformance.check_hostile_names(remote, str(tmp_path / "device"), tmp_path)


def test_close_ends_what_runs(remote: Remote, own: str) -> None:
    conformance.check_close_ends_all(remote, LocalRemote(), own)


def test_several_files_at_once(ssh: Ssh, tmp_path: Path) -> None:
    files = [(tmp_path / f"file{number}", f"{ssh.folder}/at-once/{number}") for number in range(12)]
    for number, (source, _) in enumerate(files):
        source.write_bytes(bytes([number]) * (50_000 + number))
    pushed = push_all(ssh, files)
    assert [(one.path, one.sent_bytes) for one in pushed] == [(to, 50_000 + n) for n, (_, to) in enumerate(files)]
    listed = ssh.run(("sh", "-c", f"cd {ssh.folder}/at-once && wc -c *")).text.split()
    assert listed[: 2 * len(files)][1::2] == sorted(str(number) for number in range(12))


def test_a_relative_destination_is_in_the_home(ssh: Ssh, host: SshHost) -> None:
    home = ssh.run(("pwd",)).text
    relative = host.model_copy(update={"folder": ".cache/lab-test"})
    with open_ssh(relative) as other:
        assert other.folder == f"{home}/.cache/lab-test"


def test_threads_share_a_connection(ssh: Ssh) -> None:
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        for _ in range(5):
            answers[number] = ssh.run(("echo", str(number))).stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    with_stream = ssh.start(("cat",))
    for thread in threads:
        thread.start()
    for number in range(20):
        with_stream.write(bytes([number]))
        assert conformance.read_all(with_stream, 1) == bytes([number])
    for thread in threads:
        thread.join()
    assert answers == {number: f"{number}\n".encode() for number in range(6)}


def test_through_a_jump_host(host: SshHost, tmp_path: Path) -> None:
    """A second server with keys of its own; tests/emulated/test_ssh_jump.py has one that nothing else leads to."""
    with contextlib.ExitStack() as servers:
        door = servers.enter_context(LoopbackSshd(SECTION, tmp_path)).start()
        way = servers.enter_context(TcpProxy(str(door.host), door.port))
        assert (door.key, door.host_key, door.port) != (host.key, host.host_key, host.port)
        jump = SshJump(host="127.0.0.1", port=way.port, user=door.user, key=door.key, host_key=door.host_key)
        with open_ssh(host.model_copy(update={"jump": jump})) as remote:
            assert remote.run(("echo", "there")).text == "there"
            before = way.forwarded
            remote.run(("cat",), stdin=bytes(100_000))
            assert way.forwarded - before > 100_000


def test_a_jump_host_must_be_known_as_well(host: SshHost, tmp_path: Path) -> None:
    jump = SshJump(host="127.0.0.1", port=host.port, user=host.user, key=host.key)
    with pytest.raises(HostKeyUnknown, match="not known yet"):
        open_ssh(host.model_copy(update={"jump": jump, "known_hosts": str(tmp_path / "known_hosts")}))


def test_an_agent_logs_in(host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = subprocess.Popen(("ssh-agent", "-D", "-a", str(tmp_path / "agent")), stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        by_agent = host.model_copy(update={"key": None, "agent": True})
        with pytest.raises(TransportError, match="no key, no agent"):
            open_ssh(by_agent)
        subprocess.run(("ssh-add", "-q", str(host.key)), check=True, stderr=subprocess.DEVNULL)
        with open_ssh(by_agent) as remote:
            assert remote.run(("echo", "in")).text == "in"
    finally:
        agent.kill()
        agent.communicate()


def test_fingerprint_and_known_hosts_name_the_same_key(host: SshHost, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text(f"{host.host_key}\n")
    told = subprocess.run(("ssh-keygen", "-lf", key), capture_output=True, text=True, check=True)
    fingerprint = told.stdout.split()[1]
    with open_ssh(host.model_copy(update={"host_key": fingerprint})) as remote:
        assert remote.run(("true",)).status == 0
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{host.port} {host.host_key}\n")
    for hashed in (False, True):
        if hashed:
            subprocess.run(("ssh-keygen", "-q", "-H", "-f", known), check=True, capture_output=True)
            assert "127.0.0.1" not in known.read_text()
        with open_ssh(host.model_copy(update={"host_key": None, "known_hosts": str(known)})) as remote:
            assert remote.run(("true",)).status == 0


def test_the_server_starts_clean_and_leaves_nothing(tmp_path: Path) -> None:
    server = LoopbackSshd(SECTION, tmp_path)
    assert server.version.startswith("OpenSSH")
    first = server.start()
    with open_ssh(first) as remote:
        remote.run(("mkdir", "-p", f"{remote.folder}/left"))
        assert remote.run(("sh", "-c", 'echo "$HOME"')).text == remote.folder
    folder = Path(str(first.folder)).parent
    assert "Accepted publickey" in server.console()
    second = server.start()
    assert not folder.exists()
    assert second.host_key != first.host_key
    assert os.listdir(str(second.folder)) == []
    server.check_alive()
    server.stop()
    server.stop()
    assert not Path(str(second.folder)).parent.exists()
    assert list(tmp_path.iterdir()) == []
