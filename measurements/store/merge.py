"""Merging stores: what several controllers measured, in one store.

A run is known by its id. Merging again changes nothing, and a merge that was broken off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import StoreError
from measurements.store.local import Store
from measurements.store.opening import DATABASE
from measurements.store.revisions import StoredRun, is_later
from measurements.store.rows import run_row
from measurements.store.traces import copy_trace, read_trace, trace_digest

_SHOWN = 5


@dataclass(frozen=True)
class MergeResult:
    """What a merge did.

    Attributes:
        runs: runs in the other store.
        changed: of these, runs that were added, brought up to date, or given their trace.
    """

    runs: int
    changed: int


def merge(store: Store, other: Path, tell: Callable[[int, int], None] = lambda done, total: None) -> MergeResult:
    """Add the runs of another store, which is only read, with their traces and what its mirror has not confirmed.

    Of a run that both have, the one amended last stays. Nothing is merged where two runs share an id and differ.

    Args:
        store: where the runs go.
        other: folder of the other store; it may be one of an earlier lab and may be in use.
        tell: called with the runs done and the runs there are.

    Raises:
        StoreError: the other store cannot be read or is damaged, or runs of one id differ. What was merged before a
            failure stays; merging again goes on.
    """
    if not (other / DATABASE).is_file():
        raise StoreError(f"{other}: there is no store to merge", hint="name the folder that holds lab.sqlite")
    if (other / DATABASE).samefile(store.database):
        raise StoreError(f"{other}: is the store itself", hint="name another store to merge into this one")
    with Store(other, read_only=True) as source:
        run_ids = source.run_ids()
        _compare(store, source, run_ids)
        changed = 0
        for done, run_id in enumerate(run_ids):
            tell(done, len(run_ids))
            changed += _merge_run(store, source, run_id)
    return MergeResult(len(run_ids), changed)


def _compare(store: Store, source: Store, run_ids: list[str]) -> None:
    """Check all that can be checked before the first run is merged."""
    problems = _unit_mismatches(store, source)
    for run_id in run_ids:
        try:
            theirs = source.find(run_id)
            if theirs is not None and run_row(theirs.run)["digest"] != theirs.digest:
                raise StoreError(f"run {run_id} differs from its digest in {source.database}: it is damaged")
            mine = store.find(run_id)
            if mine is not None and theirs is not None:
                is_later(mine, theirs)
        except StoreError as error:
            problems.append(error.message)
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StoreError(
            f"{source.database}: nothing was merged: {'; '.join(problems[:_SHOWN])}{more}",
            hint="two runs of one id must be one run, and one metric has one unit: find out which store is right",
        )


def _unit_mismatches(store: Store, source: Store) -> list[str]:
    here, there = store.units(), source.units()
    return [
        f"{metric} is in {' and '.join(sorted(there[metric]))} there and in {' and '.join(sorted(here[metric]))} here"
        for metric in sorted(here.keys() & there.keys())
        if not there[metric] <= here[metric]
    ]


def _merge_run(store: Store, source: Store, run_id: str) -> bool:
    theirs = source.find(run_id)
    if theirs is None:
        return False  # pruned there in the meantime
    theirs = source.with_digest(theirs)
    with store.keeping_traces():
        mine = store.find(run_id)
        if theirs.trace is not None and (mine is None or mine.trace is None):
            _copy(source.trace_path(theirs.trace), store.trace_path(theirs.trace), theirs)
        return store.adopt(theirs, source.unconfirmed(run_id))


def _copy(source: Path, target: Path, stored: StoredRun) -> None:
    """Copy a trace and read the copy back: a damaged one does not spread."""
    copy_trace(source, target)
    if trace_digest(read_trace(target)) != stored.trace_digest:
        target.unlink()
        raise StoreError(
            f"{source}: differs from its digest; run {stored.run.run_id} was not merged",
            hint="`lab store verify` on that store names what is damaged; restore the file from a copy",
        )
