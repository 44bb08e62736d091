"""Training by perturbed passes: the generator against others, a closed form, autograd's gradient, and the C."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.int8_grid import random_bits, xorshift32
from helpers.toolchain import needs_host_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.joint import Loss
from lab.compiler.operations.perturbation import Perturbation
from lab.compiler.perturbed import compile_perturbed
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel
from lab.errors import CompileError
from lab.workloads.training import differences

CLASSES, STEPS, RATE, SEED = 3, 6, 0.02, 7
SAMPLES = np.random.default_rng(3).normal(size=(STEPS, 6, 6, 2)).astype(np.float32)
LABELS = (np.arange(STEPS) % CLASSES).astype(np.int32)
EXAMPLE = torch.zeros(1, 2, 6, 6)
KEYS = st.integers(0, 2**32 - 1)


def convolutional() -> nn.Module:
    """Odd sizes: no variable fills its last word, and one is smaller than a word."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Hardswish(),
        nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def compiled(
    module: nn.Module, perturbation: Perturbation, train: list[str] | None = None, *,
    example: torch.Tensor = EXAMPLE, loss: Loss = nn.functional.cross_entropy,
) -> TrainingModel:  # fmt: skip
    names = [name for name, _ in module.named_parameters()] if train is None else train
    return compile_perturbed(module, example, loss=loss, train=names, perturbation=perturbation)


def parameters_of(module: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    return {name: one.detach().numpy() for name, one in module.named_parameters()}


def learned(model: TrainingModel, folder: Path, rate: float = RATE, steps: int = STEPS) -> HostTraining:
    host = HostTraining(model.compiled, folder, flags=("-O1", *TRAP_UNDEFINED))
    host.state.random = SEED
    for n in range(steps):
        host.step(SAMPLES[n : n + 1], LABELS[n : n + 1], rate)
    return host


# ---- the generator ------------------------------------------------------------------------------------------------


@given(KEYS, st.integers(0, 400), st.lists(st.integers(1, 70), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_three_implementations_draw_the_same_signs(key: int, number: int, counts: list[int]) -> None:
    """The compiler's reference, that of the workload, and the low bits of the generator of stochastic rounding."""
    perturbation = Perturbation(number + 1, 0.1)
    drawn = perturbation.signs(key, number, [torch.Size([count]) for count in counts])
    other = differences.signs(key, number + 1, counts)
    word = number * perturbation.words(counts)
    for count, one, theirs in zip(counts, drawn, other, strict=True):
        assert one.tolist() == theirs[number].tolist()
        for bit in range(min(count, 24)):
            assert one[bit] == 2 * (random_bits(key, word) >> bit & 1) - 1
        word += -(-count // 32)


def test_signs_are_as_often_plus_as_minus_and_know_nothing_of_each_other() -> None:
    """Shares and correlations of 200 perturbations of 500 elements lie within four standard deviations."""
    (drawn,) = differences.signs(xorshift32(SEED), 200, [500])
    values = drawn.astype(np.float64)
    assert set(np.unique(drawn)) == {-1, 1}
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    between_elements = values.T @ values / len(values)
    between_passes = values @ values.T / values.shape[1]
    for table, trials in ((between_elements, 200), (between_passes, 500)):
        others = table[~np.eye(len(table), dtype=bool)]
        assert others.std() == pytest.approx(1 / math.sqrt(trials), rel=0.02)


def test_a_steps_key_is_the_next_state_of_the_generator() -> None:
    stream = differences.keys(SEED)
    first, second = next(stream), next(stream)
    assert (first, second) == (xorshift32(SEED), xorshift32(first))


# ---- the estimate -------------------------------------------------------------------------------------------------


@needs_host_compiler
def test_a_step_on_a_quadratic_loss_is_the_closed_form(tmp_path: Path) -> None:
    """A linear layer and a squared error: (L(w + σs) − L(w)) / σ = s·g + σ/2 · sᵀHs, exactly, with H = 2 x xᵀ."""
    torch.manual_seed(2)
    module, perturbation = nn.Linear(6, 1, bias=False), Perturbation(5, 0.25)
    x, target = np.random.default_rng(1).normal(size=(1, 6)).astype(np.float32), np.array([[0.5]], np.float32)
    model = compiled(module, perturbation, example=torch.from_numpy(x), loss=nn.functional.mse_loss)
    host = HostTraining(model.compiled, tmp_path)
    host.state.random = SEED
    weight = parameters_of(module)["weight"].astype(np.float64).copy()
    loss = host.step(x, target, 0.1)
    wide = x.astype(np.float64)
    residual = float((wide @ weight.T - target).item())
    (signs,) = differences.signs(xorshift32(SEED), 5, [6])
    estimate = np.zeros((1, 6))
    for s in signs.astype(np.float64):
        projected = float((wide @ s).item())
        estimate += (2 * residual * projected + perturbation.sigma * projected**2) * s / 5
    assert loss == pytest.approx(residual**2, rel=1e-5)
    np.testing.assert_allclose(host.variables()["weight"], weight - 0.1 * estimate, rtol=1e-5, atol=1e-6)


def test_the_estimate_points_along_autograds_gradient() -> None:
    """Of K random signs of P elements the cosine with the gradient is sqrt(K / (K + P − 1)) in the mean."""
    module, passes = convolutional(), 2000
    twin = copy.deepcopy(module)
    image, label = torch.from_numpy(SAMPLES[:1]).permute(0, 3, 1, 2), torch.from_numpy(LABELS[:1]).long()
    nn.functional.cross_entropy(twin(image), label).backward()  # type: ignore[no-untyped-call]
    gradient = np.concatenate([np.ravel(one.grad) for one in twin.parameters() if one.grad is not None])
    perturbation = Perturbation(passes, 2.0**-9)
    training = compiled(module, perturbation).compiled.training
    assert training is not None
    made = differences.train(
        copy.deepcopy(module), training.variables, perturbation, image, LABELS[:1].astype(np.int64),
        epochs=1, rate=1.0, seed=SEED,
    )  # fmt: skip
    estimate = np.concatenate([np.ravel(made.initial[name] - made.variables[name]) for name in made.variables])
    cosine = float(estimate @ gradient) / float(np.linalg.norm(estimate) * np.linalg.norm(gradient))
    assert cosine == pytest.approx(math.sqrt(passes / (passes + len(gradient) - 1)), abs=0.02)


# ---- the C --------------------------------------------------------------------------------------------------------


@needs_host_compiler
def test_the_c_comes_to_the_references_and_pytorchs_variables(tmp_path: Path) -> None:
    module, perturbation = convolutional(), Perturbation(4, 2.0**-7)
    model = compiled(module, perturbation)
    training = model.compiled.training
    assert training is not None
    host = learned(model, tmp_path)
    memory, state = model.program.initial_memory(), TrainingState(RATE, 0, SEED)
    for n in range(STEPS):
        state.step += 1
        model.program.run(torch.from_numpy(SAMPLES[n : n + 1]), torch.from_numpy(LABELS[n : n + 1]), memory, state)
    reference = training.to_torch({name: one.numpy().tobytes() for name, one in memory.items()})
    images = torch.from_numpy(SAMPLES).permute(0, 3, 1, 2)
    made = differences.train(
        copy.deepcopy(module), training.variables, perturbation, images, LABELS.astype(np.int64), epochs=1, rate=RATE,
        seed=SEED,
    )  # fmt: skip
    assert state.random == host.state.random
    for name, initial in parameters_of(module).items():
        np.testing.assert_allclose(host.variables()[name], reference[name], atol=2e-5)
        np.testing.assert_allclose(host.variables()[name], made.variables[name], atol=2e-5)
        assert np.abs(initial - made.variables[name]).max() > 1e-3


@needs_host_compiler
def test_perturbations_leave_the_variables_but_for_rounding(tmp_path: Path) -> None:
    """At a rate of 0: each of 40 passes adds and subtracts sigma, and rounds twice to 24 bits."""
    module = convolutional()
    host = learned(compiled(module, Perturbation(40, 2.0**-7)), tmp_path, rate=0.0, steps=1)
    for name, initial in parameters_of(module).items():
        bound = 2 * 40 * 2.0**-24 * (np.abs(initial).max() + 2.0**-7)
        assert np.abs(host.variables()[name] - initial).max() <= bound


@needs_host_compiler
def test_only_what_is_trained_moves(tmp_path: Path) -> None:
    module = convolutional()
    model = compiled(module, Perturbation(4, 2.0**-7), ["6.weight", "6.bias"])
    assert list(learned(model, tmp_path).variables()) == ["6.weight", "6.bias"]
    assert model.compiled.sources["model.c"].count("static const lab_part_t") == 2


def test_the_arena_is_that_of_inference_and_the_losses() -> None:
    for passes in (4, 64):
        model = compiled(convolutional(), Perturbation(passes, 0.01)).compiled
        training = model.training
        assert training is not None
        inference = max(one.offset + one.size for one in model.buffers)
        assert training.arena_bytes == inference + 4 * passes
        assert training.learns_forward
        forward = sum(one.macs for one in model.layers)
        assert training.macs("forward") == (passes + 1) * forward + passes * training.variables_bytes // 4


def test_inference_has_no_step_of_learning() -> None:
    model = compiled(convolutional(), Perturbation(4, 0.01))
    assert {layer.operator for layer in model.compiled.layers}.isdisjoint({"perturbed_passes", "stein_update"})
    assert model.inference.of_kind("target") == ()


@pytest.mark.parametrize(("passes", "sigma"), [(0, 0.01), (4, 0.0), (4, -1.0), (4, math.inf), (4, math.nan)])
def test_what_cannot_be_is_refused(passes: int, sigma: float) -> None:
    with pytest.raises(CompileError, match="passes with perturbations of") as caught:
        Perturbation(passes, sigma)
    assert "at least 1 pass" in caught.value.hint


def test_an_arena_over_the_limit_is_refused() -> None:
    names = [name for name, _ in convolutional().named_parameters()]
    with pytest.raises(CompileError, match="training needs an arena of"):
        compile_perturbed(
            convolutional(), EXAMPLE, loss=nn.functional.cross_entropy, train=names,
            perturbation=Perturbation(4, 0.01), arena_limit_bytes=64,
        )  # fmt: skip
