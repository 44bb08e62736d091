"""The memory plan: no two live buffers overlap; close to, and never below, the lower bound."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler import compile, compile_with_reference
from lab.compiler.model import BufferPlan
from lab.compiler.planner import (
    ALIGNMENT,
    INPUT,
    OUTPUT,
    Request,
    assign_offsets,
    lower_bound,
    place_in_order,
    plan_memory,
)


@st.composite
def request_lists(draw: st.DrawFn, most: int = 24) -> list[Request]:
    count = draw(st.integers(1, most))
    requests = []
    for index in range(count):
        first = draw(st.integers(0, 12))
        requests.append(Request(f"b{index}", draw(st.integers(1, 500)), first, first + draw(st.integers(0, 5))))
    return requests


def arena(buffers: tuple[BufferPlan, ...]) -> int:
    return max(plan.offset + plan.size for plan in buffers)


def assert_sound(buffers: tuple[BufferPlan, ...], requests: list[Request]) -> None:
    assert {(p.name, p.size, p.first, p.last) for p in buffers} == {
        (r.name, r.size, r.first, r.last) for r in requests
    }
    for index, plan in enumerate(buffers):
        assert plan.offset % ALIGNMENT == 0
        for other in buffers[index + 1 :]:
            together = plan.first <= other.last and other.first <= plan.last
            apart = plan.offset + plan.size <= other.offset or other.offset + other.size <= plan.offset
            assert apart or not together


@given(request_lists())
@settings(max_examples=150, deadline=None)
def test_no_two_live_buffers_overlap(requests: list[Request]) -> None:
    buffers = assign_offsets(requests)
    assert_sound(buffers, requests)
    assert arena(buffers) >= lower_bound(requests)


@given(request_lists(most=5))
@settings(max_examples=40, deadline=None)
def test_small_plans_are_the_best_of_all_orders(requests: list[Request]) -> None:
    best = min(arena(place_in_order(order)) for order in permutations(requests))
    assert arena(assign_offsets(requests)) == best


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_chain_meets_the_lower_bound(quarters: list[int]) -> None:
    """A plain chain of layers, each alive for two: two alternating ends of the arena suffice."""
    requests = [Request(f"b{i}", 4 * size, i, i + 1) for i, size in enumerate(quarters)]
    pairs = [4 * (a + b) for a, b in pairwise(quarters)] or [4 * quarters[0]]
    assert lower_bound(requests) == max(pairs)
    assert arena(assign_offsets(requests)) == lower_bound(requests)


def test_lower_bound_counts_alignment_between_buffers_only() -> None:
    assert lower_bound([Request("a", 5, 0, 0)]) == 5
    assert lower_bound([Request("a", 5, 0, 0), Request("b", 7, 0, 0)]) == 13
    assert arena(assign_offsets([Request("a", 5, 0, 0), Request("b", 7, 0, 0)])) == 13
    assert assign_offsets([]) == ()


class Wide(nn.Module):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(2, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = eval(self.function, {"self": self, "torch": torch}, {"x": x})
        return y


def plan(function: str) -> tuple[list[tuple[str, int, int]], int]:
    compiled = compile(Wide(function), torch.zeros(1, 2, 4, 4), calibration=torch.randn(8, 2, 4, 4))
    return [(buffer.name, buffer.first, buffer.last) for buffer in compiled.buffers], compiled.arena_bytes


def test_input_and_output_are_outside() -> None:
    assert plan("self.last(self.first(x))") == ([("first", 0, 1)], 128)
    assert plan("self.first(x)") == ([], 0)


def test_add_writes_over_an_input_that_dies() -> None:
    """Three convolutions and an add: without in-place the add would need a third buffer of 128 bytes."""
    buffers, arena_bytes = plan("self.last((y := self.first(x)) + self.second(y))")
    assert buffers == [("first", 0, 3), ("second", 1, 2)]
    assert arena_bytes == 256


def test_in_place_spares_a_value_that_is_read_later() -> None:
    function = "self.last(self.second(torch.relu(y := self.first(x))) + y)"
    buffers, arena_bytes = plan(function)
    # relu must not overwrite `first`, which the add reads.
    assert ("clamp", 1, 2) in buffers
    assert arena_bytes == 384


def test_the_callers_input_is_never_written() -> None:
    compiled, graph = compile_with_reference(
        Wide("self.first(torch.relu(x) + x)"), torch.zeros(1, 2, 4, 4), calibration=torch.randn(8, 2, 4, 4)
    )
    memory = plan_memory(graph)
    for node in memory.layers:
        assert memory.places[node.output] != INPUT
    assert memory.places[graph.output] == OUTPUT
    assert compiled.arena_bytes == 32


@pytest.mark.parametrize("function", ["self.last(self.second(self.first(x)))", "self.first(x) + self.first(x)"])
def test_plan_of_networks_is_sound(function: str) -> None:
    compiled = compile(Wide(function), torch.zeros(1, 2, 4, 4), calibration=torch.randn(8, 2, 4, 4))
    requests = [Request(b.name, b.size, b.first, b.last) for b in compiled.buffers]
    assert_sound(compiled.buffers, requests)
    assert compiled.arena_bytes == compiled.lower_bound_bytes
