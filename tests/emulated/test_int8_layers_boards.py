"""int8 training of layers beyond convolutions, on emulated cores: the host's integers to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.int8_training import compile_int8
from helpers.toolchain import entry, needs_qemu
from torch import nn
from torch.nn import functional

from lab.build import build
from lab.compiler.model import CompiledModel
from lab.devices.connect import connected
from lab.paths import cache_dir
from lab.training import Samples, TrainingResult, checkpoint, forget, train

pytestmark = needs_qemu

COUNT, CLASSES, RATE = 10, 3, 0.05


class Layers(nn.Module):
    """A maximum, functions as tables, a product, a concatenation and a pad."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 1)
        self.last, self.head = nn.Conv2d(7, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.hardswish(self.stem(x)), 2)
        x = x * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1)))
        x = functional.pad(torch.cat((functional.relu(self.left(x)), torch.tanh(self.right(x))), 1), (1, 0, 0, 1))
        y: torch.Tensor = self.head(functional.relu(self.last(x)).mean((2, 3)))
        return y


def trained_on(device_name: str, model: CompiledModel, samples: Samples) -> tuple[TrainingResult, dict[str, bytes]]:
    """Losses and variables after two epochs."""
    found = entry(device_name)
    labels = (np.arange(COUNT) % CLASSES).astype(np.int32)
    with connected(found, cache_dir()) as device:
        device.deploy(build(model, found.board.firmware_board or "host", cache=cache_dir()))
        forget(device)
        result = train(device, samples, labels, epochs=2, learning_rate=RATE, seed=9)
        return result, dict(checkpoint(device).variables)


@pytest.fixture(scope="module")
def model() -> tuple[CompiledModel, Samples]:
    torch.manual_seed(1)
    data = torch.randn(COUNT, 1, 12, 12)
    compiled = compile_int8(Layers().eval(), data).compiled
    return compiled, compiled.input.quantize(data.permute(0, 2, 3, 1).contiguous().numpy())


@pytest.mark.parametrize("board", ["m4f", "m55"])
def test_a_core_trains_the_integers_of_the_host(board: str, model: tuple[CompiledModel, Samples]) -> None:
    compiled, samples = model
    assert compiled.training is not None
    (host, on_host), (core, on_core) = (trained_on(name, compiled, samples) for name in ("host", board))
    integers = {variable.name for variable in compiled.training.variables if variable.dtype != "float32"}
    assert len(integers) == 10
    assert {name for name in integers if on_core[name] != on_host[name]} == set()
    # The cores fuse multiply and add in what stays float32.
    assert core.losses == pytest.approx(host.losses, rel=1e-5, abs=1e-6)
    assert core.done.arena_high_water <= compiled.arena_bytes
