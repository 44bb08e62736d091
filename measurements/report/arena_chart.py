"""A schedule's arena as one SVG: x is the step, y the offset, one rectangle per buffer.

The drawing carries its own style, light and dark, so that it is the same inside the report and as a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup, escape

from measurements.record import ArenaSchedule, Buffer
from measurements.report.units import exact, quantity, short

Role = Literal["forward", "kept", "backward", "update"]

PHASES = ("forward", "backward", "update")
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 16.0, 62.0, 92.0
_PLOT_HEIGHT = 380.0
_STEP_WIDTH, _LEAST_WIDTH, _MOST_WIDTH = 16.0, 940.0, 2400.0
_CHARACTER_WIDTH = 6.2
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_HEIGHT = 13.0
_LEGEND = {
    "forward": "forward",
    "kept": "kept by forward for backward (hatched)",
    "backward": "backward (outlined)",
    "update": "update (dashed outline)",
}
_STYLE = """
svg.arena { font: 11px system-ui, sans-serif; --card: #ffffff; --text: #1b2129; --soft: #56606d; --line: #d6dbe2;
  --on: #14181d; --forward: #a9cdec; --kept: #f5cf8e; --hatch: #8a5a00; --backward: #a5dcc5; --update: #c9c4ee;
  --edge: #0a5a41; --bound: #a33c00; }
@media (prefers-color-scheme: dark) { svg.arena { --card: #1a2027; --text: #e7ebf0; --soft: #a5b0bd; --line: #363f4a;
  --bound: #ffae6b; --edge: #0d7a58; } }
svg.arena .back { fill: var(--card); } svg.arena text { fill: var(--text); } svg.arena .soft { fill: var(--soft); }
svg.arena .grid { stroke: var(--line); stroke-width: 1; } svg.arena .name { fill: var(--on); pointer-events: none; }
svg.arena .border { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
svg.arena .forward { fill: var(--forward); } svg.arena .kept { fill: var(--kept); }
svg.arena .backward { fill: var(--backward); stroke: var(--edge); } svg.arena .update { fill: var(--update); }
svg.arena .update { stroke: var(--on); stroke-dasharray: 3 2; }
svg.arena .buffer { stroke-width: 1; } svg.arena .forward.buffer, svg.arena .kept.buffer { stroke: var(--card); }
svg.arena .hatch { stroke: var(--hatch); stroke-width: 1.5; fill: none; }
svg.arena .size { stroke: var(--text); stroke-width: 1.5; fill: none; }
svg.arena .bound { stroke: var(--bound); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
svg.arena .peak { fill: var(--bound); } svg.arena .bold { font-weight: 600; }
"""


@dataclass(frozen=True)
class Phase:
    """Neighbouring steps of one phase: ``first`` to ``last`` inclusive."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class _Scale:
    """Pixels of steps and offsets."""

    steps: int
    top_bytes: int
    step_width: float

    @property
    def width(self) -> float:
        return self.steps * self.step_width

    def x(self, step: float) -> float:
        return round(_LEFT + step * self.step_width, 2)

    def y(self, offset: float) -> float:
        return round(_TOP + _PLOT_HEIGHT * (1.0 - offset / self.top_bytes), 2)


def phases(schedule: ArenaSchedule) -> tuple[Phase, ...]:
    """The schedule's phases in order."""
    found: list[Phase] = []
    for name, members in groupby(enumerate(schedule.steps), key=lambda one: one[1].phase):
        numbers = [number for number, _ in members]
        found.append(Phase(name, numbers[0], numbers[-1]))
    return tuple(found)


def role_of(buffer: Buffer, schedule: ArenaSchedule) -> Role:
    """What a buffer is for: of forward alone, kept by forward for later, of backward, or of the update alone."""
    first, last = schedule.steps[buffer.first].phase, schedule.steps[buffer.last].phase
    if first == "forward":
        return "forward" if last == "forward" else "kept"
    return "backward" if first == "backward" else "update"


def live_bytes(schedule: ArenaSchedule) -> tuple[int, ...]:
    """Bytes of the buffers that are live in each step."""
    return tuple(
        sum(buffer.size for buffer in schedule.buffers if buffer.first <= step <= buffer.last)
        for step in range(len(schedule.steps))
    )


def describe(schedule: ArenaSchedule) -> str:
    """The drawing in words."""
    live = live_bytes(schedule)
    kept = sum(buffer.size for buffer in schedule.buffers if role_of(buffer, schedule) == "kept")
    peak = live.index(max(live))
    parts = ", ".join(f"{phase.name} {phase.last - phase.first + 1}" for phase in phases(schedule))
    text = (
        f"{len(schedule.buffers)} buffers over {len(schedule.steps)} steps ({parts}); arena "
        f"{quantity(schedule.arena_bytes, 'bytes')}, most bytes live at once "
        f"{quantity(schedule.lower_bound_bytes, 'bytes')} in step {peak} ({schedule.steps[peak].name})"
    )
    return f"{text}; forward keeps {quantity(kept, 'bytes')} for backward" if kept else text


def arena_svg(schedule: ArenaSchedule, *, title: str, identity: str = "arena") -> str:
    """Draw a schedule's arena.

    Args:
        schedule: steps, buffers and size; at least one step and one buffer.
        title: heading of the drawing, plain text.
        identity: prefix of the ids inside, unique on a page.

    Returns:
        one ``<svg>`` element.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not schedule.steps or not schedule.buffers:
        raise ValueError("a schedule without steps or buffers has no drawing")
    count = len(schedule.steps)
    plot_width = min(max(count * _STEP_WIDTH, _LEAST_WIDTH), _MOST_WIDTH)
    scale = _Scale(count, max(schedule.arena_bytes, 1), plot_width / count)
    width, height = _LEFT + plot_width + _RIGHT, _TOP + _PLOT_HEIGHT + _BOTTOM
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="arena" role="img" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" aria-labelledby="{identity}-title {identity}-text">',
            f'<title id="{identity}-title">{_text(title)}</title>',
            f'<desc id="{identity}-text">{_text(describe(schedule))}</desc>',
            f"<style>{_STYLE}</style>",
            f'<defs><pattern id="{identity}-hatch" width="7" height="7" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="7"/></pattern></defs>',
            f'<rect class="back" width="{width:g}" height="{height:g}"/>',
            f'<text class="bold" x="8" y="18">{_text(title)}</text>',
            *_axes(scale),
            *_phase_marks(schedule, scale),
            *_blocks(schedule, scale, identity),
            *_levels(schedule, scale),
            *_strip(schedule, scale),
            *_legend(schedule, scale, identity),
            "</svg>",
        )
    )


def _axes(scale: _Scale) -> Iterator[str]:
    right = scale.x(scale.steps)
    unit = 1024 if scale.top_bytes >= 4096 else 1
    for offset in (unit * tick for tick in _ticks(scale.top_bytes // unit, 6)):
        y = scale.y(offset)
        yield f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{y:g}" y2="{y:g}"/>'
        text = _text(short(offset, "bytes"))
        yield f'<text class="soft" x="{_LEFT - 6:g}" y="{y + 4:g}" text-anchor="end">{text}</text>'
    base = _TOP + _PLOT_HEIGHT
    for step in _ticks(scale.steps - 1, max(2, int(scale.width / 60))):
        yield f'<text class="soft" x="{scale.x(step + 0.5):g}" y="{base + 30:g}" text-anchor="middle">{step}</text>'
    yield f'<text class="soft" x="8" y="{_TOP - 10:g}">offset</text>'
    yield f'<text class="soft" x="8" y="{base + 30:g}">step</text>'


def _ticks(top: int, most: int) -> list[int]:
    """Whole multiples of 1, 2 or 5 times a power of ten from 0 to ``top``."""
    raw = max(1.0, top / most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= raw)
    return list(range(0, top + 1, max(1, step)))


def _phase_marks(schedule: ArenaSchedule, scale: _Scale) -> Iterator[str]:
    for phase in phases(schedule):
        left = scale.x(phase.first)
        count = phase.last - phase.first + 1
        if phase.first:
            bottom = _TOP + _PLOT_HEIGHT + 18
            yield f'<line class="border" x1="{left:g}" x2="{left:g}" y1="{_TOP - 22:g}" y2="{bottom:g}"/>'
        text = _fitting(f"{phase.name}, {count} steps" if count > 1 else phase.name, count * scale.step_width)
        if text:
            yield f'<text class="bold" x="{left + 4:g}" y="{_TOP - 12:g}">{_text(text)}</text>'


def _blocks(schedule: ArenaSchedule, scale: _Scale, identity: str) -> Iterator[str]:
    for buffer in schedule.buffers:
        x, y = scale.x(buffer.first), scale.y(buffer.offset + buffer.size)
        width = round((buffer.last - buffer.first + 1) * scale.step_width, 2)
        height = max(round(scale.y(buffer.offset) - y, 2), 0.75)
        role = role_of(buffer, schedule)
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        yield f'<g><title>{_text(_tooltip(buffer, schedule))}</title><rect class="buffer {role}" {place}/>'
        if role == "kept":
            yield f'<rect {place} fill="url(#{identity}-hatch)" fill-opacity=".7"/>'
        text = _fitting(buffer.name, width - 6) if height >= _LINE_HEIGHT else ""
        if text:
            yield f'<text class="name" x="{x + 3:g}" y="{y + 11:g}">{_text(text)}</text>'
        yield "</g>"


def _tooltip(buffer: Buffer, schedule: ArenaSchedule) -> str:
    first, last = schedule.steps[buffer.first], schedule.steps[buffer.last]
    words = {"kept": "kept for backward", "forward": "forward", "backward": "backward", "update": "update"}
    life = f"step {buffer.first} ({first.name})"
    if buffer.last != buffer.first:
        life += f" to step {buffer.last} ({last.name})"
    end = buffer.offset + buffer.size
    return (
        f"{buffer.name}: {exact(buffer.size, 'bytes')} at {buffer.offset} … {end}; {life}; "
        f"{words[role_of(buffer, schedule)]}"
    )


def _levels(schedule: ArenaSchedule, scale: _Scale) -> Iterator[str]:
    right = scale.x(scale.steps)
    for kind, size in (("size", schedule.arena_bytes), ("bound", schedule.lower_bound_bytes)):
        y = scale.y(size)
        yield f'<line class="{kind}" x1="{_LEFT:g}" x2="{right:g}" y1="{y:g}" y2="{y:g}"/>'
    live = live_bytes(schedule)
    for step in (number for number, size in enumerate(live) if size == max(live)):
        middle, top = scale.x(step + 0.5), _TOP - 1
        title = _text(f"peak: {exact(max(live), 'bytes')} live in step {step} ({schedule.steps[step].name})")
        yield (
            f'<path class="peak" d="M{middle - 4:g} {top - 7:g}h8L{middle:g} {top:g}Z"><title>{title}</title></path>'
        )


def _strip(schedule: ArenaSchedule, scale: _Scale) -> Iterator[str]:
    """One cell per step below the plot: where its name is."""
    y = _TOP + _PLOT_HEIGHT + 6
    for number, step in enumerate(schedule.steps):
        macs = f", {step.macs} MACs" if step.macs else ""
        title = _text(f"{number}: {step.name} ({step.operator}, {step.phase}{macs})")
        yield (
            f'<rect class="{step.phase}" x="{scale.x(number):g}" y="{y:g}" width="{scale.step_width - 0.5:.2f}" '
            f'height="10"><title>{title}</title></rect>'
        )


def _legend(schedule: ArenaSchedule, scale: _Scale, identity: str) -> Iterator[str]:
    used = {role_of(buffer, schedule) for buffer in schedule.buffers}
    x, y = _LEFT, _TOP + _PLOT_HEIGHT + 52
    for role, text in _LEGEND.items():
        if role not in used:
            continue
        place = f'x="{x:g}" y="{y - 10:g}" width="16" height="11"'
        yield f'<rect class="buffer {role}" {place}/>'
        if role == "kept":
            yield f'<rect {place} fill="url(#{identity}-hatch)" fill-opacity=".7"/>'
        yield f'<text x="{x + 21:g}" y="{y:g}">{_text(text)}</text>'
        x += 21 + _CHARACTER_WIDTH * len(text) + 14
    x, y = _LEFT, y + 22
    ratio = schedule.arena_bytes / max(1, schedule.lower_bound_bytes)
    levels = (
        ("size", f"arena {exact(schedule.arena_bytes, 'bytes')}"),
        ("bound", f"lower bound {exact(schedule.lower_bound_bytes, 'bytes')}, ratio {ratio:.3f}; ▼ peak"),
    )
    for kind, text in levels:
        yield f'<line class="{kind}" x1="{x:g}" x2="{x + 16:g}" y1="{y - 4:g}" y2="{y - 4:g}"/>'
        yield f'<text x="{x + 21:g}" y="{y:g}">{_text(text)}</text>'
        x += 21 + _CHARACTER_WIDTH * len(text) + 14


def _text(text: str) -> Markup:
    """Text of an element; characters that XML 1.0 cannot hold (section 2.2) become question marks."""
    return escape(_NOT_XML.sub("?", text))


def _fitting(text: str, width: float) -> str:
    """``text``, cut where it is wider; nothing where not even three characters have room."""
    room = int(width / _CHARACTER_WIDTH)
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 4 else ""
