"""Convolutions of kept blocks: the C, the program's reference and autograd over masked weights do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.operations.block_sparse import BLOCK, BlockSgd, Renewal
from lab.compiler.operations.block_sparse_conv import BlockConv2dSgd, Sparsity
from lab.compiler.operations.conv2d import linear_geometry
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.training_passes.block_sparse import Blocks
from lab.errors import CompileError

RATE, CLASSES = 0.05, 3
SHAPE = (8, 7, 6)


class Net(nn.Module):
    """Odd maps; a strided and a dilated kernel, one without padding and one of a single tap, with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.wide = nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(1, 1), bias=False)
        self.norm = nn.GroupNorm(3, 12)
        self.far = nn.Conv2d(12, 8, 3, padding=2, dilation=2)
        self.short = nn.Conv2d(12, 8, 1, bias=False)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.wide(x)))
        x = functional.relu(self.far(x)) + self.short(x)
        y: torch.Tensor = self.last(x.mean((2, 3)))
        return y


BLOCKS = {
    "wide.weight": Blocks(1, 0.4, Renewal(2)), "far.weight": Blocks(2, 0.5, Renewal(1)), "short.weight": Blocks(2),
}  # fmt: skip


def compiled(blocks: dict[str, Blocks], batch: int = 1) -> TrainingModel:
    return compile_training(
        Net(), torch.zeros(batch, *SHAPE), loss=functional.cross_entropy, train=lambda _name, _one: True,
        optimizer=Sgd(), blocks=blocks,
    )  # fmt: skip


def material(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(steps, *SHAPE, generator=generator), torch.arange(steps) % CLASSES


def device_step(host: HostTraining, samples: torch.Tensor, labels: torch.Tensor) -> float:
    return host.step(samples.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy().astype(np.int32), RATE)


def mask_of(network: nn.Module, name: str, blocks: np.ndarray) -> torch.Tensor:
    """1 where a weight (O, I, KH, KW) is kept, of block numbers (O * KH * KW, kept)."""
    shape = network.get_parameter(name).shape
    mask = torch.zeros(shape[0], shape[2], shape[3], shape[1])
    for row, kept in zip(mask.view(-1, shape[1]), blocks.astype(int), strict=True):
        for one in kept:
            row[BLOCK * one : BLOCK * (one + 1)] = 1.0
    return mask.permute(0, 3, 1, 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_is_autograds_over_masked_weights(tmp_path: Path, batch: int) -> None:
    """The first step, whose thresholds let every channel through that has a gradient: plain SGD on what is kept."""
    made, network = compiled({name: Blocks(one.kept) for name, one in BLOCKS.items()}, batch), Net()
    host, (samples, labels) = HostTraining(made.compiled, tmp_path), material(batch)
    first = host.variables()
    masks = {name: mask_of(network, name, first[name + ".blocks"]) for name in BLOCKS}
    for name, mask in masks.items():
        network.get_parameter(name).data *= mask
    loss = functional.cross_entropy(network(samples), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert device_step(host, samples, labels) == pytest.approx(float(loss.detach()), abs=1e-5)
    found = host.variables()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        value = parameter.detach() - RATE * parameter.grad * masks.get(name, torch.ones(()))
        if name in BLOCKS:
            rows = value.permute(0, 2, 3, 1).reshape(len(found[name]), -1, BLOCK)
            places = torch.from_numpy(first[name + ".blocks"]).to(torch.int64)[..., None]
            value = torch.take_along_dim(rows, places, 1)
        np.testing.assert_allclose(found[name].ravel(), value.numpy().ravel(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_training_is_the_references_and_saves_what_it_leaves_out(tmp_path: Path) -> None:
    made = compiled(BLOCKS)
    host, memory, state = HostTraining(made.compiled, tmp_path), made.program.initial_memory(), TrainingState(RATE, 0)
    first = {name: value.clone() for name, value in memory.items()}
    for sample, label in zip(*material(24), strict=True):
        state.step += 1
        values = made.program.run(sample.permute(1, 2, 0)[None], label[None], memory, state)
        loss = device_step(host, sample[None], label[None])
        assert loss == pytest.approx(float(values[made.program.loss]), abs=1e-4)
    for name, value in host.variables().items():
        np.testing.assert_allclose(value, memory[name].numpy().astype(np.float32), rtol=1e-3, atol=1e-5, err_msg=name)
    for name, one in BLOCKS.items():
        moved = not torch.equal(first[name + ".blocks"], memory[name + ".blocks"])
        assert moved == (one.renewal.steps > 0)
        assert all(len(set(row.tolist())) == one.kept for row in memory[name + ".blocks"]), "a block is kept once"
    dense, sparse = compiled({}).compiled.training, made.compiled.training
    assert dense is not None
    assert sparse is not None
    weights = {name: Net().get_parameter(name).numel() for name in BLOCKS}
    left_out = weights["wide.weight"] // 2 + weights["far.weight"] * 1 // 3 + weights["short.weight"] // 3
    numbers = sum(weights[name] * share // BLOCK for name, share in
                  (("wide.weight", 1 / 2), ("far.weight", 2 / 3), ("short.weight", 2 / 3)))  # fmt: skip
    assert dense.variables_bytes - sparse.variables_bytes == 4 * left_out - numbers - 4 * len(BLOCKS)
    # Maps of 4 x 7 positions behind the strided kernel.
    spared = 28 * weights["wide.weight"] // 2 + 28 * (weights["far.weight"] + weights["short.weight"]) // 3
    assert dense.macs("forward") - sparse.macs("forward") == spared


def test_a_map_of_one_pixel_is_the_linear_layer() -> None:
    """The two rules of what changes and moves are one."""
    generator = torch.Generator().manual_seed(5)
    gradient, x, weights = (torch.randn(shape, generator=generator) for shape in ((1, 6), (1, 20), (6, 8)))
    places = torch.tensor([[0, 3]] * 6, dtype=torch.uint8)
    inputs = [gradient, x, weights, places, torch.tensor([0.5])]
    for step in (1, 2, 3):
        linear = BlockSgd(6, 2, 5, 2, Renewal(2), 1.0).apply(inputs, TrainingState(0.1, step, 7))
        sgd = BlockConv2dSgd(Sparsity(linear_geometry(20, 6), 2), 2, Renewal(2), 1.0)
        for one, other in zip(linear, sgd.apply(inputs, TrainingState(0.1, step, 7)), strict=True):
            torch.testing.assert_close(one, other)


def test_what_cannot_keep_blocks_is_refused() -> None:
    with pytest.raises(CompileError, match="kept from 1 to 2 of its 3 blocks"):
        compiled({"far.weight": Blocks(3, renewal=Renewal(1))})
    with pytest.raises(CompileError, match="no weight of one linear layer or convolution"):
        compiled({"far.bias": Blocks(1)})
    for groups, inputs, told in ((2, 8, "or convolution trained by SGD"), (1, 3, "no blocks can be kept")):
        network = nn.Sequential(nn.Conv2d(inputs, 4, 3, groups=groups), nn.Flatten())
        with pytest.raises(CompileError, match=told):
            compile_training(
                network, torch.zeros(1, inputs, 3, 3), loss=functional.cross_entropy, train=["0.weight"],
                optimizer=Sgd(), blocks={"0.weight": Blocks(1)},
            )  # fmt: skip
