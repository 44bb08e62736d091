"""Offset assignment: where in one arena each buffer lies, given its size and the steps during which it is live.

This is dynamic storage allocation with known lifetimes: rectangles of fixed extent in time slide along the address
axis until none overlap. It is NP-hard (Garey and Johnson 1979, problem SR2), yet the plans of neural networks are
mostly easy. Attempts go from cheap to dear and end once a plan meets the lower bound, the most bytes live at once:

1. greedy placement in several orders, into the lowest gap that is large enough and into the tightest one (cf.
   Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"),
2. a depth-first search that fills the arena from the bottom (:class:`Skyline`), restarted with seeded noise,
3. where few buffers matter, a mixed-integer programme (HiGHS) of what is above what.

All work limits are counts, never time: the same buffers get the same plan on every machine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import CompileError

ALIGNMENT_BYTES = 16
"""Default alignment: the widest load of the targets (Helium and NEON vectors)."""
SEARCH_WORK = 16_000_000
"""Work limit of the search, in nodes times buffers; one to three seconds, spent only if the bound is not met."""
SEARCH_NODES = 1_000
"""Nodes of one start of the search beyond one per buffer: a bad start is not worth more."""
SEARCH_SLACKS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
"""Shares by which the search may exceed the bound, tried in turn; half of the work goes to the first."""
EXACT_PAIRS = 300
"""Most pairs of buffers live together that the mixed-integer programme is given; more take it minutes."""
EXACT_NODES = 1_000
"""Work limit of the mixed-integer programme, in branch-and-bound nodes."""


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


IntArray = npt.NDArray[np.int64]
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
    check(buffers, alignment)
    placed = [buffer for buffer in buffers if buffer.size_bytes]
    ordered = sorted(placed, key=lambda buffer: (buffer.first, buffer.last, -buffer.size_bytes, buffer.name))
    instance = build_instance(ordered, alignment)
    best: Plan | None = None
    for plan in attempts(instance):
        if best is None or plan.height < best.height:
            best = plan
        if best.height == instance.bound:
            break
    offsets = {buffer.name: 0 for buffer in buffers}
    if best is None:
        return Offsets(offsets, 0, 0, "nothing to place")
    offsets |= {buffer.name: offset * alignment for buffer, offset in zip(ordered, best.offsets, strict=True)}
    return Offsets(offsets, best.height * alignment, instance.bound * alignment, best.method)


def max_live(buffers: Sequence[Buffer], alignment: int = ALIGNMENT_BYTES) -> int:
    """Most bytes live in one step, each buffer rounded up to the alignment: a lower bound on every arena.

    Raises:
        CompileError: as :func:`assign`.
    """
    check(buffers, alignment)
    return build_instance([buffer for buffer in buffers if buffer.size_bytes], alignment).bound * alignment


def build_instance(buffers: Sequence[Buffer], alignment: int) -> Instance:
    """Find which buffers are live together; none may be empty."""
    sizes = tuple(-(-buffer.size_bytes // alignment) for buffer in buffers)
    conflicts: list[list[int]] = [[] for _ in buffers]
    live: list[int] = []
    bound = 0
    for index in sorted(range(len(sizes)), key=lambda i: buffers[i].first):
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
    for name, order in heuristic_orders(instance):
        for fit, gap in (("first fit", lowest_gap), ("best fit", tightest_gap)):
            yield place(instance, order, gap, f"{name}, {fit}")
    yield from search(instance)
    yield from exact(instance)


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


def search(instance: Instance) -> Iterator[Plan]:
    """Plans of the search from the bottom, under the bound first and then under higher ceilings."""
    ranks = [turns(order) for _, order in heuristic_orders(instance)]
    chance = random.Random(0)
    work = SEARCH_WORK // max(1, len(instance.sizes))
    for number, slack in enumerate(SEARCH_SLACKS):
        ceiling = int(instance.bound * (1 + slack))
        nodes = work // 2 if number == 0 else work // 2 // (len(SEARCH_SLACKS) - 1)
        start = 0
        while nodes > 0:
            noise = 0.0 if start < len(ranks) else len(instance.sizes) / 2
            rank = [turn + chance.uniform(0.0, noise) for turn in ranks[start % len(ranks)]]
            skyline = Skyline(instance, ceiling, rank, min(nodes, len(rank) + SEARCH_NODES))
            if skyline.fill():
                yield place(instance, skyline.order, lowest_gap, "search from the bottom")
                return
            nodes -= skyline.nodes
            start += 1


def turns(order: Sequence[int]) -> list[int]:
    """Turn of each buffer in an order."""
    result = [0] * len(order)
    for turn, index in enumerate(order):
        result[index] = turn
    return result


@dataclass(frozen=True)
class Undo:
    """What placing a buffer changed: tops in its steps and offsets of its conflicts."""

    index: int
    top: IntArray
    offsets: IntArray


class Skyline:
    """Depth-first search for a plan under a ceiling that places buffers at ascending offsets.

    Every plan can be pushed down until each buffer lies on the floor or on another one, and then be built from the
    bottom with each buffer on the highest of those below it (the canonical form of Moffitt, "MiniMalloc: A Lightweight
    Memory Allocator for Hardware-Accelerated Machine Learning", 2023). A branch ends when in some step what is placed
    and what is still to come no longer fit under the ceiling.

    Args:
        instance: what to place.
        ceiling: no buffer may end above.
        rank: among buffers that could lie equally low, the one of lowest rank goes first.
        node_limit: give up after this many placements.

    Attributes:
        order: after a successful :meth:`fill`, the buffers from the bottom to the top.
        nodes: placements tried.
    """

    def __init__(self, instance: Instance, ceiling: int, rank: Sequence[float], node_limit: int) -> None:
        self.ceiling, self.rank, self.node_limit = ceiling, rank, node_limit
        self.order: list[int] = []
        self.nodes = 0
        self.sizes = np.array(instance.sizes)
        self.conflicts = [np.array(others, dtype=np.int64) for others in instance.conflicts]
        steps = sorted({*instance.first, *(last + 1 for last in instance.last)})
        begin = np.searchsorted(steps, instance.first)
        end = np.searchsorted(steps, np.array(instance.last) + 1)
        self.lives = [slice(int(a), int(b)) for a, b in zip(begin, end, strict=True)]
        self.top = np.zeros(len(steps), dtype=np.int64)
        """Per step, the end of the highest buffer placed."""
        self.waiting = np.zeros(len(steps), dtype=np.int64)
        """Per step, units of the buffers not placed yet."""
        for size, life in zip(instance.sizes, self.lives, strict=True):
            self.waiting[life] += size
        self.offset = np.zeros(len(self.lives), dtype=np.int64)
        """Where each buffer lies or, if it is not placed yet, would lie now."""
        self.free = np.ones(len(self.lives), dtype=np.bool_)
        """Which buffers are not placed yet."""

    def fill(self) -> bool:
        """Search; whether a plan was found."""
        branches = [iter(self.candidates())]
        undo: list[Undo] = []
        while branches and len(self.order) < len(self.lives):
            index = next(branches[-1], None)
            if index is None:
                branches.pop()
                if undo:
                    self.remove(undo.pop())
                continue
            self.nodes += 1
            if self.nodes > self.node_limit:
                return False
            if self.fits(index):
                put = self.put(index)
                if self.is_promising():
                    undo.append(put)
                    branches.append(iter(self.candidates()))
                else:
                    self.remove(put)
        return bool(branches)

    def candidates(self) -> list[int]:
        """Buffers that nothing else could lie below, the lowest first."""
        indices = np.flatnonzero(self.free)
        offsets = self.offset[indices]
        if not len(indices):
            return []
        lowest_end = (offsets + self.sizes[indices]).min()
        return sorted(indices[offsets < lowest_end].tolist(), key=lambda index: (self.offset[index], self.rank[index]))

    def fits(self, index: int) -> bool:
        """Whether a buffer may come next: not below the last one, and room above it for what is still to come."""
        offset = self.offset[index]
        ascends = not self.order or offset >= self.offset[self.order[-1]]
        return bool(ascends and offset + self.waiting[self.lives[index]].max() <= self.ceiling)

    def put(self, index: int) -> Undo:
        """Place a buffer; what it changed."""
        life, others, end = self.lives[index], self.conflicts[index], self.offset[index] + self.sizes[index]
        before = Undo(index, self.top[life].copy(), self.offset[others])
        self.top[life] = end
        self.waiting[life] -= self.sizes[index]
        self.free[index] = False
        raised = others[self.free[others]]
        self.offset[raised] = self.offset[raised].clip(min=end)
        self.order.append(index)
        return before

    def remove(self, undo: Undo) -> None:
        """Take the last buffer back."""
        life = self.lives[undo.index]
        self.order.pop()
        self.top[life] = undo.top
        self.waiting[life] += self.sizes[undo.index]
        self.free[undo.index] = True
        self.offset[self.conflicts[undo.index]] = undo.offsets

    def is_promising(self) -> bool:
        """Whether in each step the rest fits above what is placed and above the lowest place still to be had."""
        if not self.free.any():
            return True
        lowest = self.offset[self.free].min()
        needed = self.top.clip(min=lowest) + self.waiting
        return bool(needed[self.waiting > 0].max() <= self.ceiling)


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


def exact(instance: Instance) -> Iterator[Plan]:
    """The plan of the mixed-integer programme over the buffers that matter, if they are few enough."""
    core, rest = peel(instance)
    inside = set(core)
    pairs = [(i, j) for i in core for j in instance.conflicts[i] if i < j and j in inside]
    if pairs and len(pairs) <= EXACT_PAIRS:
        order = exact_order(instance, core, pairs)
        if order:
            yield place(instance, (*order, *reversed(rest)), lowest_gap, "mixed-integer programme")


def peel(instance: Instance) -> tuple[list[int], list[int]]:
    """Part the buffers into those that matter and those sure to find a gap below the bound wherever the others lie.

    A buffer of s units among k neighbours of S units in all sees at most k + 1 gaps, of bound - S units in all; one of
    them has s units if (k + 1) (s - 1) < bound - S. Whoever is peeled later is placed earlier.
    """
    core, rest = set(range(len(instance.sizes))), list[int]()
    waiting = sorted(core)
    while waiting:
        index = waiting.pop()
        near = [j for j in instance.conflicts[index] if j in core]
        free = instance.bound - sum(instance.sizes[j] for j in near)
        if index in core and (len(near) + 1) * (instance.sizes[index] - 1) < free:
            core.remove(index)
            rest.append(index)
            waiting.extend(near)
    return sorted(core), rest


def exact_order(instance: Instance, core: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The buffers of ``core`` from the bottom of their lowest arrangement to its top; empty if none is found.

    Variables are the offset of each buffer, whether the first of each pair lies below the second, and the height, which
    is minimised between the bound and the sum of all sizes. The arena can be turned upside down, so one pair is fixed.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    sizes, column = instance.sizes, {index: number for number, index in enumerate(core)}
    limit = sum(sizes[index] for index in core)
    height = len(core) + len(pairs)
    terms: list[tuple[int, int, int]] = []
    upper: list[int] = []
    for pair, (i, j) in enumerate(pairs, start=len(core)):
        below, above = len(upper), len(upper) + 1
        terms += [(below, column[i], 1), (below, column[j], -1), (below, pair, limit)]
        terms += [(above, column[j], 1), (above, column[i], -1), (above, pair, -limit)]
        upper += [limit - sizes[i], -sizes[j]]
    for index in core:
        terms += [(len(upper), column[index], 1), (len(upper), height, -1)]
        upper.append(-sizes[index])
    rows, columns, values = zip(*terms, strict=True)
    matrix = coo_array((values, (rows, columns)), shape=(len(upper), height + 1)).tocsr()
    lowest, highest = np.zeros(height + 1), np.full(height + 1, float(limit))
    highest[len(core) : height] = lowest[len(core)] = 1.0
    lowest[height] = instance.bound
    whole = np.zeros(height + 1, dtype=np.int64)
    whole[len(core) : height] = 1
    solution = milp(
        np.eye(height + 1)[height],
        integrality=whole,
        bounds=Bounds(lowest, highest),
        constraints=LinearConstraint(matrix, -np.inf, np.array(upper, dtype=np.float64)),
        options={"node_limit": EXACT_NODES},
    )
    if solution.x is None:
        return []
    return sorted(core, key=lambda index: float(solution.x[column[index]]))
