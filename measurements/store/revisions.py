"""A run as it lies in a store, and which of two copies of a run is the later one."""

from __future__ import annotations

from dataclasses import dataclass

from lab.errors import StoreError
from measurements.record import Run
from measurements.store.rows import record_row


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies in a store.

    Attributes:
        run: the run.
        digest: SHA-256 of the run and its records, hex.
        revision: how often it was amended.
        trace: name of its trace file in ``traces/``, None where it has none.
        trace_digest: SHA-256 of the trace, hex; None where there is none, or an earlier lab wrote it.
    """

    run: Run
    digest: str
    revision: int
    trace: str | None
    trace_digest: str | None


def extends(later: Run, earlier: Run) -> bool:
    """Whether ``later`` holds all records of ``earlier``, unchanged and in their order."""
    count = len(earlier.records)
    return [record_row("", 0, record) for record in later.records[:count]] == [
        record_row("", 0, record) for record in earlier.records
    ]


def is_later(mine: StoredRun, theirs: StoredRun) -> bool:
    """Whether ``theirs`` is ``mine``, amended since.

    Raises:
        StoreError: the two share their id and are different runs, or were amended differently.
    """
    if mine.trace_digest and theirs.trace_digest and mine.trace_digest != theirs.trace_digest:
        raise _conflict(mine, "traces")
    if mine.digest == theirs.digest:
        return False
    if _origin(mine.run) != _origin(theirs.run):
        raise _conflict(mine, "provenance")
    order = [_age(stored) for stored in (mine, theirs)]
    earlier, later = (mine.run, theirs.run) if order[0] < order[1] else (theirs.run, mine.run)
    if order[0] == order[1] or not extends(later, earlier):
        raise _conflict(mine, "records or status")
    return later is theirs.run


def _age(stored: StoredRun) -> tuple[int, int]:
    """Labs before schema version 2 did not count amendments: there the copy with more records is the later one."""
    return stored.revision, len(stored.run.records) if stored.revision == 0 else 0


def _origin(run: Run) -> tuple[object, ...]:
    return run.session_id, run.started_ns, run.test, run.provenance


def _conflict(stored: StoredRun, what: str) -> StoreError:
    return StoreError(f"run {stored.run.run_id} differs in its {what}")
