"""Keys of the emulated devices: made once per cache, never part of an image, never committed.

All guests of a cache share one host key and one user's key, because a saved state has them inside. They open nothing
but emulated devices that listen on the loopback address.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.emulators.linux.cpio import Initramfs
from lab.emulators.linux.packages import linux_cache, locked
from lab.errors import ToolMissing

_HOST, _USER = "ssh_host_ed25519_key", "id_ed25519"
USERS = (("root", "root", 0), ("lab", "home/lab", 1000))
"""Who may log in: name, home folder, user number."""


@dataclass(frozen=True)
class Keys:
    """Where they lie.

    Attributes:
        host_private: the guests' own key.
        host_public: its public half as ``ssh-ed25519 AAAA…``.
        user_private: file of the key that logs in.
        user_public: its public half.
    """

    host_private: Path
    host_public: str
    user_private: Path
    user_public: str


def keys(cache: Path) -> Keys:
    """The keys of a cache, made when they are first asked for.

    Raises:
        ToolMissing: the package cryptography is not installed and they have to be made.
    """
    folder = linux_cache(cache) / "keys"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / "keys.lock"):
        public = [_public_half(folder / name) for name in (_HOST, _USER)]
    return Keys(folder / _HOST, public[0], folder / _USER, public[1])


def _public_half(private: Path) -> str:
    public = private.with_suffix(".pub")
    # The public half is written last: without it a pair is not complete.
    if not public.exists():
        _make(private, public)
    return public.read_text().strip()


def _make(private: Path, public: Path) -> None:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "the package cryptography is not installed: emulated Linux devices need keys to be logged in to",
            hint="pip install 'hil-lab[ssh]'",
        ) from error
    pair = Ed25519PrivateKey.generate()
    private.unlink(missing_ok=True)
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pair.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(pair.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")


def keys_archive(pair: Keys) -> bytes:
    """A second archive for the guest's initial file system, with its host key and who may log in."""
    system = Initramfs()
    system.file(f"etc/ssh/{_HOST}", pair.host_private.read_bytes(), 0o600)
    for _, home, number in USERS:
        system.folder(home, 0o700, owner=number)
        system.folder(f"{home}/.ssh", 0o700, owner=number)
        system.file(f"{home}/.ssh/authorized_keys", f"{pair.user_public}\n".encode(), 0o600, owner=number)
    return system.finish()
