"""The workload rep-net: modules that begin as nothing, what changes and what does not, and PyTorch's own steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.host_training import judged, train
from helpers.joint_check import check_program
from torch import nn

from lab.compiler.layer_costs import layer_list, weighted
from lab.compiler.memory_definitions import backward_macs, profiled_memory
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded, proxylessnas_mobile
from lab.workloads.networks.lite_residual import Repeat, Upsample, small_branch, with_lite_residuals
from lab.workloads.networks.rep_net import DIGITS_MB, PROXYLESSNAS_MOBILE, with_rep_net
from lab.workloads.training import own_images, tinytl
from lab.workloads.training.rep_net import SIDE, Update, Variant, arm_of, parse, scheme_of, selection_of

SMALL = "samples=24,evaluated=40,target=0.1"
CONNECTED = tuple(one.place for one in DIGITS_MB)
EXAMPLE = torch.zeros(1, 1, 16, 16)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(2)
    network = digits_mb()
    network(torch.randn(16, 1, 16, 16))
    return folded(network.eval())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("rep-net").prepare(cache_dir(), SMALL)


def test_a_branch_yields_nothing_before_training() -> None:
    branch = small_branch(1, 16, groups=1, kernel=5, stride=2, repeat=Upsample())
    assert not branch(torch.randn(1, 1, 16, 16)).any()
    assert branch(torch.randn(1, 1, 16, 16)).shape == (1, 16, 8, 8)
    assert small_branch(16, 32, groups=2, repeat=None)(torch.randn(1, 16, 8, 8)).shape == (1, 32, 4, 4)


def test_a_network_with_its_side_network_begins_as_the_network(backbone: nn.Module) -> None:
    grown = with_rep_net(backbone)
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(grown(x), backbone(x))
        assert torch.equal(with_rep_net(backbone, repeat=Upsample)(x), backbone(x))
        for place in CONNECTED:
            before = grown(x)
            grown.get_parameter(f"rep.{place}.last.weight").fill_(1.0)
            assert not torch.allclose(grown(x), before, atol=1e-3), "every module reaches the output"
    assert dict(backbone.named_parameters()).keys() < dict(grown.named_parameters()).keys(), "parts keep their names"


def test_modules_read_the_backbones_maps_in_which_the_outputs_before_are(backbone: nn.Module) -> None:
    grown = with_rep_net(backbone)
    with torch.no_grad():
        for place in CONNECTED:
            grown.get_parameter(f"rep.{place}.last.weight").fill_(1.0)
    seen: dict[str, torch.Tensor] = {}
    for place in CONNECTED:
        grown.get_submodule(f"rep.{place}").register_forward_hook(
            lambda _, inputs, output, place=place: seen.update({f"{place}.in": inputs[0], f"{place}.out": output})
        )
    for part in ("stem", "block1", "block3"):
        grown.get_submodule(part).register_forward_hook(
            lambda _, inputs, output, part=part: seen.update({part: output})
        )
    for part in ("block1", "block3"):
        grown.get_submodule(part).register_forward_pre_hook(
            lambda _, inputs, part=part: seen.update({f"{part}.in": inputs[0]})
        )
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        grown(x)
        second = grown.get_submodule("block2")(seen["block1"])
    assert torch.equal(seen["stem.in"], x)
    assert torch.equal(seen["block1.in"], seen["stem"] + seen["stem.out"])
    assert torch.equal(seen["block2.in"], seen["block1"]), "the map alone, which holds the first module's output"
    assert torch.equal(seen["block3.in"], second + seen["block2.out"])
    assert torch.equal(seen["block4.in"], seen["block3"])


def test_the_papers_side_network_begins_as_the_papers_backbone_and_is_a_small_part_of_it() -> None:
    torch.manual_seed(3)
    network = folded(proxylessnas_mobile(10).eval())
    grown = with_rep_net(network, PROXYLESSNAS_MOBILE)
    x = torch.randn(1, 3, own_images.MOBILE_SIDE, own_images.MOBILE_SIDE)
    maps: dict[str, torch.Size] = {}
    for one in PROXYLESSNAS_MOBILE:
        grown.get_submodule(f"rep.{one.place}").register_forward_hook(
            lambda _, inputs, output, place=one.place: maps.update({place: output.shape[1:]})
        )
    with torch.no_grad():
        assert torch.equal(grown(x), network(x))
    assert list(maps.values()) == [(32, 56, 56), (40, 28, 28), (80, 14, 14), (96, 14, 14), (192, 7, 7), (320, 6, 6)]
    side = sum(one.macs for one in weighted(layer_list(with_rep_net(network, PROXYLESSNAS_MOBILE, repeat=Upsample), x))
               if one.name.startswith(SIDE))  # fmt: skip
    assert side == sum(
        one_side * one_side * (kernel * kernel * (read if read == 3 else read // 2) * inner + inner * out)
        for one_side, kernel, read, inner, out in (
            (28, 5, 3, 8, 32), (28, 5, 32, 32, 40), (14, 5, 40, 40, 80), (7, 5, 80, 80, 96), (7, 3, 96, 96, 192),
            (3, 3, 192, 192, 320),
        )
    )  # fmt: skip


def test_a_branch_of_an_odd_map_has_its_last_row_and_column_once_more(backbone: nn.Module) -> None:
    branch, like = torch.arange(4.0).reshape(1, 1, 2, 2), torch.zeros(1, 1, 3, 3)
    expected = [[0.0, 1.0, 1.0], [2.0, 3.0, 3.0], [2.0, 3.0, 3.0]]
    assert Repeat.to_size_of(branch, like)[0, 0].tolist() == expected
    assert Repeat.to_size_of(branch, branch) is branch
    assert Upsample.to_size_of(branch, like).shape == like.shape
    grown = with_rep_net(backbone)
    with torch.no_grad():
        for place in CONNECTED:
            grown.get_parameter(f"rep.{place}.last.weight").fill_(1.0)
    sample, loss = torch.randn(1, 1, 28, 28), nn.functional.cross_entropy
    check_program(grown, sample, torch.tensor([3]), loss, relative=1e-3, absolute=1e-5, kernels=False)


def test_selected_are_the_side_network_and_biases_and_no_frozen_weight(backbone: nn.Module) -> None:
    grown = with_rep_net(backbone)
    both, alone = set(selection_of("rep+bias", grown)), set(selection_of("rep", grown))
    names = {name for name, _ in grown.named_parameters()}
    assert alone == {name for name in names if name.startswith((SIDE, "classifier."))}
    assert both - alone == {name for name in names if name.endswith("conv.bias")}
    assert not {name for name in both if name.startswith(("stem", "block")) and name.endswith("weight")}


@pytest.mark.parametrize("update", ["rep+bias", "rep"])
def test_scheme_and_selection_change_the_same_layers(backbone: nn.Module, update: Update) -> None:
    network = with_rep_net(backbone, repeat=Upsample)
    layers = layer_list(network, EXAMPLE)
    scheme, names = scheme_of(update, layers), selection_of(update, network)
    *trunk, classifier = weighted(layers)
    assert {trunk[number].name for number in scheme.weights} == {
        name.removesuffix(".weight") for name in names if network.get_parameter(name).dim() > 1
    } - {classifier.name}
    assert (scheme.biases > 0) == any(name.endswith("conv.bias") for name in names)


def test_it_costs_less_than_a_branch_beside_every_block(backbone: nn.Module) -> None:
    side = layer_list(with_rep_net(backbone, repeat=Upsample), EXAMPLE)
    lite = layer_list(with_lite_residuals(backbone, repeat=Upsample), EXAMPLE)
    schemes = scheme_of("rep+bias", side), tinytl.scheme_of("lite+bias", lite)
    assert backward_macs(side, schemes[0]).total < backward_macs(lite, schemes[1]).total
    assert profiled_memory(side, schemes[0]) < profiled_memory(lite, schemes[1])


def test_the_tinytl_arm_is_tinytls_own(backbone: nn.Module) -> None:
    arm = arm_of(Variant(update="tinytl"), backbone, EXAMPLE)
    assert arm.selection == tinytl.selection_of("lite+bias", arm.network)
    assert {name for name in arm.selection if tinytl.LITE in name}


def test_the_c_comes_to_pytorchs_losses_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    losses, variables = train(prepared, tmp_path)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-5
    assert not {name for name in variables if name.endswith("conv.weight")}, "the backbone's weights are frozen"
    stale = {name: bytes(len(value)) for name, value in variables.items()}
    with pytest.raises(WorkloadError, match="the trained variables are off PyTorch's"):
        judged(prepared, losses, stale)


def test_figures_tell_the_side_networks_part(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    assert figures["macs.backbone"] == 537_568, "DigitsMB at 16 pixels"
    stem, block2, block4 = 25 * 16 * 16 + 16 * 16 * 16, 72 * 16 * 16 + 16 * 32 * 16, 144 * 32 * 4 + 32 * 48 * 4
    assert figures["macs.side"] == stem + block2 + block4
    assert {"memory.m1", "memory.m2", "memory.m3", "memory.m4", "macs.backward"} <= set(figures)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data=NAME"),
        ("size=paper,data=flowers,network=mcunet", "proxylessnas-mobile"),
        ("size=paper,data=flowers,image=100", "64, 128, 192, 256, 224"),
        ("update=most", r"rep\+bias, rep, tinytl, full, last, bias"),
        ("precision=int8", "there are: size"),
        ("image=20", "16, 32, 48, 64"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError, match=told):
        parse(text)
