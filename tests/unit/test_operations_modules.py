"""Layers as users write them: one training step in C against PyTorch, from the module to its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.compiler.graph import to_nhwc
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training

RATE = 0.1
Forward = Callable[..., torch.Tensor]


class Written(nn.Module):
    """A forward written as a function of the module and its input."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What was written."""
        return self.function(self, x)


class Token(nn.Module):
    """A learnt token in front of a sequence, as vision transformers have it, and positions from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the token."""
        y = torch.cat([self.token.expand(len(x), -1, -1), self.layer(x)], 1)
        return (y + self.positions(torch.arange(y.shape[1]))).softmax(1)[:, 0]


class Masked(nn.Module):
    """Attention with a causal mask kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mixed values."""
        query, key, value = self.project(x).chunk(3, dim=-1)
        weights: torch.Tensor = (query @ key.transpose(-2, -1) / 2 + self.mask).softmax(-1)
        return weights @ value


def convolutions() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Convolutions by what is special about them."""
    image, line = (2, 4, 7, 6), (2, 4, 9)
    return {
        "conv1d": (nn.Conv1d(4, 6, 3, 2, 1), line),
        "conv1d_grouped_dilated": (nn.Conv1d(4, 8, 3, groups=2, dilation=2), line),
        "conv1d_depthwise": (nn.Conv1d(4, 4, 3, groups=4, padding=1), line),
        "conv1d_same_even": (nn.Conv1d(4, 6, 4, padding="same"), line),
        "conv2d_asymmetric": (nn.Conv2d(4, 3, (1, 5), (2, 1), (0, 2)), image),
        "conv2d_grouped": (nn.Conv2d(4, 6, 3, groups=2), image),
        "conv2d_multiplier": (nn.Conv2d(4, 8, 3, groups=4, bias=False), image),
        "conv2d_dilated": (nn.Conv2d(4, 3, 3, dilation=(2, 1), padding=2), image),
        "conv2d_padded_before": (nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 3, 3, 2)), image),
        "conv2d_padded_between": (
            nn.Sequential(nn.Conv2d(4, 3, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 2, 3, 2)),
            image,
        ),
        "shuffled": (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(4, 2, 1)), image),
        "pixels_shuffled": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.PixelShuffle(2)), image),
    }


def recurrent() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Cells, and layers that PyTorch unrolls."""
    head = nn.Linear(4, 3)
    return {
        "gru_cell": (Written(lambda m, x: m.head(m.cell(x)), cell=nn.GRUCell(5, 4), head=head), (2, 5)),
        "lstm_cell": (Written(lambda m, x: m.head(m.cell(x)[0]), cell=nn.LSTMCell(5, 4), head=head), (2, 5)),
        "gru": (
            Written(lambda m, x: m.head(m.cell(x)[0][:, -1]), cell=nn.GRU(5, 4, batch_first=True), head=head),
            (2, 3, 5),
        ),
        "lstm": (
            Written(lambda m, x: m.head(m.cell(x)[1][0][-1]), cell=nn.LSTM(5, 4, batch_first=True), head=head),
            (1, 3, 5),
        ),
    }


def attention() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """PyTorch's own attention and transformer layers."""
    tokens = (2, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.3)
    return {
        "multihead": (Written(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)), tokens),
        "multihead_unbatched": (Written(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2)), (5, 8)),
        "encoder_layer": (layer, tokens),
        "encoder_one_sample": (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True),
            (1, 5, 8),
        ),
        "encoder": (nn.TransformerEncoder(layer, 2), tokens),
        "decoder_layer": (
            Written(lambda m, x: m.a(x, x), a=nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)),
            tokens,
        ),
        "token": (Token(), (2, 5, 4)),
        "masked": (Masked(), (2, 3, 4)),
    }


def others() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Joins, parts, gates, activations in place, shared layers."""
    image, rows = (2, 3, 5, 5), (3, 4)
    two = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 2, 3)}
    return {
        "concatenated": (Written(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), **two), image),
        "sliced": (Written(lambda m, x: m.a(x)[:, 1:3, ::2, -2:], a=nn.Conv2d(3, 4, 3)), image),
        "gated": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GLU(1)), image),
        "squeezed": (
            Written(lambda m, x: x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True))), a=nn.Conv2d(3, 3, 1)),
            image,
        ),
        "in_place": (
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.SiLU(inplace=True)),
            rows,
        ),
        "prelu": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4)), image),
        "silu_by_hand": (Written(lambda m, x: (lambda y: y * y.sigmoid())(m.a(x)), a=nn.Linear(4, 5)), rows),
        "shared": (Written(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(4, 4)), rows),
        "normalised": (Written(lambda m, x: functional.normalize(m.a(x)), a=nn.Linear(4, 5)), rows),
        "mask_as_number": (Written(lambda m, x: m.a(x) * (x > 0).float(), a=nn.Linear(4, 4)), rows),
        "integer_constants": (Written(lambda m, x: m.a(x) * torch.arange(1, 5), a=nn.Linear(4, 4)), rows),
        "layer_norm_of_two_axes": (nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.LayerNorm([2, 3])), rows),
    }


CASES = {**convolutions(), **recurrent(), **attention(), **others()}


def step_in_c(module: nn.Module, sample: torch.Tensor, target: torch.Tensor, folder: Path) -> dict[str, np.ndarray]:
    """Parameters after one step of SGD."""
    model = compile_training(
        module, sample, loss=nn.MSELoss(), train=lambda name, _: True, optimizer=Sgd(), target=target
    )
    host = HostTraining(model.compiled, folder, flags=("-O1", *TRAP_UNDEFINED))
    given = to_nhwc(sample).numpy() if sample.is_floating_point() else sample.to(torch.int32).numpy()
    host.step(given, target.numpy(), RATE)
    return dict(host.variables())


def check(module: nn.Module, sample: torch.Tensor, folder: Path) -> None:
    """One step of SGD in C equals PyTorch's."""
    reference = copy.deepcopy(module).eval()
    with torch.no_grad():
        target = torch.randn_like(reference(sample))
    found = step_in_c(module, sample, target, folder)
    stepper = torch.optim.SGD(reference.parameters(), lr=RATE)
    nn.functional.mse_loss(reference(sample), target).backward()
    stepper.step()
    for name, parameter in reference.named_parameters():
        np.testing.assert_allclose(found[name], parameter.detach().numpy(), rtol=1e-4, atol=1e-5)
    changed = dict(module.named_parameters())
    assert any(not np.array_equal(found[name], changed[name].detach().numpy()) for name in found)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_step_equals_pytorch(name: str, tmp_path: Path) -> None:
    module, shape = CASES[name]
    torch.manual_seed(1)
    check(module, torch.randn(shape), tmp_path)


def test_tied_embeddings(tmp_path: Path) -> None:
    """The table is read twice: as an embedding, and as the classifier."""
    torch.manual_seed(2)
    tied = Written(lambda m, x: m.table(x).mean(1) @ m.table.weight.t(), table=nn.Embedding(7, 4))
    check(tied, torch.tensor([[3, 0], [6, 3]]), tmp_path)
