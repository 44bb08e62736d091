"""A training step of a run: the table of its steps and the drawing of its arena."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from measurements.record import ArenaSchedule, Layer, Record, Run
from measurements.report.arena_chart import arena_svg, describe
from measurements.report.layer_table import LayerTable, count_text, layer_table
from measurements.report.lookup import STEP_PREFIX, ticks_of, workload_name
from measurements.report.units import quantity


@dataclass(frozen=True)
class TrainingStepView:
    """A training step: what each step of its schedule costs, and its arena in words and drawn."""

    steps: LayerTable | None
    summary: str
    drawing: Markup


def training_step(run: Run, anchor: str) -> TrainingStepView | None:
    """The training step of a run, None where it has none; ``anchor`` is the id of the run's section."""
    schedule = run.detail.training
    if schedule is None or not schedule.steps or not schedule.buffers:
        return None
    summary = f"{describe(schedule)}. Trained variables take {quantity(schedule.variables_bytes, 'bytes')} besides."
    title = f"One training step on {run.provenance.device}, {workload_name(run.provenance)}"
    # The drawing escapes every text it is given.
    drawing = Markup(arena_svg(schedule, title=title, identity=f"{anchor}-arena"))
    return TrainingStepView(_step_table(schedule, run.records, ticks_of(run)), summary, drawing)


def _step_table(schedule: ArenaSchedule, records: Sequence[Record], ticks: str) -> LayerTable | None:
    """The steps of training with what was measured of each, as a table of layers without weights."""
    measured: dict[tuple[str, str], float] = {(one.region, one.metric): one.median for one in records}
    rows = []
    for index, step in enumerate(schedule.steps):
        region = f"{STEP_PREFIX}{index:02} {step.name}"
        instructions = measured.get((region, "instructions"))
        counted = int(instructions) if instructions is not None and math.isfinite(instructions) else None
        kind = f"{step.operator}, {step.phase}"
        spent = measured.get((region, "cycles"))
        if ticks == "ns" and (seconds := measured.get((region, "latency"))) is not None:
            spent = seconds * 1e9
        rows.append(Layer(index, step.name, kind, step.macs, 0, spent, counted))
    table = layer_table(rows, records, STEP_PREFIX, ticks)
    if table is None:
        return None
    return replace(table, summary=f"{len(rows)} steps, {count_text(sum(row.macs for row in rows))} MACs.")
