"""Optimisers: kernels and references against ``torch.optim`` over several steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.kernel_runner import check_update
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd, SgdMomentum
from lab.compiler.program import Tensor, TrainingState
from lab.errors import CompileError

Reference = Callable[[list[torch.nn.Parameter], float], torch.optim.Optimizer]


def check_steps(optimizer: Optimizer, reference: Reference, shape: tuple[int, ...], seed: int) -> None:
    """Six steps with other learning rates each; the kernel starts every step from what it wrote itself."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape, generator=generator)
    parameter = torch.nn.Parameter(start.clone())
    theirs = reference([parameter], 0.1)
    update, states = optimizer.update(Tensor("layer.weight", shape, kind="parameter"))
    memory = [start.clone(), *(torch.zeros(shape) for _ in states)]
    for step, rate in enumerate((0.1, 0.05, 0.2, 0.01, 0.1, 0.003), start=1):
        gradient = torch.randn(shape, generator=generator) * 10 ** float(torch.randn((), generator=generator))
        theirs.param_groups[0]["lr"] = rate
        parameter.grad = gradient.clone()
        theirs.step()
        written = (0, *range(2, 2 + len(states)))
        inputs = [memory[0], gradient, *memory[1:]]
        memory = check_update(update, inputs, written, TrainingState(rate, step), relative=2e-5, absolute=1e-6)
        torch.testing.assert_close(memory[0], parameter.detach(), rtol=5e-5, atol=5e-6)


SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
DECAYS = st.sampled_from([0.0, 0.01, 0.3])
SEEDS = st.integers(0, 999)


@settings(max_examples=30)
@given(shape=SHAPES, decay=DECAYS, scale=st.sampled_from([1.0, 0.5]), seed=SEEDS)
def test_sgd(shape: tuple[int, ...], decay: float, scale: float, seed: int) -> None:
    def reference(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, rate, weight_decay=decay)

    if scale == 1.0:
        check_steps(Sgd(decay), reference, shape, seed)
    update, states = Sgd(decay, scale).update(Tensor("w", shape))
    assert not states
    values = torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed))
    (found,) = check_update(update, [values[0], values[1]], (0,), TrainingState(0.1))
    torch.testing.assert_close(found, values[0] - 0.1 * scale * (values[1] + decay * values[0]))


@settings(max_examples=30)
@given(
    shape=SHAPES,
    decay=DECAYS,
    momentum=st.sampled_from([0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    nesterov=st.booleans(),
    seed=SEEDS,
)
def test_sgd_with_momentum(
    shape: tuple[int, ...], decay: float, momentum: float, dampening: float, nesterov: bool, seed: int
) -> None:
    dampening = 0.0 if nesterov else dampening

    def reference(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, rate, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay
        )

    check_steps(SgdMomentum(momentum, dampening, nesterov, decay), reference, shape, seed)


@settings(max_examples=30)
@given(
    shape=SHAPES,
    decay=DECAYS,
    betas=st.sampled_from([(0.9, 0.999), (0.6, 0.9), (0.0, 0.99)]),
    decoupled=st.booleans(),
    seed=SEEDS,
)
def test_adam(
    shape: tuple[int, ...], decay: float, betas: tuple[float, float], decoupled: bool, seed: int
) -> None:
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam

    def reference(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return kind(parameters, rate, betas=betas, eps=1e-8, weight_decay=decay)

    check_steps(Adam(*betas, 1e-8, decay, decoupled), reference, shape, seed)


@pytest.mark.parametrize("step", [1, 2, 1000, 100_000, 2**24])
def test_the_bias_correction_keeps_its_digits(step: int) -> None:
    update, _ = Adam().update(Tensor("w", (3,)))
    inputs = [torch.ones(3), torch.tensor([1.0, -2.0, 1e-3]), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2, 3])]
    check_update(update, inputs, (0, 2, 3), TrainingState(0.01, step), relative=5e-7)


def test_the_state_lies_as_the_parameter_does() -> None:
    torch_shape = (2, 4, 3, 3)
    parameter = Tensor("conv.weight", (2, 3, 3, 4), permutation=(0, 3, 1, 2), torch_shape=torch_shape)
    _, states = Adam().update(parameter)
    assert [state.name for state in states] == ["conv.weight.exp_avg", "conv.weight.exp_avg_sq"]
    for state in states:
        assert (state.shape, state.permutation, state.kind) == ((2, 3, 3, 4), (0, 3, 1, 2), "state")
        assert state.torch_shape == torch_shape
        assert state.value is not None
        assert not np.any(state.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sgd(weight_decay=-0.1), "weight_decay is -0.1"),
        (lambda: Sgd(rate_scale=float("nan")), "rate_scale is nan"),
        (lambda: SgdMomentum(momentum=float("inf")), "momentum is inf"),
        (lambda: SgdMomentum(dampening=0.1, nesterov=True), "Nesterov"),
        (lambda: SgdMomentum(momentum=0.0, nesterov=True), "Nesterov"),
        (lambda: Adam(beta1=1.0), "beta1 is 1.0"),
        (lambda: Adam(beta2=-0.5), "beta2 is -0.5"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], Optimizer], words: str) -> None:
    with pytest.raises(CompileError, match=words):
        make()


def test_descriptions_name_what_differs() -> None:
    assert Sgd(0.01).describe() == "SGD(weight_decay=0.01)"
    assert SgdMomentum(0.9, nesterov=True).describe() == "SGD(momentum=0.9, weight_decay=0, nesterov)"
    assert Adam(decoupled=True, weight_decay=0.1).describe() == "AdamW(betas=0.9/0.999, weight_decay=0.1)"
