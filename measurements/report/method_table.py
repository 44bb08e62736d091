"""Every method on every device as rows of one table: accuracy, memory, energy, time, and whether anything beats it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from measurements.record import Run
from measurements.report.lookup import STATUS_WORDS, anchor_of, find_record, rejected_reasons, workload_name
from measurements.report.pareto import candidates_of, cost_of, dominates, front, kin, kind_of
from measurements.report.units import quantity

METHOD_COLUMNS = ("Accuracy", "Peak RAM", "Energy", "Time")
_SHOWN_BETTER = 2
_LEFT_OUT = "left out"


@dataclass(frozen=True)
class Unmeasured:
    """A method that was to run on a device and did not, or not beside all of its baselines.

    Attributes:
        device, workload, variant: what was asked for.
        reason: why there is none, in words.
        is_failure: whether something went wrong; no device of a class that the method does not run on.
    """

    device: str
    workload: str
    variant: str
    reason: str
    is_failure: bool = True


@dataclass(frozen=True)
class MethodRow:
    """One method on one device.

    Attributes:
        anchor: section of its run, empty where there is none.
        device, name: which device, and the method with its variant.
        task: what it was asked.
        status, status_word: how its run ended; ``left out`` where there was to be none.
        figures: texts for :data:`METHOD_COLUMNS`; in place of a figure that there is not, the reason.
        front: whether anything that ran on the same device beats it in accuracy and all costs, in words.
        on_front: whether nothing does.
    """

    anchor: str
    device: str
    name: str
    task: str
    status: str
    status_word: str
    figures: tuple[str, ...]
    front: str
    on_front: bool


def method_rows(runs: Sequence[Run], unmeasured: Sequence[Unmeasured] = ()) -> tuple[MethodRow, ...]:
    """Every method on every device, by name and then by device; baselines have no row.

    Args:
        runs: of the session; those of baselines are what methods are compared with.
        unmeasured: what was asked for and did not run, or not to its end.
    """
    numbered = tuple(enumerate(runs, 1))
    by_device: dict[str, list[tuple[int, Run]]] = {}
    for number, run in numbered:
        by_device.setdefault(run.provenance.device, []).append((number, run))
    fronts: dict[int, tuple[str, bool]] = {}
    for members in by_device.values():
        fronts |= _fronts(members)
    stopped = {(one.device, one.workload, one.variant): one for one in unmeasured}
    rows = []
    for number, run in _methods(numbered):
        asked = run.provenance
        row, why = _row(number, run, fronts), stopped.pop((asked.device, asked.workload, asked.variant), None)
        if why is not None and run.status == "passed":
            row = replace(row, task=f"{row.task} Stopped beside its baselines: {why.reason}")
        rows.append((asked.workload, row))
    rows += [(one.workload, _missing(one)) for one in stopped.values()]
    # Devices that run side by side begin at different methods, so the order of the runs says nothing.
    return tuple(row for _, row in sorted(rows, key=lambda one: (one[0], one[1].device)))


def _methods(numbered: Iterable[tuple[int, Run]]) -> list[tuple[int, Run]]:
    """The runs of methods themselves: those with claims, and those of the variant that came first of a workload on a
    device, which is no baseline's; the last of each. What only infers has no row."""
    firsts: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str, str], tuple[int, Run]] = {}
    for number, run in numbered:
        asked = run.provenance
        first = firsts.setdefault((asked.device, asked.workload), asked.variant)
        learns = kind_of(run)[0] or run.detail.training is not None
        if run.detail.claims or (asked.variant == first and learns):
            found[asked.device, asked.workload, asked.variant] = number, run
    return list(found.values())


def _fronts(members: Sequence[tuple[int, Run]]) -> dict[int, tuple[str, bool]]:
    """By its number what is said of each run of one device that can be compared."""
    told: dict[int, tuple[str, bool]] = {}
    for group in kin(members):
        candidates = candidates_of(group)
        best = front(candidates)
        names = {place: workload_name(run.provenance) for place, (_, run) in enumerate(group.whole, 1)}
        for one, (number, _) in zip(candidates, group.whole, strict=True):
            better = [names[other.number] for other in candidates if other.number in best and dominates(other, one)]
            told[number] = (_in_words(better, len(candidates)), not better)
    return told


def _in_words(better: Sequence[str], compared: int) -> str:
    if compared == 1:
        return "alone"
    if not better:
        return f"yes, of {compared}"
    more = len(better) - _SHOWN_BETTER
    return f"no: {'; '.join(better[:_SHOWN_BETTER])}{f' and {more} more' if more > 0 else ''}"


def _row(number: int, run: Run, fronts: dict[int, tuple[str, bool]]) -> MethodRow:
    said, on_front = fronts.get(number, ("not compared: it lacks a figure", False))
    accuracy = find_record(run, "accuracy")
    memory = find_record(run, "peak_ram")
    return MethodRow(
        anchor=anchor_of(number),
        device=run.provenance.device,
        name=workload_name(run.provenance),
        task=run.detail.task,
        status=run.status,
        status_word=STATUS_WORDS[run.status],
        figures=(
            "not measured" if accuracy is None else quantity(accuracy.median, "1", "accuracy"),
            "not measured" if memory is None else quantity(memory.median, memory.unit),
            _energy(run),
            _time(run),
        ),
        front=said,
        on_front=on_front,
    )


def _energy(run: Run) -> str:
    """Of the whole training, or of a sample of a stream."""
    if reasons := rejected_reasons(run):
        return reasons
    metric, what = {"Training": ("training_energy", ""), "Adaptation": ("energy_per_sample", " a sample")}.get(
        kind_of(run)[0], ("energy", " an inference")
    )
    if found := find_record(run, metric, "inference"):
        return f"{quantity(found.median, found.unit)}{what}"
    return "not measured" if run.provenance.meter else "no meter"


def _time(run: Run) -> str:
    """To the accuracy that is asked for in training; of a sample of a stream."""
    kind, target = kind_of(run)[0], run.detail.target_accuracy
    if kind == "Training":
        taken = find_record(run, "training_time")
        whole = quantity(taken.median, taken.unit) if taken is not None else ""
        if not target:
            return f"{whole} in all; no accuracy is asked for"
        needed = cost_of(run, "time_to_accuracy")
        if needed is None or not math.isfinite(needed):
            return f"never reaches {target:.0%}; {whole} in all"
        return f"{quantity(needed, 's')} to {target:.0%}"
    found = find_record(run, "latency_per_sample" if kind else "latency", "inference")
    return f"{quantity(found.median, found.unit)} a sample" if found is not None else "not measured"


def _missing(one: Unmeasured) -> MethodRow:
    name = f"{one.workload} ({one.variant})" if one.variant else one.workload
    status = "failed" if one.is_failure else _LEFT_OUT
    word = STATUS_WORDS["failed"] if one.is_failure else _LEFT_OUT
    return MethodRow("", one.device, name, one.reason, status, word, ("", "", "", ""), "", False)
