"""What the compiler emits, trained by the runner: the boards against PyTorch, int8 exactly as on the host."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers.toolchain import entry, needs_qemu
from torch import nn

from lab.build import build
from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.devices.connect import connected
from lab.events import Job, ResultEvent
from lab.paths import cache_dir
from lab.training import Samples, TrainingResult, checkpoint, forget, train

pytestmark = needs_qemu

COUNT, CLASSES = 12, 4
RATE = 0.05
FROZEN = "0.weight"


def network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 3 * 3, CLASSES),
    ).eval()  # fmt: skip


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    samples = torch.randn(COUNT, 1, 8, 8, generator=generator)
    return samples, torch.randint(0, CLASSES, (COUNT,), generator=generator)


def by_pytorch(module: nn.Module, epochs: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    module = deepcopy(module)
    optimizer = torch.optim.SGD([value for name, value in module.named_parameters() if name != FROZEN], lr=RATE)
    losses = []
    for sample, label in list(zip(*data(), strict=True)) * epochs:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(sample[None]), label[None])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses, module.state_dict()


def compiled(precision: str) -> CompiledModel:
    samples, _ = data()
    return compile_training(
        network(),
        samples[:1],
        loss=nn.functional.cross_entropy,
        train=lambda name, _: name != FROZEN,
        optimizer=Sgd(),
        name=f"small_{precision}",
        precision="int8" if precision == "int8" else "float32",
        calibration=samples,
    ).compiled


def trained_on(
    device_name: str, model: CompiledModel, samples: Samples
) -> tuple[TrainingResult, dict[str, bytes], list[bytes]]:
    """Losses, variables and outputs after training."""
    found = entry(device_name)
    _, labels = data()
    with connected(found, cache_dir()) as device:
        device.deploy(build(model, found.board.firmware_board or "host", cache=cache_dir()))
        forget(device)
        result = train(device, samples, labels.numpy().astype(np.int32), epochs=2, learning_rate=RATE, seed=6)
        variables = dict(checkpoint(device).variables)
        events = list(device.run(Job("infer", samples.tobytes(), COUNT)))
    return result, variables, [event.data for event in events if isinstance(event, ResultEvent)]


@pytest.mark.parametrize("device", ["host", "m4f", "m7", "m55"])
def test_compiled_float_training_is_that_of_pytorch(device: str) -> None:
    model = compiled("float32")
    samples, _ = data()
    result, variables, outputs = trained_on(device, model, samples.permute(0, 2, 3, 1).contiguous().numpy())
    losses, expected = by_pytorch(network(), 2)
    assert result.losses == pytest.approx(np.array(losses), rel=1e-4, abs=1e-5)
    assert model.training is not None
    assert {variable.name for variable in model.training.variables} == {*expected} - {FROZEN}
    for name, found in model.training.to_torch(variables).items():
        assert found == pytest.approx(expected[name].numpy(), rel=1e-4, abs=1e-5)
    trained = network()
    trained.load_state_dict(expected)
    with torch.no_grad():
        logits = trained(samples).numpy()
    assert np.array([np.frombuffer(output, np.float32) for output in outputs]) == pytest.approx(logits, abs=1e-4)
    assert result.done.arena_high_water <= model.arena_bytes


def test_compiled_int8_training_is_the_same_on_a_board_and_on_the_host() -> None:
    model = compiled("int8")
    assert model.training is not None
    samples, _ = data()
    real = samples.permute(0, 2, 3, 1).contiguous().numpy()
    inputs = model.input.quantize(real) if model.input.dtype == "int8" else real
    (host, on_host, host_outputs), (board, on_board, board_outputs) = (
        trained_on(name, model, inputs) for name in ("host", "m4f")
    )
    integers = [variable.name for variable in model.training.variables if variable.dtype != "float32"]
    assert integers
    assert {name: on_board[name] for name in integers} == {name: on_host[name] for name in integers}
    # The board fuses multiply and add.
    for name, value in model.training.to_torch(on_host).items():
        assert model.training.to_torch(on_board)[name] == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert board.losses == pytest.approx(host.losses, rel=1e-5, abs=1e-6)
    assert host.losses[-COUNT:].mean() < host.losses[:COUNT].mean()
    assert len(host_outputs) == len(board_outputs) == COUNT
