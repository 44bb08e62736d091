"""The local store: SQLite for runs, records and the outbox; one Parquet file per trace.

The folder holds ``lab.sqlite`` (WAL, synchronous=FULL), ``traces/<run id>.parquet`` and ``lab.lock``. A run, its
records and its outbox blocks are one transaction, so a run is there with all its figures or not at all. The trace is in
place before that transaction starts: a run that names a trace has it.
"""

from __future__ import annotations

import errno
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.errors import StoreError
from lab.filelock import wait_for_lock
from measurements.record import Run, Trace
from measurements.store.checks import check_clock, check_finite, check_names, check_trace, check_units
from measurements.store.faults import fail
from measurements.store.lines import blocks, run_lines, trace_lines, trace_source
from measurements.store.opening import DATABASE, TRACES, TRACES_LOCK, open_for_reading, open_store
from measurements.store.revisions import StoredRun, extends, is_later
from measurements.store.rows import Value, record_from_row, record_row, run_from_row, run_row, text
from measurements.store.selection import EVERYTHING, Selection
from measurements.store.traces import SUFFIX, read_trace, trace_digest, write_trace

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

    A store of an earlier lab is brought up to date on opening. Any number of processes may have it open and save at
    once. Where the folder cannot be written to, what is in it can still be read and :meth:`save` says why it refuses.
    A context manager; leaving it closes the store.

    Args:
        path: the store's folder (``LAB_STORE``).
        mirror_traces: also put 1 ms buckets of every trace in the outbox.
        read_only: change nothing, neither the store's version nor anything else.

    Raises:
        StoreError: the folder holds no store and none can be made, or the store is damaged or of a newer lab.
    """

    def __init__(self, path: Path, *, mirror_traces: bool = False, read_only: bool = False) -> None:
        self.path = path
        self.database = path / DATABASE
        self._mirror_traces = mirror_traces
        if read_only:
            self._opened = open_for_reading(path, OSError(errno.EROFS, "it was opened for reading only"))
        else:
            self._opened = open_store(path)
        self._db = self._opened.db

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; safe to call twice."""
        self._db.close()
        if self._opened.copy is not None:
            self._opened.copy.cleanup()

    # Saving

    def save(self, run: Run, trace: Trace | None = None) -> None:
        """Save a run; when this returns, the run is durable.

        Saving the same run again changes nothing, except that it adds a trace that could not be saved before.

        Args:
            run: the run; its (region, metric) pairs are unique, its figures finite, its units those of the store.
            trace: its power trace, where there is one.

        Raises:
            StoreError: nothing was saved, or, where the text says so, the records were saved and the trace was not.
        """
        self._must_be_writable(f"run {run.run_id} was not saved")
        _check_run_id(run)
        check_names(run)
        check_finite(run.run_id, run.records)
        row = run_row(run)
        if trace is not None:
            check_trace(run.run_id, trace)
            row |= {"trace": f"{run.run_id}{SUFFIX}", "trace_digest": trace_digest(trace)}
        with self._guard(f"run {run.run_id} was not saved"), self._traces_kept():
            known = self._known(row)
            if known is None or (trace is not None and known.trace is None):
                self._save(run, row, trace)

    def amend(self, run: Run) -> None:
        """Bring a saved run up to date, durably: its status and error may change and records may be added at its end.

        Args:
            run: the run as it is now.

        Raises:
            StoreError: there is no such run, a record that was saved is changed or missing, or nothing was saved.
        """
        self._must_be_writable(f"run {run.run_id} was not amended")
        check_names(run)
        row = run_row(run)
        with self._guard(f"run {run.run_id} was not amended"), self._transaction():
            known = self.find(run.run_id)
            if known is None:
                raise StoreError(f"{self.database}: holds no run {run.run_id!r} to amend", hint="save it first")
            if known.digest == row["digest"]:
                return
            if not extends(run, known.run):
                raise StoreError(
                    f"run {run.run_id}: records that were saved are changed or missing; nothing was overwritten",
                    hint="add records at the end; what was measured stays",
                )
            added = run.records[len(known.run.records) :]
            check_finite(run.run_id, added)
            check_units(self._db, run.run_id, added)
            self._replace(run, row | {"revision": known.revision + 1}, len(known.run.records))

    def adopt(self, found: StoredRun, waiting: Iterable[OutboxBlock]) -> bool:
        """Take over a run of another store as it is there; its trace file is in place already.

        Args:
            found: the run there, with the digest of its trace where it has one.
            waiting: its blocks that the mirror has not confirmed there.

        Returns:
            Whether anything changed.

        Raises:
            StoreError: the run here is another one under the same id, or nothing was saved.
        """
        run = found.run
        trace: dict[str, Value] = {"trace": found.trace, "trace_digest": found.trace_digest}
        with self._guard(f"run {run.run_id} was not merged"), self._transaction():
            mine = self.find(run.run_id)
            if mine is None:
                check_units(self._db, run.run_id, run.records)
                self._insert("runs", run_row(run) | {"revision": found.revision} | trace)
                self._insert_records(run, 0)
                for block in waiting:
                    self._insert("outbox", {"run_id": run.run_id, "lines": block.lines})
                return True
            later = is_later(self.with_digest(mine), found)
            if later:
                added = run.records[len(mine.run.records) :]
                check_units(self._db, run.run_id, added)
                self._replace(run, run_row(run) | {"revision": found.revision}, len(mine.run.records))
            if mine.trace is None and found.trace is not None:
                self._set_trace({"run_id": run.run_id} | trace)
                return True
            return later

    def with_digest(self, stored: StoredRun) -> StoredRun:
        """The same run of this store; the digest of its trace is worked out where an earlier lab did not keep it.

        Raises:
            StoreError: the trace cannot be read.
        """
        if stored.trace is None or stored.trace_digest is not None:
            return stored
        return replace(stored, trace_digest=trace_digest(read_trace(self.trace_path(stored.trace))))

    def remove(self, run_ids: Iterable[str], *, traces_only: bool) -> None:
        """Remove runs with all that belongs to them, or only their traces.

        Raises:
            StoreError: not all were removed; each was removed whole or not at all.
        """
        self._must_be_writable("nothing was removed")
        with self._guard("not all runs were removed"), self._traces_kept(removing=True):
            for run_id in run_ids:
                name = self._trace_name(run_id)
                with self._transaction():
                    if traces_only:
                        self._set_trace({"run_id": run_id, "trace": None, "trace_digest": None})
                    else:
                        for table in ("outbox", "records", "runs"):
                            self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
                # After the transaction: a kill in between leaves a file that no run names, not a run without its file.
                if name is not None:
                    self.trace_path(name).unlink(missing_ok=True)

    def compact(self) -> None:
        """Give the space of removed runs back to the disk.

        Raises:
            StoreError: it could not be given back; nothing is lost.
        """
        with self._guard("the space of removed runs was not given back"):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remove_leftovers(self) -> tuple[Path, ...]:
        """Delete the files in ``traces/`` that no run names, and say which; waits for saves under way.

        Raises:
            StoreError: a file could not be deleted.
        """
        self._must_be_writable("nothing was removed")
        with self._guard("files that no run names were not all removed"), self._traces_kept(removing=True):
            files = self.leftovers()
            for file in files:
                file.unlink(missing_ok=True)
        return files

    # Reading

    def runs(
        self, session_id: str | None = None, limit: int | None = None, selection: Selection = EVERYTHING
    ) -> list[Run]:
        """The runs, oldest first.

        Args:
            session_id: only those of this session.
            limit: only the latest so many.
            selection: only those that match.

        Raises:
            StoreError: the store cannot be read.
        """
        where, arguments = selection.where()
        query = (
            f"SELECT * FROM runs WHERE {where} AND (:of IS NULL OR session_id = :of) "
            "ORDER BY started_ns DESC, run_id DESC LIMIT :limit"
        )
        arguments |= {"limit": -1 if limit is None else limit}
        with self._guard("the runs cannot be read"), self._snapshot():
            rows = self._db.execute(query, {**arguments, "of": session_id}).fetchall()
            return [self._load(row) for row in reversed(rows)]

    def run_ids(self, selection: Selection = EVERYTHING) -> list[str]:
        """Ids of the runs that match, oldest first."""
        where, arguments = selection.where()
        with self._guard("the runs cannot be read"):
            rows = self._db.execute(f"SELECT run_id FROM runs WHERE {where} ORDER BY started_ns, run_id", arguments)
            return [str(row["run_id"]) for row in rows]

    def table(self, query: str, arguments: Mapping[str, Value]) -> list[sqlite3.Row]:
        """Rows of an SQL query over the tables ``runs``, ``records`` and ``outbox``."""
        with self._guard("the tables cannot be read"):
            return self._db.execute(query, arguments).fetchall()

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            StoreError: there is no such run, or the store cannot be read.
        """
        found = self.find(run_id)
        if found is None:
            raise StoreError(f"{self.database}: holds no run {run_id!r}", hint="Store.runs() lists the runs it holds")
        return found.run

    def find(self, run_id: str) -> StoredRun | None:
        """A run as it lies here, None where there is no such run.

        Raises:
            StoreError: the run holds what this lab does not know, or the store cannot be read.
        """
        with self._guard(f"run {run_id} cannot be read"), self._snapshot():
            row = self._db.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is None:
                return None
            return StoredRun(self._load(row), row["digest"], row["revision"], row["trace"], row["trace_digest"])

    def trace(self, run_id: str) -> Trace | None:
        """The power trace of a run, None where it has none.

        Raises:
            StoreError: the trace or the store cannot be read.
        """
        with self._guard(f"the trace of run {run_id} cannot be read"):
            name = self._trace_name(run_id)
        return read_trace(self.trace_path(name)) if name else None

    def trace_path(self, name: str) -> Path:
        """Where the trace file ``name`` lies."""
        return self.path / TRACES / name

    def units(self) -> dict[str, set[str]]:
        """The units that each metric is stored in: one, unless an earlier lab let in several."""
        units: dict[str, set[str]] = {}
        for row in self.table("SELECT DISTINCT metric, unit FROM records", {}):
            units.setdefault(row["metric"], set()).add(row["unit"])
        return units

    def latest_session(self) -> str | None:
        """The session of the run that started last, None in an empty store."""
        query = "SELECT session_id FROM runs ORDER BY started_ns DESC, run_id DESC LIMIT 1"
        with self._guard("the latest session cannot be read"):
            row = self._db.execute(query).fetchone()
        return None if row is None else str(row["session_id"])

    def leftovers(self) -> tuple[Path, ...]:
        """Files in ``traces/`` that no run names: of saves that never finished, or are under way."""
        folder = self.path / TRACES
        # The files first: what a save puts there in between is named by the time the names are read, or was not seen.
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        with self._guard("the traces cannot be listed"):
            named = {row["trace"] for row in self._db.execute("SELECT trace FROM runs WHERE trace IS NOT NULL")}
        return tuple(file for file in files if file.name not in named)

    def verify(self) -> StoreCheck:
        """Check the database's structure, every run and trace against its digest, and that metrics keep their unit."""
        problems: list[str] = []
        with self._guard("cannot be verified"):
            problems += [str(row[0]) for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            problems += [f"dangling reference: {tuple(row)}" for row in self._db.execute("PRAGMA foreign_key_check")]
        for metric, units in self.units().items():
            if len(units) > 1:
                problems.append(f"{metric} is stored in several units: {', '.join(sorted(units))}")
        run_ids = self.run_ids()
        records = traces = 0
        for run_id in run_ids:
            try:
                found = self.find(run_id)
                if found is None:
                    continue  # removed by another process in the meantime
                records += len(found.run.records)
                if run_row(found.run)["digest"] != found.digest:
                    problems.append(f"run {run_id}: content differs from its digest")
                if found.trace is not None:
                    traces += 1
                    digest = trace_digest(read_trace(self.trace_path(found.trace)))
                    if found.trace_digest not in (None, digest):
                        problems.append(f"{self.trace_path(found.trace)}: the trace differs from its digest")
            except StoreError as error:
                problems.append(error.message)
        return StoreCheck(len(run_ids), records, traces, tuple(problems), self.leftovers())

    # The outbox

    def pending(self, limit: int = 100, after: int = 0) -> list[OutboxBlock]:
        """Blocks that the mirror has not confirmed, oldest first, with numbers above ``after``."""
        return self._blocks("state = 'pending' AND block > ?", after, limit)

    def set_aside(self, limit: int = 100) -> list[OutboxBlock]:
        """Blocks that the mirror refused, with its answer, oldest first."""
        return self._blocks("state = 'refused' AND block > ?", 0, limit)

    def unconfirmed(self, run_id: str) -> list[OutboxBlock]:
        """Blocks of a run that the mirror has not confirmed or has refused, oldest first."""
        return self._blocks("run_id = ?", run_id, -1)

    def outbox_sizes(self) -> tuple[int, int]:
        """How many blocks wait for the mirror, and how many it refused."""
        query = "SELECT count(*) FROM outbox WHERE state = ?"
        with self._guard("the outbox cannot be read"):
            waiting, refused = (self._db.execute(query, (state,)).fetchone()[0] for state in ("pending", "refused"))
        return int(waiting), int(refused)

    def confirm(self, numbers: Sequence[int]) -> None:
        """Take blocks out of the outbox: the mirror has them."""
        with self._guard(f"{len(numbers)} outbox blocks could not be removed"), self._transaction():
            self._db.executemany("DELETE FROM outbox WHERE block = ?", [(number,) for number in numbers])

    def refuse(self, block: int, answer: str) -> None:
        """Set a block aside with the mirror's own words; it is not sent again."""
        with self._guard(f"outbox block {block} could not be set aside"):
            self._db.execute("UPDATE outbox SET state = 'refused', answer = ? WHERE block = ?", (text(answer), block))

    def retry_refused(self) -> int:
        """Put the blocks that were set aside back among those that wait; how many they were."""
        self._must_be_writable("the outbox was not changed")
        with self._guard("the outbox was not changed"):
            return self._db.execute("UPDATE outbox SET state = 'pending', answer = '' WHERE state = 'refused'").rowcount

    def resend(self, run_ids: Iterable[str]) -> None:
        """Put the figures of runs into the outbox again, whatever the mirror confirmed."""
        self._must_be_writable("the outbox was not changed")
        for run_id in run_ids:
            run, trace = self.run(run_id), self.trace(run_id) if self._mirror_traces else None
            with self._guard("the outbox was not changed"), self._transaction():
                self._db.execute("DELETE FROM outbox WHERE run_id = ?", (run_id,))
                self._insert_blocks(run, trace)

    # Inside a save

    def _save(self, run: Run, row: dict[str, Value], trace: Trace | None) -> None:
        trace_problem = None
        if trace is not None:
            try:
                write_trace(self.trace_path(str(row["trace"])), trace)
            except StoreError as error:
                trace_problem, row = error, row | {"trace": None, "trace_digest": None}
        try:
            self._commit(run, row, trace)
        except (StoreError, sqlite3.Error):
            # Unless another process saved the same run meanwhile: then the file is its own.
            if row.get("trace") and self._trace_name(run.run_id) is None:
                self.trace_path(str(row["trace"])).unlink(missing_ok=True)
            raise
        if trace_problem is not None:
            raise StoreError(
                f"run {run.run_id}: its {len(run.records)} records are saved, its trace is not: "
                f"{trace_problem.message}",
                hint=f"{trace_problem.hint}; then save the run again with its trace",
            ) from trace_problem

    def _commit(self, run: Run, row: dict[str, Value], trace: Trace | None) -> None:
        with self._transaction():
            if self._known(row) is None:
                now_ns = time.time_ns()
                check_clock(self._db, run, now_ns)
                check_units(self._db, run.run_id, run.records)
                self._insert("runs", row | {"saved_ns": now_ns})
                self._insert_records(run, 0)
                self._insert_blocks(run, trace)
            elif row.get("trace"):
                self._set_trace(row)

    def _known(self, row: Mapping[str, Value]) -> StoredRun | None:
        """The run of this row as it is stored already; with other content it is an error."""
        run_id = str(row["run_id"])
        found = self.find(run_id)
        if found is None:
            return None
        if found.digest != row["digest"]:
            what = "other content"
        elif found.trace and row.get("trace") and self.with_digest(found).trace_digest != row["trace_digest"]:
            what = "another trace"
        else:
            return found
        raise StoreError(
            f"{self.database}: already holds a run {run_id} with {what}; nothing was overwritten",
            hint="give every run its own id (measurements.store.new_run_id())",
        )

    def _replace(self, run: Run, row: dict[str, Value], known: int) -> None:
        """Put ``row`` in the place of the run's row, and its records from number ``known`` on beside the old ones."""
        changes = ", ".join(f"{name} = :{name}" for name in row)
        self._db.execute(f"UPDATE runs SET {changes} WHERE run_id = :run_id", row)
        self._insert_records(run, known)
        self._insert_blocks(replace(run, records=run.records[known:]), None)

    def _set_trace(self, row: Mapping[str, Value]) -> None:
        query = "UPDATE runs SET trace = :trace, trace_digest = :trace_digest WHERE run_id = :run_id"
        self._db.execute(query, row)

    def _insert_records(self, run: Run, first: int) -> None:
        for position, record in enumerate(run.records[first:], first):
            self._insert("records", record_row(run.run_id, position, record))

    def _insert_blocks(self, run: Run, trace: Trace | None) -> None:
        """Put the run's figures into the outbox, and the buckets of its trace where they are mirrored."""
        for block in blocks(run_lines(run)):
            self._insert("outbox", {"run_id": run.run_id, "lines": block})
        if trace is not None and self._mirror_traces:
            for block in blocks(trace_lines(run, trace, trace_source(run.records))):
                self._insert("outbox", {"run_id": run.run_id, "lines": block})

    def _insert(self, table: str, row: Mapping[str, Value]) -> None:
        names = ", ".join(row)
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))

    # Inside a read

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

    def _blocks(self, condition: str, value: Value, limit: int) -> list[OutboxBlock]:
        query = f"SELECT block, run_id, lines, answer FROM outbox WHERE {condition} ORDER BY block LIMIT ?"
        with self._guard("the outbox cannot be read"):
            return [OutboxBlock(*row) for row in self._db.execute(query, (value, limit))]

    def _trace_name(self, run_id: str) -> str | None:
        row = self._db.execute("SELECT trace FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None or row["trace"] is None else str(row["trace"])

    # Transactions, locks and errors

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
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    @contextmanager
    def keeping_traces(self) -> Iterator[None]:
        """No file in ``traces/`` is removed meanwhile, also not one that no run names yet.

        Raises:
            StoreError: the store cannot be written to.
        """
        self._must_be_writable("nothing was written")
        with self._guard("nothing was written"), self._traces_kept():
            yield

    @contextmanager
    def _traces_kept(self, *, removing: bool = False) -> Iterator[None]:
        """No file in ``traces/`` is removed meanwhile; with ``removing``, no save is under way meanwhile."""
        with (self.path / TRACES_LOCK).open("ab") as lock:
            wait_for_lock(lock.fileno(), shared=not removing)
            yield

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as fault:
            fail(self.database, what, fault)

    def _must_be_writable(self, what: str) -> None:
        if self._opened.read_only_because is not None:
            fail(self.database, what, self._opened.read_only_because)


def _check_run_id(run: Run) -> None:
    if not _RUN_ID.fullmatch(run.run_id):
        raise StoreError(
            f"run id {run.run_id!r} cannot be a file name",
            hint="use measurements.store.new_run_id(), or letters, digits, '.', '_' and '-'",
        )
