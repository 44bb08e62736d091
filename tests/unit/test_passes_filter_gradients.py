"""Gradient filtering: PyTorch's gradients on patches, their cost, and networks that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list
from lab.compiler.memory_definitions import backward_macs, extra_memory
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.update_schemes import UpdateScheme, apply, full_update
from lab.errors import CompileError, ConfigError
from lab.workloads.networks.filtered import FilteredConv2d, with_filtered_gradients

LABEL = torch.tensor([2])


class Layers(nn.Module):
    """One convolution of each kind; maps of 8×8 and 4×4."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.full = nn.Conv2d(3, width, 3, padding=1)
        self.depth = nn.Conv2d(width, width, 3, padding=1, stride=2, groups=width)
        self.grouped = nn.Conv2d(width, 2 * width, 3, padding=1, groups=2)
        self.point = nn.Conv2d(2 * width, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depth(torch.relu(self.full(x))))
        x = torch.relu(self.point(torch.relu(self.grouped(x))))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


CONVOLUTIONS = ("full", "depth", "grouped", "point")


def image(seed: int = 0) -> torch.Tensor:
    """One sample."""
    return torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def compiled(network: nn.Module, patches: dict[str, int]) -> TrainingModel:
    """All parameters trained."""
    names = [name for name, _ in network.named_parameters()]
    return compile_training(
        network.eval(), image(), loss=nn.CrossEntropyLoss(), train=names, optimizer=Sgd(), patches=patches
    )


def gradients_of(made: TrainingModel, x: torch.Tensor) -> dict[str, np.ndarray]:
    """What one step of learning rate 1 takes off each parameter."""
    memory, training = made.program.initial_memory(), made.compiled.training
    assert training is not None
    before = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    made.program.run(x.permute(0, 2, 3, 1).contiguous(), LABEL.int(), memory, TrainingState(1.0))
    after = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    return {name: before[name] - after[name] for name in before}


@settings(max_examples=2, deadline=None)
@given(
    sides=st.fixed_dictionaries(dict.fromkeys(CONVOLUTIONS, st.sampled_from([1, 2, 4]))),
    width=st.sampled_from([2, 4, 6]),
    seed=st.integers(0, 1000),
)
def test_gradients_are_those_of_pytorch_on_patches(sides: dict[str, int], width: int, seed: int) -> None:
    network, x = Layers(width), image(seed)
    twin = with_filtered_gradients(network, {name: side for name, side in sides.items() if side > 1})
    nn.functional.cross_entropy(twin(x), LABEL).backward()  # type: ignore[no-untyped-call]
    found = gradients_of(compiled(network, sides), x)
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (4, 1), (2, 2)])
def test_pytorchs_patches_are_the_papers_by_brute_force(groups: int, stride: int) -> None:
    side, reach = 2, 2 * stride
    layer = nn.Conv2d(4, 4, 3, padding=1, stride=stride, groups=groups)
    x = torch.randn(1, 4, 4 * stride, 4 * stride, requires_grad=True)
    y = FilteredConv2d(layer, side)(x)
    assert torch.equal(y, layer(x)), "forward is unchanged"
    g = torch.randn_like(y)
    y.backward(g)
    weight = torch.zeros_like(layer.weight)
    back = torch.zeros_like(x)
    depth = 4 // groups
    for row, column in np.ndindex(2, 2):
        out = np.s_[side * row : side * (row + 1), side * column : side * (column + 1)]
        into = np.s_[reach * row : reach * (row + 1), reach * column : reach * (column + 1)]
        for o, i in np.ndindex(4, depth):
            source = o // depth * depth + i
            mean = g[0, o][out].mean()
            weight[o, i] += mean * x[0, source][into].sum().detach()
            back[0, source][into] += mean * layer.weight[o, i].sum().detach()
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert x.grad is not None
    torch.testing.assert_close(layer.weight.grad, weight)
    torch.testing.assert_close(x.grad, back)
    torch.testing.assert_close(layer.bias.grad, g.sum((0, 2, 3)))


def test_the_c_takes_the_same_steps(tmp_path: Path) -> None:
    made = compiled(Layers(), {"full": 4, "depth": 2, "point": 2})
    training = made.compiled.training
    assert training is not None
    expected = gradients_of(made, image())
    host = HostTraining(made.compiled, tmp_path)
    before = training.to_torch(host.raw_variables())
    host.step(image().permute(0, 2, 3, 1).contiguous().numpy(), LABEL.int().numpy(), 1.0)
    after = training.to_torch(host.raw_variables())
    for name, gradient in expected.items():
        np.testing.assert_allclose(before[name] - after[name], gradient, rtol=1e-4, atol=1e-6)


def test_backward_costs_fall_by_the_patch_and_the_taps_and_one_position_is_no_filter() -> None:
    network, side = Layers(), 2
    exact = compiled(network, {}).compiled
    assert compiled(network, dict.fromkeys(CONVOLUTIONS, 1)).compiled.digest == exact.digest
    costs = []
    for model in (exact, compiled(network, {"full": side}).compiled):
        assert model.training is not None
        steps = [one for one in model.training.steps if one.name.startswith("full") and one.phase != "forward"]
        costs.append(sum(one.macs for one in steps))
    assert costs[0] == 9 * side**2 * costs[1], "k² r², by the steps of the program"


def test_the_analysis_counts_what_patches_keep_and_cost() -> None:
    layers = layer_list(Layers(), image())
    full = full_update(layers)
    filtered = UpdateScheme(full.weights, full.biases, patches=dict.fromkeys(range(4), 2))
    for exact, other in zip(apply(full, layers)[:-1], apply(filtered, layers)[:-1], strict=True):
        taps = 1 if exact.layer.name == "point" else 9
        reach = 4 if exact.layer.name == "depth" else 2
        assert exact.saved_elements == reach**2 * other.saved_elements
        assert exact.gradient_macs == taps * 4 * other.gradient_macs
    assert backward_macs(layers, filtered).total < backward_macs(layers, full).total / 15
    assert extra_memory(layers, filtered).weight_bytes == extra_memory(layers, full).weight_bytes
    assert extra_memory(layers, filtered).activation_bytes < extra_memory(layers, full).activation_bytes / 2


@pytest.mark.parametrize(
    ("patches", "told"),
    [
        ({"depth": 3}, r"'depth': patches of 3x3 do not divide its maps, \(8, 8\) to \(4, 4\)"),
        ({"full": 0}, "patches of 0x0"),
        ({"head": 2}, "'head' are to be filtered, which is no convolution with a gradient"),
        ({"nothing": 2}, "'nothing' are to be filtered"),
    ],
)
def test_patches_that_cannot_be_are_refused(patches: dict[str, int], told: str) -> None:
    with pytest.raises(CompileError, match=told):
        compiled(Layers(), patches)


def test_int8_and_layers_that_are_no_convolutions_are_refused() -> None:
    with pytest.raises(CompileError, match="filtered in float32"):
        compile_training(
            Layers(), image(), loss=nn.CrossEntropyLoss(), train=["head.weight"], optimizer=Sgd(), precision="int8",
            calibration=image(), patches={"full": 2},
        )  # fmt: skip
    with pytest.raises(ConfigError, match="'head' is no convolution"):
        with_filtered_gradients(Layers(), {"head": 2})
