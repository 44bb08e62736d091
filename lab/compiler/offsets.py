"""Offset assignment: where in one arena each buffer lies, given its size and the steps during which it is live.

This is dynamic storage allocation with known lifetimes: rectangles of fixed extent in time slide along the address
axis until none overlap. It is NP-hard (Garey and Johnson 1979, problem SR2), yet the plans of neural networks are mostly
easy. Cheap attempts come first and each stops the search as soon as the plan meets the lower bound, the most bytes live
at once:

1. greedy placement in several orders, into the lowest gap that is large enough and into the tightest one (cf.
   Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"),
2. a seeded search over the order, which moves what ended above the bound to an earlier turn ("squeaky wheel
   optimisation", Joslin and Clements 1999),
3. a mixed-integer programme for what is still too high, where it is small.

All work limits are counts, never time: the same buffers get the same plan on every machine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.errors import CompileError

ALIGNMENT_BYTES = 16
"""Default alignment: the widest load of the targets (Helium and NEON vectors)."""
SEARCH_VISITS = 4_000_000
"""Work limit of the search over orders, in buffer pairs looked at; about a second."""
SEARCH_ORDERS = 2_000
"""Most orders the search tries."""


@dataclass(frozen=True)
class Buffer:
    """``size_bytes`` bytes that are live from step ``first`` to step ``last``, both inclusive."""

    name: str
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Offsets:
    """Where each buffer lies.

    Attributes:
        offset: buffer name to its byte offset, a multiple of the alignment.
        arena_bytes: size of the arena, a multiple of the alignment.
        lower_bound_bytes: no plan can be smaller than this, cf. :func:`max_live`.
        method: which attempt found the plan.
    """

    offset: Mapping[str, int]
    arena_bytes: int
    lower_bound_bytes: int
    method: str

    @property
    def ratio(self) -> float:
        """Arena over lower bound, 1.0 at best."""
        return self.arena_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 1.0


@dataclass(frozen=True)
class Instance:
    """Buffers as numbers: sizes in units of the alignment, and for each buffer those live at the same time as it."""

    sizes: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    conflicts: tuple[tuple[int, ...], ...]
    bound: int

    def length(self, index: int) -> int:
        """Steps during which a buffer is live."""
        return self.last[index] - self.first[index] + 1


@dataclass(frozen=True)
class Plan:
    """Offset of each buffer and the end of the highest one, in units of the alignment."""

    offsets: tuple[int, ...]
    height: int
    method: str


Gap = Callable[[Sequence[tuple[int, int]], int], int]


def assign(buffers: Sequence[Buffer], *, alignment: int = ALIGNMENT_BYTES) -> Offsets:
    """Give every buffer an offset so that no two that are live in the same step share a byte; the smallest arena found.

    Args:
        buffers: with unique names; any order, which does not change the arena.
        alignment: every offset, and the arena, is a multiple of this many bytes.

    Raises:
        CompileError: a name appears twice, a size is negative, a buffer ends before it begins, or the alignment is not
            positive.
    """
    ordered = sorted(buffers, key=lambda buffer: (buffer.first, buffer.last, -buffer.size_bytes, buffer.name))
    instance = build_instance(ordered, alignment)
    best: Plan | None = None
    for plan in attempts(instance):
        if best is None or plan.height < best.height:
            best = plan
        if best.height == instance.bound:
            break
    if best is None:
        return Offsets({}, 0, 0, "nothing to place")
    offsets = {buffer.name: offset * alignment for buffer, offset in zip(ordered, best.offsets, strict=True)}
    return Offsets(offsets, best.height * alignment, instance.bound * alignment, best.method)


def max_live(buffers: Sequence[Buffer], alignment: int = ALIGNMENT_BYTES) -> int:
    """Most bytes live in one step, each buffer rounded up to the alignment: a lower bound on every arena.

    Raises:
        CompileError: as :func:`assign`.
    """
    return build_instance(buffers, alignment).bound * alignment


def build_instance(buffers: Sequence[Buffer], alignment: int) -> Instance:
    """Check the buffers and find which are live together."""
    check(buffers, alignment)
    sizes = tuple(-(-buffer.size_bytes // alignment) for buffer in buffers)
    conflicts: list[list[int]] = [[] for _ in buffers]
    live: list[int] = []
    bound = 0
    for index in sorted((i for i, size in enumerate(sizes) if size), key=lambda i: buffers[i].first):
        live = [other for other in live if buffers[other].last >= buffers[index].first]
        for other in live:
            conflicts[other].append(index)
        conflicts[index].extend(live)
        live.append(index)
        bound = max(bound, sum(sizes[other] for other in live))
    return Instance(
        sizes,
        tuple(buffer.first for buffer in buffers),
        tuple(buffer.last for buffer in buffers),
        tuple(tuple(others) for others in conflicts),
        bound,
    )


def check(buffers: Sequence[Buffer], alignment: int) -> None:
    """Refuse what is no instance of the problem."""
    if alignment < 1:
        raise CompileError(f"alignment of {alignment} bytes: it must be at least 1")
    twice = sorted(name for name, count in Counter(buffer.name for buffer in buffers).items() if count > 1)
    if twice:
        raise CompileError(f"{len(twice)} buffer names appear more than once: {', '.join(twice[:5])}")
    for buffer in buffers:
        if buffer.size_bytes < 0:
            raise CompileError(f"buffer {buffer.name!r} has {buffer.size_bytes} bytes: a size cannot be negative")
        if buffer.last < buffer.first:
            life = f"live from step {buffer.first} to step {buffer.last}"
            raise CompileError(f"buffer {buffer.name!r} is {life}: it ends before it begins")


def attempts(instance: Instance) -> Iterator[Plan]:
    """Plans worth trying, cheapest first."""
    if not instance.sizes:
        return
    best: Plan | None = None
    best_order: tuple[int, ...] = ()
    for name, order in heuristic_orders(instance):
        for fit, gap in (("first fit", lowest_gap), ("best fit", tightest_gap)):
            plan = place(instance, order, gap, f"{name}, {fit}")
            yield plan
            if best is None or plan.height < best.height:
                best, best_order = plan, order
    yield from search(instance, best_order)


def heuristic_orders(instance: Instance) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Orders of placement by rules of thumb."""
    sizes, first = instance.sizes, instance.first
    indices = range(len(sizes))
    pressure = [sizes[i] + sum(sizes[j] for j in instance.conflicts[i]) for i in indices]
    rules: tuple[tuple[str, Callable[[int], tuple[int, ...]]], ...] = (
        ("by size", lambda i: (-sizes[i], first[i])),
        ("by lifetime", lambda i: (-instance.length(i), -sizes[i])),
        ("by area", lambda i: (-sizes[i] * instance.length(i), first[i])),
        ("by birth", lambda i: (first[i], -sizes[i])),
        ("by death", lambda i: (-instance.last[i], -sizes[i])),
        ("by pressure", lambda i: (-pressure[i], -sizes[i])),
    )
    for name, key in rules:
        yield name, tuple(sorted(indices, key=key))


def search(instance: Instance, order: tuple[int, ...]) -> Iterator[Plan]:
    """Move buffers that end above the bound to earlier turns, over and over; some noise leaves dead ends."""
    chance = random.Random(0)
    visits = 1 + len(order) + sum(map(len, instance.conflicts))
    turns = {index: float(turn) for turn, index in enumerate(order)}
    for _ in range(min(SEARCH_ORDERS, SEARCH_VISITS // visits)):
        plan = place(instance, sorted(order, key=lambda index: turns[index]), lowest_gap, "search over orders")
        yield plan
        for index, offset in enumerate(plan.offsets):
            if offset + instance.sizes[index] > instance.bound:
                turns[index] -= chance.uniform(0.0, len(order))
        swapped = chance.choice(order)
        turns[swapped] += chance.uniform(-len(order), len(order)) / 4


def place(instance: Instance, order: Iterable[int], gap: Gap, method: str) -> Plan:
    """Give each buffer in turn the offset that ``gap`` picks among those placed before it."""
    sizes = instance.sizes
    offsets = [-1] * len(sizes)
    height = 0
    for index in order:
        taken = [(offsets[j], offsets[j] + sizes[j]) for j in instance.conflicts[index] if offsets[j] >= 0]
        taken.sort()
        offset = gap(taken, sizes[index])
        offsets[index] = offset
        height = max(height, offset + sizes[index])
    return Plan(tuple(offsets), height, method)


def lowest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The lowest offset at which ``size`` units fit between the sorted ``[begin, end)`` ranges taken."""
    cursor = 0
    for begin, end in taken:
        if begin - cursor >= size:
            break
        cursor = max(cursor, end)
    return cursor


def tightest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The offset of the smallest gap that holds ``size`` units, the open end where none does."""
    cursor, chosen, chosen_gap = 0, -1, 0
    for begin, end in taken:
        gap = begin - cursor
        if gap >= size and (chosen < 0 or gap < chosen_gap):
            chosen, chosen_gap = cursor, gap
        cursor = max(cursor, end)
    return cursor if chosen < 0 else chosen
