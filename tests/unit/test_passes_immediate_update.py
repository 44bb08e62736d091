"""Immediate updates: the numbers of updates at the end, in at most their memory."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.random_networks import Case, case, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.memory import layout, peak
from lab.compiler.operations.embedding import EmbeddingGradient, EmbeddingSgd
from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd, SgdMomentum
from lab.compiler.program import Program, TrainingState, Update
from lab.compiler.training import compile_training
from lab.compiler.training_passes import fuse_activation, immediate_update, pack_masks
from lab.compiler.training_passes.immediate_update import MERGED

OPTIMIZERS = [Sgd(), Sgd(weight_decay=0.1, rate_scale=0.5), SgdMomentum(), Adam()]


def old_values_are_read(program: Program) -> bool:
    """Whether nothing but updates reads a parameter after it was written."""
    written: set[str] = set()
    for step in program.steps:
        if written.intersection(step.inputs) and not isinstance(step.operation, Update):
            return False
        written.update(name for name in step.outputs if program.tensors[name].kind == "parameter")
    return True


@settings(max_examples=10, deadline=None)
@given(case=cases(), optimizer=st.sampled_from(OPTIMIZERS))
def test_numbers_stay_and_memory_does_not_grow(case: Case, optimizer: Optimizer) -> None:
    at_end = pack_masks(fuse_activation(case.updating(optimizer)))
    at_once = immediate_update(at_end)
    assert not [step for step in at_once.steps if step.phase == "update"]
    assert old_values_are_read(at_once)
    assert peak(at_once)[0] <= peak(at_end)[0]
    (losses, memory), (wanted_losses, wanted) = case.train(at_once), case.train(at_end)
    assert losses == pytest.approx(wanted_losses, rel=1e-6)
    assert memory.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(memory[name], value, rtol=1e-5, atol=1e-6)


@settings(max_examples=4, deadline=None)
@given(case=cases())
def test_the_numbers_are_those_of_pytorch(case: Case) -> None:
    program = immediate_update(fuse_activation(case.updating(Sgd(weight_decay=0.1))))
    _, memory = case.train(program, 0.05)
    reference = copy.deepcopy(case.module)
    stepper = torch.optim.SGD(reference.parameters(), lr=0.05, weight_decay=0.1)
    for sample, label in zip(case.samples, case.labels, strict=True):
        stepper.zero_grad()
        nn.functional.cross_entropy(reference(sample), label).backward()
        stepper.step()
    for name, parameter in reference.named_parameters():
        tensor = program.tensors[name]
        found = memory[name].permute(tensor.permutation).reshape(parameter.shape)
        torch.testing.assert_close(found, parameter.detach(), rtol=1e-4, atol=1e-5)


def test_plain_sgd_stores_no_gradient_of_weights() -> None:
    made = case([(4, 3, False, False, 0), (4, 3, True, False, 0)], 5)
    program = immediate_update(made.updating(Sgd()))
    merged = [step.name for step in program.steps if step.name.endswith(MERGED)]
    assert len(merged) == len(made.names)
    assert layout(program).arena_bytes < layout(made.updating(Sgd())).arena_bytes


def test_an_update_stays_apart_where_merging_raises_the_peak() -> None:
    """A wide map into a pointwise layer: while its input's gradient is made, the merged step would hold on to the map.

    Gradient and update apart hold on to the few bytes of the weight gradient instead.
    """
    module = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    x = torch.randn(1, 1, 16, 16)
    names = ["0.weight", "2.weight"]
    plans = [
        compile_training(
            module, x, loss=nn.CrossEntropyLoss(), train=names, optimizer=Sgd(), immediate=immediate
        )
        for immediate in (False, True)
    ]
    apart = [step.name for step in plans[1].program.steps if step.operation.kind == "sgd"]
    assert apart == ["2.weight.update"]
    at_end, at_once = (plan.compiled.training for plan in plans)
    assert at_end is not None
    assert at_once is not None
    assert at_once.arena_bytes <= at_end.arena_bytes


class Words(nn.Module):
    """Embeddings of words, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        y: torch.Tensor = self.head(self.embedding(x).mean(1))
        return y


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rows_of_an_embedding_are_updated_where_they_are_read(weight_decay: float) -> None:
    """With weight decay every row changes: the gradient is stored."""
    torch.manual_seed(0)
    module, sample, label = Words(), torch.tensor([[3, 7, 3]]), torch.tensor([1])
    model = compile_training(
        module, sample, loss=nn.CrossEntropyLoss(), train=lambda name, _: True, optimizer=Sgd(weight_decay)
    )
    kinds = {type(step.operation) for step in model.program.steps}
    assert (EmbeddingSgd in kinds) == (weight_decay == 0.0)
    assert (EmbeddingGradient in kinds) == (weight_decay > 0.0)
    memory = model.program.initial_memory()
    model.program.run(sample.to(torch.int32), label, memory, TrainingState(0.1, 1, 1))
    stepper = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=weight_decay)
    nn.functional.cross_entropy(module(sample), label).backward()
    stepper.step()
    torch.testing.assert_close(memory["embedding.weight"], module.embedding.weight.detach())
