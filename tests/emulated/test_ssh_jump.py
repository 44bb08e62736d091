"""A device behind a jump host: two servers with keys, users and ports of their own, one reached through the other."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.connection_config import SshHost, SshJump
from lab.emulator_config import GuestEmulator
from lab.emulators.linux.guest import Guest
from lab.errors import HostKeyChanged, InfrastructureError, TransportError
from lab.inventory import load_board
from lab.paths import cache_dir, config_dir
from lab.transports.ssh import open_ssh

INNER_PORT = 2222
SETTINGS = f"""Port {INNER_PORT}
ListenAddress 127.0.0.1
HostKey /run/inner/host_key
AuthorizedKeysFile /run/inner/user_key.pub
StrictModes no
PidFile none
AllowUsers lab
"""


def make_key(path: Path) -> Path:
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path), check=True)
    return path


@pytest.fixture(scope="module")
def inner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """A server on the loopback address of an emulated Raspberry Pi, behind the Pi's own."""
    (section,) = load_board(config_dir() / "boards" / "raspberry-pi-4.yaml").emulators
    assert isinstance(section, GuestEmulator)
    folder = tmp_path_factory.mktemp("keys")
    host_key, user_key = make_key(folder / "host_key"), make_key(folder / "user_key")
    public = {key.name: Path(f"{key}.pub").read_text() for key in (host_key, user_key)}
    files = {"host_key": host_key.read_text(), "user_key.pub": public["user_key"], "settings": SETTINGS}
    with Guest(section, cache_dir()) as pi:
        script = ["umask 077", "mkdir /run/inner"]
        script += [f"printf %s {shlex.quote(text)} >/run/inner/{name}" for name, text in files.items()]
        # Its key is looked up with the rights of who logs in. Without -D it is in the background once it listens.
        script += ["chmod 755 /run/inner", "chmod 644 /run/inner/*.pub", "/usr/sbin/sshd -f /run/inner/settings"]
        pi.run(" && ".join(script))
        outer = pi.address_of_ssh()
        yield SshHost(
            host="127.0.0.1", port=INNER_PORT, user="lab", key=str(user_key),
            host_key=" ".join(public["host_key"].split()[:2]),
            jump=SshJump(host=outer.host, port=outer.port, user=outer.user, key=outer.key, host_key=outer.host_key),
        )  # fmt: skip


def test_what_only_the_jump_host_reaches_is_reached(inner: SshHost) -> None:
    with open_ssh(inner) as remote:
        assert remote.run(("id", "-un")).text == "lab"
        assert remote.run(("cat", "/sys/firmware/devicetree/base/model")).text.startswith("Raspberry Pi 4")
        assert remote.run(("cat",), stdin=bytes(range(256)) * 40).stdout == bytes(range(256)) * 40


def test_without_the_jump_host_it_is_not_reached(inner: SshHost) -> None:
    with pytest.raises(InfrastructureError):
        open_ssh(inner.model_copy(update={"jump": None}))


def test_each_server_has_a_key_and_a_user_of_its_own(inner: SshHost) -> None:
    jump = inner.jump
    assert jump is not None
    with pytest.raises(HostKeyChanged, match="port 2222 shows another key"):
        open_ssh(inner.model_copy(update={"host_key": jump.host_key}))
    with pytest.raises(HostKeyChanged, match=f"port {jump.port} shows another key"):
        open_ssh(inner.model_copy(update={"jump": jump.model_copy(update={"host_key": inner.host_key})}))
    with pytest.raises(TransportError, match="port 2222 does not let lab in"):
        open_ssh(inner.model_copy(update={"key": jump.key}))
