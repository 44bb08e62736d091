"""Offset assignment by placing one buffer after another, in orders of several kinds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

ORDER_VISITS = 2_000_000
"""Work limit of the search over orders, in pairs of buffers looked at; less than a second."""
ORDERS = 200
"""Most orders it tries."""
Gap = Callable[[Sequence[tuple[int, int]], int], int]


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


def search_orders(instance: Instance, order: tuple[int, ...]) -> Iterator[Plan]:
    """Move buffers that end above the bound to earlier turns, over and over; some noise leaves dead ends."""
    chance = random.Random(0)
    visits = 1 + len(order) + sum(map(len, instance.conflicts))
    turn = {index: float(number) for number, index in enumerate(order)}
    for _ in range(min(ORDERS, ORDER_VISITS // visits)):
        plan = place(instance, sorted(order, key=turn.__getitem__), lowest_gap, "search over orders")
        yield plan
        for index, offset in enumerate(plan.offsets):
            if offset + instance.sizes[index] > instance.bound:
                turn[index] -= chance.uniform(0.0, len(order))
        turn[chance.choice(order)] += chance.uniform(-len(order), len(order)) / 4


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
