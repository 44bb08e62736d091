"""Pruning: what may go from a store, and taking it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from measurements.store.local import Store
from measurements.store.selection import Selection


@dataclass(frozen=True)
class PrunePlan:
    """What a pruning removes.

    Attributes:
        run_ids: runs that go, or, with ``traces_only``, whose traces go; oldest first.
        traces_only: whether the runs themselves stay.
        unsent: runs that match but stay, since the mirror has not confirmed them.
        trace_bytes: size of the traces that go.
    """

    run_ids: tuple[str, ...]
    traces_only: bool
    unsent: tuple[str, ...]
    trace_bytes: int


def plan(
    store: Store, selection: Selection, *, keep: int = 0, traces_only: bool = False, even_unsent: bool = False
) -> PrunePlan:
    """Which runs to remove.

    Args:
        store: the store.
        selection: the runs that may go.
        keep: the latest so many runs of each device, workload and variant stay, whatever matches.
        traces_only: remove their traces only.
        even_unsent: also remove runs that the mirror has not confirmed.

    Raises:
        StoreError: the store cannot be read.
    """
    where, arguments = selection.where()
    query = """
        SELECT run_id, trace, EXISTS (SELECT 1 FROM outbox WHERE outbox.run_id = runs.run_id) AS unsent,
            row_number() OVER (
                PARTITION BY json_extract(provenance, '$.device'), json_extract(provenance, '$.workload'),
                    json_extract(provenance, '$.variant')
                ORDER BY started_ns DESC, run_id DESC
            ) AS age
        FROM runs ORDER BY started_ns, run_id
    """
    chosen = {row["run_id"] for row in store.table(f"SELECT run_id FROM runs WHERE {where}", arguments)}
    matching = [row for row in store.table(query, {}) if row["run_id"] in chosen and row["age"] > keep]
    if traces_only:
        matching = [row for row in matching if row["trace"] is not None]
    # The mirror gets no raw traces: what it has not confirmed does not hold them.
    held = [] if even_unsent or traces_only else [row["run_id"] for row in matching if row["unsent"]]
    going = [row for row in matching if row["run_id"] not in set(held)]
    size = sum(_size(store.trace_path(row["trace"])) for row in going if row["trace"] is not None)
    return PrunePlan(tuple(row["run_id"] for row in going), traces_only, tuple(held), size)


def prune(store: Store, planned: PrunePlan) -> tuple[Path, ...]:
    """Remove what was planned, the files that no run names, and the space they took.

    Returns:
        The files that no run named.

    Raises:
        StoreError: not all was removed; each run was removed whole or not at all, and pruning again goes on.
    """
    store.remove(planned.run_ids, traces_only=planned.traces_only)
    leftovers = store.remove_leftovers()
    store.compact()
    return leftovers


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
