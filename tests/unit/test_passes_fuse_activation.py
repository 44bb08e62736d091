"""Fused clamps: the same bits with fewer steps, and nothing kept that is not needed."""

from __future__ import annotations

import pytest
import torch
from helpers.random_networks import Case, case, cases
from hypothesis import given, settings
from torch import nn

from lab.compiler.graph import Clamp
from lab.compiler.joint import export_training
from lab.compiler.lowering import lower
from lab.compiler.operations.conv2d import Conv2d
from lab.compiler.operations.matmul import UNBOUNDED, MatMul
from lab.compiler.operations.unary import ClampGradient, ClampValues
from lab.compiler.program import Program
from lab.compiler.training_passes import fuse_activation, prune


def clamps(program: Program) -> int:
    return sum(isinstance(step.operation, ClampValues) for step in program.steps)


def fused_clamps(program: Program) -> int:
    layers = [step.operation for step in program.steps if isinstance(step.operation, (Conv2d, MatMul))]
    return sum(layer.activation != UNBOUNDED for layer in layers)


@settings(max_examples=10, deadline=None)
@given(case=cases())
def test_gradients_are_the_same_bits(case: Case) -> None:
    plain = prune(case.program())
    fused = fuse_activation(plain)
    assert clamps(plain) == clamps(fused) + fused_clamps(fused)
    assert len(fused.steps) == len(plain.steps) - fused_clamps(fused)
    before, after = case.gradients(plain), case.gradients(fused)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_clamp_behind_a_layer_is_fused() -> None:
    """Batch norm stands between its layer and the clamp: that one stays."""
    made = case([(4, 3, False, False, 0), (3, 1, False, False, 1), (3, 3, True, True, 0)], 1)
    fused = fuse_activation(prune(made.program()))
    assert [layer.activation for layer in operations(fused)][:2] == [Clamp(0.0, float("inf")), Clamp(0.0, 6.0)]
    assert clamps(fused) == 1


def operations(program: Program) -> list[Conv2d]:
    return [step.operation for step in program.steps if isinstance(step.operation, Conv2d)]


@pytest.mark.parametrize("layer", [nn.Linear(4, 5), nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 5, 1))])
def test_a_value_somebody_else_reads_is_not_fused(layer: nn.Module) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return torch.relu(y) * y

    module, x = Twice(), torch.randn(2, 4)
    target = torch.randn(module(x).shape)
    names = [name for name, _ in module.named_parameters()]
    program = prune(lower(export_training(module, x, target, lambda y, t: (y * t).sum(), names)))
    assert fuse_activation(program).steps == program.steps


def test_backward_reads_the_output() -> None:
    fused = fuse_activation(prune(case([(4, 3, False, False, 0)], 2).program()))
    (gradient,) = [step for step in fused.steps if isinstance(step.operation, ClampGradient)]
    producer = fused.producer(gradient.inputs[1])
    assert producer is not None
    assert isinstance(producer.operation, Conv2d)
