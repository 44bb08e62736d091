"""Keys of SSH: which key a host must show, and with which ones a user logs in. Nothing is ever trusted silently."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from lab.config_fields import Text, reveal
from lab.connection_config import SshHost, SshJump
from lab.errors import ConfigError, HostKeyChanged, HostKeyUnknown

# What ssh itself tries where its user names no key (ssh_config(5), IdentityFile).
_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")
# Servers end a connection after six tries (sshd_config(5), MaxAuthTries).
_MOST_AGENT_KEYS = 5
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
_FINGERPRINT = "SHA256:"


@dataclass(frozen=True)
class Expected:
    """Which key a host must show.

    Attributes:
        keys: the keys it may show; empty where only a fingerprint is known, or nothing.
        fingerprint: ``SHA256:…``, else empty.
        revoked: keys that it must not show, base64.
        said_by: who says so, for errors.
    """

    keys: tuple[paramiko.PKey, ...]
    fingerprint: str
    revoked: tuple[str, ...]
    said_by: str

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Signature algorithms of the keys that are known: a server with several keys is to show one of these."""
        return tuple(name for key in self.keys for name in _ALGORITHMS.get(key.get_name(), (key.get_name(),)))


def shown(value: Text) -> str:
    """A setting for a name or an error; what came from ``!env`` stays hidden."""
    return str(value)


def host_label(host: SshHost | SshJump) -> str:
    """A host as ``known_hosts`` names it."""
    name = reveal(host.host)
    return name if host.port == 22 else f"[{name}]:{host.port}"


def expected_key(host: SshHost | SshJump, known_hosts: Text | None) -> Expected:
    """Which key a host must show, by its entry or by ``known_hosts``.

    Raises:
        ConfigError: ``host_key`` is neither a key nor a fingerprint, or a ``known_hosts`` file cannot be read.
    """
    if host.host_key is not None:
        return _pinned(reveal(host.host_key))
    path = Path(reveal(known_hosts) if known_hosts is not None else "~/.ssh/known_hosts").expanduser()
    if not path.exists():
        return Expected((), "", (), str(path))
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as known_hosts: {error}") from error
    return Expected(tuple(_keys_of(host_label(host), lines)), "", tuple(_revoked(lines)), str(path))


def _keys_of(label: str, lines: Sequence[str]) -> Iterator[paramiko.PKey]:
    """Keys of a host; lines that nobody can read are passed over, as ssh does."""
    for line in lines:
        if line.startswith(("#", "@")) or len(line.split()) < 3:
            continue
        try:
            entry = paramiko.hostkeys.HostKeyEntry.from_line(" ".join(line.split()))
        except (paramiko.hostkeys.InvalidHostKey, paramiko.SSHException, ValueError):
            continue
        if entry is not None and entry.key is not None and any(_names(name, label) for name in entry.hostnames or ()):
            yield entry.key


def _names(name: str, label: str) -> bool:
    """Whether a name in known_hosts, plain or hashed, is a host's."""
    return name == label or (name.startswith("|1|") and paramiko.HostKeys.hash_host(label, name) == name)


def _revoked(lines: Sequence[str]) -> Iterator[str]:
    # sshd(8), known_hosts: the marker, the hosts, the type, the key. A revoked key is refused of whichever host.
    for line in lines:
        words = line.split()
        if len(words) > 3 and words[0] == "@revoked":
            yield words[3]


def _pinned(text: str) -> Expected:
    if text.startswith(_FINGERPRINT):
        return Expected((), text.rstrip("="), (), "host_key")
    words = text.split()
    try:
        if len(words) < 2:
            raise ValueError("it has one word")
        blob = base64.b64decode(words[1], validate=True)
        key = paramiko.PKey.from_type_string(words[0], blob)
    except (ValueError, binascii.Error, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise ConfigError(
            f"host_key: {text[:40]!r} is no public key: {error}",
            hint="allowed: `ssh-ed25519 AAAA…`, as ssh-keyscan prints it behind the host, or a fingerprint SHA256:…",
        ) from error
    return Expected((key,), "", (), "host_key")


def check_host_key(key: paramiko.PKey, expected: Expected, host: SshHost | SshJump, origin: str) -> None:
    """Compare the key a host shows with the one it must have.

    Raises:
        HostKeyUnknown: nobody said which; carries the lines to add.
        HostKeyChanged: it is another one, or a revoked one.
    """
    place = f"{origin}: " if origin else ""
    who = f"{place}{shown(host.host)} port {host.port}"
    fingerprint = key.fingerprint
    if key.get_base64() in expected.revoked:
        raise HostKeyChanged(f"{who} shows a key that {expected.said_by} revokes: {fingerprint}")
    if not expected.keys and not expected.fingerprint:
        raise HostKeyUnknown(
            f"{who} is not known yet: it shows the {key.get_name()} key with fingerprint {fingerprint}, and neither "
            f"host_key nor {expected.said_by} says which it must have",
            hint=_lines_to_add(key, host),
        )
    if fingerprint == expected.fingerprint or any(key == known for known in expected.keys):
        return
    wanted = expected.fingerprint or " or ".join(f"{one.get_name()} {one.fingerprint}" for one in expected.keys)
    raise HostKeyChanged(
        f"{who} shows another key than it must have: found {key.get_name()} {fingerprint}, {expected.said_by} allows "
        f"{wanted}; either the device was set up anew, or somebody else answers in its place",
        hint=f"if you know why it changed, replace the old entry. {_lines_to_add(key, host)}",
    )


def _lines_to_add(key: paramiko.PKey, host: SshHost | SshJump) -> str:
    line = f"{key.get_name()} {key.get_base64()}"
    file_line = "" if shown(host.host) != reveal(host.host) else f"; in known_hosts: {host_label(host)} {line}"
    return (
        f"compare with what `ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` says on the device itself, then add to its "
        f"entry: host_key: {line}{file_line}"
    )


def load_key(path: Text) -> paramiko.PKey:
    """A private key from its file.

    Raises:
        ConfigError: the file is not there, may not be read, is encrypted or is no key.
    """
    place = f"key {shown(path)}"
    try:
        return paramiko.PKey.from_path(str(Path(reveal(path)).expanduser()))
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror}", hint="make one with `ssh-keygen -t ed25519`") from error
    except (TypeError, paramiko.PasswordRequiredException) as error:
        raise ConfigError(
            f"{place} is encrypted", hint="add it to an agent with `ssh-add`, and write agent: true instead of key:"
        ) from error
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise ConfigError(f"{place} is no private key that can be used", hint="allowed: Ed25519, ECDSA, RSA") from error


def user_keys(key: Text | None, agent: bool, password: bool) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys to log in with, and what to call them: the file, then the agent's.

    Where neither is asked for and there is no password, it is the agent and the user's usual files, as ssh has it.

    Raises:
        ConfigError: as :func:`load_key`.
    """
    usual = key is None and not agent and not password
    if key is not None:
        yield f"key {shown(key)}", load_key(key)
    if agent or usual:
        yield from (("the agent's " + one.get_name(), one) for one in _agent_keys())
    for name in _IDENTITIES if usual else ():
        path = Path("~/.ssh", name).expanduser()
        # A usual file that cannot be used is no error: nobody asked for it.
        with contextlib.suppress(ConfigError):
            yield f"key {path}", load_key(str(path))


def _agent_keys() -> Sequence[paramiko.PKey]:
    try:
        return paramiko.Agent().get_keys()[:_MOST_AGENT_KEYS]
    except paramiko.SSHException:
        return ()
