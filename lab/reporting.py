"""The report of a session: from the store to one HTML file."""

from __future__ import annotations

from pathlib import Path

from lab import progress
from measurements.store import Store


def report_session(store_path: Path, session_id: str, reports: Path) -> Path | None:
    """Write the report of a session and mirror what waits in the outbox.

    Args:
        store_path: folder of the local store.
        session_id: which session.
        reports: folder that reports go to; ``latest`` in it leads to this one afterwards.

    Returns:
        The report, or None where the session measured nothing.

    Raises:
        StoreError: the store cannot be read, or the report cannot be written.
    """
    from measurements.report import publish, write_report

    with Store(store_path) as store:
        runs = store.runs(session_id)
        if not runs:
            return None
        with progress.step(f"report of {len(runs)} runs", quiet_below_s=2.0):
            traces = {run.run_id: trace for run in runs if (trace := store.trace(run.run_id)) is not None}
            page = write_report(runs, traces, reports / session_id)
            publish(page, reports)
    return page
