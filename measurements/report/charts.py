"""Geometry of the charts.

Drawings are stretched to the width of the page (SVG with ``preserveAspectRatio="none"``), so everything is in percent
of the plot; text is HTML placed beside them and keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from measurements.record import Buffer, Record, RunDetail, Trace
from measurements.report.envelope import Envelope, envelope, merged, pulses
from measurements.report.units import Scale, exact, quantity, scale_for, short
from measurements.statistics import mark_outliers

Float64Array: TypeAlias = npt.NDArray[np.float64]

MARKER_BIT = 0
"""Logic input that is high inside a region."""

_ZOOM_REGIONS = 3
_SHADES = 400
_STRIP_POINTS = 300
_BINS = 40


@dataclass(frozen=True)
class Tick:
    """A tick at ``place`` percent of an axis, with its label."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Ticks of one axis and the unit they are in."""

    ticks: tuple[Tick, ...]
    unit: str


@dataclass(frozen=True)
class Shade:
    """A marked span of the x axis, percent; ``name`` is empty where the region is not known."""

    begin: float
    width: float
    name: str


@dataclass(frozen=True)
class PowerPanel:
    """One drawing of a power trace.

    Attributes:
        caption: what is shown.
        path: SVG path data of the envelope, 1000 × 1000 units, y down.
        shades: regions, merged where closer than a bucket.
        time, current: axes.
        active, idle: places of the mean current inside and outside regions, percent from the top; None where none.
        description: the drawing in words.
    """

    caption: str
    path: str
    shades: tuple[Shade, ...]
    time: Axis
    current: Axis
    active: float | None
    idle: float | None
    description: str


@dataclass(frozen=True)
class PowerChart:
    """The power trace of a run: the whole of it, and the first regions where a marker was seen."""

    panels: tuple[PowerPanel, ...]
    summary: str


@dataclass(frozen=True)
class Block:
    """A buffer in the memory map; all places in percent, ``bottom`` counted from offset 0."""

    name: str
    left: float
    width: float
    bottom: float
    height: float
    hue: int
    title: str


@dataclass(frozen=True)
class MemoryMap:
    """The arena over the schedule: x is the layer, y the offset; ``lower_bound`` and ``arena`` percent from below."""

    blocks: tuple[Block, ...]
    layers: tuple[Tick, ...]
    offsets: Axis
    arena: float
    lower_bound: float
    arena_text: str
    lower_bound_text: str
    overhead_text: str
    columns: int


@dataclass(frozen=True)
class Part:
    """One part of a stacked bar, percent of the whole."""

    name: str
    share: float
    text: str
    title: str
    hue: int


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram, percent of the plot."""

    left: float
    width: float
    height: float


@dataclass(frozen=True)
class Distribution:
    """The repeats of one record: a histogram where it says something, otherwise a sentence.

    Attributes:
        name: region and metric.
        sentence: the distribution in words.
        bins, points: bars and single repeats (few enough to draw), percent; empty where only the sentence is shown.
        value: x axis.
        outliers: repeats that stand apart, percent; they are drawn beside the others and stay in every figure.
        median, p95: places, percent. ci_left, ci_width: 95 % confidence interval of the median, percent.
    """

    name: str
    sentence: str
    bins: tuple[Bin, ...] = ()
    points: tuple[float, ...] = ()
    outliers: tuple[float, ...] = ()
    value: Axis = Axis((), "")
    median: float = 0.0
    p95: float = 0.0
    ci_left: float = 0.0
    ci_width: float = 0.0


@dataclass(frozen=True)
class ErrorBar:
    """Median as a bar from zero, its confidence interval as a whisker, p95 as a tick; percent of the common axis."""

    median: float
    ci_left: float
    ci_width: float
    p95: float | None


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 round values (1, 2 or 5 times a power of ten) inside ``[low, high]``."""
    span = high - low
    if span <= 0.0 or not math.isfinite(span):
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1.0 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def axis(low: float, high: float, unit: str, most: int = 5) -> Axis:
    """Make an axis over ``[low, high]`` with round ticks in a readable unit."""
    scale = scale_for(max(abs(low), abs(high)), unit)
    ticks = nice_ticks(low / scale.divisor, high / scale.divisor, most)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    label = Scale(1.0, "", decimals)
    span = (high - low) or 1.0
    return Axis(
        tuple(Tick(_percent((tick * scale.divisor - low) / span), label.number(tick)) for tick in ticks), scale.unit
    )


def error_bar(record: Record, top: float) -> ErrorBar | None:
    """Draw ``record`` on an axis from 0 to ``top``; None where its figures are not finite or the axis is empty."""
    if top <= 0.0 or not all(map(math.isfinite, (record.median, record.ci_low, record.ci_high))):
        return None
    tail = _percent(record.p95 / top) if math.isfinite(record.p95) and record.p95 != record.median else None
    left, right = _percent(record.ci_low / top), _percent(record.ci_high / top)
    return ErrorBar(_percent(record.median / top), left, round(right - left, 2), tail)


def stacked(total: float | None, parts: Sequence[tuple[str, float]]) -> tuple[Part, ...]:
    """Stack ``parts`` (name, bytes); what they leave of ``total`` is ``other``. Empty without positive parts."""
    known = [(name, size) for name, size in parts if math.isfinite(size) and size > 0.0]
    used = sum(size for _, size in known)
    if total is not None and math.isfinite(total) and known and total - used >= 1.0:
        known.append(("other", total - used))
    whole = sum(size for _, size in known)
    return tuple(
        Part(name, round(100.0 * (size / whole), 3), quantity(size, "bytes"), exact(size, "bytes"), hue % 8)
        for hue, (name, size) in enumerate(known)
    )


def memory_map(detail: RunDetail) -> MemoryMap | None:
    """Lay the buffers of an arena plan over the schedule; None where there is no plan."""
    if not detail.buffers:
        return None
    columns = max(max(buffer.last for buffer in detail.buffers) + 1, len(detail.layers), 1)
    highest = max(max(buffer.offset + buffer.size for buffer in detail.buffers), detail.arena_bytes, 1)
    top = 1.04 * highest
    blocks = tuple(_block(buffer, index, columns, top) for index, buffer in enumerate(detail.buffers))
    every = max(1, math.ceil(columns / 24))
    ticks = tuple(Tick(_percent((index + 0.5) / columns), str(index)) for index in range(0, columns, every))
    extra = detail.arena_bytes / detail.lower_bound_bytes - 1.0 if detail.lower_bound_bytes > 0 else 0.0
    return MemoryMap(
        blocks,
        ticks,
        axis(0.0, top, "bytes", 4),
        _percent(detail.arena_bytes / top),
        _percent(detail.lower_bound_bytes / top),
        quantity(detail.arena_bytes, "bytes"),
        quantity(detail.lower_bound_bytes, "bytes"),
        "the plan is optimal" if abs(extra) < 1e-9 else f"{100.0 * extra:.1f}\u00a0% above the lower bound",
        columns,
    )


def distribution(record: Record) -> Distribution:
    """Show the repeats of ``record``; a histogram from 5 repeats that differ, a sentence otherwise."""
    name = f"{record.region} · {record.metric}"
    raw = np.array([value for value in record.raw if math.isfinite(value)], dtype=np.float64)
    scale = scale_for(record.median, record.unit, record.metric)
    if len(raw) == 0:
        return Distribution(name, "No repeat was recorded.")
    if len(raw) == 1:
        return Distribution(name, f"One repeat: {scale.text(float(raw[0]))}.")
    if raw.min() == raw.max():
        return Distribution(name, f"All {len(raw)} repeats equal: {scale.text(float(raw[0]))}.")
    spread = f"{len(raw)} repeats from {scale.number(float(raw.min()))} to {scale.text(float(raw.max()))}"
    if not math.isfinite(1.1 * (float(raw.max()) - float(raw.min()))):
        return Distribution(name, f"{spread}, too far apart to draw.")
    if float(raw.max()) - float(raw.min()) <= 1e-9 * float(np.abs(raw).max()):
        return Distribution(name, f"{spread}, too close together to draw.")
    if len(raw) < 5:
        values = ", ".join(scale.number(float(value)) for value in raw)
        return Distribution(name, f"{spread}, too few for a distribution: {values} {scale.unit}.")
    return _histogram(name, f"{spread}; median {scale.text(record.median)}.", raw, record)


def power_chart(trace: Trace, names: Sequence[str], buckets: int) -> PowerChart | None:
    """Draw a power trace and a zoom onto its first regions.

    Args:
        trace: the trace; lost samples are gaps in the drawing.
        names: names of the regions in order; used where there is one for every marker pulse.
        buckets: most envelope buckets per panel; each is two points.

    Returns:
        None where the trace holds no finite sample.
    """
    if len(trace.current_a) == 0 or not bool(np.isfinite(trace.current_a).any()):
        return None
    marks = pulses(trace.logic, MARKER_BIT)
    labels = list(names) if len(names) == len(marks) else [""] * len(marks)
    total = len(trace.current_a)
    panels = [_panel(trace, 0, total, marks, labels, buckets, "Whole trace")]
    if marks:
        last = marks[min(_ZOOM_REGIONS, len(marks)) - 1][1]
        margin = max(2, (last - marks[0][0]) // 10)
        begin, end = max(0, marks[0][0] - margin), min(total, last + margin)
        if end - begin < 0.9 * total:
            count = min(_ZOOM_REGIONS, len(marks))
            caption = "Zoom: the first region" if count == 1 else f"Zoom: the first {count} regions"
            panels.append(_panel(trace, begin, end, marks, labels, buckets, caption))
    return PowerChart(tuple(panels), _power_summary(trace, marks))


def _percent(fraction: float) -> float:
    return round(100.0 * min(1.0, max(0.0, fraction)), 2)


def _block(buffer: Buffer, index: int, columns: int, top: float) -> Block:
    return Block(
        name=buffer.name,
        left=_percent(buffer.first / columns),
        width=_percent((buffer.last - buffer.first + 1) / columns),
        bottom=_percent(buffer.offset / top),
        height=_percent(buffer.size / top),
        hue=index % 8,
        title=f"{buffer.name}: {buffer.size} bytes at offset {buffer.offset}, layers {buffer.first} to {buffer.last}",
    )


def _histogram(name: str, sentence: str, raw: Float64Array, record: Record) -> Distribution:
    # The Rice rule depends on n alone; rules based on the spread ask for millions of bins when one repeat is far out.
    edges = np.histogram_bin_edges(raw, bins=min(_BINS, max(5, math.ceil(2.0 * len(raw) ** (1.0 / 3.0)))))
    counts, _ = np.histogram(raw, bins=edges)
    finite = [value for value in (record.p95, record.ci_low, record.ci_high, record.median) if math.isfinite(value)]
    low, high = min([float(raw.min()), *finite]), max([float(raw.max()), *finite])
    margin = 0.03 * (high - low)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return _percent((value - low) / (high - low)) if math.isfinite(value) else 0.0

    bins = tuple(
        Bin(place(float(left)), round(place(float(right)) - place(float(left)), 2), _percent(count / counts.max()))
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    )
    points = tuple(place(float(value)) for value in raw) if len(raw) <= _STRIP_POINTS else ()
    odd = raw[mark_outliers(raw.tolist())]
    if len(odd):
        sentence += f" {len(odd)} marked as outlier{'' if len(odd) == 1 else 's'}."
    left = place(record.ci_low)
    return Distribution(
        name,
        sentence,
        bins,
        points,
        tuple(dict.fromkeys(place(float(value)) for value in odd)),
        axis(low, high, record.unit),
        place(record.median),
        place(record.p95),
        left,
        round(place(record.ci_high) - left, 2),
    )


def _panel(
    trace: Trace,
    begin: int,
    end: int,
    marks: list[tuple[int, int]],
    labels: list[str],
    buckets: int,
    caption: str,
) -> PowerPanel:
    window = trace.current_a[begin:end]
    drawn = envelope(window, buckets)
    highest = float(np.nanmax(drawn.high))
    low = min(0.0, float(np.nanmin(drawn.low)))
    high = highest + 0.06 * (highest - low) if highest > low else low + 1e-6
    start, stop = trace.t0_s + begin * trace.dt_s, trace.t0_s + end * trace.dt_s
    active, idle = _means(trace, begin, end)
    return PowerPanel(
        caption,
        _path(drawn, low, high),
        _shades(marks, labels, begin, end),
        axis(start, stop, "s"),
        axis(low, high, "A", 4),
        None if active is None else _percent((high - active) / (high - low)),
        None if idle is None else _percent((high - idle) / (high - low)),
        f"{caption}: current from {quantity(low, 'A')} to {quantity(highest, 'A')} over {quantity(stop - start, 's')}",
    )


def _path(drawn: Envelope, low: float, high: float) -> str:
    """Outline the envelope: highs forward, lows back; one closed piece per stretch without lost buckets."""
    total = max(1, int(drawn.edges[-1]))
    x = np.rint(1000.0 * drawn.edges / total * 10.0) / 10.0
    upper = np.rint(1000.0 * (high - drawn.high) / (high - low))
    lower = np.rint(1000.0 * (high - drawn.low) / (high - low))
    seen = np.isfinite(drawn.high).astype(np.int8)
    bounds = np.flatnonzero(np.diff(np.concatenate(([0], seen, [0]))))
    pieces: list[str] = []
    for first, last in zip(bounds[::2], bounds[1::2], strict=True):
        pieces.append(f"M{x[first]:g} {upper[first]:g}")
        pieces.extend(f"V{upper[b]:g}H{x[b + 1]:g}" for b in range(first, last))
        pieces.extend(f"V{lower[b]:g}H{x[b]:g}" for b in range(last - 1, first - 1, -1))
        pieces.append("Z")
    return "".join(pieces)


def _shades(marks: list[tuple[int, int]], labels: list[str], begin: int, end: int) -> tuple[Shade, ...]:
    inside = [
        (max(first, begin), min(last, end), label)
        for (first, last), label in zip(marks, labels, strict=True)
        if last > begin and first < end
    ]
    spans = [(first, last) for first, last, _ in inside]
    joined = merged(spans, (end - begin) // _SHADES) if len(spans) > _SHADES // 4 else spans
    names = [label for _, _, label in inside] if len(joined) == len(inside) else [""] * len(joined)
    size = end - begin
    return tuple(
        Shade(_percent((first - begin) / size), max(0.05, _percent((last - first) / size)), name)
        for (first, last), name in zip(joined, names, strict=True)
    )


def _means(trace: Trace, begin: int, end: int) -> tuple[float | None, float | None]:
    """Return the mean current inside and outside regions, ampere."""
    window = trace.current_a[begin:end].astype(np.float64)
    finite = np.isfinite(window)
    high = ((trace.logic[begin:end] >> MARKER_BIT) & 1).astype(bool)
    inside, outside = window[finite & high], window[finite & ~high]
    return (
        float(inside.mean()) if len(inside) else None,
        float(outside.mean()) if len(outside) else None,
    )


def _power_summary(trace: Trace, marks: list[tuple[int, int]]) -> str:
    active, idle = _means(trace, 0, len(trace.current_a))
    count = len(trace.current_a)
    sentences = [
        f"{quantity(count, 'samples')} at {short(1.0 / trace.dt_s, 'Hz')}, supply {short(trace.voltage_v, 'V')} "
        "(set, not measured)."
        if trace.dt_s > 0.0
        else f"{quantity(count, 'samples')}.",
        f"{len(marks)} regions marked on logic input {MARKER_BIT}."
        if marks
        else f"No edge was seen on logic input {MARKER_BIT}: no region is shaded.",
    ]
    if marks and active is not None:
        sentences.append(f"Mean current inside regions {quantity(active, 'A')}.")
    if idle is not None:
        sentences.append(f"Mean current outside {quantity(idle, 'A')}.")
    if trace.lost:
        sentences.append(f"{trace.lost} samples were lost; they are gaps in the drawing.")
    return " ".join(sentences)
