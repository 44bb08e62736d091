"""Which values share memory, and what lies outside the arena."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab.compiler import compile, compile_with_reference
from lab.compiler.memory import OUTPUT, layout
from lab.compiler.model import BufferPlan
from lab.compiler.offsets import ALIGNMENT_BYTES
from lab.compiler.operations.int8 import program_of


def assert_sound(buffers: tuple[BufferPlan, ...]) -> None:
    for index, plan in enumerate(buffers):
        assert plan.offset % ALIGNMENT_BYTES == 0
        for other in buffers[index + 1 :]:
            together = plan.first <= other.last and other.first <= plan.last
            apart = plan.offset + plan.size <= other.offset or other.offset + other.size <= plan.offset
            assert apart or not together


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
    """Buffers of values, and arena bytes besides the largest scratch."""
    compiled = compile(Wide(function), torch.zeros(1, 2, 4, 4), calibration=torch.randn(8, 2, 4, 4))
    kept = [buffer for buffer in compiled.buffers if not buffer.name.endswith(".scratch")]
    scratch = max((buffer.size for buffer in compiled.buffers if buffer.name.endswith(".scratch")), default=0)
    return [(buffer.name, buffer.first, buffer.last) for buffer in kept], compiled.arena_bytes - scratch


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
    plan = layout(program_of(graph))
    for step in plan.steps:
        assert plan.places[step.outputs[0]] != graph.input
    assert plan.places[graph.output] == OUTPUT
    scratch = max(buffer.size for buffer in compiled.buffers if buffer.name.endswith(".scratch"))
    assert compiled.arena_bytes == 32 + scratch


@pytest.mark.parametrize("function", ["self.last(self.second(self.first(x)))", "self.first(x) + self.first(x)"])
def test_plan_of_networks_is_sound(function: str) -> None:
    compiled = compile(Wide(function), torch.zeros(1, 2, 4, 4), calibration=torch.randn(8, 2, 4, 4))
    assert_sound(compiled.buffers)
    assert compiled.arena_bytes == compiled.lower_bound_bytes
