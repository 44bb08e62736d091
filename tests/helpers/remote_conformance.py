"""What every remote must do, whichever way it reaches its device: run against SSH, ADB and this computer alike."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from lab.errors import ConfigError, InfrastructureError, TransportError
from lab.transports.remote import Remote, RemoteProcess
from lab.transports.remote_files import RemoteFiles

ODD_WORDS = (
    "a b", "it's", '"', "$HOME", "`id`", "*", "\\", "\\n", "", "-n", "#", ";", "&&", "\n", "x\ty", "é", "~", "!",
)  # fmt: skip


def read_all(process: RemoteProcess, size: int, silence_s: float = 20.0) -> bytes:
    """Exactly ``size`` bytes of what a process prints."""
    data = b""
    while len(data) < size:
        got = process.read(silence_s)
        assert got, f"nothing came for {silence_s} s after {len(data)} bytes"
        data += got
    assert len(data) == size
    return data


def gone(remote: Remote, argument: str) -> bool:
    """Whether no process has an argument any more; waits a while for that."""
    find = f"grep -ls '[{argument[0]}]{argument[1:]}' /proc/[0-9]*/cmdline"
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if remote.run(("sh", "-c", find)).stdout == b"":
            return True
    return False


def check_arguments_arrive(remote: Remote) -> None:
    done = remote.run(("printf", "%s|", *ODD_WORDS))
    assert done.stdout.decode() == "".join(f"{word}|" for word in ODD_WORDS)
    with pytest.raises(ConfigError, match="zero byte"):
        remote.run(("echo", "a\0b"))
    with pytest.raises(ConfigError, match="list of a program"):
        remote.run(())


def check_statuses(remote: Remote) -> None:
    assert remote.run(("true",)).status == 0
    assert remote.run(("sh", "-c", "exit 7")).status == 7
    assert remote.run(("sh", "-c", "kill -SEGV $$")).status == 128 + signal.SIGSEGV
    assert remote.run(("sh", "-c", "kill -KILL $$")).status == 128 + signal.SIGKILL
    missing = remote.run(("no-such-program-here",))
    assert missing.status == 127
    assert b"no-such-program-here" in missing.stderr + missing.stdout


def check_streams(remote: Remote) -> None:
    done = remote.run(("sh", "-c", "cat; echo why >&2"), stdin=b"in\0put")
    assert (done.status, done.stdout, done.stderr) == (0, b"in\0put", b"why\n")
    # More than any window or pipe holds, both ways at once.
    much = os.urandom(3 << 20)
    assert remote.run(("cat",), stdin=much).stdout == much
    # What a command does not read, it does not need.
    assert remote.run(("true",), stdin=much).status == 0


def check_conversation(remote: Remote) -> None:
    process = remote.start(("cat",))
    every_byte = bytes(range(256)) * 64
    process.write(every_byte)
    assert read_all(process, len(every_byte)) == every_byte
    assert process.poll() is None
    assert process.read(0.0) == b""
    process.end_input()
    assert process.wait(20.0) == 0
    with pytest.raises(TransportError, match="cat"):
        process.read(5.0)
    assert process.poll() == 0
    process.close()
    process.close()
    process.kill()


def check_last_words(remote: Remote) -> None:
    process = remote.start(("sh", "-c", "echo out; echo last words >&2; exit 3"))
    assert process.wait(20.0) == 3
    assert read_all(process, 4) == b"out\n"
    with pytest.raises(TransportError):
        process.read(5.0)
    assert process.stderr_tail().strip() == "last words"
    process.close()


def check_timeout_kills(remote: Remote, own: str) -> None:
    """``own`` is an argument no other process has."""
    stubborn = f"trap '' TERM HUP INT; setsid sleep {own} & env -i sleep {own} & sleep {own}"
    with pytest.raises(TransportError, match=r"did not end within 0\.5 s; .* killed") as caught:
        remote.run(("sh", "-c", stubborn), timeout_s=0.5)
    assert caught.value.transient
    assert gone(remote, own)


def check_kill(remote: Remote, own: str) -> None:
    """``own`` is an argument no other process has."""
    process = remote.start(("sh", "-c", f"trap '' TERM HUP; sleep {own} & echo ready; sleep {own}"))
    assert read_all(process, 6) == b"ready\n"
    process.kill()
    assert gone(remote, own)
    process.kill()


def check_files(remote: Remote, folder: str, here: Path) -> None:
    """``folder`` on the device need not be there yet."""
    data = os.urandom(300_000)
    source = here / "source"
    source.write_bytes(data)
    path = f"{folder}/new/it's a \\ file"
    first = remote.push(source, path, executable=True)
    assert (first.path, first.size_bytes, first.sent_bytes) == (path, len(data), len(data))
    assert remote.push(source, path, executable=True).sent_bytes == 0
    digest = remote.run(("sh", "-c", 'sha256sum <"$1"', "sh", path)).text.split()[0]
    assert digest == hashlib.sha256(data).hexdigest()
    assert remote.run(("sh", "-c", 'test -x "$1"', "sh", path)).status == 0
    # The same size, other bytes.
    source.write_bytes(data[::-1])
    assert remote.push(source, path).sent_bytes == len(data)
    assert remote.run(("sh", "-c", 'test -x "$1"', "sh", path)).status == 1
    back = here / "back"
    remote.pull(path, back)
    assert back.read_bytes() == data[::-1]
    # Nothing is left beside it.
    assert remote.run(("ls", "-A", f"{folder}/new")).text == "it's a \\ file"
    empty = here / "empty"
    empty.write_bytes(b"")
    assert remote.push(empty, f"{folder}/empty").size_bytes == 0
    remote.pull(f"{folder}/empty", back)
    assert back.read_bytes() == b""


def check_file_refusals(remote: Remote, folder: str, here: Path) -> None:
    source = here / "small"
    source.write_bytes(b"x")
    with pytest.raises(ConfigError, match="missing"):
        remote.push(here / "missing", f"{folder}/x")
    with pytest.raises(InfrastructureError, match="proc"):
        remote.push(source, "/proc/no/such/place")
    target = here / "kept"
    target.write_bytes(b"kept")
    with pytest.raises(TransportError, match="nowhere"):
        remote.pull(f"{folder}/nowhere", target)
    assert target.read_bytes() == b"kept"
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []


HOSTILE_NAMES = (
    "-n", "--help", "..a", "$(touch stolen)", "`touch stolen`", "; touch stolen", "a\nb", "a\x1b[2Jb", "a\u202eb", " ",
    "*",
)  # fmt: skip
"""Names a file of a device may have."""


def check_hostile_names(remote: Remote, folder: str, here: Path) -> None:
    """What a device calls its files neither chooses a place on this computer nor runs anything, here or there."""
    inbox, outside = here / "inbox", here / "outside"
    inbox.mkdir()
    outside.write_bytes(b"mine")
    source = here / "hostile"
    source.write_bytes(b"theirs")
    for name in HOSTILE_NAMES:
        remote.push(source, f"{folder}/deep/{name}")
        remote.pull(f"{folder}/deep/{name}", inbox / "fetched")
        remote.pull(f"{folder}/deep/../deep/{name}", inbox / "fetched")
    assert (inbox / "fetched").read_bytes() == b"theirs"
    files = RemoteFiles(remote)
    try:
        whole = sorted(name for name in HOSTILE_NAMES if "\n" not in name)
        # A line end in a name makes two names, of which neither is there; no name is lost or made a command.
        assert files.names(f"{folder}/deep") == sorted([*whole, "a", "b"])
        assert [files.read_text(f"{folder}/deep/{name}") for name in HOSTILE_NAMES] == ["theirs"] * len(HOSTILE_NAMES)
    finally:
        files.close()
    # A link there is followed there; a link here is replaced, and what it leads to is left alone.
    remote.run(("ln", "-s", f"{folder}/deep/..a", f"{folder}/link"))
    (inbox / "link").symlink_to(outside)
    remote.pull(f"{folder}/link", inbox / "link")
    assert not (inbox / "link").is_symlink()
    assert (inbox / "link").read_bytes() == b"theirs"
    assert outside.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="zero byte"):
        remote.pull(f"{folder}/deep/a\0b", inbox / "fetched")
    with pytest.raises(TransportError) as error:
        remote.pull(f"{folder}/no\x1b[2J\u202ething", inbox / "fetched")
    assert "\x1b" not in str(error.value)
    assert "\u202e" not in str(error.value)
    assert sorted(path.name for path in inbox.iterdir()) == ["fetched", "link"]
    assert list(here.rglob("stolen")) == []
    assert remote.run(("sh", "-c", 'ls -d stolen "$1"/stolen "$1"/*/stolen', "sh", folder)).status != 0


def check_close_ends_all(remote: Remote, other: Remote, own: str) -> None:
    """``other`` reaches the same device; ``own`` is an argument no other process has."""
    process = remote.start(("sh", "-c", f"trap '' TERM HUP; echo ready; sleep {own}"))
    assert read_all(process, 6) == b"ready\n"
    remote.close()
    remote.close()
    assert gone(other, own)
    with pytest.raises(TransportError):
        process.read(1.0)
