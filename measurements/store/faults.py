"""What SQLite and the file system say when something fails, in the words of the lab."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import NoReturn, TypeAlias

from lab.errors import StoreError

Fault: TypeAlias = sqlite3.Error | OSError


def fail(database: Path, what: str, fault: Fault) -> NoReturn:
    """Raise the :class:`StoreError` for a fault: what was being done, what is kept, and the way out."""
    raise StoreError(
        f"{database}: {what}: {fault}. {_kept(fault)}", hint=_way_out(fault, database), transient=is_busy(fault)
    ) from fault


def is_damage(fault: Fault) -> bool:
    """Whether the database's content is broken."""
    return _code(fault) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_busy(fault: Fault) -> bool:
    """Whether another process holds the database."""
    return _code(fault) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(fault: Fault) -> bool:
    """Whether the disk takes no more."""
    number = fault.errno if isinstance(fault, OSError) else None
    return _code(fault) == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _code(fault: Fault) -> int:
    """SQLite's primary result code, 0 for anything else."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF


def _kept(fault: Fault) -> str:
    if is_damage(fault):
        return "The traces are files of their own and untouched"
    return "What was committed before is kept and readable"


def _way_out(fault: Fault, database: Path) -> str:
    if is_damage(fault):
        return (
            f"move {database.name} aside and a new store is made in its place; "
            f"`sqlite3 {database.name} .recover` gets out what is readable"
        )
    if is_busy(fault):
        return "another process holds the store for too long; try again when it has finished"
    if is_full(fault):
        return "free space on that disk, or point LAB_STORE at another one, and save again"
    return "check that the disk has space and is mounted writable, or point LAB_STORE at another folder"
