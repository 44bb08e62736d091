"""Keys of SSH from files and bench entries: each that cannot be used says why."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from lab.connection_config import SshHost
from lab.errors import ConfigError, HostKeyChanged, HostKeyUnknown, ToolMissing
from lab.transports.ssh import open_ssh
from lab.transports.ssh_keys import check_host_key, expected_key, load_key, shown, user_keys


def _make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """A key pair; gives the public part as `host_key:` has it."""
    subprocess.run(("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path), check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def _host(**changes: object) -> SshHost:
    return SshHost(host="pi.example", user="me").model_copy(update=changes)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_kinds_of_keys(tmp_path: Path, kind: str) -> None:
    public = _make_key(tmp_path / "key", kind)
    key = load_key(str(tmp_path / "key"))
    assert f"{key.get_name()} {key.get_base64()}" == public
    host = _host(host_key=public)
    expected = expected_key(host, None)
    check_host_key(key, expected, host, "")
    check_host_key(key, expected_key(_host(host_key=key.fingerprint), None), host, "")
    algorithms = {"ed25519": "ssh-ed25519", "ecdsa": "ecdsa-sha2-nistp256", "rsa": "rsa-sha2-512"}
    assert expected.algorithms[0] == algorithms[kind]


def test_key_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key .*missing: No such file"):
        load_key(str(tmp_path / "missing"))
    (tmp_path / "text").write_text("not a key")
    with pytest.raises(ConfigError, match="no private key"):
        load_key(str(tmp_path / "text"))
    for kind in ("ed25519", "rsa"):
        _make_key(tmp_path / kind, kind, "secret words")
        with pytest.raises(ConfigError, match=f"key .*{kind} is encrypted") as caught:
            load_key(str(tmp_path / kind))
        assert "agent" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "ssh-nonsense AAAAC3Nz", "md5:aa"]
)
def test_host_keys_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"host_key: .* is no public key") as caught:
        expected_key(_host(host_key=text), None)
    assert "ssh-keyscan" in caught.value.hint


def test_lines_of_known_hosts(tmp_path: Path) -> None:
    good, other = _make_key(tmp_path / "good"), _make_key(tmp_path / "other")
    rsa = _make_key(tmp_path / "rsa", "rsa")
    key = load_key(str(tmp_path / "good"))
    known = tmp_path / "known_hosts"
    known.write_text(
        "# a comment\n\n"
        "pi.example ssh-ed25519 damaged!\n"
        "pi.example\n"
        "@cert-authority *.example ssh-ed25519 AAAA\n"
        f"other.example {other}\n"
        f"name,pi.example\t{good} me@here\n"
        f"pi.example {rsa}\n"
        f"[pi.example]:2222 {other}\n"
    )
    expected = expected_key(_host(), str(known))
    assert {one.get_name() for one in expected.keys} == {"ssh-ed25519", "ssh-rsa"}
    check_host_key(key, expected, _host(), "")
    with pytest.raises(HostKeyChanged, match="ssh-ed25519 SHA256"):
        check_host_key(key, expected_key(_host(port=2222), str(known)), _host(port=2222), "bench.yaml:3")
    with pytest.raises(HostKeyUnknown):
        check_host_key(key, expected_key(_host(port=23), str(known)), _host(port=23), "")
    known.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable as known_hosts"):
        expected_key(_host(), str(known))


def test_a_host_from_the_environment_stays_hidden(tmp_path: Path) -> None:
    _make_key(tmp_path / "key")
    host = _host(host=SecretStr("hidden.example"))
    with pytest.raises(HostKeyUnknown) as caught:
        check_host_key(load_key(str(tmp_path / "key")), expected_key(host, str(tmp_path / "none")), host, "")
    assert "hidden" not in str(caught.value)
    assert shown(host.host) == "**********"


def test_where_nothing_is_named_the_usual_files_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    _make_key(tmp_path / ".ssh/id_rsa", "rsa", "secret words")
    _make_key(tmp_path / ".ssh/id_ecdsa", "ecdsa")
    assert [label for label, _ in user_keys(None, False, False)] == [f"key {tmp_path}/.ssh/id_ecdsa"]
    assert list(user_keys(None, False, True)) == []
    assert [label for label, _ in user_keys("~/.ssh/id_ecdsa", False, True)] == ["key ~/.ssh/id_ecdsa"]


def test_without_paramiko_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissing, match="paramiko is not installed") as caught:
        open_ssh(_host())
    assert "pip install" in caught.value.hint
