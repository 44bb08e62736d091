"""Pruning: nothing that is needed goes, nothing that is not needed stays."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.random_networks import Case, case, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.program import Program
from lab.compiler.training_passes import prune


def needed(program: Program) -> bool:
    """Whether every step's results are read, or are what the program is for."""
    wanted = {program.output, program.loss, *program.gradients.values()}
    read = {name for step in program.steps for name in step.inputs}
    return all((wanted | read).intersection(step.outputs) for step in program.steps)


@settings(max_examples=8, deadline=None)
@given(case=cases(), data=st.data())
def test_gradients_stay_and_every_step_is_needed(case: Case, data: st.DataObject) -> None:
    trained = data.draw(st.lists(st.sampled_from(case.names), min_size=1, unique=True))
    whole = case.program(trained)
    pruned = prune(whole)
    assert needed(pruned)
    before, after = case.gradients(whole), case.gradients(pruned)
    assert sorted(after) == sorted(trained)
    for name, gradient in after.items():
        assert torch.equal(gradient, before[name])


def test_a_result_nobody_reads_is_dropped() -> None:
    """The gradient of the first weight is asked for by nobody."""
    whole = case([(4, 3, False, False, 0)], 0).program()
    (weight,) = [name for name in whole.gradients if name.endswith("conv.weight")]
    asked = replace(whole, gradients={name: one for name, one in whole.gradients.items() if name != weight})
    pruned = prune(asked)
    dropped = {step.name for step in whole.steps} - {step.name for step in pruned.steps}
    assert whole.producer(whole.gradients[weight]).name in dropped  # type: ignore[union-attr]
    assert whole.gradients[weight] not in pruned.tensors


@settings(max_examples=4, deadline=None)
@given(case=cases())
def test_training_the_last_layer_needs_no_gradient_of_feature_maps(case: Case) -> None:
    pruned = prune(case.program(case.names[-2:]))
    assert not [step.name for step in pruned.steps if step.phase == "backward" and "conv" in step.name]
    assert prune(pruned).steps == pruned.steps
