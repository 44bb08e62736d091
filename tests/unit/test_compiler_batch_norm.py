"""Batch norm in training: steps by the batch's statistics, answers by the running ones, as in PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernel_runner import check_kernel, check_update
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.operations.normalisation import (
    GroupNorm,
    GroupNormInputGradient,
    Groups,
    NormScaleGradient,
    RunningNorm,
    RunningStatistics,
)
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.errors import CompileError

BATCH, STEPS, RATE, CLASSES = 5, 6, 0.1, 3


def network() -> nn.Sequential:
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, momentum=0.3), nn.SiLU(), nn.Flatten(),
        nn.Linear(64, 6, bias=False), nn.BatchNorm1d(6, eps=1e-3), nn.SiLU(), nn.Linear(6, CLASSES),
    )  # fmt: skip
    for number in (1, 5):
        norm = made[number]
        assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2.0)
    return made


def compiled(module: nn.Module, batch: int = BATCH, frozen: str = "none") -> TrainingModel:
    return compile_training(
        module, torch.zeros(batch, 2, 4, 4), loss=functional.cross_entropy, optimizer=Sgd(), batch_norm=True,
        train=lambda name, _one: not name.startswith(frozen),
    )  # fmt: skip


@pytest.mark.parametrize("frozen", ["none", "1."])
def test_steps_statistics_and_answers_are_pytorchs(frozen: str, tmp_path: Path) -> None:
    """A frozen norm follows its batches as well: PyTorch's in training does."""
    generator = torch.Generator().manual_seed(4)
    images = 2 + torch.randn(STEPS, BATCH, 2, 4, 4, generator=generator)
    labels = torch.randint(0, CLASSES, (STEPS, BATCH), generator=generator)
    reference, made = network().train(), compiled(network(), frozen=frozen)
    trained = [one for name, one in reference.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.SGD(trained, lr=RATE)
    training = made.compiled.training
    assert training is not None
    host, physical = HostTraining(made.compiled, tmp_path), images.permute(0, 1, 3, 4, 2).contiguous()
    memory, state = made.program.initial_memory(), TrainingState(RATE, 0)
    for step in range(STEPS):
        loss = functional.cross_entropy(reference(images[step]), labels[step])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        told = host.step(physical[step].numpy(), labels[step].numpy().astype(np.int32), RATE)
        assert told == pytest.approx(float(loss.detach()), rel=1e-5)
        state.step += 1
        made.program.run(physical[step], labels[step].to(torch.int32), memory, state)
    found, expected = host.variables(), reference.state_dict()
    assert {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"} <= set(found)
    ours = training.to_torch({name: value.numpy().tobytes() for name, value in memory.items()})
    for name, value in found.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    answers = host.run(physical[:1].numpy()).reshape(BATCH, CLASSES)
    np.testing.assert_allclose(answers, reference.eval()(images[0]).detach(), rtol=1e-4, atol=1e-5)
    by_batch = reference.train()(images[0]).detach()
    assert np.abs(answers - by_batch.numpy()).max() > 0.01, "the batch's statistics are not the running ones"


def test_the_kernels_do_what_their_operations_say() -> None:
    generator = torch.Generator().manual_seed(5)
    x, mean, variance = (torch.rand(shape, generator=generator) for shape in ((6, 3), (3,), (3,)))
    scale, shift = torch.randn(3, generator=generator), torch.randn(3, generator=generator)
    for inputs in ([x, mean, variance, scale, shift], [x, mean, variance, None, None]):
        check_kernel(RunningNorm(6, 3, 1e-5), inputs, relative=1e-5, absolute=1e-5)
    deviation = (variance + 1e-3).rsqrt()
    check_update(RunningStatistics(7, 0.2, 1e-3), [shift, scale.abs(), mean, deviation], (0, 1), TrainingState(RATE))


def test_sums_over_a_batch_of_large_maps_keep_their_digits() -> None:
    """Of blank images with some bright points one float32 sum is off by 5e-4 of itself, and two machines' ways part."""
    bright = torch.rand(1, 70_001, 2, generator=torch.Generator().manual_seed(6)) < 0.1
    x, sizes = torch.where(bright, 1.0, 0.1), Groups(1, 70_001, 2, 1)
    _, mean, deviation = check_kernel(GroupNorm(sizes, 1e-5), [x, None, None], relative=1e-4, absolute=1e-4)
    exact = x.double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 1)), rtol=2e-5, atol=0)
    spread = exact.var((0, 1), unbiased=False) + 1e-5
    torch.testing.assert_close(deviation.double(), spread.rsqrt(), rtol=2e-5, atol=0)
    inputs = [x, x, mean, deviation]
    (scale,) = check_kernel(NormScaleGradient(sizes), inputs, relative=2e-5)
    wanted = (exact * (exact - exact.mean((0, 1)))).sum((0, 1)) * spread.rsqrt()
    torch.testing.assert_close(scale.double(), wanted, rtol=2e-5, atol=0)
    check_kernel(GroupNormInputGradient(sizes), [*inputs, None], relative=1e-4, absolute=1e-4)


def test_what_has_no_statistics_is_refused() -> None:
    without = copy.deepcopy(network())
    without[1] = nn.BatchNorm2d(4, track_running_stats=False)
    for module, batch, told in (
        (without, BATCH, "'1' has no scale and shift, no running statistics"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), BATCH, "Sequential has no batch norm"),
        (network(), 1, "a batch of one sample has no statistics"),
    ):
        with pytest.raises(CompileError, match=told):
            compiled(module, batch)
    with pytest.raises(CompileError, match="running statistics follow in float32"):
        compile_training(
            network(), torch.zeros(2, 2, 4, 4), loss=functional.cross_entropy, optimizer=Sgd(), batch_norm=True,
            train=["7.bias"], precision="int8", calibration=torch.zeros(2, 2, 4, 4),
        )  # fmt: skip
