"""The workload roofline: work of its step against the layers, PyTorch's own steps, its arms and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.host_training import judged, train
from helpers.scripted_runs import ScriptedDevice

from lab.bench import Bench
from lab.compiler.layer_costs import layer_list, weighted
from lab.compiler.model import CompiledTraining
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.errors import ConfigError, NoPyTorch
from lab.paths import cache_dir, project_root
from lab.runs import deploy
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.networks import digits_mb, folded
from lab.workloads.training.roofline import GPU, PAPER, Variant, arm_of, parse

SMALL = "samples=4,evaluated=3,target=0.1"
PARAMETERS = 25_466


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("roofline").prepare(cache_dir(), SMALL)


def training_of(variant: Variant) -> CompiledTraining:
    """The compiled step of DigitsMB at 16 pixels."""
    torch.manual_seed(2)
    arm = arm_of(variant, folded(digits_mb().eval()), torch.zeros(1, 1, 16, 16))
    made = compile_training(
        arm.network, torch.zeros(1, 1, 16, 16), loss=torch.nn.CrossEntropyLoss(), train=arm.selection,
        optimizer=Sgd(), immediate=arm.immediate,
    )  # fmt: skip
    assert made.compiled.training is not None
    return made.compiled.training


def flop_of(training: CompiledTraining, phase: str) -> int:
    return sum(one.flop for one in training.steps if one.phase == phase)


def test_the_work_of_a_full_step_is_that_of_its_layers(prepared: Prepared) -> None:
    """Backward has the forward's twice, but no gradient of the sample; the update two for each parameter."""
    layers = weighted(layer_list(folded(digits_mb().eval()), torch.zeros(1, 1, 16, 16)))
    training = prepared.model.training
    assert training is not None
    assert prepared.roofline is not None
    assert prepared.roofline.steps == training.steps
    macs = sum(one.macs for one in layers)
    assert flop_of(training, "forward") == 2 * macs
    assert flop_of(training, "backward") == 2 * (2 * macs - layers[0].macs)
    assert flop_of(training, "update") == 2 * PARAMETERS
    assert sum(one.traffic_bytes for one in training.steps if one.phase == "update") == 12 * PARAMETERS


def test_updates_at_once_have_no_phase_of_their_own_and_move_less() -> None:
    after, during = (training_of(Variant(update="last", apply=apply)) for apply in ("after", "during"))
    assert flop_of(after, "update") == 2 * 490
    assert not [one for one in during.steps if one.phase == "update"]
    moved = [sum(one.traffic_bytes for one in training.steps) for training in (after, during)]
    assert moved[0] - moved[1] >= 2 * 4 * 480, "the gradient of the classifier is neither written nor read"


def test_the_c_takes_the_steps_of_pytorchs_autograd(prepared: Prepared, tmp_path: Path) -> None:
    losses, variables = train(prepared, tmp_path)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-5
    assert prepared.program is not None
    np.testing.assert_allclose(losses, prepared.program().losses, rtol=1e-4)


def test_claims_of_its_own_run_compare_figures_of_one_unit() -> None:
    """Those that the roofline records; a share has none."""
    units = {
        "movement_time": "s", "transfer_time": "s", "latency": "s", "accesses": "instructions",
        "instructions": "instructions",
    }  # fmt: skip
    for claim in get("roofline").claims:
        if claim.against is not None:
            assert units.get(claim.metric, claim.metric) == units.get(claim.against[0], claim.against[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("apply=never", "after, during"),
        ("update=sparse", "full, last, bias"),
        ("aply=after", "no option 'aply'"),
        ("samples=0", "1 to 1400"),
        ("size=paper", "data= is not allowed"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    assert parse("size=paper,data=flowers").network == PAPER.network
    with pytest.raises(ConfigError, match=told):
        parse(text)


def test_a_device_without_python_refuses_pytorch_before_anything_is_prepared(tmp_path: Path) -> None:
    entry = Bench.load(project_root() / "device_configs" / "emulated.yaml").get("m4f")
    for variant in ("pytorch", GPU):
        with pytest.raises(NoPyTorch, match="scripted has no Python that runs PyTorch"):
            deploy(entry, ScriptedDevice(), "roofline", tmp_path, variant)
    assert not list(tmp_path.iterdir())
