"""What is not supported is refused before any code is made, with its place in the user's module."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lab.compiler import compile
from lab.errors import CompileError

HERE = re.escape(__file__)
Function = Callable[[torch.Tensor], torch.Tensor]


class Inner(nn.Module):
    """A linear layer and a function written in this file."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function of the layer's output."""
        return self.function(self.layer(x))


def branch(x: torch.Tensor) -> torch.Tensor:
    """Control flow that depends on data."""
    return x if x.sum() > 0 else -x


def cut(x: torch.Tensor) -> torch.Tensor:
    """A slice whose size depends on data."""
    return x[: int(x.sum().item())]


def chosen(x: torch.Tensor) -> torch.Tensor:
    """A shape that depends on data."""
    return x[x[:, 0] > 0]


def refused(module: nn.Module, sample: torch.Tensor, loss: Callable[..., torch.Tensor] | None = None) -> CompileError:
    """The error of compiling for training."""
    with pytest.raises(CompileError) as caught:
        compile(
            module,
            sample,
            loss=loss or (lambda y, _: y.abs().sum()),
            target=torch.zeros(1),
            train=lambda name, _: True,
            precision="float32",
        )
    return caught.value


FUNCTIONS: dict[str, tuple[Function, str]] = {
    "operator": (lambda x: x.cumsum(1), r"aten\.cumsum"),
    "random": (lambda x: x + torch.randn(4), r"aten\.randn"),
    "float64": (lambda x: x.double() * 2, "torch.float64"),
    "float16": (lambda x: x.half().float(), "torch.float16"),
    "complex": (lambda x: torch.fft.rfft(x).abs(), "torch.complex64"),
    "control_flow": (branch, "data-dependent"),
    "dynamic_slice": (cut, "data-dependent"),
    "dynamic_shape": (chosen, "data-dependent|dynamic shape"),
    "transposed": (lambda x: nn.functional.conv_transpose1d(x[:, None], torch.ones(1, 1, 2)), "transposed"),
    "three_dimensions": (
        lambda x: nn.functional.conv3d(x[:, None, None, None], torch.ones(1, 1, 1, 1, 2)),
        "one or two dimensions",
    ),
    "padding": (lambda x: nn.functional.pad(x, (1, 1), value=2.0), "number other than 0"),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_place_is_named(name: str) -> None:
    """The path in the module, and file and line of the user's code, which is this test."""
    function, why = FUNCTIONS[name]
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Inner(function)))
    error = refused(module, torch.randn(2, 4))
    text = f"{error} {error.hint}"
    assert re.search(why, text)
    assert re.search(rf"at '1\.0' \({HERE}:\d+\)", str(error))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_modules_of_other_types_are_refused_at_their_first_layer(dtype: torch.dtype) -> None:
    error = refused(nn.Sequential(nn.Linear(4, 4)).to(dtype), torch.randn(2, 4).to(dtype))
    assert re.search(rf"aten\.linear\S* at '0'.* {dtype}", str(error))


@pytest.mark.parametrize(
    ("module", "sample"),
    [
        (nn.Embedding(9, 4), torch.tensor([[1, 2]], dtype=torch.uint8)),
        (nn.Linear(4, 4), torch.zeros(1, 4, dtype=torch.uint8)),
    ],
)
def test_inputs_of_other_types_are_refused(module: nn.Module, sample: torch.Tensor) -> None:
    assert "uint8" in str(refused(module, sample)) or "expected" in str(refused(module, sample))


class Shifted(nn.Module):
    """Arithmetic with the indices that come in."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows one further."""
        y: torch.Tensor = self.table(x + 1)
        return y


def test_integers_are_never_taken_for_floats() -> None:
    error = refused(Shifted(), torch.tensor([[1, 2]]))
    assert re.search(rf"aten\.add.*\({HERE}:\d+\).*computes with integers", str(error))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_parameters_that_are_no_numbers_are_refused(value: float) -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        module[0].weight[1, 2] = value
    assert "'0.weight' holds NaN or infinite" in str(refused(module, torch.randn(1, 4)))


def test_constants_beyond_32_bits_are_refused() -> None:
    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("far", torch.tensor([2**40, 1, 2, 3]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x) * self.far
            return y

    assert "'far' holds numbers beyond 32 bits" in str(refused(Far(), torch.randn(1, 4)))


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "not_a_scalar": (lambda y, _: y.abs(), "scalar"),
    "not_of_parameters": (lambda _, t: t.sum(), "does not require gradients"),
    "not_supported": (
        lambda y, _: nn.functional.binary_cross_entropy(y.sigmoid(), torch.zeros(2, 4)),
        "is not supported",
    ),
    "several_outputs_of_labels": (
        lambda y, _: nn.functional.multi_margin_loss(y, torch.zeros(2, dtype=torch.int64)),
        "is not supported",
    ),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_that_cannot_be_compiled_are_refused(name: str) -> None:
    loss, why = LOSSES[name]
    assert re.search(why, str(refused(nn.Linear(4, 4), torch.randn(2, 4), loss)))


def test_label_smoothing_with_class_weights_is_refused_by_name() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.rand(4), label_smoothing=0.1)
    with pytest.raises(CompileError, match="at 'loss'"):
        compile(nn.Linear(4, 4), torch.randn(2, 4), loss=loss, train=["weight"], precision="float32")


def test_a_module_with_several_outputs_is_refused() -> None:
    class Pair(nn.Linear):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            y = super().forward(x)
            return y, y

    error = refused(Pair(4, 4), torch.randn(2, 4))
    assert "returns a tuple" in str(error)
    assert error.hint == "return one tensor"
    with pytest.raises(CompileError, match="returns a tuple"):
        compile(Pair(4, 4), torch.randn(2, 4), loss=nn.functional.cross_entropy, train=["weight"], precision="float32")
