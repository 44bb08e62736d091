"""Offset assignment: where in one arena each buffer lies, given its size and the steps during which it is live.

This is dynamic storage allocation with known lifetimes: rectangles of fixed extent in time slide along the address
axis until none overlap. It is NP-hard (Garey and Johnson 1979, problem SR2), yet the plans of neural networks are
mostly easy. Attempts go from cheap to dear and end once a plan meets the lower bound, the most bytes live at once:

1. greedy placement in several orders, into the lowest gap that is large enough and into the tightest one (cf.
   Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"),
2. a seeded search over the order, which moves what ended above the bound to an earlier turn ("squeaky wheel
   optimisation", Joslin and Clements 1999),
3. a depth-first search that fills the arena from the bottom, restarted with seeded noise,
4. where few buffers matter, a mixed-integer programme (HiGHS) of what is above what.

All work limits are counts, never time: the same buffers get the same plan on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.compiler.offset_exact import exact
from lab.compiler.offset_orders import (
    Instance,
    Plan,
    heuristic_orders,
    lowest_gap,
    place,
    search_orders,
    tightest_gap,
)
from lab.compiler.offset_search import search_from_bottom
from lab.errors import CompileError

ALIGNMENT_BYTES = 16
"""Default alignment: the widest load of the targets (Helium and NEON vectors)."""


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
    tried: list[tuple[int, tuple[int, ...]]] = []
    for name, order in heuristic_orders(instance):
        for fit, gap in (("first fit", lowest_gap), ("best fit", tightest_gap)):
            plan = place(instance, order, gap, f"{name}, {fit}")
            tried.append((plan.height, order))
            yield plan
    yield from search_orders(instance, min(tried)[1])
    yield from search_from_bottom(instance)
    yield from exact(instance)
