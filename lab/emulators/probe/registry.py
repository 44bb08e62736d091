"""Which emulated boards run on this host and can be debugged: a JSON file per board, kept by the process that owns it.

A board lives as long as its owner holds the kernel's lock on a file beside the entry: what an owner that was
killed left behind is recognised, and removed, by whoever looks next.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.emulators.probe.signals import InUse
from lab.errors import ConfigError, ProbeError
from lab.filelock import try_lock
from lab.paths import state_dir


@dataclass(frozen=True)
class BoardEntry:
    """One emulated board, as the registry has it.

    Attributes:
        unique_id: what a probe of this board calls itself.
        board: kind of board.
        core: its processor, such as ``cortex-m4f``.
        target: pyOCD's name of the target; empty where only a core is known.
        pid: process of the emulator; 0 while the board has no power.
        gdb: path of the socket of QEMU's gdbstub.
        qtest: path of the socket of QEMU's qtest.
        control: path of the socket of QEMU's monitor (QMP).
        serial_url: the first UART, for pyserial.
    """

    unique_id: str
    board: str
    core: str
    target: str
    pid: int = 0
    gdb: str = ""
    qtest: str = ""
    control: str = ""
    serial_url: str = ""

    @property
    def powered(self) -> bool:
        """Whether the emulator lives."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass(frozen=True)
class Listed:
    """A board of the registry and where its entry lies."""

    entry: BoardEntry
    path: Path

    @property
    def faults_path(self) -> Path:
        """Where the faults of its link are set; see :mod:`lab.emulators.probe.faults`."""
        return self.path.with_suffix(".faults")

    @property
    def user_path(self) -> Path:
        """Locked by the one process that has its probe open."""
        return self.path.with_suffix(".user")


def registry_dir() -> Path:
    """Where the entries lie."""
    return state_dir() / "emulated"


class Registration:
    """A board in the registry, for as long as this is open.

    Args:
        entry: the board.
        duplicate: whether another board may already have this unique id, as cloned probes do.

    Raises:
        ConfigError: another board runs under this unique id.
    """

    def __init__(self, entry: BoardEntry, *, duplicate: bool = False) -> None:
        folder = registry_dir()
        folder.mkdir(parents=True, exist_ok=True)
        taken = [listed.path for listed in boards() if listed.entry.unique_id == entry.unique_id]
        if taken and not duplicate:
            raise ConfigError(
                f"an emulated board with unique id {entry.unique_id!r} runs already: {taken[0]}",
                hint="end it, or give this one another unique id",
            )
        # A plus sign is in no unique id, so the names never collide.
        suffix = f"+{os.getpid()}-{len(taken)}" if taken else ""
        self.listed = Listed(entry, folder / f"{entry.unique_id}{suffix}.json")
        self._descriptor = os.open(self._owner_path, os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(self._descriptor):
            os.close(self._descriptor)
            raise ConfigError(
                f"an emulated board with unique id {entry.unique_id!r} is being started by another process",
                hint="give this one another unique id",
            )
        self.update(entry)

    @property
    def _owner_path(self) -> Path:
        return self.listed.path.with_suffix(".owner")

    def update(self, entry: BoardEntry) -> None:
        """Replace the entry; readers see the old or the new one, never a part."""
        self.listed = Listed(entry, self.listed.path)
        temporary = self.listed.path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(entry), indent=2), encoding="utf-8")
        temporary.replace(self.listed.path)

    def close(self) -> None:
        """Take the board out of the registry."""
        _remove(self.listed)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def boards() -> list[Listed]:
    """The boards whose owners live, by file name; what dead owners left is removed."""
    found = []
    for path in sorted(registry_dir().glob("*.json")):
        if not _owned(path.with_suffix(".owner")):
            _remove(Listed(BoardEntry("", "", "", ""), path))
            continue
        entry = _read(path)
        if entry is not None:
            found.append(Listed(entry, path))
    return found


def find_board(unique_id: str) -> Listed:
    """The one board with a unique id.

    Raises:
        ProbeError: none has it, or more than one.
    """
    known = boards()
    found = [listed for listed in known if listed.entry.unique_id == unique_id]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(one.entry.unique_id for one in known) or "none"
    problem = f"{len(found)} boards have" if found else "no board has"
    raise ProbeError(f"{problem} unique id {unique_id!r}; emulated boards that run: {listed}")


def claim(listed: Listed) -> int:
    """Take a board's probe for one user; closing the descriptor that is returned frees it, and so does its death.

    Raises:
        InUse: another program has it.
    """
    descriptor = os.open(listed.user_path, os.O_RDWR | os.O_CREAT, 0o600)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise InUse(f"probe {listed.entry.unique_id} is in use by another program")
    return descriptor


def _owned(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _read(path: Path) -> BoardEntry | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return BoardEntry(**{field.name: document[field.name] for field in fields(BoardEntry)})
    except (OSError, ValueError, KeyError, TypeError):
        # Removed since it was listed, or not written by us.
        return None


def _remove(listed: Listed) -> None:
    path = listed.path
    for gone in (path, path.with_suffix(".owner"), path.with_suffix(".new"), listed.faults_path, listed.user_path):
        with contextlib.suppress(OSError):
            gone.unlink()
