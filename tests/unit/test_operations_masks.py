"""Masks: comparisons, choices, causal attention, label smoothing. They are floats of 0 and 1 on the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.joint_check import Applied, check_program
from helpers.kernel_runner import check_kernel
from torch import nn
from torch.nn import functional

from lab.compiler.operations.unary import LabelEquals


def values(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "one_sided_clamps": lambda x: x.clamp_min(0.2) * x.clamp_max(0.1),
    "where": lambda x: torch.where(x > 0.1, x, 0.5) + torch.where(x < 0, 1.0, x) * torch.where(x >= 0, 2.0, -1.0),
    "filled": lambda x: x.masked_fill(~(x > 0.1), 0.25).softmax(-1),
    "both": lambda x: x.masked_fill((x > -0.5) & (x <= 0.5), 0.0),
    "constant_mask": lambda x: torch.where(torch.ones(4, 4, dtype=torch.bool).tril(), x, 0.0),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_masks_are_lowered_with_their_gradients(name: str) -> None:
    module = Applied(FUNCTIONS[name], (4,))
    check_program(module, values(1, 4, 4), values(2, 4, 4), lambda y, t: (y * t).sum())


def test_causal_attention() -> None:
    def attention(x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    check_program(Applied(attention, (4,)), values(3, 1, 2, 5, 4), values(4, 1, 2, 5, 4), lambda y, t: (y * t).sum())


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 2)])
@pytest.mark.parametrize("ignored", [-100, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_label_smoothing(shape: tuple[int, ...], ignored: int, reduction: str) -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=ignored, reduction=reduction)
    labels = torch.arange(shape[0] * 6).reshape(shape[0], 6)[:, : 6 if len(shape) == 4 else 1] % 4
    target = labels.reshape(shape[0], *shape[2:])
    module = Applied(lambda x: x * 2, (4, *(1,) * (len(shape) - 2)))
    check_program(module, values(5, *shape), target, loss, absolute=1e-5)


@pytest.mark.parametrize("value", [0, -100, 2**31 - 1, -(2**31)])
def test_labels_are_compared(value: int) -> None:
    labels = torch.tensor([0, -100, 3, 2**31 - 1, -(2**31)], dtype=torch.int32)
    (found,) = check_kernel(LabelEquals(value), [labels])
    assert found.sum() == 1


CHOICES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tensors": lambda x: torch.where(x > 0.1, x * 2, x * 3),
    "broadcast": lambda x: torch.where(x > 0.1, x[:, :1], x[:1]),
    "compared": lambda x: torch.where(x >= x.mean(1, keepdim=True), x * x, x),
    "prelu": lambda x: functional.prelu(x, torch.tensor([0.2])),
}


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_choice_between_two_tensors(name: str) -> None:
    module = Applied(CHOICES[name], (4,))
    check_program(module, values(6, 4, 4), values(7, 4, 4), lambda y, t: (y * t).sum())


@pytest.mark.parametrize("comparison", [torch.gt, torch.ge, torch.lt, torch.le, torch.eq, torch.ne])
def test_comparisons_of_two_tensors(comparison: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    other = values(9, 4, 4).round(decimals=1)

    def function(x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(comparison(x.detach() * 0 + other, other.t()), 0.5)

    check_program(Applied(function, (4,)), values(8, 4, 4), values(7, 4, 4), lambda y, t: (y * t).sum())
