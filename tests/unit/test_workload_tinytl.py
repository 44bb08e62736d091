"""The workload tinytl: branches that begin as nothing, what changes and what does not, and PyTorch's own steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler.host import HostTraining
from lab.compiler.layer_costs import layer_list, weighted
from lab.compiler.memory_definitions import backward_macs
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded
from lab.workloads.networks.lite_residual import LiteResidual, Repeat, Upsample, with_lite_residuals
from lab.workloads.training.tinytl import Update, Variant, parse, scheme_of, selection_of

SMALL = "samples=24,evaluated=40,target=0.1"
EXAMPLE = torch.zeros(1, 1, 16, 16)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(2)
    network = digits_mb()
    network(torch.randn(16, 1, 16, 16))
    return folded(network.eval())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("tinytl").prepare(cache_dir(), SMALL)


def test_repeating_is_pytorchs_upsampling() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(Repeat()(x), nn.Upsample(scale_factor=2)(x))
    assert torch.equal(Repeat()(x), Upsample()(x))


def test_a_network_with_branches_begins_as_the_network(backbone: nn.Module) -> None:
    grown = with_lite_residuals(backbone)
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(grown(x), backbone(x))
        for name, parameter in grown.named_parameters():
            if name.endswith("lite.last.weight"):
                parameter.fill_(1.0)
        assert not torch.allclose(grown(x), backbone(x), atol=1e-3)
    assert sum(isinstance(one, LiteResidual) for one in grown.modules()) == 4
    assert not any(isinstance(one, LiteResidual) for one in backbone.modules()), "the frozen network is a copy"


def test_selected_are_biases_and_branches_and_no_frozen_weight(backbone: nn.Module) -> None:
    grown = with_lite_residuals(backbone)
    chosen = set(selection_of("lite+bias", grown))
    weights = {name for name, one in grown.named_parameters() if ".block." in name and one.dim() > 1}
    assert weights
    assert not weights & chosen
    assert {name for name, _ in grown.named_parameters() if name.endswith("conv.bias")} <= chosen
    assert "block2.lite.last.weight" in chosen
    assert "block2.lite.last.bias" not in chosen, "adds what the bias of the projection adds"
    assert "block2.lite.last.bias" in selection_of("lite", grown)
    assert set(selection_of("last", backbone)) == {"classifier.weight", "classifier.bias"}
    assert set(selection_of("full", backbone)) == {name for name, _ in backbone.named_parameters()}
    assert all(name.endswith("bias") or name == "classifier.weight" for name in selection_of("bias", backbone))


@pytest.mark.parametrize("update", ["lite+bias", "lite", "bias", "last", "full"])
def test_scheme_and_selection_change_the_same_layers(backbone: nn.Module, update: Update) -> None:
    branched = update.startswith("lite")
    network = with_lite_residuals(backbone, repeat=Upsample) if branched else backbone
    layers = layer_list(network, EXAMPLE)
    scheme, names = scheme_of(update, layers), selection_of(update, network)
    *trunk, classifier = weighted(layers)
    assert {trunk[number].name for number in scheme.weights} == {
        name.removesuffix(".weight") for name in names if network.get_parameter(name).dim() > 1
    } - {classifier.name}
    assert (scheme.biases > 0) == any(name.endswith("conv.bias") for name in names)


def test_branches_cost_memory_between_biases_alone_and_full_training(backbone: nn.Module) -> None:
    branched = layer_list(with_lite_residuals(backbone, repeat=Upsample), EXAMPLE)
    plain = layer_list(backbone, EXAMPLE)
    macs = {
        "lite+bias": backward_macs(branched, scheme_of("lite+bias", branched)).weight_gradients,
        "bias": backward_macs(plain, scheme_of("bias", plain)).weight_gradients,
        "full": backward_macs(plain, scheme_of("full", plain)).weight_gradients,
    }
    assert macs["bias"] < macs["lite+bias"] < macs["full"] / 3


def test_the_c_comes_to_pytorchs_losses_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    host = HostTraining(prepared.model, tmp_path)
    samples = np.frombuffer(plan.job.blob, np.float32).reshape(plan.job.count, 1, -1)
    targets = np.frombuffer(plan.job.blobs["targets"], np.int32)
    rate = float(plan.job.parameters["lr"])
    untrained = host.raw_variables()
    losses = [host.step(one, targets[n : n + 1], rate) for n, one in enumerate(samples)]
    scores = {one.metric: one for one in plan.check(np.array(losses, np.float32), host.raw_variables())}
    assert scores["update_error"].value < 1e-5
    with pytest.raises(WorkloadError, match="off PyTorch's by 1 of the way"):
        plan.check(np.array(losses, np.float32), untrained)
    assert not any(".block." in name and name.endswith("weight") for name in host.raw_variables()), "frozen"


def test_facts_say_what_autograd_comes_to(prepared: Prepared) -> None:
    assert "PyTorch's autograd with its own SGD is within" in prepared.facts[3]
    figures = {one.metric for one in prepared.figures}
    assert {"memory.m1", "memory.m2", "memory.m3", "memory.m4", "macs.backward"} <= figures


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data=NAME, a folder below images/"),
        ("size=huge", "one of ci, paper"),
        ("network=mcunet", "others with size=paper"),
        ("update=most", r"lite\+bias, lite, bias, last, full"),
        ("precision=int8", "there are: size"),
        ("samples=0", "1 to 1400"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError, match=told):
        parse(text)
