"""How the store's database is opened: for writing, for reading only, and on a disk that takes no more."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.errors import StoreError
from lab.filelock import wait_for_lock
from measurements.store.faults import Fault, fail, is_busy, is_damage
from measurements.store.schema import SCHEMA_VERSION, migrate, version

DATABASE = "lab.sqlite"
TRACES = "traces"
TRACES_LOCK = "traces.lock"
BUSY_TIMEOUT_S = 60.0
_OPEN_LOCK = "lab.lock"


@dataclass(frozen=True)
class Opened:
    """An open database.

    Attributes:
        db: the connection.
        read_only_because: why nothing can be written, None where it can.
        copy: the temporary folder that the database was copied to, where it could not be read in its place.
    """

    db: sqlite3.Connection
    read_only_because: Fault | None = None
    copy: tempfile.TemporaryDirectory[str] | None = None


def open_store(path: Path) -> Opened:
    """Open the store in the folder ``path`` for writing, or for reading where it cannot be written to.

    An older store is brought up to date first.

    Raises:
        StoreError: there is no store and none can be made, or it is damaged, another program's or a newer lab's.
    """
    database = path / DATABASE
    try:
        return Opened(_open_for_writing(path))
    except (sqlite3.OperationalError, OSError) as fault:
        if is_damage(fault) or is_busy(fault):
            fail(database, "cannot be opened", fault)
        return open_for_reading(path, fault)
    except sqlite3.DatabaseError as fault:
        fail(database, "cannot be opened", fault)


def open_for_reading(path: Path, reason: Fault) -> Opened:
    """Open the store in the folder ``path`` without changing anything in it.

    Args:
        path: the store's folder.
        reason: why it is not opened for writing.

    Raises:
        StoreError: there is no store, or it is damaged, another program's or a newer lab's.
    """
    database = path / DATABASE
    if not database.is_file():
        fail(database, "cannot be created", reason)
    try:
        return _open_in_place(database, reason) or _open_copy(database, reason)
    except (sqlite3.Error, OSError) as fault:
        fail(database, "cannot be opened", fault)


def connect(uri: str) -> sqlite3.Connection:
    """A connection whose transactions are begun by hand."""
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def _open_for_writing(path: Path) -> sqlite3.Connection:
    (path / TRACES).mkdir(parents=True, exist_ok=True)
    (path / TRACES_LOCK).touch()  # now, so that a full disk later does not keep a save from taking it
    database = path / DATABASE
    # Making the schema and switching to WAL take locks that SQLite's busy time-out does not wait for.
    with (path / _OPEN_LOCK).open("ab") as lock:
        wait_for_lock(lock.fileno())
        db = connect(database.absolute().as_uri())
        try:
            _prepare(db, database)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, database: Path) -> None:
    found = version(db, str(database))
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"{database}: this file system gives journal mode {mode!r}; the store needs WAL",
            hint="put the store on a local disk (LAB_STORE)",
        )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    if found < SCHEMA_VERSION:
        migrate(db, found)
    # A commit of nothing: finds out now, not at the first save, that the disk cannot be written to.
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE meta SET value = value WHERE key = 'schema_version'")
    db.execute("ROLLBACK")


def _open_in_place(database: Path, reason: Fault) -> Opened | None:
    """Open the database where it lies; None where that takes writing that the disk refuses."""
    uri = database.absolute().as_uri()
    log = Path(f"{database}-wal")
    # Without a write-ahead log SQLite need not (and on a read-only disk cannot) make its shared-memory file.
    quiet = not log.exists() or log.stat().st_size == 0
    for way in ("mode=ro", "mode=ro&immutable=1") if quiet else ("mode=ro",):
        db = connect(f"{uri}?{way}")
        try:
            found = version(db, str(database))
            if found == SCHEMA_VERSION:
                return Opened(db, reason)
            return _open_older(db, reason, found)
        except sqlite3.OperationalError:
            db.close()
        except BaseException:
            db.close()
            raise
    return None


def _open_older(db: sqlite3.Connection, reason: Fault, found: int) -> Opened:
    """Open an up-to-date copy of a store of an earlier lab that cannot be brought up to date in its place."""
    folder = tempfile.TemporaryDirectory(prefix="lab-store-")
    copy = connect((Path(folder.name) / DATABASE).as_uri())
    db.backup(copy)
    db.close()
    migrate(copy, found)
    return Opened(copy, reason, folder)


def _open_copy(database: Path, reason: Fault) -> Opened:
    """Open a copy on another disk: what is committed in a log that nobody can take over where it lies."""
    folder = tempfile.TemporaryDirectory(prefix="lab-store-")
    copy = Path(folder.name) / DATABASE
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
    db = connect(copy.as_uri())
    found = version(db, str(database))
    if found < SCHEMA_VERSION:
        migrate(db, found)
    return Opened(db, reason, folder)
