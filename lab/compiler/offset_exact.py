"""Offset assignment by a mixed-integer programme, for few buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.compiler.offset_orders import Instance, Plan, heuristic_orders, lowest_gap, place

EXACT_PAIRS = 300
"""Most pairs of buffers live together that the mixed-integer programme is given; more take it minutes."""
EXACT_NODES = 1_000
"""Work limit of the mixed-integer programme, in branch-and-bound nodes."""


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
    is minimised between the bound and that of the best greedy plan. The arena can be turned upside down, so one pair is
    fixed.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    sizes, column = instance.sizes, {index: number for number, index in enumerate(core)}
    limit = min(place(instance, order, lowest_gap, "").height for _, order in heuristic_orders(instance))
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
