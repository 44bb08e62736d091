"""The workload pockengine: what the sparse update changes, and the compiled step beside PyTorch's autograd."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.host_training import judged, plan_of, train

from lab.errors import ConfigError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded, mcunet_5fps
from lab.workloads.training.pockengine import PAPER, Variant, arm_of, parse

SMALL = "samples=24,evaluated=40,target=0.1"
EXPANSIONS = {"block3.body.expand.conv.weight", "block4.body.expand.conv.weight"}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("pockengine").prepare(cache_dir(), SMALL)


def test_first_pointwise_convolutions_and_biases_of_the_last_blocks_change() -> None:
    network = folded(digits_mb().eval())
    found = set(arm_of(Variant(), network, torch.zeros(1, 1, 16, 16)).selection)
    biases = {f"block{n}.body.{part}.conv.bias" for n in (3, 4) for part in ("expand", "depthwise", "project")}
    assert found == EXPANSIONS | biases | {"classifier.weight", "classifier.bias"}
    assert set(arm_of(Variant(update="last"), network, torch.zeros(1, 1, 16, 16)).selection) == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_the_papers_size_has_the_same_rule_for_a_larger_network() -> None:
    variant = parse("size=paper,data=flowers")
    assert (variant.network, variant.image) == (PAPER.network, 128)
    network = folded(mcunet_5fps(10).eval())
    last = [name for name, _ in network.named_children() if name.startswith("block")][-2:]
    found = arm_of(variant, network, torch.zeros(1, 3, 128, 128)).selection
    weights = {name for name in found if name.endswith("weight")}
    assert weights == {f"{block}.body.expand.conv.weight" for block in last} | {"classifier.weight"}


def test_the_compiled_step_takes_the_steps_of_pytorchs_autograd(prepared: Prepared, tmp_path: Path) -> None:
    losses, variables = train(prepared, tmp_path)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-5
    assert prepared.program is not None
    program = prepared.program()
    np.testing.assert_allclose(losses, program.losses, rtol=1e-4)
    assert program.training is not None
    assert program.training.parameters["lr"] == plan_of(prepared).job.parameters["lr"]
    module = torch.export.load(io.BytesIO(program.archive)).module()
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    assert len(trained) == len(variables) > len(EXPANSIONS)


def test_figures_tell_what_is_left_of_backward(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    training = prepared.model.training
    assert training is not None
    assert figures["steps.backward"] == sum(one.phase == "backward" for one in training.steps)
    assert not any("block2" in one.name or "block1" in one.name for one in training.steps if one.phase == "backward")
    assert {"memory.m1", "memory.m2", "memory.m3", "memory.m4", "macs.backward"} <= set(figures)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=paper", "data= is not allowed"),
        ("update=most", "sparse, full, last, bias"),
        ("pytorch", "has no option 'pytorch'"),
        ("evaluated=0", "1 to 350"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant(rate=0.01)
    with pytest.raises(ConfigError, match=told):
        parse(text)
