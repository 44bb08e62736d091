"""What adaptation needs of the compiler: float32 inference, computed statistics, losses of a module's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

import lab.compiler
from lab.compiler.host import HostModel, HostTraining
from lab.compiler.joint import Penalised
from lab.compiler.model import CompiledModel
from lab.errors import CompileError

pytestmark = needs_host_compiler


def physical(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def compiled(module: nn.Module, x: torch.Tensor) -> CompiledModel:
    return lab.compiler.compile(module, x, precision="float32", name="adapting")


def test_float32_inference_is_pytorchs_and_batch_norm_is_folded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    module(torch.randn(32, 1, 5, 5))
    module.eval()
    x = torch.randn(1, 1, 5, 5)
    model = compiled(module, x)
    assert [layer.operator for layer in model.layers][:1] == ["conv2d"]
    assert "batch_norm" not in {layer.operator for layer in model.layers}
    assert model.training is None
    found = HostModel(model, tmp_path).run(physical(x))
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=1e-6)


def test_float32_inference_keeps_to_its_arena_and_names() -> None:
    x = torch.randn(1, 1, 8, 8)
    with pytest.raises(CompileError, match="arena"):
        lab.compiler.compile(nn.Conv2d(1, 8, 3), x, precision="float32", arena_limit_bytes=64)
    with pytest.raises(CompileError, match="not a C identifier"):
        lab.compiler.compile(nn.Conv2d(1, 8, 3), x, precision="float32", name="a b")


class _OfTheSample(nn.Module):
    """Normalises by a mean and a variance that are computed, and has buffers named like what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("mul", torch.tensor([3.0, 0.25, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = x.mean((0, 2, 3))
        variance = (x * x).mean((0, 2, 3)) - own * own
        return functional.batch_norm(x, own - self.mean, variance * self.mul, None, None, False, 0.0, 1e-5)

    mean: torch.Tensor
    mul: torch.Tensor


def test_statistics_that_are_computed_and_buffers_named_like_steps(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(_OfTheSample(), nn.ReLU())
    x = 2 * torch.randn(1, 3, 6, 6) + 1
    found = HostModel(compiled(module, x), tmp_path).run(physical(x))
    np.testing.assert_allclose(found.reshape(1, 3, 6, 6), module(x).numpy(), atol=1e-5)


class _Anchored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.anchor = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> Penalised:
        return Penalised(self.linear(x - self.anchor.detach()), 0.5 * ((self.anchor - x[0]) ** 2).sum())


def test_a_modules_own_penalty_is_added_to_the_loss_and_left_out_of_inference(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module, x = _Anchored(), torch.randn(1, 4)
    model = lab.compiler.compile(
        module, x, loss=functional.cross_entropy, train=["anchor", "linear.weight"],
        precision="float32", name="anchored",
    )  # fmt: skip
    assert {"sum", "mul"}.isdisjoint(layer.name for layer in model.layers), "the penalty is no part of inference"
    device = HostTraining(model, tmp_path)
    label = torch.tensor([1])
    optimizer = torch.optim.SGD([module.anchor, module.linear.weight], lr=0.25)
    for _ in range(3):
        output, penalty = module(x)
        loss = functional.cross_entropy(output, label) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert device.step(x.numpy(), label.numpy().astype(np.int32), 0.25) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(device.variables()["anchor"], module.anchor.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(device.run(x.numpy()), module(x).output.detach().numpy(), atol=1e-5)
