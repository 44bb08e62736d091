"""The workloads lls and tpsgd: their losses by hand, what changes, and PyTorch's own steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.joint import Penalised
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks.local_mlp import (
    LATENT,
    TEMPERATURE,
    LocalMlp,
    Rule,
    periodic_basis,
    projected_targets,
)
from lab.workloads.training.from_scratch import selection_of
from lab.workloads.training.local_learning import Variant, network_of

SMALL = "samples=40,evaluated=40,depth=2,width=32,target=0.1"
IMAGES = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 4, 9])


def network(rule: Rule, width: int = 64) -> LocalMlp:
    torch.manual_seed(3)
    return LocalMlp(64, width, 2, 10, rule, seed=7)


def penalised(module: LocalMlp) -> Penalised:
    made = module(IMAGES)
    assert isinstance(made, Penalised)
    return made


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("lls").prepare(cache_dir(), SMALL)


def test_the_basis_is_a_sine_for_each_class_and_none_aliases() -> None:
    basis = periodic_basis(10, 32).numpy()
    assert np.linalg.norm(basis, axis=1) == pytest.approx(np.ones(10), rel=1e-6)
    for row, periods in zip(basis, np.linspace(1, 15, 10), strict=True):
        expected = np.sin(periods * np.linspace(0, 2 * np.pi, 32))
        assert row == pytest.approx(expected / np.linalg.norm(expected), abs=2e-6)
    assert np.linalg.matrix_rank(basis) == 10


def test_projections_are_reachable_fixed_and_of_another_stream_than_the_weights() -> None:
    first, again, other = (projected_targets(10, 64, seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) == 0.0
    assert 0.3 < float((first > 0).float().mean()) < 0.7
    torch.manual_seed(7)
    assert not torch.equal(first, torch.randn((10, 64)).relu()[:, torch.randperm(64)])


@pytest.mark.parametrize("width", [32, 64])
def test_the_periodic_loss_is_cross_entropy_of_cosines(width: int) -> None:
    module = network("periodic", width)
    x, expected = IMAGES.flatten(1).numpy(), 0.0
    basis = periodic_basis(10, LATENT).numpy()
    for layer in module.hidden:
        weight, bias = (layer.get_parameter(one).detach().numpy() for one in ("weight", "bias"))
        x = np.maximum(x @ weight.T + bias, 0)
        latent = x.reshape(3, LATENT, width // LATENT).mean(2)
        scores = latent / np.linalg.norm(latent, axis=1, keepdims=True) @ basis.T / TEMPERATURE
        shifted = scores - scores.max(1, keepdims=True)
        expected += float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(3), LABELS.numpy()]))
    assert float(penalised(module).of(LABELS).detach()) == pytest.approx(expected, rel=1e-4)


def test_the_update_towards_a_projection_is_error_times_slope_times_input() -> None:
    """The rule as tpSGD writes it, w += rate · (P y − h) · σ'(z) xᵀ, by hand against autograd."""
    module = network("projection")
    penalised(module).of(LABELS).backward()  # type: ignore[no-untyped-call]
    x = IMAGES.flatten(1)
    for number, layer in enumerate(module.hidden):
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        h = functional.relu(x @ weight.T + bias).detach()
        error = (module.get_buffer(f"projection{number}")[LABELS] - h) * (h > 0)
        assert weight.grad is not None
        torch.testing.assert_close(-weight.grad, error.T @ x, rtol=1e-4, atol=1e-5)
        x = h


@pytest.mark.parametrize("rule", ["periodic", "projection"])
def test_no_gradient_passes_from_layer_to_layer(rule: Rule) -> None:
    module = network(rule)
    made = penalised(module)
    functional.cross_entropy(made.output, LABELS).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None for name, one in module.named_parameters() if name.startswith("hidden."))
    assert module.classifier.weight.grad is not None


def test_all_arms_begin_from_the_same_weights() -> None:
    made = []
    for update in ("local", "full"):
        torch.manual_seed(1)
        made.append(network_of(Variant(update=update), "periodic"))
    local, full = made
    for name, one in full.named_parameters():
        assert torch.equal(one, local.get_parameter(name))
    assert isinstance(full(IMAGES), torch.Tensor)


def test_selected_are_the_parameters_of_the_arm() -> None:
    module = network("backprop")
    names = {name for name, _ in module.named_parameters()}
    assert set(selection_of("local", module)) == set(selection_of("full", module)) == names
    assert set(selection_of("last", module)) == {"classifier.weight", "classifier.bias"}
    biases = {"hidden.0.bias", "hidden.1.bias", "classifier.weight", "classifier.bias"}
    assert set(selection_of("bias", module)) == biases


def test_the_c_comes_to_pytorchs_losses_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    host = HostTraining(prepared.model, tmp_path)
    samples = np.frombuffer(plan.job.blob, np.float32).reshape(plan.job.count, 1, -1)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    untrained, rate = host.raw_variables(), float(plan.job.parameters["lr"])
    losses = np.array([host.step(one, targets[n : n + 1], rate) for n, one in enumerate(samples)], np.float32)
    scores = {one.metric: one for one in plan.check(losses, host.raw_variables())}
    assert scores["update_error"].value < 1e-5
    with pytest.raises(WorkloadError, match="off PyTorch's by 1 of the way"):
        plan.check(losses, untrained)
    figures = {one.metric: one.value for one in prepared.figures}
    assert figures["macs.local"] == 2 * LATENT * 10
    assert "PyTorch's autograd with its own SGD is within" in prepared.facts[3]


@pytest.mark.parametrize("workload", ["lls", "tpsgd"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=large", "one of ci, paper"),
        ("size=paper", "CIFAR-10, binary version is needed|MNIST is needed"),
        ("size=paper,data=digits", "cifar10, cifar100, mnist, fashion-mnist, kmnist"),
        ("update=most", "local, full, last, bias"),
        ("width=48", "32, 64, 128, 256"),
        ("depth=0", "1 to 16"),
        ("samples=1439", "1 to 1438"),
    ],
)
def test_variants_that_cannot_be_are_refused(
    workload: str, text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=told):
        get(workload).prepare(tmp_path, text)
