"""What a step of training takes: its regions one by one, and the whole step as their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.errors import MeterError, ProtocolError
from measurements.energy import marked_energy, window_records
from measurements.latency import latency_records
from measurements.record import Record, Source, Trace
from measurements.regions import INFERENCE, RegionPass
from measurements.statistics import make_record
from measurements.uncertainty import MeterClass

REGIONS = ("train.forward", "train.backward", "train.update")
STEP = "train.step"
COPY_IN, COPY_OUT = "train.copy_in", "train.copy_out"
"""Of a step whose accelerator is handed its sample and label, and whose loss comes back: PyTorch's on a device."""
TRANSFERS = (COPY_IN, COPY_OUT)
_TIMED = (*REGIONS, *TRANSFERS)
STEP_NOTE = "sum of the step's regions; what the runner sends between them is not counted"


@dataclass(frozen=True)
class StepPass:
    """A whole step: as many cycles as its regions together, from 0."""

    index: int
    end: int
    region: str = STEP
    begin: int = 0


def steps(passes: Sequence[RegionPass]) -> list[list[int]]:
    """The places in ``passes`` that belong to each step, its copies among them, in order.

    Raises:
        ProtocolError: a step lacks a region that the first one has, or has one too many.
    """
    groups: list[list[int]] = []
    opening = _opening(passes)
    for place, one in enumerate(passes):
        if one.region == opening:
            groups.append([])
        if one.region in _TIMED and groups:
            groups[-1].append(place)
    first = [passes[place].region for place in groups[0]] if groups else []
    for group in groups:
        found = [(passes[place].region, passes[place].index) for place in group]
        if found != [(region, passes[group[0]].index) for region in first]:
            raise ProtocolError(f"training step {passes[group[0]].index} came as {found}, the first one as {first}")
    return groups


def unbroken(passes: Sequence[RegionPass]) -> int:
    """How many of the first passes belong to whole steps; a single step cannot be told from a part of one."""
    opening = _opening(passes)
    begins = [place for place, one in enumerate(passes) if one.region == opening]
    if len(begins) < 2:
        return 0
    whole = len(passes) - begins[-1] == begins[1] - begins[0]
    return len(passes) if whole else begins[-1]


def _opening(passes: Sequence[RegionPass]) -> str:
    """What each step begins with."""
    return COPY_IN if any(one.region == COPY_IN for one in passes) else REGIONS[0]


def training_latency_records(
    passes: Sequence[RegionPass], clock_hz: float, clock: str, source: Source
) -> tuple[Record, ...]:
    """``latency`` of each region, copy and whole step, ``cycles`` and ``instructions`` where the clock counts them.

    Args:
        passes: what the device reported of a job ``train``, in order.
        clock_hz, clock, source: as for :func:`measurements.latency.latency_records`.

    Raises:
        ProtocolError: a region ends before it begins, or a step is not complete.
    """
    timed = [one for one in passes if one.region in _TIMED]
    groups = steps(timed)
    whole = [
        StepPass(timed[group[0]].index, sum(timed[place].end - timed[place].begin for place in group))
        for group in groups
    ]
    regions = latency_records(timed, clock_hz, clock, source)
    return (*regions, *latency_records(whole, clock_hz, clock, source, note=STEP_NOTE))


def training_energy_records(
    trace: Trace,
    passes: Sequence[RegionPass],
    clock_hz: float,
    source: Source,
    quiet_s: float = 2e-3,
    meter: MeterClass | None = None,
) -> tuple[Record, ...]:
    """Energy, charge and power of each region and of the whole step, as :func:`measurements.energy.energy_records`.

    Args:
        trace: the power trace, over a job ``train`` and the inferences after it, if any.
        passes: what the device reported of both, in order.
        clock_hz, source, quiet_s, meter: as there.

    Raises:
        MeterError: there is no step.
        MeasurementRejected: as there.
        ProtocolError: a step is not complete.
    """
    marked = (*REGIONS, INFERENCE)
    timed = [one for one in passes if one.region in marked]
    groups = steps(timed)
    if not groups:
        raise MeterError("the device reports no step of training: nothing to measure")
    records, figures = marked_energy(trace, timed, clock_hz, marked, source, quiet_s, meter)
    return (*records, *window_records(STEP, figures.summed(groups), source, STEP_NOTE))


def loss_record(losses: Sequence[float], source: Source) -> Record:
    """The loss curve: one value per step, each before its update."""
    return make_record(STEP, "loss", "1", source, losses, note="each step's loss before its update, in order")


def whole_training(
    records: Sequence[Record], steps: int, target_accuracy: float = 0.0, steps_to_accuracy: int | None = None
) -> tuple[Record, ...]:
    """Time and energy of all steps, and the time to an accuracy, as so many times the median step.

    Which step reaches the accuracy is what the same training on the host says, with which the device's variables are
    compared.

    Args:
        records: of the run, those of the whole step among them.
        steps: steps of the training.
        target_accuracy: 0 where none is asked for.
        steps_to_accuracy: steps after which it is reached, None where it never is.
    """
    wanted = [("latency", "training_time", steps, f"{steps} steps"),
              ("energy", "training_energy", steps, f"{steps} steps")]  # fmt: skip
    if target_accuracy and steps_to_accuracy is not None:
        note = f"{steps_to_accuracy} steps to {target_accuracy:.0%}, as the host's curve has it"
        wanted.append(("latency", "time_to_accuracy", steps_to_accuracy, note))
    by_metric = {record.metric: record for record in records if record.region == STEP}
    found = []
    for metric, name, count, note in wanted:
        if one := by_metric.get(metric):
            made = make_record("run", name, one.unit, one.source, [count * one.median], note=f"{note}, each the median")
            by_class = one.class_uncertainty
            found.append(made if by_class is None else replace(made, class_uncertainty=count * by_class))
    return tuple(found)
