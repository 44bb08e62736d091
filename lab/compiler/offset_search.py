"""Offset assignment by a depth-first search that fills the arena from the bottom."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.compiler.offset_orders import Instance, Plan, heuristic_orders, lowest_gap, place

SEARCH_WORK = 50_000_000
"""Work limit; a few seconds, spent only if the bound is not met."""
NODE_WORK = 100
"""Work of a node beyond one per buffer."""
NODES_PER_BUFFER = 3_000
"""Most nodes per buffer: where there are few, the mixed-integer programme is the better use of time."""
SEARCH_NODES = 300
"""Nodes of one start of the search beyond one per buffer: a bad start is not worth more."""
SEARCH_SLACKS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
"""Shares by which the search may exceed the bound, tried in turn; half of the work goes to the first."""
IntArray = npt.NDArray[np.int64]


def search_from_bottom(instance: Instance) -> Iterator[Plan]:
    """Plans of :class:`Skyline`, under the bound first and then under higher ceilings."""
    ranks = [turns(order) for _, order in heuristic_orders(instance)]
    chance = random.Random(0)
    work = min(SEARCH_WORK // (len(instance.sizes) + NODE_WORK), NODES_PER_BUFFER * len(instance.sizes))
    refuted = 0
    for number, slack in enumerate(SEARCH_SLACKS):
        ceiling = int(instance.bound * (1 + slack))
        nodes = work // 2 if number == 0 else work // 2 // (len(SEARCH_SLACKS) - 1)
        start = 0
        while nodes > 0 and ceiling > refuted:
            noise = 0.0 if start < len(ranks) else len(instance.sizes) / 8
            rank = [turn + chance.uniform(0.0, noise) for turn in ranks[start % len(ranks)]]
            skyline = Skyline(instance, ceiling, rank, min(nodes, len(rank) + SEARCH_NODES))
            if skyline.fill():
                yield place(instance, skyline.order, lowest_gap, "search from the bottom")
                return
            if skyline.nodes <= skyline.node_limit:
                refuted = ceiling
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
