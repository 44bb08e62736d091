"""The Pareto front accuracy × latency × energy × memory: which runs no other run beats in everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from measurements.record import Run
from measurements.report.charts import Axis, Tick, axis
from measurements.report.units import quantity, scale_for
from measurements.report.view import anchor_of, clock_group, find_record, main_region, workload_name

_Place: TypeAlias = Callable[[float], float]

_COSTS = ("latency", "energy", "peak_ram")
_TITLES = {"latency": "Latency", "energy": "Energy", "peak_ram": "Peak RAM"}
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


def front(candidates: Sequence[Candidate]) -> set[int]:
    """Numbers of the candidates that no other one dominates: as good in everything and better in something."""
    return {one.number for one in candidates if not any(_dominates(other, one) for other in candidates)}


def pareto_views(runs: Sequence[Run]) -> tuple[ParetoView, ...]:
    """One view per kind of clock and data set in which at least two runs have an accuracy and a cost."""
    groups: dict[tuple[str, str], list[tuple[int, Run]]] = {}
    for number, run in enumerate(runs, 1):
        if _value(run, "accuracy") is not None:
            groups.setdefault((clock_group(run), run.provenance.dataset), []).append((number, run))
    views = []
    for (clock, dataset), members in groups.items():
        costs = [cost for cost in _COSTS if any(_value(run, cost) is not None for _, run in members)]
        whole = [one for one in members if all(_value(one[1], cost) is not None for cost in costs)]
        if costs and len(whole) > 1:
            title = f"{clock}, {dataset or 'data set not named'}"
            views.append(_view(title, costs, whole, len(members) - len(whole)))
    return tuple(views)


def _view(title: str, costs: Sequence[str], members: Sequence[tuple[int, Run]], left_out: int) -> ParetoView:
    candidates = [
        Candidate(place, _known(run, "accuracy"), tuple(_known(run, cost) for cost in costs))
        for place, (_, run) in enumerate(members, 1)
    ]
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
                *(quantity(value, _unit(run, cost)) for cost, value in zip(costs, one.costs, strict=True)),
            ),
        )
        for one, (number, run) in zip(candidates, members, strict=True)
    )
    words = ", ".join(("accuracy", *(_TITLES[cost].lower() for cost in costs)))
    sentence = (
        f"{len(best)} of {len(rows)} runs are on the front of {words}: "
        "no other run is as good in all and better in one."
    )
    if left_out:
        sentence += f" {left_out} more lack one of these figures."
    return ParetoView(title, ("Accuracy", *(_TITLES[cost] for cost in costs)), panels, rows, sentence)


def _panel(
    cost: str, index: int, candidates: Sequence[Candidate], best: set[int], names: Sequence[str]
) -> Panel:
    unit = {"latency": "s", "energy": "J", "peak_ram": "bytes"}[cost]
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


def _dominates(one: Candidate, other: Candidate) -> bool:
    as_good = one.accuracy >= other.accuracy and all(a <= b for a, b in zip(one.costs, other.costs, strict=True))
    return as_good and (one.accuracy, one.costs) != (other.accuracy, other.costs)


def _value(run: Run, metric: str) -> float | None:
    record = find_record(run, metric, main_region(run))
    return record.median if record is not None and math.isfinite(record.median) else None


def _known(run: Run, metric: str) -> float:
    value = _value(run, metric)
    return math.nan if value is None else value


def _unit(run: Run, metric: str) -> str:
    record = find_record(run, metric, main_region(run))
    return record.unit if record is not None else ""
