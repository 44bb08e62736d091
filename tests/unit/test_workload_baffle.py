"""The workload baffle: PyTorch's forward differences by hand, arms and figures, what a device is held to, bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.int8_grid import xorshift32
from helpers.toolchain import needs_host_compiler
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.model import Variable
from lab.compiler.operations.perturbation import Perturbation
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks.digits_cnn import digits_cnn
from lab.workloads.training import differences
from lab.workloads.training.baffle import BASELINES, ONE, WORKLOAD, Variant, parse
from lab.workloads.training.from_scratch import selection_of
from lab.workloads.training.scratch_images import SEED

SMALL = "samples=30,epochs=1,evaluated=40,passes=6,channels=4,target=0.1"
PARAMETERS, PASS_MACS = 1954, 15104


def by_name(prepared: Prepared) -> dict[str, float]:
    return {one.metric: one.value for one in prepared.figures}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("baffle").prepare(cache_dir(), SMALL)


def test_the_networks_sizes_are_what_its_page_says() -> None:
    network = digits_cnn(8, 10)
    assert sum(one.numel() for one in network.parameters()) == PARAMETERS
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    kinds = {type(one) for one in network.modules()}
    assert {torch.nn.GroupNorm, torch.nn.Hardswish} <= kinds, "what the paper advises"
    assert not kinds & {torch.nn.BatchNorm2d, torch.nn.ReLU}


def test_a_step_is_the_mean_of_differences_times_signs_one_pass_at_a_time() -> None:
    """A loop over passes and over the elements of PyTorch's tensors, against all passes at once."""
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, bias=False), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    variables = [
        Variable("0.weight", "float32", (2, 2, 2, 1), (0, 3, 1, 2), (2, 1, 2, 2)),
        Variable("2.bias", "float32", (3,), (0,), (3,)),
    ]
    images, labels = torch.randn(1, 1, 3, 3), np.array([2])
    sigma, rate, passes = 0.125, 0.5, 3
    drawn = differences.signs(xorshift32(9), passes, [8, 3])
    expected = {one.name: module.get_parameter(one.name).detach().clone() for one in variables}
    label = torch.from_numpy(labels)
    with torch.no_grad():
        base = functional.cross_entropy(module(images), label)
        for number in range(passes):
            moved = copy.deepcopy(module)
            # The device has a convolution's weight as outputs, rows, columns, inputs; with one input nothing moves.
            own = [drawn[0][number].reshape(2, 1, 2, 2), drawn[1][number]]
            directions = [torch.from_numpy(one.astype(np.float32)) for one in own]
            for variable, one in zip(variables, directions, strict=True):
                moved.get_parameter(variable.name).add_(sigma * one)
            difference = (functional.cross_entropy(moved(images), label) - base) / sigma
            for variable, one in zip(variables, directions, strict=True):
                expected[variable.name] -= rate * difference * one / passes
    made = differences.train(
        module, variables, Perturbation(passes, sigma), images, labels, epochs=1, rate=rate, seed=9
    )
    assert made.losses[0] == pytest.approx(float(base), rel=1e-6)
    for name, one in expected.items():
        np.testing.assert_allclose(made.variables[name], one.numpy(), rtol=1e-4, atol=1e-6)


def test_axes_of_a_weight_follow_its_memory() -> None:
    """Two inputs: PyTorch has them in front of rows and columns, the device behind."""
    torch.manual_seed(1)
    module = torch.nn.Conv2d(2, 3, 2, bias=False)
    variable = Variable("weight", "float32", (3, 2, 2, 2), (0, 3, 1, 2), (3, 2, 2, 2))
    (drawn,) = differences.signs(xorshift32(5), 1, [24])
    before = module.weight.detach().numpy().copy()
    network = torch.nn.Sequential()
    network.add_module("conv", module)
    network.add_module("flat", torch.nn.Flatten())
    named = Variable("conv.weight", variable.dtype, variable.shape, variable.permutation, variable.torch_shape)
    made = differences.train(
        network, [named], Perturbation(1, 0.125), torch.randn(1, 2, 2, 2), np.array([1]), epochs=1, rate=1.0, seed=5
    )
    moved = np.sign(made.variables["conv.weight"] - before)
    in_memory = moved.transpose(0, 2, 3, 1).reshape(-1)
    assert abs(int(in_memory @ drawn[0])) == 24


def test_baselines_are_variants_and_name_what_they_are() -> None:
    arms = [parse("baffle", one) for one in BASELINES]
    assert [one.update for one in arms] == ["full", "last", "bias", "stein"]
    assert [one.passes for one in arms] == [50, 50, 50, 1]
    assert {claim.baseline for claim in WORKLOAD.claims} == {"", *BASELINES}
    assert parse("baffle", "") == Variant()


def test_selected_are_the_parameters_of_the_arm() -> None:
    network = digits_cnn(4, 10)
    assert list(selection_of("stein", network)) == [name for name, _ in network.named_parameters()]
    assert set(selection_of("last", network)) == {"classifier.weight", "classifier.bias"}
    assert set(selection_of("bias", network)) == {"first.bias", "second.bias", "classifier.weight", "classifier.bias"}


def trained(prepared: Prepared, folder: Path, seed: int) -> tuple[np.ndarray, dict[str, bytes]]:
    """Losses and variables by the C on this computer."""
    plan = prepared.training
    assert plan is not None
    host = HostTraining(prepared.model, folder)
    host.state.random = seed
    samples = np.frombuffer(plan.job.blob, np.float32).reshape(plan.job.count, 1, -1)
    targets, rate = np.frombuffer(plan.job.blobs["targets"], np.int32), float(plan.job.parameters["lr"])
    losses = [host.step(one, targets[n : n + 1], rate) for n, one in enumerate(samples)]
    return np.array(losses, np.float32), host.raw_variables()


@needs_host_compiler
def test_the_device_is_held_to_pytorchs_losses_variables_and_perturbations(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    assert plan.job.parameters["seed"] == SEED
    losses, variables = trained(prepared, tmp_path, SEED)
    scores = {one.metric: one for one in plan.check(losses, variables)}
    assert scores["update_error"].value < 1e-4
    with pytest.raises(WorkloadError, match="the losses differ from PyTorch's by"):
        plan.check(losses + np.float32(0.01), variables)
    with pytest.raises(WorkloadError, match="the losses differ from PyTorch's by nan"):
        plan.check(np.full_like(losses, np.nan), variables)
    (tmp_path / "other").mkdir()
    _, others = trained(prepared, tmp_path / "other", SEED + 1)
    with pytest.raises(WorkloadError, match="off PyTorch's by"):
        plan.check(losses, others)


@needs_host_compiler
def test_figures_are_of_a_step_and_of_what_a_client_would_send(prepared: Prepared) -> None:
    figures = by_name(prepared)
    training = prepared.model.training
    assert training is not None
    assert figures["uplink"] == 4 * 6
    assert figures["arena"] - figures["arena.inference"] == 32
    assert figures["memory.m4"] == figures["arena"] + training.variables_bytes
    macs = sum(layer.macs for layer in prepared.model.layers)
    assert figures["macs.step"] == 7 * macs + 6 * training.variables_bytes / 4


@needs_host_compiler
def test_preparation_repeats_to_the_bit(prepared: Prepared, tmp_path: Path) -> None:
    again = get("baffle").prepare(tmp_path, SMALL)
    assert again.model.digest == prepared.model.digest
    assert again.reference_outputs.tobytes() == prepared.reference_outputs.tobytes()
    assert again.training is not None
    assert prepared.training is not None
    assert again.training.steps_to_accuracy == prepared.training.steps_to_accuracy


@needs_host_compiler
def test_what_learns_nothing_fails_the_method_and_no_baseline(prepared: Prepared) -> None:
    nothing = np.zeros_like(prepared.reference_outputs)
    with pytest.raises(WorkloadError, match="nothing was learned"):
        prepared.check(nothing)
    baseline = get("baffle").prepare(cache_dir(), f"{SMALL},{ONE}")
    assert [one.metric for one in baseline.check(nothing)] == ["accuracy", "accuracy.untrained"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper,data=digits", "cifar10, cifar100, mnist"),
        ("data=cifar10", "others with size=paper"),
        ("size=paper,samples=50001", "1 to 50000"),
        ("update=most", "stein, full, last, bias"),
        ("passes=0", "1 to 5000"),
        ("sigma=0", "0.0001 to 1"),
        ("sigma=1e-7", "lost in rounding"),
        ("channels=3", "4, 8, 16"),
        ("samples=1439", "1 to 1438"),
        ("pases=3", "did you mean 'passes'"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        get("baffle").prepare(tmp_path, text)
    assert told in caught.value.hint
