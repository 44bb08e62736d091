"""Whole networks: after some training steps in C, parameters equal PyTorch's; int8 equals its integer reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler import compile
from lab.compiler.graph import to_nhwc
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd, SgdMomentum
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.errors import CompileError
from lab.workloads.networks.digits_mb import digits_mb

FLAGS = ("-O1", *TRAP_UNDEFINED)
CROSS_ENTROPY = nn.CrossEntropyLoss()


class Attention(nn.Module):
    """Convolution, group norm, hard swish, a transformer block with GELU, and an unrolled GRU cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", dropout=0.0)
        self.cell = nn.GRUCell(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.hardswish(self.norm(self.conv(x)))
        tokens = self.block(maps.flatten(2).transpose(1, 2))
        hidden = self.cell(tokens.mean(1), torch.zeros(len(x), 6))
        y: torch.Tensor = self.head(self.cell(tokens[:, 0], hidden))
        return y


def settled(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    """The module with batch norm statistics of its own."""
    torch.manual_seed(1)
    module.train()
    for _ in range(4):
        module(torch.randn(8, *shape))
    return module.eval()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def pools() -> nn.Module:
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (mlp, (6,), 2),
    "pools": (pools, (1, 8, 8), 2),
    "attention": (Attention, (1, 8, 8), 2),
    "digits_mb": (digits_mb, (1, 16, 16), 1),
}
OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = {
    "sgd": (Sgd(weight_decay=0.01), lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.01)),
    "momentum": (SgdMomentum(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    "adam": (Adam(), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_equal_pytorch(network: str, optimizer: str, tmp_path: Path) -> None:
    """Every parameter trained for three steps, in C under the undefined-behaviour sanitizer, against torch.optim."""
    build, shape, batch = NETWORKS[network]
    module = settled(build(), shape)
    ours, theirs = OPTIMIZERS[optimizer]
    x, y = torch.randn(3, batch, *shape), torch.randint(0, 3, (3, batch))
    names = [name for name, _ in module.named_parameters()]
    model = compile_training(module, x[0], loss=CROSS_ENTROPY, train=names, optimizer=ours)
    host = HostTraining(model.compiled, tmp_path, flags=FLAGS)
    reference = copy.deepcopy(module)
    stepper = theirs(list(reference.parameters()))
    for sample, label in zip(x, y, strict=True):
        stepper.zero_grad()
        loss = CROSS_ENTROPY(reference(sample), label)
        loss.backward()
        stepper.step()
        found = host.step(to_nhwc(sample).numpy(), label.to(torch.int32).numpy(), 0.01)
        assert found == pytest.approx(loss.item(), rel=1e-5)
    found_parameters = host.variables()
    for name, parameter in reference.named_parameters():
        expected = parameter.detach().numpy()
        # Adam divides by the gradient's size: a gradient of rounding noise moves a weight by up to a whole step.
        atol = 5e-3 if optimizer == "adam" else 1e-5 * float(np.abs(expected).max() + 1)
        np.testing.assert_allclose(found_parameters[name], expected, rtol=1e-4, atol=atol)


def test_frozen_layers_are_pruned_and_folded() -> None:
    module = settled(digits_mb(), (1, 16, 16))
    x = torch.randn(1, 1, 16, 16)
    last = compile(module, x, loss=CROSS_ENTROPY, train=["classifier.weight", "classifier.bias"], precision="float32")
    full = compile(module, x, loss=CROSS_ENTROPY, train=lambda name, _: True, precision="float32")
    assert last.training is not None
    assert full.training is not None
    assert [variable.name for variable in last.training.variables] == ["classifier.weight", "classifier.bias"]
    assert last.training.macs("backward") == 48 * 10
    assert last.training.arena_bytes < full.training.arena_bytes / 4
    assert not any("batch_norm" in step.operator for step in last.training.steps)
    assert any("batch_norm" in step.operator for step in full.training.steps)


def int8_model(*, immediate: bool) -> tuple[TrainingModel, torch.Tensor]:
    module = settled(digits_mb(), (1, 16, 16))
    data = torch.randn(8, 1, 16, 16)
    model = compile_training(
        module,
        data[:1],
        loss=CROSS_ENTROPY,
        train=lambda name, _: True,
        optimizer=Sgd(),
        precision="int8",
        calibration=data,
        immediate=immediate,
    )
    return model, data


@pytest.mark.parametrize("immediate", [True, False])
def test_int8_training_equals_its_reference(immediate: bool, tmp_path: Path) -> None:
    """Weights equal the integer reference to the bit: same gradients, same random numbers, same folded bias.

    Sums of float gradients may be ordered differently: a bias may end one step off.
    """
    model, data = int8_model(immediate=immediate)
    host = HostTraining(model.compiled, tmp_path, flags=FLAGS)
    memory, state = model.program.initial_memory(), TrainingState(0.02, 0, 1)
    samples = model.compiled.input.quantize(to_nhwc(data).numpy())
    before = host.raw_variables()
    for number in range(4):
        label = np.array([number], dtype=np.int32)
        sample = samples[number : number + 1]
        state.step += 1
        values = model.program.run(torch.from_numpy(sample), torch.from_numpy(label), memory, state)
        assert host.step(sample, label, 0.02) == pytest.approx(float(values[model.program.loss]), rel=1e-4)
    assert host.state.random == state.random
    after = host.raw_variables()
    # Four small steps leave some layers without one rounded up.
    assert sum(after[name] != before[name] for name in after) > len(after) // 2
    for name, raw in after.items():
        expected = memory[name].numpy()
        found = np.frombuffer(raw, dtype=expected.dtype).reshape(expected.shape)
        if name.endswith("bias") and expected.dtype == np.int32:
            assert np.abs(found.astype(np.int64) - expected).max() <= 1, name
        elif expected.dtype != np.float32:
            assert np.array_equal(found, expected), name


def test_int8_plan_keeps_less_than_float32() -> None:
    model, data = int8_model(immediate=True)
    training = model.compiled.training
    full = compile(
        settled(digits_mb(), (1, 16, 16)), data[:1], loss=CROSS_ENTROPY, train=lambda name, _: True, precision="float32"
    ).training
    assert training is not None
    assert full is not None
    assert training.arena_bytes < full.arena_bytes / 2
    assert training.variables_bytes < full.variables_bytes / 3


def stack() -> nn.Module:
    """Four convolutions whose activations (hard swish) need their input for backward."""
    layers: list[nn.Module] = []
    for inputs in (1, 8, 8, 8):
        layers += [nn.Conv2d(inputs, 8, 3, padding=1), nn.Hardswish()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def test_recomputation_keeps_the_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = stack()
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    names = [name for name, _ in module.named_parameters()]
    plain = compile(module, x, loss=CROSS_ENTROPY, train=names, precision="float32")
    assert plain.training is not None
    budget = plain.training.arena_bytes - 1024
    small = compile(module, x, loss=CROSS_ENTROPY, train=names, precision="float32", recompute_bytes=budget)
    assert small.training is not None
    assert small.training.arena_bytes <= budget
    results = []
    for number, compiled in enumerate((plain, small)):
        folder = tmp_path / str(number)
        folder.mkdir()
        host = HostTraining(compiled, folder, flags=FLAGS)
        host.step(to_nhwc(x).numpy(), label.to(torch.int32).numpy(), 0.1)
        results.append(host.raw_variables())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ["0.weights"]}, "'0.weights' is no parameter of Sequential"),
        ({"train": []}, "no parameter is trained"),
        ({"arena_limit_bytes": 16}, "training needs an arena of"),
        ({"precision": "int8"}, "needs calibration data"),
        ({"optimizer": Adam(), "precision": "int8", "calibration": torch.randn(4, 6)}, "SGD without momentum"),
        ({"name": "not a name"}, "is not a C identifier"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"loss": CROSS_ENTROPY, "train": ["0.weight", "2.weight"], "precision": "float32"}
    with pytest.raises(CompileError, match=message):
        compile(mlp(), torch.randn(1, 6), **{**arguments, **change})  # type: ignore[arg-type]


def test_unsupported_operator_names_its_place() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).cumsum(1)

    with pytest.raises(CompileError, match=r"aten\.cumsum.*test_compiler_training\.py"):
        compile(Sorted(), torch.randn(1, 4), loss=CROSS_ENTROPY, train=["fc.weight"], precision="float32")
