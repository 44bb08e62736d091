"""Static memory: which bytes of the one arena each value occupies.

The model's input and output are the caller's and lie outside the arena. Values whose life does not overlap may share
bytes; an in-place layer writes over an input that dies there; a reshape is its input. Offsets are assigned best-fit in
several orders (largest first is the usual one, cf. Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural
Net Inference") and by trying all orders where there are few buffers and no heuristic meets the lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lab.compiler.model import BufferPlan
from lab.compiler.quantized import QuantizedGraph, QuantizedNode
from lab.errors import CompileError

ALIGNMENT = 4
"""Offsets are multiples of this, so that kernels may load words."""
EXHAUSTIVE_BUFFERS = 7
INPUT, OUTPUT = "<input>", "<output>"
"""Places outside the arena; no buffer can have these names, which are no module paths."""


@dataclass(frozen=True)
class Request:
    """A buffer to be placed: ``size`` bytes alive from layer ``first`` to layer ``last`` inclusive."""

    name: str
    size: int
    first: int
    last: int

    def overlaps(self, other: Request) -> bool:
        """Whether both are alive in some layer."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """The arena of a model.

    Attributes:
        layers: the nodes that run code, in order; layer numbers index this.
        buffers: placed buffers.
        places: value name to the name of its buffer, :data:`INPUT` or :data:`OUTPUT`.
        scratch: layer number to the name of its scratch buffer.
        arena_bytes: end of the highest buffer.
        lower_bound_bytes: most bytes live at once.
    """

    layers: tuple[QuantizedNode, ...]
    buffers: tuple[BufferPlan, ...]
    places: dict[str, str]
    scratch: dict[int, str]
    arena_bytes: int
    lower_bound_bytes: int

    def offset(self, buffer: str) -> int:
        """Offset of a buffer in the arena."""
        return next(plan.offset for plan in self.buffers if plan.name == buffer)


def plan_memory(graph: QuantizedGraph) -> MemoryPlan:
    """Plan the arena of a quantised graph.

    Raises:
        CompileError: the model has no layer that computes anything.
    """
    layers = tuple(node for node in graph.nodes if not node.operator.is_alias)
    places = assign_places(graph)
    if not layers or places[graph.input] == places[graph.output]:
        raise CompileError("the model computes nothing: its output is its input", hint="compile a module with layers")
    lives = lifetimes(layers, places)
    merge_in_place(graph, layers, places, lives)
    sizes = {place: tensor_bytes(graph, value) for value, place in places.items()}
    requests = [Request(name, sizes[name], *life) for name, life in lives.items()]
    scratch: dict[int, str] = {}
    for index, node in enumerate(layers):
        size = node.operator.scratch_bytes(graph.input_shapes(node), graph.shapes[node.output])
        if size:
            scratch[index] = f"{node.name}.scratch"
            requests.append(Request(scratch[index], size, index, index))
    buffers = assign_offsets(requests)
    arena = max((plan.offset + plan.size for plan in buffers), default=0)
    return MemoryPlan(layers, buffers, places, scratch, arena, lower_bound(requests))


def tensor_bytes(graph: QuantizedGraph, value: str) -> int:
    """Bytes of an int8 value."""
    return int(np.prod(graph.shapes[value]))


def assign_places(graph: QuantizedGraph) -> dict[str, str]:
    """Where each value lives: outside the arena, or in a buffer named after the layer that fills it."""
    places = {graph.input: INPUT}
    for node in graph.nodes:
        places[node.output] = places[node.inputs[0]] if node.operator.is_alias else node.name
    final = places[graph.output]
    return {value: OUTPUT if place == final and final != INPUT else place for value, place in places.items()}


def lifetimes(layers: Sequence[QuantizedNode], places: dict[str, str]) -> dict[str, tuple[int, int]]:
    """First and last layer of every buffer of the arena."""
    lives: dict[str, tuple[int, int]] = {}
    for index, node in enumerate(layers):
        for value in (*node.inputs, node.output):
            place = places[value]
            if place not in (INPUT, OUTPUT):
                lives[place] = (lives.get(place, (index, index))[0], index)
    return lives


def merge_in_place(
    graph: QuantizedGraph, layers: Sequence[QuantizedNode], places: dict[str, str], lives: dict[str, tuple[int, int]]
) -> None:
    """Let in-place layers write over an input of the same size that dies in them; updates ``places`` and ``lives``."""
    for index, node in enumerate(layers):
        target = places[node.output]
        if not node.operator.in_place or target not in lives:
            continue
        size = tensor_bytes(graph, node.output)
        for value in node.inputs:
            place = places[value]
            if place in lives and lives[place][1] == index and tensor_bytes(graph, value) == size:
                lives[place] = (lives[place][0], lives.pop(target)[1])
                places.update({other: place for other, where in places.items() if where == target})
                break


def assign_offsets(requests: Sequence[Request]) -> tuple[BufferPlan, ...]:
    """Place all requests so that no two that are alive together share a byte; the smallest arena found."""
    bound = lower_bound(requests)
    best: tuple[BufferPlan, ...] = ()
    best_bytes = -1
    for placed in candidate_plans(requests, bound):
        size = max((plan.offset + plan.size for plan in placed), default=0)
        if best_bytes < 0 or size < best_bytes:
            best, best_bytes = placed, size
        if best_bytes == bound:
            break
    return tuple(sorted(best, key=lambda plan: (plan.first, plan.offset, plan.name)))


def candidate_plans(requests: Sequence[Request], bound: int) -> Iterable[tuple[BufferPlan, ...]]:
    """Plans worth trying, best guesses first."""
    keys: tuple[Callable[[Request], tuple[int, ...]], ...] = (
        lambda r: (-r.size, r.first),
        lambda r: (-r.size * (r.last - r.first + 1), r.first),
        lambda r: (r.first - r.last, -r.size),
        lambda r: (r.first, -r.size),
        lambda r: (-r.last, -r.size),
        lambda r: (-pressure(r, requests), -r.size),
    )
    for key in keys:
        yield place_in_order(sorted(requests, key=key))
    yield place_two_ended(requests, bound)
    if len(requests) <= EXHAUSTIVE_BUFFERS:
        yield from map(place_in_order, permutations(requests))


def pressure(request: Request, requests: Sequence[Request]) -> int:
    """Most bytes live at once during the life of ``request``."""
    return max(live_bytes(requests, layer) for layer in range(request.first, request.last + 1))


def live_bytes(requests: Sequence[Request], layer: int) -> int:
    """Bytes alive in a layer, each buffer at its aligned size."""
    return sum(aligned(r.size) for r in requests if r.first <= layer <= r.last)


def lower_bound(requests: Sequence[Request]) -> int:
    """Most bytes live at once; the highest buffer needs no padding behind it."""
    layers = {request.first for request in requests}
    return max((smallest_end([r for r in requests if r.first <= layer <= r.last]) for layer in layers), default=0)


def smallest_end(alive: Sequence[Request]) -> int:
    """Bytes of buffers that lie side by side, the one with the most alignment padding last."""
    return sum(aligned(r.size) for r in alive) - max(aligned(r.size) - r.size for r in alive)


def aligned(size: int) -> int:
    """``size`` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def place_in_order(order: Sequence[Request]) -> tuple[BufferPlan, ...]:
    """Give each request the smallest gap it fits into among those placed before it."""
    placed: list[tuple[Request, int]] = []
    for request in order:
        neighbours = sorted(
            ((offset, offset + aligned(other.size)) for other, offset in placed if other.overlaps(request))
        )
        placed.append((request, best_gap(neighbours, request.size)))
    return tuple(BufferPlan(r.name, offset, r.size, r.first, r.last) for r, offset in placed)


def place_two_ended(requests: Sequence[Request], bound: int) -> tuple[BufferPlan, ...]:
    """Alternate between the bottom of the arena and its top at ``bound``: exact for a chain of layers."""
    placed: list[tuple[Request, int]] = []
    at_top = False
    for request in sorted(requests, key=lambda r: (r.first, -r.last, -r.size)):
        neighbours = sorted(
            ((offset, offset + aligned(other.size)) for other, offset in placed if other.overlaps(request))
        )
        top = (bound - request.size) // ALIGNMENT * ALIGNMENT
        free = all(end <= top or begin >= top + request.size for begin, end in neighbours)
        placed.append((request, top if at_top and free else best_gap(neighbours, request.size)))
        if request.last > request.first:
            at_top = not at_top
    return tuple(BufferPlan(r.name, offset, r.size, r.first, r.last) for r, offset in placed)


def best_gap(neighbours: Sequence[tuple[int, int]], size: int) -> int:
    """Offset of the tightest gap between ``[begin, end)`` neighbours that holds ``size`` bytes."""
    cursor, chosen, chosen_gap = 0, -1, 0
    for begin, end in neighbours:
        gap = begin - cursor
        if gap >= size and (chosen < 0 or gap < chosen_gap):
            chosen, chosen_gap = cursor, gap
        cursor = max(cursor, end)
    return cursor if chosen < 0 else chosen


def check_limit(graph: QuantizedGraph, plan: MemoryPlan, limit_bytes: int | None) -> None:
    """Refuse a plan larger than the arena the device offers.

    Raises:
        CompileError: with the bytes of every layer, the largest marked.
    """
    if limit_bytes is None or plan.arena_bytes <= limit_bytes:
        return
    rows = [layer_row(graph, plan, index) for index in range(len(plan.layers))]
    largest = max(row[4] for row in rows)
    width = max(len(row[0]) for row in rows)
    lines = [f"{'layer':<{width}}  {'input':>8}  {'output':>8}  {'scratch':>8}  {'total':>8}"]
    for name, inputs, output, scratch, total in rows:
        mark = "  <- largest" if total == largest else ""
        lines.append(f"{name:<{width}}  {inputs:>8}  {output:>8}  {scratch:>8}  {total:>8}{mark}")
    table = "\n".join(lines)
    raise CompileError(
        f"the model needs an arena of {plan.arena_bytes} bytes, {limit_bytes} bytes are allowed "
        f"(lower bound {plan.lower_bound_bytes} bytes). Arena bytes per layer:\n{table}",
        hint="make the largest layer smaller (fewer channels, an earlier stride) or use a device with more RAM",
    )


def layer_row(graph: QuantizedGraph, plan: MemoryPlan, index: int) -> tuple[str, int, int, int, int]:
    """Name, input, output and scratch bytes of the arena that a layer touches, and their sum (in place counts once)."""
    node = plan.layers[index]
    scratch_name = plan.scratch.get(index)
    scratch = sum(buffer.size for buffer in plan.buffers if buffer.name == scratch_name)
    places = {plan.places[value] for value in node.inputs} - {INPUT, OUTPUT}
    inputs = sum(buffer.size for buffer in plan.buffers if buffer.name in places)
    target = plan.places[node.output]
    output = 0 if target in places else sum(buffer.size for buffer in plan.buffers if buffer.name == target)
    return node.name, inputs, output, scratch, inputs + output + scratch
