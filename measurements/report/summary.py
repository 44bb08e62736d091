"""The summary of the page: a row per run, in groups that may stand on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from measurements.record import Record, Run
from measurements.report.badges import Badge, badges
from measurements.report.charts import ErrorBar, error_bar
from measurements.report.lookup import (
    CLOCK_GROUPS,
    STATUS_WORDS,
    anchor_of,
    clock_group,
    find_record,
    main_region,
    rejected_reasons,
    workload_name,
)
from measurements.report.record_table import interval_text
from measurements.report.units import NO_FIGURE, exact, is_count, quantity, scale_for


@dataclass(frozen=True)
class Cell:
    """A figure of the summary: ``text``, the figure as stored, further lines, an error bar."""

    text: str = NO_FIGURE
    title: str = ""
    details: tuple[str, ...] = ()
    bar: ErrorBar | None = None


@dataclass(frozen=True)
class SummaryRow:
    """One run in the summary table."""

    anchor: str
    device: str
    workload: str
    status: str
    status_word: str
    badges: tuple[Badge, ...]
    accuracy: Cell
    latency: Cell
    cycles: Cell
    ram: Cell
    flash: Cell
    energy: Cell


@dataclass(frozen=True)
class SummaryGroup:
    """Runs whose figures may stand on one axis: the same kind of clock. Hardware and virtual time never share one."""

    title: str
    rows: tuple[SummaryRow, ...]


def summary_groups(runs: Sequence[Run]) -> tuple[SummaryGroup, ...]:
    """The groups of the summary that have runs, in their order."""
    kinds = [(title, [one for one in enumerate(runs, 1) if clock_group(one[1]) == title]) for title in CLOCK_GROUPS]
    return tuple(SummaryGroup(title, _summary_rows(members)) for title, members in kinds if members)


def _summary_rows(members: Sequence[tuple[int, Run]]) -> tuple[SummaryRow, ...]:
    tops = {metric: _top(metric, [run for _, run in members]) for metric in ("latency", "cycles", "energy")}
    rows = []
    for number, run in members:
        region = main_region(run)
        cycles = find_record(run, "cycles", region) or find_record(run, "instructions", region)
        rows.append(
            SummaryRow(
                anchor=anchor_of(number),
                device=run.provenance.device,
                workload=workload_name(run.provenance),
                status=run.status,
                status_word=STATUS_WORDS[run.status],
                badges=badges(run),
                accuracy=_accuracy(run),
                latency=_spread_cell(find_record(run, "latency", region), tops["latency"]),
                cycles=_plain_cell(cycles),
                ram=_plain_cell(find_record(run, "peak_ram")),
                flash=_plain_cell(find_record(run, "flash")),
                energy=_energy_cell(run, region, tops["energy"]),
            )
        )
    return tuple(rows)


def _top(metric: str, runs: Sequence[Run]) -> float:
    found = [find_record(run, metric, main_region(run)) for run in runs]
    values = [v for record in found if record is not None for v in (record.median, record.ci_high, record.p95)]
    return 1.04 * max((value for value in values if math.isfinite(value)), default=0.0)


def _spread_cell(record: Record | None, top: float) -> Cell:
    if record is None:
        return Cell()
    scale = scale_for(record.median, record.unit, record.metric)
    if record.n > 1 and len(set(record.raw)) == 1:
        lines = [f"all {record.n} repeats equal"]
    elif record.n > 1:
        lines = [f"95 % CI {interval_text(record)}", f"p95 {scale.number(record.p95)}"]
    else:
        lines = ["one repeat"]
    title = f"{record.region}: median {exact(record.median, record.unit)}, n = {record.n}"
    return Cell(scale.text(record.median), title, tuple(lines), error_bar(record, top))


def _energy_cell(run: Run, region: str, top: float) -> Cell:
    if reasons := rejected_reasons(run):
        return Cell("rejected", "\n".join(one.message for one in run.detail.rejections), (reasons.partition(": ")[2],))
    record = find_record(run, "energy", region)
    shown = _spread_cell(record, top)
    if record is None or not record.class_uncertainty:
        return shown
    return replace(shown, details=(*shown.details, f"meter's class ±{quantity(record.class_uncertainty, 'J')}"))


def _plain_cell(record: Record | None) -> Cell:
    if record is None:
        return Cell()
    title = f"{record.region} · {record.metric}: {exact(record.median, record.unit)}"
    if is_count(record.unit):
        return Cell(scale_for(record.median, record.unit).number(record.median), title, (record.unit,))
    return Cell(quantity(record.median, record.unit, record.metric), title)


def _accuracy(run: Run) -> Cell:
    measured, reference = find_record(run, "accuracy"), find_record(run, "accuracy.reference")
    if measured is None:
        return Cell()
    text = quantity(measured.median, "1", "accuracy")
    title = f"{exact(measured.median, '1')} of 1"
    if reference is None or not math.isfinite(reference.median) or not math.isfinite(measured.median):
        return Cell(text, title, ("no reference recorded",))
    points = 100.0 * (measured.median - reference.median)
    if not math.isfinite(points):
        return Cell(text, title, ("too far from the reference to compare",))
    gap = "equal to it" if abs(points) < 0.005 else f"{points:+.2f} points".replace("-", "−")
    details = (f"reference {quantity(reference.median, '1', 'accuracy')}", gap)
    return Cell(text, f"{title}, reference {exact(reference.median, '1')}", details)
