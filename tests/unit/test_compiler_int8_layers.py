"""Every kind of layer trains in int8: C equals the integer reference, to the bit in every int8 weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.int8_training import compile_int8, settled, train_beside_reference
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.operations.int8 import Int8MaxPoolPlaces
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.errors import CompileError


class Branches(nn.Module):
    """Concatenation of branches of very different scale, on the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 3)
        self.last, self.head = nn.Conv2d(9, 6, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (functional.relu(self.first(x)), 10 * self.second(x), torch.sigmoid(self.third(x)))
        y: torch.Tensor = self.head(functional.relu(self.last(torch.cat(parts, 1))).mean((2, 3)))
        return y


class Padded(nn.Module):
    """Padding that differs on every side, once of a feature map whose zero point is not the smallest value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = functional.pad(self.first(functional.pad(x, (1, 0, 2, 0))), (0, 1, 1, 0))
        y: torch.Tensor = self.head(functional.relu(self.second(maps)).mean((2, 3)))
        return y


class Residual(nn.Module):
    """Two sums: one with a clamp behind it, one read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = functional.relu6(self.first(x))
        inner = functional.relu(stem + self.second(stem))
        y: torch.Tensor = self.head((inner + self.third(inner)).mean((2, 3)))
        return y


class Gated(nn.Module):
    """Squeeze and excitation, and a product of two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.left, self.right, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.first(x))
        gate = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))))
        x = gate * x
        y: torch.Tensor = self.head((self.left(x) * self.right(x)).mean((2, 3)))
        return y


class TwoClassifierLayers(nn.Module):
    """A sum behind the classifier stays in float32; the layer beside it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head, self.skip = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skipped = self.skip(x)
        y: torch.Tensor = functional.softsign(self.head(torch.tanh(self.hidden(x)))) + skipped
        return y


def images(*layers: nn.Module) -> nn.Sequential:
    """A convolution, the layers, a global average and a classifier."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, *pooled)


def sequences(*layers: nn.Module) -> nn.Sequential:
    """The same in one dimension."""
    pooled = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv1d(3, 4, 5, 2, 2), nn.ReLU(), *layers, *pooled)


IMAGE, SEQUENCE = (1, 9, 11), (3, 20)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "max pool": (lambda: images(nn.ReLU(), nn.MaxPool2d(2)), IMAGE),
    "overlapping max pool": (lambda: images(nn.MaxPool2d(3, 2, 1)), IMAGE),
    "max pool rounded up": (lambda: images(nn.MaxPool2d(2, 2, ceil_mode=True)), IMAGE),
    "average pool": (lambda: images(nn.ReLU(), nn.AvgPool2d((2, 3), 2, (1, 0))), IMAGE),
    "average of a part": (lambda: images(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), IMAGE),
    "hard swish": (lambda: images(nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.Hardswish()), IMAGE),
    "sigmoid": (lambda: images(nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Hardsigmoid()), IMAGE),
    "tanh": (lambda: images(nn.Tanh(), nn.Conv2d(4, 4, 1), nn.ELU()), IMAGE),
    "gelu": (lambda: images(nn.GELU(), nn.Conv2d(4, 4, 1), nn.SiLU()), IMAGE),
    "leaky relu": (lambda: images(nn.LeakyReLU(0.1), nn.Conv2d(4, 4, 1), nn.GELU("tanh")), IMAGE),
    "relu behind a pool": (lambda: images(nn.AvgPool2d(2), nn.ReLU6()), IMAGE),
    "depthwise": (lambda: images(nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.ReLU6()), IMAGE),
    "sequence": (lambda: sequences(), SEQUENCE),
    "depthwise sequence": (lambda: sequences(nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.ReLU()), SEQUENCE),
    "max pool of a sequence": (lambda: sequences(nn.MaxPool1d(2), nn.Conv1d(4, 4, 3)), SEQUENCE),
    "concatenation": (Branches, IMAGE),
    "padding": (Padded, IMAGE),
    "products": (Gated, IMAGE),
    "residual": (Residual, IMAGE),
    "classifier in the middle": (TwoClassifierLayers, (8,)),
    "no classifier": (lambda: nn.Sequential(*list(images(nn.ReLU()))[:-1]), IMAGE),
    "output that backward reads": (lambda: nn.Sequential(*list(images())[:-1], nn.ReLU()), IMAGE),
    "batch norm": (lambda: images(nn.BatchNorm2d(4), nn.ReLU()), IMAGE),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_c_equals_the_integer_reference(network: str, tmp_path: Path) -> None:
    """Five steps; float gradients may be summed in another order, so a bias of thousands of steps may end one off."""
    build, shape = NETWORKS[network]
    torch.manual_seed(3)
    data = torch.randn(8, *shape)
    model = compile_int8(settled(build(), data), data)
    found = train_beside_reference(model, tmp_path, data, [0, 1, 2, 0, 1], 0.05)
    assert found.weights == 0
    assert found.bias_steps <= 1
    assert found.floats < 1e-6
    assert found.moved > 0
    assert found.losses == pytest.approx(found.reference_losses, rel=1e-6)


def test_layers_in_front_of_what_is_trained_keep_nothing(tmp_path: Path) -> None:
    """No places of maxima, no masks: their gradients are not asked for."""
    torch.manual_seed(3)
    data = torch.randn(8, *IMAGE)
    module = images(nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU())
    model = compile_int8(module.eval(), data, ["3.weight", "3.bias"])
    labels = [step.operation.label for step in model.program.steps]
    assert not any(isinstance(step.operation, Int8MaxPoolPlaces) for step in model.program.steps)
    assert labels.count("max_pool2d") == 1
    assert "table.gradient" not in labels
    assert labels.count("mask") + labels.count("clamp.gradient") == 1
    found = train_beside_reference(model, tmp_path, data, [0, 1, 2], 0.05)
    assert (found.weights, found.floats) == (0, 0.0)
    assert found.bias_steps <= 1
    assert found.moved > 0


def test_a_float32_output_that_backward_reads(tmp_path: Path) -> None:
    """The gradient of a sigmoid reads its output, which is the caller's memory and not handed to backward."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Sigmoid())
    x, target, rate = torch.randn(1, 4), torch.rand(1, 3), 0.3
    names = [name for name, _ in module.named_parameters()]
    model = compile_training(module, x, loss=nn.MSELoss(), train=names, optimizer=Sgd())
    host = HostTraining(model.compiled, tmp_path)
    loss = nn.functional.mse_loss(module(x), target)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    assert host.step(x.numpy(), target.numpy(), rate) == pytest.approx(loss.item(), rel=1e-6)
    found = host.variables()
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(torch.from_numpy(found[name].copy()), parameter.detach() - rate * gradient)


class Tied(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))
        return y


class Logarithm(nn.Module):
    """A logarithm of values whose int8 grid reaches below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.log(x.clamp(min=0.1)))
        return y


class Tokens(nn.Module):
    """A linear layer on several rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.relu(self.layer(x.view(1, 2, 3))).flatten(1))
        return y


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Tied(), (6,), "'layer_2' at 'layer'.* shares 'layer.weight' with another layer"),
        (Tokens(), (6,), "'layer' at 'layer'.* a matrix product of 2 rows has no int8 form"),
        (images(nn.Conv2d(4, 4, 3, dilation=2)), IMAGE, r"'1' at '1'.*dilation \(2, 2\)"),
        (images(nn.Conv2d(4, 4, 3, groups=2)), IMAGE, "'1' at '1'.* 2 groups"),
        (images(nn.MaxPool2d(2, dilation=2)), IMAGE, r"'1' \(max_pool2d\) at '1'.* has no int8 form"),
        (images(nn.AvgPool2d(2, divisor_override=3)), IMAGE, r"'1' \(avg_pool2d\) at '1'.* has no int8 form"),
        (Logarithm(), (6,), "'log' at .* log is not defined on all of its input's int8 range"),
        (images(nn.LayerNorm(11)), IMAGE, "at '1'.* has no int8 form"),
    ],
)
def test_what_has_no_int8_form_is_refused_by_name(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(CompileError, match=message) as refused:
        compile_int8(module.eval(), torch.randn(4, *shape))
    assert "float32" in str(refused.value.hint) or "one group" in str(refused.value.hint)

