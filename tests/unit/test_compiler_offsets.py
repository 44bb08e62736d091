"""Offset assignment against an independent checker, exhaustive search, known optima and the bound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.offset_exact import exact, peel
from lab.compiler.offset_orders import Instance, heuristic_orders, lowest_gap, place, search_orders, tightest_gap
from lab.compiler.offset_search import Skyline, search_from_bottom
from lab.compiler.offsets import Buffer, Offsets, assign, build_instance, max_live
from lab.errors import CompileError

ALIGNMENTS = (1, 4, 16)


def faults(buffers: Sequence[Buffer], offset: dict[str, int], arena_bytes: int, alignment: int) -> list[str]:
    """What is wrong with a plan, byte by byte and step by step."""
    found = [f"{name} is not at a multiple of {alignment}" for name, at in offset.items() if at % alignment or at < 0]
    found += [f"{buffer.name} has no offset" for buffer in buffers if buffer.name not in offset]
    if found:
        return found
    for step in {buffer.first for buffer in buffers} | {buffer.last for buffer in buffers}:
        owner: dict[int, str] = {}
        for buffer in buffers:
            if buffer.first <= step <= buffer.last:
                for byte in range(offset[buffer.name], offset[buffer.name] + buffer.size_bytes):
                    if byte >= arena_bytes:
                        found.append(f"{buffer.name} ends outside the arena in step {step}")
                        break
                    if byte in owner:
                        found.append(f"{buffer.name} and {owner[byte]} share byte {byte} in step {step}")
                        break
                    owner[byte] = buffer.name
    return found


def check(buffers: Sequence[Buffer], plan: Offsets, alignment: int) -> None:
    assert faults(buffers, dict(plan.offset), plan.arena_bytes, alignment) == []
    assert plan.arena_bytes % alignment == 0
    assert plan.arena_bytes >= plan.lower_bound_bytes == max_live(buffers, alignment)


def from_rows(rows: Sequence[tuple[int, int, int]], unit: int = 16) -> list[Buffer]:
    """Buffers of (units, first, last)."""
    return [Buffer(f"b{i}", size * unit, first, last) for i, (size, first, last) in enumerate(rows)]


def smallest_arena(buffers: Sequence[Buffer]) -> int:
    """The optimum: some order of first-fit placement reaches it, so all are tried."""
    best = sum(buffer.size_bytes for buffer in buffers)
    if len(buffers) < 2:
        return best
    for order in permutations(buffers):
        placed: list[tuple[Buffer, int]] = []
        for buffer in order:
            offset = 0
            for other, at in sorted(placed, key=lambda pair: pair[1]):
                alive = buffer.first <= other.last and other.first <= buffer.last
                if alive and at < offset + buffer.size_bytes and offset < at + other.size_bytes:
                    offset = at + other.size_bytes
            placed.append((buffer, offset))
            if offset + buffer.size_bytes >= best:
                break
        else:
            best = max(at + buffer.size_bytes for buffer, at in placed)
    return best


def cut_rectangle(pieces: int, seed: int, steps: int = 60, units: int = 512) -> list[Buffer]:
    """A full rectangle cut at random: a plan without any waste exists."""
    chance = random.Random(seed)
    rectangles = [(0, steps, 0, units)]
    while len(rectangles) < pieces:
        at = max(range(len(rectangles)), key=lambda i: area(rectangles[i]) * chance.random())
        begin, end, low, high = rectangles[at]
        if chance.random() < 0.5 and end - begin > 1:
            middle = chance.randrange(begin + 1, end)
            rectangles[at : at + 1] = [(begin, middle, low, high), (middle, end, low, high)]
        elif high - low > 1:
            middle = chance.randrange(low + 1, high)
            rectangles[at : at + 1] = [(begin, end, low, middle), (begin, end, middle, high)]
    return from_rows([(high - low, begin, end - 1) for begin, end, low, high in rectangles])


def area(rectangle: tuple[int, int, int, int]) -> int:
    begin, end, low, high = rectangle
    return (end - begin) * (high - low)


def training_step(layers: int, seed: int) -> list[Buffer]:
    """Lifetimes of a training step: saved activations, masks, short-lived gradients, weight gradients to the end."""
    chance = random.Random(seed)
    end = 2 * layers
    buffers: list[Buffer] = []
    for layer in range(layers):
        size = chance.choice((64, 128, 256, 512, 1024)) * chance.randint(1, 9)
        saved = chance.random() < 0.7
        buffers.append(Buffer(f"activation{layer}", size, layer, end - layer if saved else layer + 1))
        buffers.append(Buffer(f"mask{layer}", size // 8, layer, end - layer))
        buffers.append(Buffer(f"gradient{layer}", 4 * size, end - layer - 1, end - layer))
        buffers.append(Buffer(f"weight{layer}", chance.randint(40, 4000), end - layer, end))
    return buffers


@st.composite
def instances(draw: st.DrawFn, most: int = 12) -> list[Buffer]:
    rows = draw(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 8), st.integers(0, 5)), max_size=most))
    return [Buffer(f"b{i}", size, first, first + length) for i, (size, first, length) in enumerate(rows)]


@given(instances(), st.sampled_from(ALIGNMENTS))
def test_plan_is_valid(buffers: list[Buffer], alignment: int) -> None:
    check(buffers, assign(buffers, alignment=alignment), alignment)


@settings(max_examples=40)
@given(instances(most=6))
def test_smallest_plan_of_few_buffers(buffers: list[Buffer]) -> None:
    assert assign(buffers, alignment=1).arena_bytes == smallest_arena(buffers)


@given(instances(), st.randoms(use_true_random=False))
def test_order_of_the_request_does_not_matter(buffers: list[Buffer], chance: random.Random) -> None:
    shuffled = list(buffers)
    chance.shuffle(shuffled)
    assert assign(shuffled) == assign(buffers)


@given(instances(), st.sampled_from(ALIGNMENTS))
def test_max_live_counts_every_step(buffers: list[Buffer], alignment: int) -> None:
    steps = {buffer.first for buffer in buffers}
    rounded = {buffer.name: -(-buffer.size_bytes // alignment) * alignment for buffer in buffers}
    live = [sum(rounded[b.name] for b in buffers if b.first <= step <= b.last) for step in steps]
    assert max_live(buffers, alignment) == max(live, default=0)


def test_buffers_one_after_the_other_share_all() -> None:
    plan = assign(from_rows([(3, step, step) for step in range(5)]))
    assert plan.arena_bytes == 48
    assert set(plan.offset.values()) == {0}


def test_both_ends_of_a_life_count() -> None:
    assert assign(from_rows([(1, 0, 1), (1, 1, 2)])).arena_bytes == 32
    assert assign(from_rows([(1, 0, 1), (1, 2, 2)])).arena_bytes == 16


def test_sizes_are_rounded_up() -> None:
    plan = assign([Buffer("a", 1, 0, 0), Buffer("b", 17, 0, 0)], alignment=16)
    assert plan.arena_bytes == plan.lower_bound_bytes == 48
    assert plan.ratio == 1.0


def test_nothing_to_place() -> None:
    assert assign([]) == Offsets({}, 0, 0, "nothing to place")
    empty = assign([Buffer("empty", 0, 0, 3), Buffer("full", 8, 1, 1)])
    assert empty.offset == {"empty": 0, "full": 0}
    assert empty.arena_bytes == 16
    assert assign([Buffer("empty", 0, 0, 3)]).ratio == 1.0


def test_first_fit_by_birth_misses_what_the_search_finds() -> None:
    for seed in range(200):
        buffers = training_step(12, seed)
        instance = instance_of(buffers)
        by_birth = next(order for name, order in heuristic_orders(instance) if name == "by birth")
        if place(instance, by_birth, lowest_gap, "").height > 1.1 * instance.bound:
            assert assign(buffers).ratio == 1.0
            return
    pytest.fail("no instance on which first fit in order of birth fails")


@pytest.mark.parametrize("pieces", [8, 16, 25, 30])
def test_cut_rectangle_is_put_together_again(pieces: int) -> None:
    for seed in range(4):
        buffers = cut_rectangle(pieces, seed)
        plan = assign(buffers)
        assert plan.lower_bound_bytes == 512 * 16
        assert plan.ratio == 1.0
        check(from_rows([(b.size_bytes // 16, b.first, b.last) for b in buffers], unit=1), scaled(plan, 16), 1)


def scaled(plan: Offsets, by: int) -> Offsets:
    """The plan in units, so that the checker has fewer bytes to look at."""
    offset = {name: at // by for name, at in plan.offset.items()}
    return Offsets(offset, plan.arena_bytes // by, plan.lower_bound_bytes // by, plan.method)


@pytest.mark.parametrize(("layers", "seed"), [(10, 0), (20, 1), (40, 2), (60, 3), (120, 4), (250, 5)])
def test_training_steps_meet_the_bound(layers: int, seed: int) -> None:
    buffers = training_step(layers, seed)
    plan = assign(buffers)
    assert plan.ratio <= 1.005
    check_pairs(buffers, plan)


def check_pairs(buffers: Sequence[Buffer], plan: Offsets) -> None:
    """The checker for large plans: every pair."""
    for one, other in combinations(buffers, 2):
        if one.first <= other.last and other.first <= one.last:
            below, above = sorted((one, other), key=lambda buffer: (plan.offset[buffer.name], buffer.size_bytes))
            assert plan.offset[below.name] + below.size_bytes <= plan.offset[above.name] or not below.size_bytes
    assert max(plan.offset[buffer.name] + buffer.size_bytes for buffer in buffers) <= plan.arena_bytes


def test_checker_sees_faults() -> None:
    buffers = from_rows([(1, 0, 1), (1, 1, 2)])
    assert faults(buffers, {"b0": 0, "b1": 8}, 32, 8) == ["b1 and b0 share byte 8 in step 1"]
    assert faults(buffers, {"b0": 0, "b1": 4}, 32, 16) == ["b1 is not at a multiple of 16"]
    assert faults(buffers, {"b0": 0, "b1": 16}, 16, 16)[0].startswith("b1 ends outside the arena")
    assert faults(buffers, {"b0": 0}, 16, 16) == ["b1 has no offset"]


def test_same_plan_every_time() -> None:
    buffers = training_step(30, 7)
    assert assign(buffers) == assign(buffers)


GAPPED = ((3, 3, 3), (2, 4, 4), (1, 3, 5), (1, 4, 7), (2, 7, 7), (3, 8, 8), (1, 5, 8))
"""(units, first, last) found by random search: 4 units are live at most, no plan has less than 5."""


def instance_of(buffers: Sequence[Buffer], alignment: int = 16) -> Instance:
    return build_instance([buffer for buffer in buffers if buffer.size_bytes], alignment)


def fits_under(rows: Sequence[tuple[int, int, int]], ceiling: int) -> bool:
    """Whether any plan fits, by trying every offset of every buffer in order of birth."""
    taken: list[tuple[int, int, int, int]] = []

    def extend(index: int) -> bool:
        if index == len(rows):
            return True
        size, first, last = rows[index]
        for offset in range(ceiling - size + 1):
            clear = all(
                last < begin or end < first or offset >= at + units or at >= offset + size
                for units, begin, end, at in taken
            )
            if clear:
                taken.append((size, first, last, offset))
                if extend(index + 1):
                    return True
                taken.pop()
        return False

    return extend(0)


def test_optimum_above_the_bound_is_found() -> None:
    plan = assign(from_rows(GAPPED))
    assert (plan.lower_bound_bytes, plan.arena_bytes) == (4 * 16, 5 * 16)
    assert plan.ratio == 1.25
    assert not fits_under(GAPPED, 4)
    assert fits_under(GAPPED, 5)


def test_programme_proves_the_optimum() -> None:
    (plan,) = exact(instance_of(from_rows(GAPPED)))
    assert plan.height == 5


@settings(max_examples=25)
@given(instances(most=6))
def test_programme_finds_the_smallest_plan(buffers: list[Buffer]) -> None:
    filled = [buffer for buffer in buffers if buffer.size_bytes]
    instance = instance_of(filled, alignment=1)
    for plan in exact(instance):
        assert plan.height == smallest_arena(filled)
        offsets = {buffer.name: at for buffer, at in zip(filled, plan.offsets, strict=True)}
        assert faults(filled, offsets, plan.height, 1) == []


@given(instances(), st.randoms(use_true_random=False))
def test_peeled_buffers_fit_wherever_the_others_lie(buffers: list[Buffer], chance: random.Random) -> None:
    filled = [buffer for buffer in buffers if buffer.size_bytes]
    instance = instance_of(filled, alignment=1)
    core, rest = peel(instance)
    assert sorted([*core, *rest]) == list(range(len(filled)))
    # The buffers that are left, in any plan that keeps the bound.
    chance.shuffle(core)
    if place(instance, core, lowest_gap, "").height <= instance.bound:
        assert place(instance, [*core, *reversed(rest)], lowest_gap, "").height <= instance.bound


def test_large_instances_are_kept_from_the_programme() -> None:
    assert list(exact(instance_of(cut_rectangle(100, 0)))) == []


@given(instances())
def test_every_attempt_is_valid(buffers: list[Buffer]) -> None:
    filled = [buffer for buffer in buffers if buffer.size_bytes]
    instance = instance_of(filled, alignment=1)
    if not filled:
        return
    plans = [
        place(instance, order, gap, "") for _, order in heuristic_orders(instance) for gap in (lowest_gap, tightest_gap)
    ]
    plans += search_from_bottom(instance)
    plans += [plan for plan, _ in zip(search_orders(instance, tuple(range(len(filled)))), range(3), strict=False)]
    for plan in plans:
        offsets = {buffer.name: at for buffer, at in zip(filled, plan.offsets, strict=True)}
        assert faults(filled, offsets, plan.height, 1) == []


def test_gaps() -> None:
    taken = [(2, 4), (3, 6), (10, 12), (14, 15)]
    assert [lowest_gap(taken, size) for size in (1, 2, 3, 4, 5)] == [0, 0, 6, 6, 15]
    assert [tightest_gap(taken, size) for size in (1, 2, 3, 4, 5)] == [0, 0, 6, 6, 15]
    assert tightest_gap([(4, 5), (7, 8)], 2) == 5
    assert lowest_gap([(4, 5), (7, 8)], 2) == 0


def test_search_gives_up_at_its_node_limit() -> None:
    instance = instance_of(from_rows(GAPPED))
    skyline = Skyline(instance, instance.bound, list(range(len(instance.sizes))), 3)
    assert not skyline.fill()
    assert skyline.nodes == 4


def test_search_from_bottom_is_exhaustive_without_a_limit() -> None:
    instance = instance_of(from_rows(GAPPED))
    rank = list(range(len(instance.sizes)))
    assert not Skyline(instance, instance.bound, rank, 10**7).fill()
    assert Skyline(instance, instance.bound + 1, rank, 10**7).fill()


@pytest.mark.parametrize(
    ("buffers", "alignment", "message"),
    [
        ([Buffer("a", 1, 0, 0), Buffer("a", 2, 1, 1)], 16, "1 buffer names appear more than once: a"),
        ([Buffer("a", -1, 0, 0)], 16, "buffer 'a' has -1 bytes"),
        ([Buffer("a", 1, 2, 1)], 16, "buffer 'a' is live from step 2 to step 1"),
        ([Buffer("a", 1, 0, 0)], 0, "alignment of 0 bytes"),
    ],
)
def test_bad_requests_are_refused(buffers: list[Buffer], alignment: int, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        assign(buffers, alignment=alignment)
    with pytest.raises(CompileError, match=message):
        max_live(buffers, alignment)
