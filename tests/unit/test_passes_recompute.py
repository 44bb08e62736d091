"""Recomputation: the same bits within the byte budget, or a refusal that says what can be reached."""

from __future__ import annotations

import pytest
import torch
from helpers.random_networks import Case, case, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.memory import layout
from lab.compiler.operations.optimizer import Optimizer, Sgd, SgdMomentum
from lab.compiler.program import Program
from lab.compiler.training_passes import fuse_activation, immediate_update, pack_masks, recompute
from lab.errors import CompileError


def before_recomputation(case: Case, optimizer: Optimizer) -> Program:
    return immediate_update(pack_masks(fuse_activation(case.updating(optimizer))))


def smallest(program: Program) -> int:
    """Arena that recomputation can reach, from its own refusal."""
    with pytest.raises(CompileError) as refused:
        recompute(program, 0)
    return int(str(refused.value).split(" an arena of ")[1].split()[0])


@settings(max_examples=6, deadline=None)
@given(case=cases(4), momentum=st.booleans(), share=st.floats(0, 1))
def test_numbers_stay_and_the_budget_is_met(case: Case, momentum: bool, share: float) -> None:
    plain = before_recomputation(case, SgdMomentum() if momentum else Sgd())
    size, least = layout(plain).arena_bytes, smallest(plain)
    budget = least + int(share * (size - least))
    again = recompute(plain, budget)
    assert least <= layout(again).arena_bytes <= budget
    (losses, memory), (wanted_losses, wanted) = case.train(again), case.train(plain)
    assert losses == wanted_losses
    assert all(torch.equal(memory[name], wanted[name]) for name in wanted)


def test_a_budget_that_is_met_changes_nothing() -> None:
    plain = before_recomputation(case([(4, 3, False, True, 2)], 6), Sgd())
    assert recompute(plain, layout(plain).arena_bytes) is plain


def test_activations_are_computed_again() -> None:
    """Hard swish keeps its input for backward; computing the convolution again needs the block's input alone."""
    made = case([(4, 3, False, False, 2), (4, 1, False, False, 2), (4, 1, False, False, 2)], 7)
    plain = before_recomputation(made, Sgd())
    least = smallest(plain)
    assert least < layout(plain).arena_bytes
    again = recompute(plain, least)
    repeated = [step for step in again.steps if step.name.endswith(".again")]
    assert repeated
    assert all(step.phase == "backward" for step in repeated)


def test_a_parameter_that_was_updated_is_not_read_again() -> None:
    """What a layer computed with the old weights cannot be had after their update."""
    plain = before_recomputation(case([(4, 3, False, False, 2)] * 3, 8), Sgd())
    again = recompute(plain, smallest(plain))
    written: set[str] = set()
    for step in again.steps:
        if step.name.endswith(".again"):
            assert not written.intersection(step.inputs)
        written.update(name for name in step.outputs if again.tensors[name].kind == "parameter")
