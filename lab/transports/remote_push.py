"""Files to and from a device by nothing but its shell: ``cat``, ``sha256sum``, ``mv`` and ``df``.

GNU, busybox and Android's toybox have these, while an SFTP server may be missing. A file goes to a name with its
digest in it beside the destination, is compared there and renamed over it: whoever looks sees the old file or the
new one, whole. What a lost connection left of such a file is compared as well, and continued where it is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.errors import ConfigError, DiskFull, InfrastructureError, TransportError
from lab.transports.remote import Pushed, Remote, RemoteProcess
from lab.units import format_quantity

_CHUNK = 1 << 18
_LOOK_S = 120.0
_SETTLE_S = 300.0
_TRIES = 2
_KIB = 1024
# One connection allows ten commands at once (sshd_config(5), MaxSessions); a runner and sensors want some of them.
_AT_ONCE = 4
_FULL = ("o space left", "uota exceeded", "ile too large")
MAKE_ROOM = "remove old builds on the device (`builds` in its folder), or name a `folder:` on a larger disk"
_STATE, _MOVED, _DAMAGED = "lab-state", "lab-moved", "lab-damaged"

# $1 destination, $2 its name while it is sent, $3 size, $4 digest, $5 mode. A file of another size is not read.
# Files are read on standard input: names with a backslash change how sha256sum writes its line.
_LOOK = f"""d=${{1%/*}}; [ "$d" = "$1" ] && d=.
mkdir -p -- "$d" || exit 1
cd -- "$d" || exit 1
size() {{ wc -c <"$1" 2>/dev/null || echo 0; }}
digest() {{ sha256sum <"$1" | cut -c1-64; }}
n=${{1##*/}}; p=${{2##*/}}; h=-; s=-; k=0
if [ -f "$n" ] && [ "$(($(size "$n")))" = "$3" ]; then h=$(digest "$n"); [ "$h" = "$4" ] && chmod "$5" -- "$n"; fi
if [ "$h" != "$4" ] && [ -f "$p" ]; then k=$(($(size "$p"))); s=$(digest "$p"); fi
f=$(df -Pk . 2>/dev/null | tail -n 1); set -- $f
echo "{_STATE} $h $k $s ${{4:--}}"
pwd"""

# $1 destination, $2 its name while it is sent, $3 size, $4 digest, $5 mode, $6 whether to begin anew. The end of a
# connection looks like the end of the file: what is too short is kept, to be continued.
_TAKE = f"""[ "$6" = new ] && {{ : >"$2" || exit 1; }}
cat >>"$2" || {{ rm -f -- "$2"; exit 1; }}
n=$(wc -c <"$2") || exit 1
[ "$n" -lt "$3" ] && exit 1
h=$(sha256sum <"$2" | cut -c1-64)
[ -n "$h" ] || exit 1
if [ "$h" != "$4" ]; then rm -f -- "$2"; echo {_DAMAGED}; exit 0; fi
chmod "$5" -- "$2" && mv -f -- "$2" "$1" || exit 1
echo {_MOVED}"""


@dataclass(frozen=True)
class _State:
    """What lies at a destination.

    Attributes:
        digest: of the file there; ``-`` where it is not there or has another size.
        part_bytes, part_digest: of what an earlier push left.
        free_bytes: on its file system, None where ``df`` does not tell.
        folder: where it is, absolute.
    """

    digest: str
    part_bytes: int
    part_digest: str
    free_bytes: int | None
    folder: str


def push_file(remote: Remote, source: Path, destination: str, *, executable: bool = False) -> Pushed:
    """Put a file on a device, whole or not at all, and compare its digest there.

    Args:
        remote: the device.
        source: on this computer.
        destination: there; from the folder in which commands start where it is not absolute.
        executable: whether everybody may run it.

    Raises:
        ConfigError: the source cannot be read.
        DiskFull: no room; says how much is needed and free.
        InfrastructureError: the destination cannot be written, or the file arrived damaged twice.
        TransportError: the connection broke; what was sent is continued by the next push.
    """
    if not destination or destination.endswith("/"):
        raise ConfigError(f"{destination!r} names no file; a destination is a file on the device")
    digest, size = _digest(source)
    mode = "755" if executable else "644"
    part = f"{destination}.{digest[:16]}.part"
    sent = 0
    for _ in range(_TRIES):
        state = _look(remote, destination, part, size, digest, mode)
        path = f"{state.folder.rstrip('/')}/{destination.rpartition('/')[2]}"
        if state.digest == digest:
            return Pushed(path, size, sent)
        begin = state.part_bytes if _continues(source, state, size) else 0
        room = None if state.free_bytes is None else state.free_bytes + (0 if begin else state.part_bytes)
        if room is not None and size - begin > room:
            raise DiskFull(
                f"{path} on {remote.name}: {format_quantity(size - begin, 'bytes')} are to be written, "
                f"{format_quantity(room, 'bytes')} are free",
                hint=MAKE_ROOM,
            )
        sent += size - begin
        if _send(remote, source, begin, (path, f"{path}.{digest[:16]}.part", str(size), digest, mode)):
            return Pushed(path, size, sent)
    raise InfrastructureError(
        f"{path} on {remote.name}: arrived damaged {_TRIES} times; {format_quantity(size, 'bytes')} were sent",
        hint="its disk or memory is failing: `dmesg` on the device tells",
    )


def push_all(remote: Remote, files: Sequence[tuple[Path, str]], *, executable: bool = False) -> list[Pushed]:
    """Push several files at once, some at a time; results in the order of ``files``.

    Raises:
        ConfigError, DiskFull, InfrastructureError, TransportError: as :func:`push_file`, of the first that failed.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="lab-push") as pool:
        running = [pool.submit(push_file, remote, source, to, executable=executable) for source, to in files]
        return [one.result() for one in running]


def pull_file(remote: Remote, source: str, destination: Path) -> None:
    """Fetch a file; the destination appears whole or not at all.

    Raises:
        ConfigError: the destination cannot be written.
        TransportError: it is not there or may not be read, or the connection broke.
    """
    process = remote.start(("cat", "--", source))
    try:
        with replaced(destination) as write:
            _copy_output(process, write)
            if process.wait(_SETTLE_S) != 0:
                raise TransportError(f"{source} on {remote.name}: {process.stderr_tail().strip()}")
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be written: {error.strerror}") from error
    finally:
        process.close()


@contextlib.contextmanager
def replaced(path: Path, mode: int = 0o644) -> Iterator[Callable[[bytes], int]]:
    """Write a file of this computer under another name, which becomes ``path`` unless something is raised."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            yield file.write
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _digest(source: Path) -> tuple[str, int]:
    """SHA-256 and size of a file of this computer."""
    try:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, file.tell()
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error


def _look(remote: Remote, destination: str, part: str, size: int, digest: str, mode: str) -> _State:
    command = ("sh", "-c", _LOOK, "lab", destination, part, str(size), digest, mode)
    done = remote.run(command, timeout_s=_LOOK_S)
    head, _, folder = done.stdout.decode(errors="surrogateescape").partition("\n")
    words = head.split()
    if done.status or len(words) != 5 or words[0] != _STATE:
        raise _refused(remote, destination, done.stderr.decode(errors="replace"))
    free = int(words[4]) * _KIB if words[4].isdigit() else None
    return _State(words[1], int(words[2]), words[3], free, folder.removesuffix("\n"))


def _continues(source: Path, state: _State, size: int) -> bool:
    """Whether what lies there is the beginning of the file."""
    if not 0 < state.part_bytes <= size:
        return False
    left, digest = state.part_bytes, hashlib.sha256()
    with source.open("rb") as file:
        while left and (data := file.read(min(_CHUNK, left))):
            digest.update(data)
            left -= len(data)
    return left == 0 and digest.hexdigest() == state.part_digest


def _send(remote: Remote, source: Path, begin: int, where: Sequence[str]) -> bool:
    """Send a file from ``begin`` on and have it put in its place; False where it arrived damaged."""
    process = remote.start(("sh", "-c", _TAKE, "lab", *where, "on" if begin else "new"))
    try:
        try:
            with source.open("rb") as file:
                file.seek(begin)
                while data := file.read(_CHUNK):
                    process.write(data)
            process.end_input()
        except TransportError:
            # Where it ended because it could not write, it says so below; a lost connection raises here again.
            if process.poll() is None:
                raise
        said = bytearray()
        _copy_output(process, said.extend)
        if process.wait(_SETTLE_S):
            raise _refused(remote, where[0], process.stderr_tail())
        return said.decode(errors="replace").strip() == _MOVED
    finally:
        process.close()


def _copy_output(process: RemoteProcess, take: Callable[[bytes], object]) -> None:
    """Read a process to the end of its output.

    Raises:
        TransportError: the connection broke, or nothing came for a long time.
    """
    while True:
        try:
            data = process.read(_SETTLE_S)
        except TransportError:
            if process.poll() is None:
                raise
            return
        if not data:
            raise TransportError(f"{process.name} said nothing for {_SETTLE_S:g} s", transient=True)
        take(data)


def _refused(remote: Remote, path: str, complaint: str) -> InfrastructureError:
    """Why a device did not take a file, from what its shell said."""
    why = complaint.strip()
    where = f"{path} on {remote.name}"
    if any(words in why for words in _FULL):
        free = remote.run(("df", "-Pk", path.rpartition("/")[0] or "/"), timeout_s=_LOOK_S)
        left = free.text.splitlines()[-1].split()[3:4] if free.status == 0 and free.text else []
        told = f"; free now: {format_quantity(int(left[0]) * _KIB, 'bytes')}" if left else ""
        return DiskFull(f"{where}: the disk is full{told}: {why}", hint=MAKE_ROOM)
    hint = "name a folder that this user may write to: `folder:` of its entry"
    return InfrastructureError(f"{where}: cannot be written: {why or 'its shell did not say why'}", hint=hint)
