"""Dropbear, the server of small boards: commands get no session of their own, channels that end are mixed up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import remote_conformance as conformance

from lab.connection_config import SshHost
from lab.errors import TransportError
from lab.transports.local import LocalRemote
from lab.transports.remote_files import RemoteFiles
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

if shutil.which("dropbear") is None or os.geteuid() != 0:
    # It reads keys from the user's home and nowhere else; only root can put another folder there.
    pytest.skip("dropbear is not installed, or this is not root", allow_module_level=True)

OWN = "3600.141421"
_READY = b"Not backgrounding"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """A dropbear of our own, which sees a home of our own in the place of root's."""
    folder = tmp_path_factory.mktemp("dropbear")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"), check=True)
    shutil.copy(folder / "key.pub", home / ".ssh/authorized_keys")
    made = subprocess.run(
        ("dropbearkey", "-t", "ed25519", "-f", folder / "host_key"), check=True, capture_output=True, text=True
    )
    (public,) = [line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = f"exec dropbear -F -E -s -m -p 127.0.0.1:{port} -r {folder}/host_key -P {folder}/pid"
    server = subprocess.Popen(
        ("unshare", "-m", "sh", "-c", f"mount --bind {home} /root && {command}"), stderr=subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        assert _READY in said, said
        yield SshHost(
            host="127.0.0.1", port=port, user="root", key=str(folder / "key"),
            host_key=" ".join(public.split()[:2]), folder=str(folder / "device"),
        )  # fmt: skip
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def ssh(host: SshHost) -> Iterator[Ssh]:
    with open_ssh(host) as remote:
        yield remote


def test_all_that_a_remote_must_do(ssh: Ssh, host: SshHost, tmp_path: Path) -> None:
    conformance.check_arguments_arrive(ssh)
    conformance.check_statuses(ssh)
    conformance.check_streams(ssh)
    conformance.check_conversation(ssh)
    conformance.check_last_words(ssh)
    conformance.check_files(ssh, str(tmp_path / "device"), tmp_path)
    conformance.check_timeout_kills(ssh, OWN)
    conformance.check_kill(ssh, OWN + "1")
    conformance.check_close_ends_all(ssh, LocalRemote(), OWN + "2")


def test_commands_of_several_threads_beside_one_that_stays(ssh: Ssh) -> None:
    """Opening a channel while another ends kills dropbear 2022.83: 1 of 50 such commands without turns."""
    failed: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(25):
                assert ssh.run(("true",)).status == 0
        except (TransportError, AssertionError) as error:
            failed.append(error)

    stays, files = ssh.start(("cat",)), RemoteFiles(ssh)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        stays.write(bytes([number]))
        assert conformance.read_all(stays, 1) == bytes([number])
        assert float(files.read_text("/proc/uptime").split()[0]) > 0
    for thread in threads:
        thread.join()
    assert failed == []
    files.close()
