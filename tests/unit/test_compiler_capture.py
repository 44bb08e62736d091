"""What capture yields, and that what it refuses is named with its place in the user's module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lab.compiler import compile
from lab.compiler.capture import capture
from lab.compiler.operators.registry import supported
from lab.errors import CompileError

Forward = Callable[[torch.Tensor], torch.Tensor]


class Function(nn.Module):
    """A module around a function."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Block(nn.Module):
    """Holds an activation the compiler does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.act = nn.ELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.conv(x))  # the line the error names
        return y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.features(x)
        return y


def refusal(module: nn.Module, example: torch.Tensor) -> str:
    with pytest.raises(CompileError) as caught:
        capture(module, example)
    return str(caught.value)


def test_unknown_operator_is_named_with_its_place() -> None:
    text = refusal(Net(), torch.zeros(1, 1, 8, 8))
    lines, first = inspect.getsourcelines(Block)
    line = first + next(index for index, code in enumerate(lines) if "the line the error names" in code)
    assert "aten.elu.default" in text
    assert "'features.2.act'" in text
    assert f"{__file__}:{line}" in text
    assert "supported aten operators" in text
    for known in ("conv2d", "linear", "relu", "max_pool2d", "adaptive_avg_pool2d"):
        assert known in text.split("supported aten operators")[1]


def test_place_without_a_file_of_the_users_own() -> None:
    text = refusal(nn.Sequential(nn.ReLU(), nn.Softplus()), torch.zeros(1, 4))
    assert "aten.softplus.default at '1' is not supported" in text


IMAGE = torch.zeros(1, 4, 8, 8)
REFUSED: list[tuple[str, nn.Module, torch.Tensor, str]] = [
    ("groups", nn.Conv2d(4, 4, 3, groups=2), IMAGE, "2 groups over 4 input and 4 output channels"),
    ("multiplier", nn.Conv2d(4, 8, 3, groups=4), IMAGE, "4 groups over 4 input and 8 output channels"),
    ("dilation", nn.Conv2d(4, 4, 3, dilation=2), IMAGE, "dilation other than 1"),
    ("ceil", nn.MaxPool2d(3, ceil_mode=True), IMAGE, "ceil_mode"),
    ("divisor", nn.AvgPool2d(2, divisor_override=3), IMAGE, "divisor_override"),
    ("uneven", nn.AdaptiveAvgPool2d(3), IMAGE, "does not divide the input 8×8 evenly"),
    ("mean", Function(lambda x: x.mean(1)), IMAGE, r"mean over dims \[1\]"),
    ("broadcast", Function(lambda x: x + x.mean((2, 3), True)), IMAGE, "broadcasting is not supported"),
    ("constant", Function(lambda x: torch.relu(x) + 1.0), IMAGE, "argument 'other' is not an activation but 1.0"),
    ("alpha", Function(lambda x: torch.add(x, x, alpha=2)), IMAGE, "alpha other than 1"),
    ("reflect", nn.ReflectionPad2d(1), IMAGE, "(pad|reflection)"),
    ("pad value", Function(lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=1.0)), IMAGE, "padding with 0"),
    ("crop", Function(lambda x: nn.functional.pad(x, (-1, 0, 0, 0))), IMAGE, "padding .-1, 0, 0, 0."),
    ("linear on images", nn.Linear(8, 3), IMAGE, "linear takes"),
    ("rank 3", Function(lambda x: torch.relu(x.flatten(2))), IMAGE, r"shape \(1, 4, 64\)"),
    ("dtype", Function(lambda x: x.double().relu()), IMAGE, "its result is torch.float64"),
    ("double", nn.Conv2d(4, 2, 1).double(), IMAGE, "cannot capture Conv2d"),
    ("control flow", Function(lambda x: x if x.sum() > 0 else -x), IMAGE, "cannot capture Function"),
    ("example dtype", nn.ReLU(), IMAGE.double(), "only torch.float32"),
    ("example batch", nn.ReLU(), torch.zeros(2, 4, 8, 8), r"shape \(2, 4, 8, 8\)"),
    ("example rank", nn.ReLU(), torch.zeros(1, 4, 8), r"shape \(1, 4, 8\)"),
    ("nothing", nn.Identity(), IMAGE, "computes nothing"),
    ("computed weight", Function(lambda x: nn.functional.linear(x, x)), torch.zeros(1, 4), "parameter or buffer"),
    ("dropout", Function(lambda x: nn.functional.dropout(x, 0.5, True).relu()), IMAGE, "not supported|active"),
]


@pytest.mark.parametrize(("module", "example", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(module: nn.Module, example: torch.Tensor, message: str) -> None:
    assert re.search(message, refusal(module, example))


def test_two_results_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.relu(x), x

    assert "returns 2 values" in refusal(Two(), IMAGE)


def test_nan_weights_are_refused() -> None:
    module = nn.Linear(4, 4)
    with torch.no_grad():
        module.weight[1, 2] = float("nan")
    assert "'weight' holds NaN" in refusal(module, torch.zeros(1, 4))


def test_batch_statistics_are_refused() -> None:
    text = refusal(nn.BatchNorm2d(4, track_running_stats=False), IMAGE)
    assert "batch_norm" in text


def test_flatten_only_computes_nothing() -> None:
    with pytest.raises(CompileError, match="computes nothing"):
        compile(nn.Flatten(), torch.zeros(1, 4, 1, 1), calibration=torch.randn(4, 4, 1, 1))


def test_bad_model_name_is_refused() -> None:
    with pytest.raises(CompileError, match="not a C identifier"):
        compile(nn.ReLU(), torch.zeros(1, 4), calibration=torch.randn(4, 4), name="9 lives")


def test_names_and_shapes() -> None:
    """Layers are named after the user's modules, functions after the module they are called in; reuse is numbered."""

    class Reuse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(self.conv(x)) + x)

    graph = capture(Reuse(), torch.zeros(1, 4, 6, 5))
    assert [node.name for node in graph.nodes] == ["conv", "conv_2", "add", "clamp"]
    assert all(graph.shapes[node.output] == (6, 5, 4) for node in graph.nodes)
    assert graph.nodes[2].source.file == __file__
    assert "add" in supported()


def test_in_place_operators_are_made_functional() -> None:
    """``x.relu_()`` on a value that is also read later must be seen by the later reader."""
    module = Function(lambda x: (y := x + x).relu_() + y)
    graph = capture(module, torch.zeros(1, 4))
    x = torch.tensor([[-1.0, 2.0, -3.0, 4.0]])
    torch.testing.assert_close(graph.run(x), module(x))
