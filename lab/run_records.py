"""What a run records besides what its passes measured: its plan, counts, scores, and what may not be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledTraining, TrainingStep
from lab.deployment import Deployment
from lab.devices.base import CLASSES, RegionCount
from lab.events import Job
from lab.workloads.base import Prepared, Score
from measurements.record import Alignment, ArenaSchedule, Buffer, Layer, PlannedStep, Record, RunDetail
from measurements.statistics import make_record
from measurements.training import REGIONS, STEP

CORE_CLOCKS = frozenset(("dwt", "systick"))
CLOCK_TOLERANCE = 0.01
HOST_TIMED: frozenset[Alignment] = frozenset(("host-time", "whole-run"))


def clock_notes(deployment: Deployment) -> list[str]:
    """What a reader must know of a board whose clock is not the one of its file: it fell back to another oscillator."""
    told, nominal = deployment.hello.clock_hz, deployment.entry.board.clock_hz
    if deployment.hello.clock not in CORE_CLOCKS or abs(told / nominal - 1) <= CLOCK_TOLERANCE:
        return []
    return [
        f"the board runs at {told / 1e6:g} MHz and not at the {nominal / 1e6:g} MHz of its file: at start-up it fell "
        "back to its internal oscillator, or its file is wrong; latency and energy are those of this clock"
    ]


def without_host_times(records: Sequence[Record], *, remote: bool) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """What may be recorded of a device, and notes that say what may not and why.

    A network delays what passes by it does not say how much. Figures whose window this host's clock bounds are
    refused of a device behind one; those of the device's own counter, and of marker edges that a meter saw, are kept.

    Args:
        records: what was measured.
        remote: whether the device was reached through a network.
    """
    refused = [record for record in records if remote and record.alignment in HOST_TIMED]
    notes = ["reached through a network: nothing here was timed by this computer's clock"] if remote else []
    notes += [
        f"{record.metric} of {record.region!r} is refused: its window was bounded by this computer's clock "
        f"({record.alignment}), and a network lies between it and the device"
        for record in refused
    ]
    return tuple(record for record in records if record not in refused), tuple(notes)


def scores_of(prepared: Prepared, outputs: npt.NDArray[np.int8], job: Job) -> list[Score]:
    """The workload's own verdict, and how many samples equal the integer reference bit for bit."""
    reference = prepared.reference_outputs[: job.count]
    equal = float(np.mean(np.all(reference == outputs, axis=1)))
    scores = prepared.check(outputs) if job.count == prepared.job.count else []
    return [*scores, Score("bit_exact", equal, 1.0)]


def plan_of(deployment: Deployment) -> RunDetail:
    """What is known of a run before it runs: layers, buffers of the arena in bytes, and facts of the workload."""
    model = deployment.prepared.model
    layers = [
        Layer(index, layer.name, layer.operator, layer.macs, layer.weights_bytes)
        for index, layer in enumerate(model.layers)
    ]
    buffers = [Buffer(plan.name, plan.offset, plan.size, plan.first, plan.last) for plan in model.buffers]
    prepared = deployment.prepared
    facts, note = prepared.facts, prepared.dataset.note
    notes = facts if any(note in fact for fact in facts) else (*facts, note)
    return RunDetail(
        tuple(layers),
        tuple(buffers),
        model.arena_bytes,
        model.lower_bound_bytes,
        notes=notes,
        training=None if model.training is None else training_schedule(model.training),
        task=note,
        target_accuracy=0.0 if prepared.training is None else prepared.training.target_accuracy,
    )


def training_schedule(training: CompiledTraining) -> ArenaSchedule:
    """A training step and its arena, as the report draws them."""
    return ArenaSchedule(
        tuple(planned_step(step) for step in training.steps),
        tuple(Buffer(plan.name, plan.offset, plan.size, plan.first, plan.last) for plan in training.buffers),
        training.arena_bytes,
        training.lower_bound_bytes,
        training.method,
        training.variables_bytes,
    )


def planned_step(step: TrainingStep) -> PlannedStep:
    """A step of the schedule, for the record."""
    return PlannedStep(step.name, step.operator, step.phase, step.macs, step.flop, step.traffic_bytes)


def with_counts(layer: Layer, cycles: float | None, count: RegionCount | None) -> Layer:
    """A layer with its clock cycles, and with its exact counts of instructions and accesses where there are any."""
    if count is None:
        return replace(layer, cycles=cycles)
    return replace(
        layer, cycles=cycles, instructions=count.instructions, loads=count.loads, stores=count.stores
    )


def per_mac(records: list[Record], prepared: Prepared) -> list[Record]:
    """Instructions of an inference and of training per multiply-accumulate, where instructions were counted."""
    macs = {"inference": prepared.model.macs}
    if prepared.model.training is not None:
        macs |= {f"train.{phase}": prepared.model.training.macs(phase) for phase in ("forward", "backward", "update")}
        macs[STEP] = sum(macs[region] for region in REGIONS)
    unit = "instructions/MAC"
    return [
        make_record(one.region, "instructions_per_mac", unit, one.source, [one.median / macs[one.region]])
        for one in records
        if one.metric == "instructions" and macs.get(one.region)
    ]


def count_records(counts: list[RegionCount]) -> list[Record]:
    """Loads, stores and classes of instructions, counted exactly, of an inference and of the phases of training."""
    note = "exact counts of QEMU's plug-in, the few of the region's own edges included"
    records = []
    for count in counts:
        if count.region in ("inference", *REGIONS):
            named = asdict(count)
            for metric in ("loads", "stores", *(name for name in CLASSES if named[name])):
                records.append(make_record(count.region, metric, metric, "emulated", [float(named[metric])], note=note))
    return records
