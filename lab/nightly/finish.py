"""The end of a night: one report, a summary for people and one for machines, what regressed, and the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.nightly.config import Cell, Plan
from lab.nightly.journal import Outcome, Progress
from lab.nightly.night import exit_status
from lab.reporting import report_night, trends
from measurements.record import Run
from measurements.report.night import NightCell, NightSummary
from measurements.store import Store


@dataclass(frozen=True)
class Ending:
    """How a night ended.

    Attributes:
        status: exit status.
        page: the report; ``summary.md`` and ``junit.xml`` lie beside it.
        headline: one line for people.
    """

    status: int
    page: Path
    headline: str


def finish(plan: Plan, progress: Progress, store_path: Path, reports: Path, notes: Sequence[str] = ()) -> Ending:
    """Write the report of a night and settle its exit status.

    Args:
        plan: what ran.
        progress: what became of it.
        store_path: folder of the local store.
        reports: folder that reports go to; ``latest`` in it leads to this one afterwards.
        notes: sentences for the reader.

    Raises:
        StoreError: the store cannot be read, or the report cannot be written.
    """
    with Store(store_path) as store:
        runs = {run.run_id: run for run in store.runs(progress.night)}
    cells = tuple(_cell(cell, progress.outcomes[cell.key], runs) for cell in plan.cells)
    history = trends(store_path, progress.night, plan.config.nights)
    regressions = len(history.regressions) if plan.config.fail_on_regression else 0
    summary = NightSummary(
        night=progress.night,
        cells=cells,
        unwell=tuple(progress.health.items()),
        spent_s=progress.spent_s,
        budget_s=plan.config.budget,
        status=exit_status({cell.verdict for cell in cells}, regressions),
        notes=tuple(notes),
    )
    page = report_night(store_path, summary, history, reports, plan.config.title)
    headline = summary.headline(history.regressions)
    return Ending(summary.status, page, f"{plan.config.title} {progress.night}: {headline}")


def _cell(cell: Cell, outcome: Outcome, runs: dict[str, Run]) -> NightCell:
    """A cell for the report; of its runs the last one counts, those before were tried again."""
    stored = [run_id for run_id in outcome.runs if run_id in runs]
    return NightCell(
        cell.device.name,
        cell.workload,
        cell.variant,
        outcome.verdict,
        outcome.message,
        outcome.retries,
        stored[-1] if stored else "",
        outcome.seconds,
    )
