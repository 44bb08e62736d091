"""Layers that learn one after another, learned modulations and small maps: tpsgd's and lls's other variants."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.host_training import judged, plan_of, train
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import TrainingModel, compile_training
from lab.errors import CompileError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.networks.local_conv import LocalConv
from lab.workloads.networks.local_mlp import EPSILON, TEMPERATURE, LocalMlp, Modulation, periodic_basis
from lab.workloads.training.local_learning import Variant, network_of
from lab.workloads.training.scratch_images import SEED

IMAGES = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 4, 9])
NAMES = [f"{layer}.{one}" for layer in ("hidden.0", "hidden.1", "classifier") for one in ("weight", "bias")]


def mlp(modulation: Modulation = "none") -> LocalMlp:
    torch.manual_seed(3)
    return LocalMlp(64, 32, 2, 10, "periodic" if modulation != "none" else "projection", 7, modulation=modulation)


def compiled(module: nn.Module, turns: dict[str, tuple[int, int]], *, forward_only: bool = True) -> TrainingModel:
    names = [name for name, _ in module.named_parameters()]
    return compile_training(
        module, IMAGES[:1], loss=functional.cross_entropy, train=names, optimizer=Sgd(), forward_only=forward_only,
        turns=turns,
    )  # fmt: skip


@needs_host_compiler
def test_layers_learn_one_after_another_as_layers_alone_do_in_pytorch(tmp_path: Path) -> None:
    """By hand: a layer with its modulation, then the classifier, two passes over six images each."""
    arm = "layers=one-by-one,modulation=matrix,depth=1,width=32"
    prepared = get("lls").prepare(cache_dir(), f"{arm},samples=6,epochs=2,evaluated=20,target=0.1")
    plan = plan_of(prepared)
    assert (plan.job.count, plan.job.repeats) == (6, 4)
    losses, variables = train(prepared, tmp_path)
    assert judged(prepared, losses, variables)["update_error"].value < 1e-5
    torch.manual_seed(SEED)
    module = network_of(Variant(depth=1, width=32, modulation="matrix"), "periodic")
    images = torch.from_numpy(np.frombuffer(plan.job.blob, np.float32).reshape(6, 1, 1, 8, 8).copy())
    labels = torch.from_numpy(np.frombuffer(plan.job.blobs["targets"], np.int32).astype(np.int64))
    for layer in ([*module.hidden.parameters(), *module.modulation.parameters()], list(module.classifier.parameters())):
        before = copy.deepcopy(module.state_dict())
        optimizer = torch.optim.SGD(layer, lr=float(plan.job.parameters["lr"]))
        for image, label in zip([*images, *images], [*labels, *labels], strict=True):
            made = module(image)
            assert isinstance(made, Penalised)
            optimizer.zero_grad()
            (functional.cross_entropy(made.output, label[None]) + made.of(label[None])).backward()
            optimizer.step()
        moved = [name for name, one in module.named_parameters() if not torch.equal(one, before[name])]
        assert len(moved) == len(layer)
    training = prepared.model.training
    assert training is not None
    for name, value in training.to_torch(variables).items():
        np.testing.assert_allclose(value, module.get_parameter(name).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_serves_one_layer_alone_is_left_out_with_it() -> None:
    """The gradient of a layer and what leads to it, but no forward pass and no loss."""
    turns = {name: (4 * (n // 2) + 1, 4 * (n // 2) + 4) for n, name in enumerate(NAMES)}
    program = compiled(mlp(), turns).program
    for layer, turn in (("hidden.0", (1, 4)), ("hidden.1", (5, 8)), ("classifier", (9, 12))):
        own = [one for one in program.steps if any(name.startswith(layer) for name in one.outputs if name in NAMES)]
        assert own
        assert {one.turn for one in own} == {turn}
    always = {name for one in program.steps if one.turn is None for name in one.outputs}
    assert {program.loss, program.output} <= always
    assert len([one for one in program.steps if one.turn]) > len(NAMES), "gradients, too"
    assert all(one.turn is None for one in compiled(mlp(), {}).program.steps)


def test_a_parameter_without_a_turn_and_a_backward_pass_are_refused() -> None:
    with pytest.raises(CompileError, match="is trained and has no turn"):
        compiled(mlp(), {"hidden.1.weight": (1, 2)})
    turns = dict.fromkeys(NAMES, (1, 2))
    with pytest.raises(CompileError, match="one after another on the way forward alone"):
        compiled(LocalMlp(64, 32, 2, 10, "backprop", 7), turns, forward_only=False)


@pytest.mark.parametrize("modulation", ["class", "matrix"])
def test_modulated_scores_are_by_hand(modulation: Modulation) -> None:
    module = mlp(modulation)
    learned = [one for name, one in module.named_parameters() if name.startswith("modulation")]
    assert [tuple(one.shape) for one in learned] == [(10,) if modulation == "class" else (10, 10)] * 2
    assert 0 < float(torch.cat([one.flatten() for one in learned]).abs().max().detach()) < 0.06
    output = functional.relu(module.hidden[1](torch.ones(3, 32) * torch.arange(3)[:, None])).detach()
    latent = functional.normalize(output, dim=1, eps=EPSILON)
    cosines = latent @ periodic_basis(10, 32).T
    for row, found in zip(cosines, module.scores(1, output), strict=True):
        factors = learned[1].detach()
        mixed = [float(row[n] * factors[n] if modulation == "class" else row @ factors[:, n]) for n in range(10)]
        np.testing.assert_allclose(found.detach(), np.array(mixed) / TEMPERATURE, rtol=1e-3, atol=1e-5)


def test_all_rules_begin_from_the_same_layers() -> None:
    torch.manual_seed(1)
    plain = network_of(Variant(modulation="none"), "periodic")
    torch.manual_seed(1)
    modulated = network_of(Variant(modulation="matrix"), "periodic")
    for name, one in plain.named_parameters():
        assert torch.equal(one, modulated.get_parameter(name))


def test_a_maps_averages_are_what_a_projection_teaches() -> None:
    torch.manual_seed(2)
    module = LocalConv("small-conv", 1, 4, 10, "projection", 7, side=8)
    made = module(IMAGES)
    assert isinstance(made, Penalised)
    x, expected = IMAGES, torch.zeros(())
    for number, (layer, side) in enumerate(zip(module.hidden, (4, 2, 2, 0), strict=True)):
        x = functional.silu(layer(x.flatten(1) if side == 0 else x))
        taught = functional.adaptive_avg_pool2d(x, side).flatten(1) if side else x
        expected = expected + 0.5 * (taught - module.get_buffer(f"projection{number}")[LABELS]).square().sum()
        x = functional.max_pool2d(x, 2) if number < 2 else x
    torch.testing.assert_close(made.of(LABELS), expected)
