"""The workload gradient-filtering: what its arms change and cost, PyTorch's own steps, and variants that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.host_training import judged, train
from torch import nn

from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded, mcunet_5fps
from lab.workloads.training.arms import PLAIN, Arm, plain_arm
from lab.workloads.training.gradient_filtering import PAPER, Update, Variant, arm_of, parse

SMALL = "image=16,blocks=2,samples=24,evaluated=40,target=0.1"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(2)
    return folded(digits_mb().eval())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("gradient-filtering").prepare(cache_dir(), SMALL)


def arm(network: nn.Module, update: Update = "filtered", blocks: int = 2) -> Arm:
    """One arm at 16 pixels."""
    return arm_of(Variant(image=16, update=update, blocks=blocks), network, torch.zeros(1, 1, 16, 16))


def layers_of(names: object) -> set[str]:
    """First part of each module path."""
    assert isinstance(names, dict)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("blocks", "first"), [(1, 4), (2, 3), (4, 1)])
def test_the_last_blocks_change_with_patches_as_without(network: nn.Module, blocks: int, first: int) -> None:
    filtered, exact = arm(network, blocks=blocks), arm(network, "exact", blocks=blocks)
    assert filtered.selection == exact.selection
    assert layers_of(filtered.selection) == {"classifier", *(f"block{number}" for number in range(first, 5))}
    assert {f"{layer}.weight" for layer in filtered.patches} | {"classifier.weight"} == {
        name for name in filtered.selection if name.endswith("weight")
    }
    assert not exact.patches
    assert not exact.scheme.patches


def test_plain_arms_change_what_their_names_say(network: nn.Module) -> None:
    full, last, bias = (arm(network, update).selection for update in ("full", "last", "bias"))
    names = [name for name, _ in arm(network, "full").network.named_parameters()]
    assert list(full) == names
    assert list(last) == ["classifier.weight", "classifier.bias"]
    assert set(bias) == {name for name in names if name.endswith("bias")} | {"classifier.weight"}
    assert PLAIN == ("full", "last", "bias")
    with pytest.raises(ValueError, match="update=most is none of full, last, bias"):
        plain_arm("most", network, torch.zeros(1, 1, 16, 16))


def test_the_c_comes_to_pytorchs_losses_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    losses, variables = train(prepared, tmp_path)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-5
    assert set(layers_of(dict.fromkeys(variables))) == {"classifier", "block3", "block4"}, "the others are frozen"
    with pytest.raises(WorkloadError, match="the losses differ from PyTorch's"):
        judged(prepared, losses + 1, variables)
    assert "PyTorch's autograd with its own SGD is within" in prepared.facts[3]


def test_training_on_patches_fits_into_the_arena_of_inference(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    exact = {one.metric: one.value for one in get("gradient-filtering").prepare(
        cache_dir(), f"{SMALL},update=exact").figures}  # fmt: skip
    assert figures["arena"] == figures["arena.inference"]
    assert figures["arena"] < exact["arena"]
    assert figures["macs.backward"] < exact["macs.backward"] / 4
    assert figures["memory.m1"] < exact["memory.m1"]
    assert {"memory.m2", "memory.m3", "memory.m4", "memory.m2.batch100"} <= set(figures)


def test_the_papers_size_trains_the_last_blocks_of_a_larger_network() -> None:
    variant = parse("size=paper,data=flowers")
    assert (variant.network, variant.image, variant.samples) == (PAPER.network, 128, 1000)
    network = folded(mcunet_5fps(10).eval())
    found = arm_of(variant, network, torch.zeros(1, 3, 128, 128))
    blocks = [name for name, _ in network.named_children() if name.startswith("block")]
    assert layers_of(found.patches) == set(blocks[-1:])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data= is not allowed"),
        ("size=large", "size=large is not allowed"),
        ("update=most", "filtered, exact, full, last, bias"),
        ("patch=3", "2, 4"),
        ("blocks=5", "1, 2, 3, 4"),
        ("arms=2", "there are: size"),
        ("samples=0", "1 to 1400"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError, match=told):
        parse(text)
