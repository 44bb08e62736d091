"""Softmax and losses: kernels against PyTorch, lowering against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.joint_check import Applied, check_program, lowered
from helpers.kernel_runner import check_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.compiler.operations.loss import (
    NllLoss,
    NllLossGradient,
    PairFunction,
    PairLoss,
    PairLossGradient,
)
from lab.compiler.operations.softmax import Softmax, SoftmaxGradient
from lab.errors import CompileError

SIZES = st.integers(1, 6)


def values(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers of standard deviation three."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@given(outer=SIZES, depth=SIZES, inner=SIZES, logarithm=st.booleans(), seed=st.integers(0, 99))
def test_softmax_over_a_middle_axis(outer: int, depth: int, inner: int, logarithm: bool, seed: int) -> None:
    x = values(seed, outer, depth, inner)
    check_kernel(Softmax(outer, depth, inner, logarithm), [x], relative=2e-6, absolute=1e-6)


@given(outer=SIZES, depth=SIZES, inner=SIZES, logarithm=st.booleans(), seed=st.integers(0, 99))
def test_the_gradient_of_softmax(outer: int, depth: int, inner: int, logarithm: bool, seed: int) -> None:
    x, g = values(seed, outer, depth, inner).requires_grad_(), values(seed + 1, outer, depth, inner)
    y = x.log_softmax(1) if logarithm else x.softmax(1)
    (wanted,) = torch.autograd.grad(y, x, g)
    operation = SoftmaxGradient(outer, depth, inner, logarithm)
    (found,) = check_kernel(operation, [g, y.detach()], relative=1e-5, absolute=3e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax_does_not_overflow(logarithm: bool) -> None:
    x = torch.tensor([[1e4, 1e4 + 1, -1e4], [-3e38, 0.0, 3e38]])
    (found,) = check_kernel(Softmax(2, 3, 1, logarithm), [x])
    assert found.isfinite().all() or logarithm


def test_a_row_that_is_masked_wholly_yields_zeros_or_nan() -> None:
    x = torch.tensor([[-torch.inf, -torch.inf], [0.0, -torch.inf]])
    (safe,) = check_kernel(Softmax(2, 2, 1, all_masked=True), [x])
    assert safe.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    (plain,) = check_kernel(Softmax(2, 2, 1), [x])
    assert plain[0].isnan().all()


LABELS = st.lists(st.integers(-1, 4), min_size=1, max_size=6)


@given(labels=LABELS, mean=st.booleans(), weighted=st.booleans(), seed=st.integers(0, 99))
def test_negative_log_likelihood(labels: list[int], mean: bool, weighted: bool, seed: int) -> None:
    rows, classes = len(labels), 5
    weights = values(seed, classes).abs() if weighted else None
    x = values(seed, rows, classes).log_softmax(1)
    target = torch.tensor(labels)
    _, total = check_kernel(NllLoss(rows, classes, -1, mean), [x, target, weights], relative=1e-5, absolute=1e-5)
    x.requires_grad_()
    loss = functional.nll_loss(x, target, weights, ignore_index=-1, reduction="mean" if mean else "sum")
    (wanted,) = torch.autograd.grad(loss * 0.5, x)
    gradient = NllLossGradient(rows, classes, -1, mean, scale=0.25)
    (found,) = check_kernel(gradient, [torch.tensor([2.0]), target, weights, total], relative=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("label", [5, -2, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_is_never_followed(label: int) -> None:
    x, labels = values(1, 2, 5).log_softmax(1), torch.tensor([1, label])
    loss, _ = check_kernel(NllLoss(2, 5, -100, True), [x, labels, None])
    assert loss.isnan().all()
    (gradient,) = check_kernel(NllLossGradient(2, 5, -100, True), [None, labels, None, torch.tensor([1.0])])
    assert gradient[1].tolist() == [0.0] * 5


@given(
    function=st.sampled_from(["squared", "huber", "smooth_l1", "binary"]),
    count=st.integers(1, 40),
    delta=st.floats(0.25, 4),
    seed=st.integers(0, 99),
)
def test_losses_of_pairs(function: PairFunction, count: int, delta: float, seed: int) -> None:
    x, target = values(seed, count), values(seed + 1, count)
    check_kernel(PairLoss(function, 1 / count, delta), [x, target], relative=1e-5, absolute=1e-5)
    if function != "binary":
        given_gradient = torch.tensor([3.0])
        check_kernel(PairLossGradient(function, 1 / count, delta), [given_gradient, x, target], relative=1e-5)
        check_kernel(PairLossGradient(function, 1 / count, delta), [None, x, target], relative=1e-5)


LABEL_LOSSES: dict[str, nn.Module] = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "ignored": nn.CrossEntropyLoss(ignore_index=2),
    "class_weights": nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 0.1])),
}


@pytest.mark.parametrize("name", sorted(LABEL_LOSSES))
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (1, 4, 2, 3)])
def test_losses_with_labels(name: str, shape: tuple[int, ...]) -> None:
    places = (shape[0], *shape[2:])
    target = torch.randint(0, 4, places, generator=torch.Generator().manual_seed(2))
    module = Applied(lambda x: x * 2, (4, *(1,) * (len(shape) - 2)))
    check_program(module, values(3, *shape), target, LABEL_LOSSES[name])


PAIR_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": nn.MSELoss(),
    "mse_sum": nn.MSELoss(reduction="sum"),
    "scaled": lambda y, t: functional.mse_loss(y, t) * 0.3 + functional.mse_loss(y * 2, t),
    "l1": nn.L1Loss(),
    "huber": nn.HuberLoss(delta=0.7),
    "smooth_l1": nn.SmoothL1Loss(beta=0.4),
    "binary": nn.BCEWithLogitsLoss(),
    "soft_targets": nn.CrossEntropyLoss(),
    "by_hand": lambda y, t: -(t * y.log_softmax(-1)).sum(-1).mean(),
    "poisson": lambda y, t: (y.exp() - t * y).mean(),
}


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_losses_with_targets(name: str) -> None:
    module = Applied(lambda x: x * 0.2, (4,))
    check_program(module, values(4, 3, 4), values(5, 3, 4).sigmoid(), PAIR_LOSSES[name], absolute=1e-5)


@settings(max_examples=10)
@given(axis=st.integers(-4, 3), logarithm=st.booleans(), turned=st.booleans())
def test_softmax_over_any_axis_in_any_memory_order(axis: int, logarithm: bool, turned: bool) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 3) if turned else x
        return y.log_softmax(axis) if logarithm else y.softmax(axis)

    shape = (2, 4, 3, 4)
    module = Applied(function, (1, 4, 1, 1))
    program = check_program(module, values(6, *shape), values(7, *shape), lambda y, t: (y * t).sum(), absolute=2e-5)
    assert not [step for step in program.steps if "softmax.copy" in step.name]


def test_a_loss_that_is_not_reduced_is_refused() -> None:
    with pytest.raises(CompileError, match=r"reduction='none'") as refused:
        lowered(
            Applied(lambda x: x, (4,)),
            torch.ones(2, 4),
            torch.ones(2, 4),
            lambda y, t: functional.mse_loss(y, t, reduction="none").sum(),
        )
    assert "'mean' or 'sum'" in str(refused.value.hint)
