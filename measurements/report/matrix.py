"""Devices against workloads: what passed, what it cost, and what was not run and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from measurements.record import Run
from measurements.report.lookup import anchor_of, clock_group, find_record, main_region, workload_name
from measurements.report.night import WORDS, NightCell, NightSummary, Verdict
from measurements.report.trends import Trends
from measurements.report.units import quantity

_OF_STATUS: dict[str, Verdict] = {
    "passed": "passed", "failed": "failed", "error": "infrastructure", "incomplete": "infrastructure",
}  # fmt: skip
_MARKS: dict[Verdict, str] = {
    "passed": "✓", "failed": "✗", "infrastructure": "⚠", "unavailable": "⊘", "unreached": "…",
}  # fmt: skip
_SHADES = 5


@dataclass(frozen=True)
class MatrixCell:
    """One device with one workload.

    Attributes:
        verdict: CSS class. mark: the verdict as a sign. word: the verdict in words.
        anchor: section of its run, empty where there is none.
        figures: latency and energy, as far as known.
        shade: 1 (least latency of the column) to 5, 0 where nothing is compared.
        flag: ``▲`` where a regression is new, else empty.
        message: first line of what went wrong.
    """

    verdict: Verdict
    mark: str
    word: str
    anchor: str
    figures: tuple[str, ...]
    shade: int
    flag: str
    message: str


@dataclass(frozen=True)
class MatrixRow:
    """One device; a cell is None where the matrix has none."""

    device: str
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class MatrixView:
    """The matrix and which verdicts occur in it, for the legend."""

    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    legend: tuple[tuple[str, str], ...]
    has_shades: bool


def matrix_view(runs: Sequence[Run], night: NightSummary | None, trends: Trends) -> MatrixView | None:
    """The matrix of a night, or of runs with at least two devices and two workloads; None where there is none."""
    cells = night.cells if night is not None else tuple(_as_cell(run) for run in runs)
    columns = tuple(dict.fromkeys(cell.subject for cell in cells))
    devices = tuple(dict.fromkeys(cell.device for cell in cells))
    if not cells or (night is None and (len(columns) < 2 or len(devices) < 2)):
        return None
    numbered = {run.run_id: (number, run) for number, run in enumerate(runs, 1)}
    worse = {
        (one.history.key.device, one.history.key.workload, one.history.key.variant) for one in trends.regressions
    }
    shades = _shades([run for _, run in numbered.values()])
    found = {
        (cell.device, cell.subject): _cell(
            cell, numbered.get(cell.run_id), shades, (cell.device, cell.workload, cell.variant) in worse
        )
        for cell in cells
    }
    rows = tuple(
        MatrixRow(device, tuple(found.get((device, column)) for column in columns)) for device in devices
    )
    verdicts = dict.fromkeys(cell.verdict for cell in cells)
    legend = tuple((_MARKS[verdict], WORDS[verdict]) for verdict in verdicts)
    return MatrixView(columns, rows, legend, any(cell.shade for cell in found.values()))


def _as_cell(run: Run) -> NightCell:
    provenance = run.provenance
    return NightCell(
        provenance.device, provenance.workload, provenance.variant, _OF_STATUS[run.status], run.error, run.retries,
        run.run_id,
    )  # fmt: skip


def _cell(cell: NightCell, numbered: tuple[int, Run] | None, shades: dict[str, int], worse: bool) -> MatrixCell:
    figures: tuple[str, ...] = ()
    if numbered is not None:
        region = main_region(numbered[1])
        records = [find_record(numbered[1], metric, region) for metric in ("latency", "energy")]
        figures = tuple(
            quantity(record.median, record.unit, record.metric) for record in records if record is not None
        )
    return MatrixCell(
        cell.verdict,
        _MARKS[cell.verdict],
        WORDS[cell.verdict],
        anchor_of(numbered[0]) if numbered is not None else "",
        figures,
        shades.get(cell.run_id, 0),
        "▲" if worse else "",
        cell.message.partition("\n")[0],
    )


def _shades(runs: Sequence[Run]) -> dict[str, int]:
    """Latency among the devices of a column on a logarithmic scale; kinds of clock are never compared."""
    groups: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for run in runs:
        record = find_record(run, "latency", main_region(run))
        if record is not None and math.isfinite(record.median) and record.median > 0.0:
            key = (clock_group(run), workload_name(run.provenance))
            groups.setdefault(key, []).append((run.run_id, math.log(record.median)))
    shades: dict[str, int] = {}
    for members in groups.values():
        low, high = min(value for _, value in members), max(value for _, value in members)
        if high - low > 1e-3:
            for run_id, value in members:
                shades[run_id] = 1 + min(_SHADES - 1, int(_SHADES * (value - low) / (high - low)))
    return shades
