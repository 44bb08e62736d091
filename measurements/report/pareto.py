"""The Pareto front accuracy × latency × energy × memory: which runs no other run beats in everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from measurements.record import Run
from measurements.report.charts import Axis, Tick, axis
from measurements.report.lookup import anchor_of, clock_group, find_record, main_region, workload_name
from measurements.report.units import quantity, scale_for

_Place: TypeAlias = Callable[[float], float]

_TRAINING = "Training"
_TITLES = {
    "latency": "Latency", "energy": "Energy", "peak_ram": "Peak RAM", "time_to_accuracy": "Time to accuracy",
    "training_time": "Time of training", "training_energy": "Energy of training",
    "latency_per_sample": "Latency per sample", "energy_per_sample": "Energy per sample",
}  # fmt: skip
_KINDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_TRAINING, "training_time", ("time_to_accuracy", "training_energy", "peak_ram")),
    ("Adaptation", "latency_per_sample", ("latency_per_sample", "energy_per_sample", "peak_ram")),
    ("", "", ("latency", "energy", "peak_ram")),
)
"""What a run is compared by: the first kind whose figure it has. Of training on the device, the training."""
_MAY_NEVER = "time_to_accuracy"
_LOG_FROM = 30.0
"""An axis whose values span more than this ratio is logarithmic."""


@dataclass(frozen=True)
class Candidate:
    """A run in the comparison: accuracy (more is better) and the costs (less is better), in SI units."""

    number: int
    accuracy: float
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Dot:
    """One run in one panel, percent."""

    number: int
    x: float
    y: float
    on_front: bool
    title: str


@dataclass(frozen=True)
class Panel:
    """Accuracy against one cost; ``path`` is the staircase of the front of this pair, 1000 × 1000 units, y down."""

    title: str
    cost: Axis
    accuracy: Axis
    dots: tuple[Dot, ...]
    path: str
    is_log: bool


@dataclass(frozen=True)
class Row:
    """One run below the panels; ``figures`` are accuracy and the costs as texts."""

    number: int
    anchor: str
    name: str
    on_front: bool
    figures: tuple[str, ...]


@dataclass(frozen=True)
class ParetoView:
    """Runs that may be compared: of one kind of clock, on one data set."""

    title: str
    columns: tuple[str, ...]
    panels: tuple[Panel, ...]
    rows: tuple[Row, ...]
    sentence: str


@dataclass(frozen=True)
class Kin:
    """Runs that may be compared: of one kind of clock, on one data set, asked the same, by the same costs.

    Attributes:
        kind: ``Training``, ``Adaptation``, empty of inference.
        costs: metrics of the costs that any of the runs has.
        title: clock, data and task, for people.
        whole: the runs that have an accuracy and all costs, with their numbers in the report, from 1.
        left_out: how many have an accuracy and lack a cost.
    """

    kind: str
    costs: tuple[str, ...]
    title: str
    whole: tuple[tuple[int, Run], ...]
    left_out: int


def front(candidates: Sequence[Candidate]) -> set[int]:
    """Numbers of the candidates that no other one dominates: as good in everything and better in something."""
    return {one.number for one in candidates if not any(dominates(other, one) for other in candidates)}


def pareto_views(runs: Sequence[Run]) -> tuple[ParetoView, ...]:
    """One view per kind of clock, data set and task in which at least two runs have an accuracy and a cost."""
    groups = kin(tuple(enumerate(runs, 1)))
    return tuple(_view(one) for one in groups if len(one.whole) > 1)


def kind_of(run: Run) -> tuple[str, tuple[str, ...]]:
    """What a run is compared by: the name of its kind and the metrics of the costs."""
    return next((name, costs) for name, mark, costs in _KINDS if not mark or find_record(run, mark))


def kin(numbered: Sequence[tuple[int, Run]]) -> tuple[Kin, ...]:
    """The groups of runs that may be compared, in the order of their first runs, without those of no cost.

    Time to an accuracy is compared only where it is the same accuracy.

    Args:
        numbered: runs with their numbers in the report.
    """
    groups: dict[tuple[object, ...], list[tuple[int, Run]]] = {}
    for number, run in numbered:
        if cost_of(run, "accuracy") is not None:
            asked, training = run.provenance, kind_of(run)[0] == _TRAINING
            key = (
                kind_of(run), clock_group(run), asked.dataset, asked.dataset_digest, run.detail.task,
                run.detail.target_accuracy if training else 0.0,
            )  # fmt: skip
            groups.setdefault(key, []).append((number, run))
    return tuple(made for members in groups.values() if (made := _kin(members)).costs)


def _kin(members: Sequence[tuple[int, Run]]) -> Kin:
    first = members[0][1]
    kind, known = kind_of(first)
    costs = tuple(cost for cost in known if any(_is_told(run, cost) for _, run in members))
    whole = tuple(one for one in members if all(cost_of(one[1], cost) is not None for cost in costs))
    target = first.detail.target_accuracy
    title = ", ".join(filter(None, (
        kind, clock_group(first), first.provenance.dataset or "data set not named", first.detail.task.rstrip("."),
        f"time to {target:.0%}" if kind == _TRAINING and target else "",
    )))  # fmt: skip
    return Kin(kind, costs, title, whole, len(members) - len(whole))


def candidates_of(group: Kin) -> list[Candidate]:
    """The whole runs of a group, numbered from 1 in their order."""
    return [
        Candidate(place, _known(run, "accuracy"), tuple(_known(run, cost) for cost in group.costs))
        for place, (_, run) in enumerate(group.whole, 1)
    ]


def _view(group: Kin) -> ParetoView:
    members, costs, candidates = group.whole, group.costs, candidates_of(group)
    best = front(candidates)
    names = [f"{run.provenance.device} · {workload_name(run.provenance)}" for _, run in members]
    panels = tuple(_panel(cost, index, candidates, best, names) for index, cost in enumerate(costs))
    rows = tuple(
        Row(
            one.number,
            anchor_of(number),
            names[one.number - 1],
            one.number in best,
            (
                quantity(one.accuracy, "1", "accuracy"),
                *(_figure(run, cost, value) for cost, value in zip(costs, one.costs, strict=True)),
            ),
        )
        for one, (number, run) in zip(candidates, members, strict=True)
    )
    words = ", ".join(("accuracy", *(_TITLES[cost].lower() for cost in costs)))
    sentence = (
        f"{len(best)} of {len(rows)} runs are on the front of {words}: "
        "no other run is as good in all and better in one."
    )
    if group.left_out:
        sentence += f" {group.left_out} more lack one of these figures."
    return ParetoView(group.title, ("Accuracy", *(_TITLES[cost] for cost in costs)), panels, rows, sentence)


def _panel(
    cost: str, index: int, candidates: Sequence[Candidate], best: set[int], names: Sequence[str]
) -> Panel:
    unit = "bytes" if cost == "peak_ram" else "J" if "energy" in cost else "s"
    candidates = [one for one in candidates if math.isfinite(one.costs[index])]
    values = [one.costs[index] for one in candidates]
    is_log = min(values) > 0.0 and max(values) > _LOG_FROM * min(values)
    across, cost_axis = _log_axis(values, unit) if is_log else _linear_axis(values, unit)
    accuracies = [one.accuracy for one in candidates]
    margin = 0.1 * (max(accuracies) - min(accuracies)) or 0.05
    low, high = min(accuracies) - margin, max(accuracies) + margin

    def up(value: float) -> float:
        return round(100.0 * (value - low) / (high - low), 2)

    dots = tuple(
        Dot(
            one.number, across(one.costs[index]), up(one.accuracy), one.number in best,
            f"{names[one.number - 1]}: accuracy {quantity(one.accuracy, '1', 'accuracy')}, "
            f"{quantity(one.costs[index], unit)}",
        )
        for one in candidates
    )  # fmt: skip
    scale = scale_for(1.0, "1", "accuracy")
    ticks = axis(low / scale.divisor, high / scale.divisor, "1", 4)
    return Panel(_TITLES[cost], cost_axis, Axis(ticks.ticks, "%"), dots, _staircase(dots), is_log)


def _staircase(dots: Sequence[Dot]) -> str:
    """The front of one pair: from cheap to dear, only what is more accurate than everything cheaper."""
    steps: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        if not steps or dot.y > steps[-1].y:
            steps.append(dot)
    path = f"M{10.0 * steps[0].x:g} {1000.0 - 10.0 * steps[0].y:g}"
    for dot in steps[1:]:
        path += f"H{10.0 * dot.x:g}V{1000.0 - 10.0 * dot.y:g}"
    return f"{path}H1000"


def _linear_axis(values: Sequence[float], unit: str) -> tuple[_Place, Axis]:
    top = 1.06 * max(values) or 1.0

    def across(value: float) -> float:
        return round(100.0 * value / top, 2)

    return across, axis(0.0, top, unit)


def _log_axis(values: Sequence[float], unit: str) -> tuple[_Place, Axis]:
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1

    def across(value: float) -> float:
        return round(100.0 * (math.log10(value) - low) / (high - low), 2)

    powers = range(math.ceil(low), math.floor(high) + 1)
    every = max(1, math.ceil(len(powers) / 4))
    ticks = tuple(Tick(across(10.0**power), quantity(10.0**power, unit)) for power in powers[::every])
    return across, Axis(ticks, "")


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether the first is as good in everything and better in something."""
    as_good = one.accuracy >= other.accuracy and all(a <= b for a, b in zip(one.costs, other.costs, strict=True))
    return as_good and (one.accuracy, one.costs) != (other.accuracy, other.costs)


def _is_told(run: Run, metric: str) -> bool:
    return find_record(run, metric, main_region(run)) is not None


def _figure(run: Run, cost: str, value: float) -> str:
    return quantity(value, _unit(run, cost)) if math.isfinite(value) else "never"


def cost_of(run: Run, metric: str) -> float | None:
    """The figure; infinite of what never came."""
    record = find_record(run, metric, main_region(run))
    if record is None and metric == _MAY_NEVER:
        return math.inf
    return record.median if record is not None and math.isfinite(record.median) else None


def _known(run: Run, metric: str) -> float:
    value = cost_of(run, metric)
    return math.nan if value is None else value


def _unit(run: Run, metric: str) -> str:
    record = find_record(run, metric, main_region(run))
    return record.unit if record is not None else ""
