"""In-place planning: a training step inside the planned arena gives the bits of one with memory to spare."""

from __future__ import annotations

import numpy as np
import torch
from helpers.random_networks import CLASSES, Case, case, cases
from hypothesis import given, settings

from lab.compiler.graph import to_nhwc
from lab.compiler.memory import OUTPUT, Layout, arena_buffers, layout, lifetimes, peak, shared_places
from lab.compiler.program import Program, Step, TrainingState, Update
from lab.compiler.training_passes import fuse_activation, immediate_update, pack_masks

NUMPY = {"float32": np.float32, "int32": np.int32, "uint8": np.uint8, "bits": np.uint8, "int8": np.int8}


class Arena:
    """Runs a program with every tensor where the plan puts it; the rest of the arena is NaN to begin with."""

    def __init__(self, program: Program, plan: Layout, case: Case) -> None:
        self.program, self.plan = program, plan
        self.memory = program.initial_memory()
        self.arena = np.full(plan.arena_bytes, 0xFF, dtype=np.uint8)
        self.output = np.zeros(program.tensors[program.output].size_bytes, dtype=np.uint8)
        self.outside = {"input": to_nhwc(case.samples[0]), "target": case.labels[0].to(torch.int32)}

    def bytes_of(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Memory of a tensor in the arena, or the caller's output."""
        place, size = self.plan.places[name], self.program.tensors[name].size_bytes
        if place == OUTPUT:
            return self.output[:size]
        offset = self.plan.offsets[place]
        return self.arena[offset : offset + size]

    def read(self, name: str) -> torch.Tensor | None:
        """A tensor as a step finds it."""
        if not name:
            return None
        tensor = self.program.tensors[name]
        if tensor.kind in self.outside:
            return self.outside[tensor.kind]
        if tensor.kind == "constant":
            return torch.from_numpy(np.array(tensor.value))
        if tensor.kind != "activation":
            return self.memory[name]
        values = torch.from_numpy(self.bytes_of(name).copy().view(NUMPY[tensor.dtype]))
        return values if tensor.dtype == "bits" else values.reshape(tensor.shape)

    def step(self, step: Step) -> None:
        """Carry out a step: everything is read before anything is written, as kernels that may work in place do."""
        inputs = [self.read(name) for name in step.inputs]
        if isinstance(step.operation, Update):
            results = step.operation.apply(inputs, TrainingState(0.05, 1, 1))
        else:
            results = step.operation.run(inputs)
        for name, result in zip(step.outputs, results, strict=True):
            if name in self.memory:
                self.memory[name] = result
            else:
                self.write(name, result)

    def write(self, name: str, result: torch.Tensor) -> None:
        kind = NUMPY[self.program.tensors[name].dtype]
        self.bytes_of(name)[:] = np.ascontiguousarray(result.numpy().astype(kind)).reshape(-1).view(np.uint8)


@settings(max_examples=12, deadline=None)
@given(case=cases(4))
def test_a_step_inside_the_arena(case: Case) -> None:
    program = immediate_update(pack_masks(fuse_activation(case.updating())))
    plan = layout(program)
    arena = Arena(program, plan, case)
    for step in plan.steps:
        arena.step(step)
    memory = program.initial_memory()
    sample, label = to_nhwc(case.samples[0]), case.labels[0]
    values = program.run(sample, label, memory, TrainingState(0.05, 1, 1))
    assert torch.equal(torch.from_numpy(arena.output.view(np.float32)), values[program.output].flatten())
    assert arena.output.nbytes == len(label) * CLASSES * 4
    assert all(torch.equal(arena.memory[name], memory[name]) for name in memory)


@settings(max_examples=6, deadline=None)
@given(case=cases())
def test_working_in_place_takes_no_more_memory(case: Case) -> None:
    program = pack_masks(fuse_activation(case.updating()))
    steps, _, buffers, _ = arena_buffers(program)
    alone = lifetimes(program, steps, shared_places(program))
    assert len({buffer.name for buffer in buffers}) <= len(alone)
    sizes = {name: program.tensors[name].size_bytes for name in alone}
    live = [
        sum(sizes[name] for name, (first, last) in alone.items() if first <= at <= last) for at in range(len(steps))
    ]
    # Sixteen bytes of alignment per buffer are not counted here.
    assert peak(program)[0] <= max(live) + 16 * len(alone)


def test_hard_swish_writes_over_its_input_where_that_dies() -> None:
    """In inference the sum around the block and the activation need no memory of their own."""
    made = case([(2, 3, False, False, 2), (2, 3, False, False, 2)], 9)
    program = made.program(made.names[-2:])
    _, places, _, _ = arena_buffers(program)
    forward = [step for step in program.steps if step.phase == "forward"]
    swishes = [step for step in forward if step.operation.kind == "hardswish"]
    assert len(swishes) == 2
    assert all(places[step.inputs[0]] == places[step.outputs[0]] for step in swishes)


def test_the_peak_is_the_bound_of_the_plan() -> None:
    program = immediate_update(pack_masks(fuse_activation(case([(4, 3, False, True, 0)] * 3, 10).updating())))
    size, step = peak(program)
    assert size == layout(program).lower_bound_bytes
    assert step in program.steps
