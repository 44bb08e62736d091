"""Figures over nights: one drawing per series, with its levels, its changes and the commits that made them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeAlias

from measurements.regression import Change, History, MovedLayer, SeriesKey
from measurements.report.charts import Axis, Tick, axis
from measurements.report.trends import Found, Trends
from measurements.report.units import is_count, quantity, scale_for
from measurements.statistics import mark_outliers

_Place: TypeAlias = Callable[[float], float]

MOST_CHARTS = 32
_SHOWN_METRICS = ("latency", "energy", "peak_ram", "flash", "accuracy")
_DATES = 5
_LAYERS_NAMED = 4
_LEAST_FOR_OUTLIERS = 5


@dataclass(frozen=True)
class Night:
    """One night of a series: place in percent, and what a tooltip and the table say."""

    x: float
    y: float
    date: str
    value: str
    commit: str
    outlier: bool


@dataclass(frozen=True)
class Level:
    """A stretch of nights on one level, percent."""

    left: float
    width: float
    y: float


@dataclass(frozen=True)
class Step:
    """A change of level: place in percent, and its story. ``word`` says worse or better, not only by colour."""

    x: float
    kind: str
    word: str
    commit: str
    is_new: bool


@dataclass(frozen=True)
class TrendChart:
    """One series over nights.

    Attributes:
        name: device, workload, region and metric.
        path: SVG path through the nights, 1000 × 1000 units, y down.
        nights, levels, steps: what is drawn.
        value: y axis. dates: x axis.
        sentence: the series in words.
        note: why the series starts where it does.
    """

    name: str
    path: str
    nights: tuple[Night, ...]
    levels: tuple[Level, ...]
    steps: tuple[Step, ...]
    value: Axis
    dates: tuple[Tick, ...]
    sentence: str
    note: str


@dataclass(frozen=True)
class ChangeRow:
    """One change in the table, formatted; ``moved`` names the layers behind it, where they are known."""

    name: str
    kind: str
    word: str
    is_new: bool
    before: str
    after: str
    relative: str
    bad: str
    good: str
    date: str
    moved: str


@dataclass(frozen=True)
class TrendView:
    """What the page shows of the nights before.

    Attributes:
        changes: the changes, the newest first.
        charts: drawings of the series with changes, those with new regressions first.
        steady: drawings of the main series whose values differ without a change.
        equal: the main series whose nights are all equal, as name and sentence.
        left_out: how many more series of several nights there are.
        summary: in words.
    """

    changes: tuple[ChangeRow, ...]
    charts: tuple[TrendChart, ...]
    steady: tuple[TrendChart, ...]
    equal: tuple[tuple[str, str], ...]
    left_out: int
    summary: str


def trend_view(trends: Trends) -> TrendView | None:
    """Arrange histories for the page; None where no figure has more than one night."""
    long = [history for history in trends.histories if len(history.values) > 1]
    if not long:
        return None
    changes: dict[SeriesKey, list[Found]] = {}
    for one in trends.found:
        changes.setdefault(one.history.key, []).append(one)
    changed = sorted(
        (history for history in long if history.key in changes), key=lambda history: _rank(changes[history.key])
    )[:MOST_CHARTS]
    main = [history for history in long if history.key not in changes and _is_main(history.key)]
    steady = [history for history in main if min(history.values) < max(history.values)][:MOST_CHARTS]
    equal = [history for history in main if min(history.values) == max(history.values)]
    counts = [len(trends.regressions), len(trends.improvements)]
    words = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in zip(counts, ("new regression", "new improvement"), strict=True)
    ]
    nights = max(len(history.values) for history in long)
    return TrendView(
        tuple(change_row(one) for one in trends.found),
        tuple(trend_chart(history, changes[history.key]) for history in changed),
        tuple(trend_chart(history, []) for history in steady),
        tuple((series_name(history.key), _sentence(history, [])) for history in equal),
        len(long) - len(changed) - len(steady) - len(equal),
        f"{len(long)} figures over up to {nights} nights: {' and '.join(words)}.",
    )


def trend_chart(history: History, found: Sequence[Found]) -> TrendChart:
    """Draw a history of at least two nights with its changes."""
    low, high = min(history.values), max(history.values)
    margin = 0.08 * (high - low) or 0.02 * abs(high) or 1.0
    # Room above the nights for the story of a change.
    low, high = low - margin, high + (4.0 if found else 1.0) * margin
    count = len(history.values)

    def across(index: float) -> float:
        return round(100.0 * (index + 0.5) / count, 2)

    def up(value: float) -> float:
        return round(100.0 * (value - low) / (high - low), 2)

    key = history.key
    odd = _outliers(history, found)
    nights = tuple(
        Night(across(index), up(value), _date(started), quantity(value, key.unit, key.metric), commit[:12], outlier)
        for index, (value, started, commit, outlier) in enumerate(
            zip(history.values, history.started_ns, history.commits, odd, strict=True)
        )
    )
    steps = tuple(
        Step(across(one.change.index - 0.5), one.change.kind, _word(one.change), one.change.first_bad_commit[:8],
             one.is_new)
        for one in sorted(found, key=lambda one: one.change.index)
    )  # fmt: skip
    every = max(1, math.ceil(count / _DATES))
    dates = tuple(Tick(across(index), nights[index].date[5:]) for index in range(0, count, every))
    path = "M" + "L".join(f"{10.0 * night.x:g} {1000.0 - 10.0 * night.y:g}" for night in nights)
    return TrendChart(
        series_name(key), path, nights, _levels(history, found, across, up), steps,
        _value_axis(low, high, key), dates, _sentence(history, odd), history.note,
    )  # fmt: skip


def series_name(key: SeriesKey) -> str:
    """Device, workload, region and metric, as they are shown."""
    variant = f" ({key.variant})" if key.variant else ""
    return f"{key.device} · {key.workload}{variant} · {key.region} {key.metric}"


def percent(relative: float) -> str:
    """A relative change, signed: ``+3.20 %``; small ones keep their digits, for one instruction counts."""
    if not math.isfinite(relative):
        return "from zero"
    digits = 2 if abs(relative) < 0.1 else 1
    shown = f"{100.0 * relative:+.{digits}f}"
    if relative and float(shown) == 0.0:
        shown = f"{100.0 * relative:+.1e}"
    return shown.replace("-", "−") + "\u00a0%"


def _value_axis(low: float, high: float, key: SeriesKey) -> Axis:
    scale = scale_for(high, key.unit, key.metric)
    if scale.unit == "%":
        return replace(axis(low / scale.divisor, high / scale.divisor, "1", 4), unit="%")
    drawn = axis(low, high, key.unit, 4)
    if is_count(key.unit):
        # There is no half of an instruction to put a tick at.
        ticks = [Tick(tick.place, tick.label.removesuffix(".0")) for tick in drawn.ticks]
        return Axis(tuple(tick for tick in ticks if "." not in tick.label), drawn.unit)
    return drawn


def _is_main(key: SeriesKey) -> bool:
    return key.metric in _SHOWN_METRICS and key.region in ("inference", "run")


def _rank(found: Sequence[Found]) -> tuple[bool, bool, int]:
    regressions = [one for one in found if one.change.kind == "regression"]
    return (
        not any(one.is_new for one in regressions),
        not found,
        -max((one.history.started_ns[one.change.index] for one in found), default=0),
    )


def _outliers(history: History, found: Sequence[Found]) -> list[bool]:
    """Nights that stand apart from their own level; counted figures have none."""
    if history.exact:
        return [False] * len(history.values)
    marked: list[bool] = []
    for begin, end in _stretches(history, found):
        part = history.values[begin:end]
        marked += map(bool, mark_outliers(part)) if len(part) >= _LEAST_FOR_OUTLIERS else [False] * len(part)
    return marked


def _stretches(history: History, found: Sequence[Found]) -> list[tuple[int, int]]:
    edges = [0, *sorted(one.change.index for one in found), len(history.values)]
    return [(begin, end) for begin, end in pairwise(edges) if end > begin]


def _levels(
    history: History, found: Sequence[Found], across: _Place, up: _Place
) -> tuple[Level, ...]:
    drawn = []
    for begin, end in _stretches(history, found):
        ordered = sorted(history.values[begin:end])
        middle = 0.5 * (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2])
        left = across(begin - 0.5)
        drawn.append(Level(left, round(across(end - 0.5) - left, 2), up(middle)))
    return tuple(drawn)


def _sentence(history: History, odd: Sequence[bool]) -> str:
    key, values = history.key, history.values
    scale = scale_for(values[-1], key.unit, key.metric)
    if min(values) == max(values):
        return f"All {len(values)} nights equal: {scale.text(values[0])}."
    told = f"{len(values)} nights from {scale.number(min(values))} to {scale.text(max(values))}; last"
    marked = f" {sum(odd)} marked as outlier." if any(odd) else ""
    return f"{told} {scale.text(values[-1])}.{marked}"


def change_row(one: Found) -> ChangeRow:
    """A change for a table; figures that look equal in four digits get more."""
    key, change = one.history.key, one.change
    scale = scale_for(change.after or change.before, key.unit, key.metric)
    equal = scale.text(change.before) == scale.text(change.after)
    return ChangeRow(
        series_name(key),
        change.kind,
        _word(change),
        one.is_new,
        f"{change.before:.9g} {key.unit}" if equal else scale.text(change.before),
        f"{change.after:.9g} {key.unit}" if equal else scale.text(change.after),
        percent(change.relative),
        change.first_bad_commit[:12] or "not known",
        change.last_good_commit[:12] or "not known",
        _date(one.history.started_ns[change.index]),
        _moved(one.moved),
    )


def _moved(layers: Sequence[MovedLayer]) -> str:
    named = [f"{layer.name} {layer.difference:+.0f} {layer.unit}" for layer in layers[:_LAYERS_NAMED]]
    if len(layers) > len(named):
        named.append(f"{len(layers) - len(named)} more")
    return ", ".join(named)


def _word(change: Change) -> str:
    return "▲ worse" if change.kind == "regression" else "▼ better"


def _date(started_ns: int) -> str:
    return datetime.fromtimestamp(started_ns / 1e9, tz=UTC).strftime("%Y-%m-%d")
