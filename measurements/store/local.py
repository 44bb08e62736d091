"""The local store: SQLite for runs, records and the outbox; one Parquet file per trace.

The folder holds ``lab.sqlite`` (WAL, synchronous=FULL), ``traces/<run id>.parquet`` and ``lab.lock``. A run, its
records and its outbox blocks are one transaction, so a run is there with all its figures or not at all. The trace is in
place before that transaction starts: a run that names a trace has it.
"""

from __future__ import annotations

import errno
import fcntl
import re
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from lab.errors import StoreError
from measurements.record import Run, Trace
from measurements.store.lines import blocks, run_lines, trace_lines, trace_source
from measurements.store.rows import Value, record_from_row, record_row, run_from_row, run_row, text
from measurements.store.traces import SUFFIX, read_trace, write_trace

SCHEMA_VERSION = 1
DATABASE = "lab.sqlite"
TRACES = "traces"
BUSY_TIMEOUT_S = 60.0

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, started_ns INTEGER NOT NULL, status TEXT NOT NULL,
    test TEXT NOT NULL, error TEXT NOT NULL, retries TEXT NOT NULL, provenance TEXT NOT NULL, detail TEXT NOT NULL,
    digest TEXT NOT NULL, trace TEXT
);
CREATE INDEX runs_by_session ON runs (session_id, started_ns);
CREATE INDEX runs_by_start ON runs (started_ns);
CREATE TABLE records (
    run_id TEXT NOT NULL REFERENCES runs, position INTEGER NOT NULL, region TEXT NOT NULL, metric TEXT NOT NULL,
    unit TEXT NOT NULL, source TEXT NOT NULL, raw BLOB NOT NULL, n INTEGER NOT NULL, median REAL, ci_low REAL,
    ci_high REAL, p95 REAL, p99 REAL, first REAL, alignment TEXT NOT NULL, lost_fraction REAL, note TEXT NOT NULL,
    PRIMARY KEY (run_id, position), UNIQUE (run_id, region, metric)
) WITHOUT ROWID;
CREATE TABLE outbox (
    block INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, lines BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', answer TEXT NOT NULL DEFAULT ''
);
CREATE INDEX outbox_by_state ON outbox (state, block);
"""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class OutboxBlock:
    """A block of line protocol on its way to the mirror: gzip-compressed ``lines`` of run ``run_id``.

    ``answer`` holds the server's own words where it was set aside.
    """

    block: int
    run_id: str
    lines: bytes
    answer: str = ""


@dataclass(frozen=True)
class StoreCheck:
    """What :meth:`Store.verify` found.

    Attributes:
        runs, records, traces: how many there are.
        problems: what is wrong; empty for a sound store.
        leftovers: files of saves that never finished; nothing refers to them and they may be deleted.
    """

    runs: int
    records: int
    traces: int
    problems: tuple[str, ...]
    leftovers: tuple[Path, ...]


def new_run_id() -> str:
    """A run id that sorts by time: UTC to the nanosecond and eight random hex digits."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{stamp}.{nanoseconds:09d}-{secrets.token_hex(4)}"


class Store:
    """The local store in the folder ``path``, which is made where it is missing.

    Any number of processes may have it open and save at once. Where the folder cannot be written to, what is in it can
    still be read and :meth:`save` says why it refuses. A context manager; leaving it closes the store.

    Args:
        path: the store's folder (``LAB_STORE``).
        mirror_traces: also put 1 ms buckets of every trace in the outbox.

    Raises:
        StoreError: the folder holds no store and none can be made, or the store is damaged or of a newer lab.
    """

    def __init__(self, path: Path, *, mirror_traces: bool = False) -> None:
        self.path = path
        self.database = path / DATABASE
        self._mirror_traces = mirror_traces
        self._read_only_because: sqlite3.Error | OSError | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._db = self._open_for_writing()
        except (sqlite3.OperationalError, OSError) as error:
            if _is_damage(error) or _is_busy(error):
                self._fail("cannot be opened", error)
            self._read_only_because = error
            with self._guard("cannot be opened"):
                self._db = self._open_for_reading(error)
        except sqlite3.DatabaseError as error:
            self._fail("cannot be opened", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def save(self, run: Run, trace: Trace | None = None) -> None:
        """Save a run; when this returns, the run is durable.

        Saving the same run again changes nothing, except that it adds a trace that could not be saved before.

        Args:
            run: the run; its (region, metric) pairs are unique.
            trace: its power trace, where there is one.

        Raises:
            StoreError: nothing was saved, or, where the text says so, the records were saved and the trace was not.
        """
        if self._read_only_because is not None:
            self._fail(f"run {run.run_id} was not saved", self._read_only_because)
        if not _RUN_ID.fullmatch(run.run_id):
            raise StoreError(
                f"run id {run.run_id!r} cannot be a file name",
                hint="use measurements.store.new_run_id(), or letters, digits, '.', '_' and '-'",
            )
        _check_names(run)
        row = run_row(run)
        with self._guard(f"run {run.run_id} was not saved"):
            known = self._known(run, str(row["digest"]))
        if known and (trace is None or self._trace_name(run.run_id)):
            return
        trace_problem = self._save_trace(run, trace) if trace is not None else None
        row["trace"] = f"{run.run_id}{SUFFIX}" if trace is not None and trace_problem is None else None
        try:
            self._commit(run, row, self._lines(run, trace))
        except StoreError:
            if row["trace"] and not known:
                self._trace_path(str(row["trace"])).unlink(missing_ok=True)
            raise
        if trace_problem is not None:
            raise StoreError(
                f"run {run.run_id}: its {len(run.records)} records are saved, its trace is not: "
                f"{trace_problem.message}",
                hint=f"{trace_problem.hint}; then save the run again with its trace",
            ) from trace_problem

    def amend(self, run: Run) -> None:
        """Bring a saved run up to date, durably: its status and error may change and records may be added at its end.

        Args:
            run: the run as it is now.

        Raises:
            StoreError: there is no such run, a record that was saved is changed or missing, or nothing was saved.
        """
        if self._read_only_because is not None:
            self._fail(f"run {run.run_id} was not amended", self._read_only_because)
        _check_names(run)
        row = run_row(run)
        with self._guard(f"run {run.run_id} was not amended"), self._transaction():
            query = "SELECT * FROM records WHERE run_id = ? ORDER BY position"
            old = [dict(found) for found in self._db.execute(query, (run.run_id,))]
            new = [record_row(run.run_id, position, record) for position, record in enumerate(run.records)]
            if new[: len(old)] != old:
                raise StoreError(
                    f"run {run.run_id}: records that were saved are changed or missing; nothing was overwritten",
                    hint="add records at the end; what was measured stays",
                )
            changes = ", ".join(f"{name} = :{name}" for name in row)
            if self._db.execute(f"UPDATE runs SET {changes} WHERE run_id = :run_id", row).rowcount == 0:
                raise StoreError(f"{self.database}: holds no run {run.run_id!r} to amend", hint="save it first")
            for added in new[len(old) :]:
                self._insert("records", added)
            for block in blocks(run_lines(replace(run, records=run.records[len(old) :]))):
                self._insert("outbox", {"run_id": run.run_id, "lines": block})

    def runs(self, session_id: str | None = None, limit: int | None = None) -> list[Run]:
        """The runs, oldest first.

        Args:
            session_id: only those of this session.
            limit: only the latest so many.

        Raises:
            StoreError: the store cannot be read.
        """
        where = "" if session_id is None else "WHERE session_id = :session"
        query = f"SELECT * FROM runs {where} ORDER BY started_ns DESC, run_id DESC LIMIT :limit"
        arguments = {"session": session_id, "limit": -1 if limit is None else limit}
        with self._guard("the runs cannot be read"), self._snapshot():
            rows = self._db.execute(query, arguments).fetchall()
            return [self._load(row) for row in reversed(rows)]

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            StoreError: there is no such run, or the store cannot be read.
        """
        with self._guard(f"run {run_id} cannot be read"), self._snapshot():
            row = self._db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None:
                return self._load(row)
        raise StoreError(f"{self.database}: holds no run {run_id!r}", hint="Store.runs() lists the runs it holds")

    def trace(self, run_id: str) -> Trace | None:
        """The power trace of a run, None where it has none.

        Raises:
            StoreError: the trace or the store cannot be read.
        """
        with self._guard(f"the trace of run {run_id} cannot be read"):
            name = self._trace_name(run_id)
        return read_trace(self._trace_path(name)) if name else None

    def latest_session(self) -> str | None:
        """The session of the run that started last, None in an empty store."""
        query = "SELECT session_id FROM runs ORDER BY started_ns DESC, run_id DESC LIMIT 1"
        with self._guard("the latest session cannot be read"):
            row = self._db.execute(query).fetchone()
        return None if row is None else str(row["session_id"])

    def pending(self, limit: int = 100, after: int = 0) -> list[OutboxBlock]:
        """Blocks that the mirror has not confirmed, oldest first, with numbers above ``after``."""
        return self._blocks("pending", limit, after)

    def set_aside(self, limit: int = 100) -> list[OutboxBlock]:
        """Blocks that the mirror refused, with its answer, oldest first."""
        return self._blocks("refused", limit, 0)

    def outbox_sizes(self) -> tuple[int, int]:
        """How many blocks wait for the mirror, and how many it refused."""
        query = "SELECT count(*) FROM outbox WHERE state = ?"
        with self._guard("the outbox cannot be read"):
            waiting, refused = (self._db.execute(query, (state,)).fetchone()[0] for state in ("pending", "refused"))
        return int(waiting), int(refused)

    def confirm(self, block: int) -> None:
        """Take a block out of the outbox: the mirror has it."""
        with self._guard(f"outbox block {block} could not be removed"):
            self._db.execute("DELETE FROM outbox WHERE block = ?", (block,))

    def refuse(self, block: int, answer: str) -> None:
        """Set a block aside with the mirror's own words; it is not sent again."""
        with self._guard(f"outbox block {block} could not be set aside"):
            self._db.execute("UPDATE outbox SET state = 'refused', answer = ? WHERE block = ?", (text(answer), block))

    def verify(self) -> StoreCheck:
        """Check the database's structure, that every run can be read, and that every trace is there and whole."""
        problems: list[str] = []
        with self._guard("cannot be verified"):
            problems += [str(row[0]) for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            problems += [f"dangling reference: {tuple(row)}" for row in self._db.execute("PRAGMA foreign_key_check")]
            rows = self._db.execute("SELECT run_id, digest, trace FROM runs").fetchall()
        records, named = 0, set()
        for row in rows:
            try:
                run = self.run(row["run_id"])
                records += len(run.records)
                if run_row(run)["digest"] != row["digest"]:
                    problems.append(f"run {run.run_id}: content differs from its digest")
                if row["trace"] is not None:
                    named.add(row["trace"])
                    read_trace(self._trace_path(row["trace"]))
            except StoreError as error:
                problems.append(error.message)
        files = sorted((self.path / TRACES).glob("*")) if (self.path / TRACES).is_dir() else []
        leftovers = tuple(file for file in files if file.name not in named)
        return StoreCheck(len(rows), records, len(named), tuple(problems), leftovers)

    # Opening

    def _open_for_writing(self) -> sqlite3.Connection:
        (self.path / TRACES).mkdir(parents=True, exist_ok=True)
        # Making the schema and switching to WAL take locks that SQLite's busy time-out does not wait for.
        with (self.path / "lab.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            db = self._connect(self.database.absolute().as_uri())
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables:
            self._check_version(db)
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(
                f"{self.database}: this file system gives journal mode {mode!r}; the store needs WAL",
                hint="put the store on a local disk (LAB_STORE)",
            )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if not tables:
            version = f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}');"
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {version} COMMIT;")
        # A commit of nothing: finds out now, not at the first save, that the disk cannot be written to.
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE meta SET value = value WHERE key = 'schema_version'")
        db.execute("ROLLBACK")

    def _open_for_reading(self, reason: sqlite3.Error | OSError) -> sqlite3.Connection:
        if not self.database.is_file():
            self._fail("cannot be created", reason)
        uri = self.database.absolute().as_uri()
        # Without a write-ahead log SQLite need not (and on a read-only disk cannot) make its shared-memory file.
        quiet = not Path(f"{self.database}-wal").exists()
        db = self._connect(f"{uri}?mode=ro&immutable=1" if quiet else f"{uri}?mode=ro")
        try:
            self._check_version(db)
        except sqlite3.OperationalError:
            db.close()
            db = self._open_copy()
        except BaseException:
            db.close()
            raise
        return db

    def _open_copy(self) -> sqlite3.Connection:
        """Open a copy on another disk: what is committed in a log that nobody can take over where it lies."""
        self._copy = tempfile.TemporaryDirectory(prefix="lab-store-")
        copy = Path(self._copy.name) / DATABASE
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{self.database}{suffix}", f"{copy}{suffix}")
        db = self._connect(copy.as_uri())
        self._check_version(db)
        return db

    def _connect(self, uri: str) -> sqlite3.Connection:
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        db.row_factory = sqlite3.Row
        return db

    def _check_version(self, db: sqlite3.Connection) -> None:
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"meta", "runs"} <= names:
            raise StoreError(
                f"{self.database}: is a database but not a store of this lab; its tables are {sorted(names)}",
                hint="point LAB_STORE at another folder",
            )
        found = int(db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])
        if found != SCHEMA_VERSION:
            raise StoreError(
                f"{self.database}: has schema version {found}; this lab knows {SCHEMA_VERSION}. Nothing was changed",
                hint="upgrade the lab, or point LAB_STORE at another folder",
            )

    # Saving

    def _known(self, run: Run, digest: str) -> bool:
        row = self._db.execute("SELECT digest FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
        if row is not None and row["digest"] != digest:
            raise StoreError(
                f"{self.database}: already holds a run {run.run_id} with other content; nothing was overwritten",
                hint="give every run its own id (measurements.store.new_run_id())",
            )
        return row is not None

    def _save_trace(self, run: Run, trace: Trace) -> StoreError | None:
        try:
            write_trace(self._trace_path(f"{run.run_id}{SUFFIX}"), trace)
        except StoreError as error:
            return error
        return None

    def _lines(self, run: Run, trace: Trace | None) -> Iterator[bytes]:
        yield from blocks(run_lines(run))
        if trace is not None and self._mirror_traces:
            yield from blocks(trace_lines(run, trace, trace_source(run.records)))

    def _commit(self, run: Run, row: dict[str, Value], lines: Iterable[bytes]) -> None:
        with self._guard(f"run {run.run_id} was not saved"), self._transaction():
            if self._known(run, str(row["digest"])):
                self._db.execute("UPDATE runs SET trace = :trace WHERE run_id = :run_id", row)
                return
            self._insert("runs", row)
            for position, record in enumerate(run.records):
                self._insert("records", record_row(run.run_id, position, record))
            for block in lines:
                self._insert("outbox", {"run_id": run.run_id, "lines": block})

    def _insert(self, table: str, row: dict[str, Value]) -> None:
        names = ", ".join(row)
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))

    # Reading

    def _load(self, row: sqlite3.Row) -> Run:
        query = "SELECT * FROM records WHERE run_id = ? ORDER BY position"
        records = tuple(record_from_row(found) for found in self._db.execute(query, (row["run_id"],)))
        try:
            return run_from_row(row, records)
        except (TypeError, KeyError, ValueError) as error:
            raise StoreError(
                f"{self.database}: run {row['run_id']} holds what this lab does not know: {error}",
                hint="it was written by a newer lab, which can read it, or the row is damaged",
            ) from error

    def _blocks(self, state: str, limit: int, after: int) -> list[OutboxBlock]:
        query = (
            "SELECT block, run_id, lines, answer FROM outbox WHERE state = ? AND block > ? ORDER BY block LIMIT ?"
        )
        with self._guard("the outbox cannot be read"):
            return [OutboxBlock(*row) for row in self._db.execute(query, (state, after, limit))]

    def _trace_name(self, run_id: str) -> str | None:
        row = self._db.execute("SELECT trace FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None or row["trace"] is None else str(row["trace"])

    def _trace_path(self, name: str) -> Path:
        return self.path / TRACES / name

    # Transactions and errors

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One consistent view over several reads, whatever other processes commit meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._fail(what, error)

    def _fail(self, what: str, error: sqlite3.Error | OSError) -> NoReturn:
        raise StoreError(
            f"{self.database}: {what}: {error}. {_kept(error)}",
            hint=_way_out(error, self.database),
            transient=_is_busy(error),
        ) from error


def _check_names(run: Run) -> None:
    seen: set[tuple[str, str]] = set()
    for record in run.records:
        if (name := (record.region, record.metric)) in seen:
            raise StoreError(
                f"run {run.run_id} has two records of region {name[0]!r} and metric {name[1]!r}; it was not saved",
                hint="a run holds one record per region and metric; put repeats into one record",
            )
        seen.add(name)


# Errors of SQLite and the file system


def _code(error: sqlite3.Error | OSError) -> int:
    """SQLite's primary result code, 0 for anything else."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_damage(error: sqlite3.Error | OSError) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_busy(error: sqlite3.Error | OSError) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_full(error: sqlite3.Error | OSError) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return _code(error) == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _kept(error: sqlite3.Error | OSError) -> str:
    if _is_damage(error):
        return "The traces are files of their own and untouched"
    return "What was committed before is kept and readable"


def _way_out(error: sqlite3.Error | OSError, database: Path) -> str:
    if _is_damage(error):
        return (
            f"move {database.name} aside and a new store is made in its place; "
            f"`sqlite3 {database.name} .recover` gets out what is readable"
        )
    if _is_busy(error):
        return "another process holds the store for too long; try again when it has finished"
    if _is_full(error):
        return "free space on that disk, or point LAB_STORE at another one, and save again"
    return "check that the disk has space and is mounted writable, or point LAB_STORE at another folder"
