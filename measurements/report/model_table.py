"""Runs of model files as rows of a table: what the plan and the emulator say of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measurements.record import Run
from measurements.report.lookup import find_record, workload_name
from measurements.report.run_view import RunView
from measurements.report.units import short


@dataclass(frozen=True)
class ModelRow:
    """One run of a model file: what the plan and the emulator say of it, as texts in the order of ``MODEL_COLUMNS``."""

    anchor: str
    device: str
    workload: str
    figures: tuple[str, ...]


MODEL_COLUMNS = {
    "MACs": "macs",
    "Instructions": "instructions",
    "per MAC": "instructions_per_mac",
    "Arena": "arena",
    "Lower bound": "arena.lower_bound",
    "Published reserve": "arena.published_reserve",
    "Flash": "flash",
}


def model_rows(runs: Sequence[Run], views: Sequence[RunView]) -> tuple[ModelRow, ...]:
    """Rows for the runs whose workload is a model file: those that say what an arena of theirs is planned to be."""
    rows = []
    for run, view in zip(runs, views, strict=True):
        if find_record(run, "arena.lower_bound") is None:
            continue
        found = [find_record(run, metric, "inference") for metric in MODEL_COLUMNS.values()]
        texts = tuple("" if record is None else short(record.median, record.unit) for record in found)
        rows.append(ModelRow(view.anchor, run.provenance.device, workload_name(run.provenance), texts))
    return tuple(rows)
