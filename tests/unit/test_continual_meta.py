"""Meta-training: the inner loop is plain gradient descent that autograd sees through, and extractors are whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.workloads.continual import meta
from lab.workloads.continual.attentive_inner_loop import attended_after
from lab.workloads.continual.attentive_units import attend, fresh
from lab.workloads.continual.learner_plan import Units
from lab.workloads.continual.meta import MetaPlan, latents, train_extractor
from lab.workloads.continual.networks import CI_WIDTHS, extractor, folded_extractor
from lab.workloads.continual.options import Base, Trunk
from lab.workloads.continual.tasks import Classes
from lab.workloads.fitting import seeded

PLAN = MetaPlan(pretraining=2, steps=2, trajectory=3, remembered=6)
UNITS = Units(count=6, active=2, hidden=3, keys=4, inputs=8, outputs=5)


def known() -> Classes:
    """Four classes of noise."""
    generator = np.random.default_rng(0)
    return Classes(generator.standard_normal((4, 5, 16, 16)).astype(np.float32), tuple("abcd"))


def test_the_inner_loop_is_sgd_on_one_sample_after_another() -> None:
    torch.manual_seed(0)
    head, features = nn.Linear(6, 4), torch.randn(5, 6)
    weight, bias = meta._inner_loop(head, features, 2, 0.1)
    with torch.no_grad():
        head.weight[2] = 0
        head.bias[2] = 0
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for feature in features:
        optimizer.zero_grad()
        functional.cross_entropy(head(feature[None]), torch.tensor([2])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.allclose(weight, head.weight, atol=1e-6)
    assert torch.allclose(bias, head.bias, atol=1e-6)


def test_the_outer_gradient_goes_through_the_inner_loop() -> None:
    """Against finite differences of the loss after it, with respect to a feature that is only learnt from."""
    torch.manual_seed(1)
    head, features = nn.Linear(3, 2).double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    asked = torch.randn(1, 3, dtype=torch.float64)

    def loss(given: torch.Tensor) -> torch.Tensor:
        weight, bias = meta._inner_loop(head, given, 1, 0.3)
        return functional.cross_entropy(functional.linear(asked, weight, bias), torch.tensor([0]))

    assert torch.autograd.gradcheck(loss, (features,))
    (gradient,) = torch.autograd.grad(loss(features), features)
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("base", ["pretrained", "oml", "anml"])
@pytest.mark.parametrize("trunk", ["cnn", "ds-cnn"])
def test_every_extractor_yields_maps_that_are_nowhere_below_zero(base: Base, trunk: Trunk) -> None:
    torch.manual_seed(2)
    for shape in ((24, 24), (49, 10)):
        network = extractor(base, trunk, (1, *shape)).train()
        samples = torch.randn(6, 1, *shape)
        made = network(samples)
        assert made.shape[1] == CI_WIDTHS.channels
        assert float(made.detach().min()) >= 0
    network.eval()
    folded = folded_extractor(network)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(samples), network(samples), atol=1e-5)


@pytest.mark.parametrize("base", ["oml", "anml"])
def test_in_front_of_attentive_units_an_extractor_yields_a_vector(base: Base) -> None:
    torch.manual_seed(2)
    network = extractor(base, "cnn", (1, 16, 16), projected=7)
    made = network(torch.randn(3, 1, 16, 16))
    assert made.shape == (3, 7)
    assert (float(made.detach().min()) >= 0) == (base == "oml")
    assert torch.equal(latents(network, torch.zeros(2, 1, 16, 16)), network(torch.zeros(2, 1, 16, 16)))


def attentive() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Six units, two of which answer, and a classifier of three classes, the second of which begins at zero."""
    torch.manual_seed(5)
    units = {name: one.double().requires_grad_() for name, one in fresh(UNITS).items()}
    kept = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    weight, bias = torch.randn(3, UNITS.outputs, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    return units, (weight * kept[:, None]).requires_grad_(), (bias * kept).requires_grad_()


def seen_by(units: Mapping[str, torch.Tensor], features: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    return attend({name: one[None] for name, one in units.items()}, features[None], len(ranks), ranks)[0]


def test_the_attentive_inner_loop_is_sgd_on_units_and_classifier_together() -> None:
    (units, weight, bias), ranks = attentive(), torch.tensor([2, 0])
    features = torch.randn(7, UNITS.inputs, dtype=torch.float64)
    made = attended_after(units, (weight, bias), features, 4, 1, 0.2, ranks)
    before = units["value"].detach().clone()
    optimizer = torch.optim.SGD([*units.values(), weight, bias], lr=0.2)
    for feature in features[:4]:
        optimizer.zero_grad()
        told = functional.linear(seen_by(units, feature[None], ranks), weight, bias)
        functional.cross_entropy(told, torch.tensor([1])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.allclose(made, functional.linear(seen_by(units, features, ranks), weight, bias), atol=1e-12)
    assert not torch.equal(units["value"], before)


def test_the_outer_gradient_is_that_through_whole_matrices() -> None:
    """Against the same with every matrix copied at every step, to the second derivative."""
    ranks, features = torch.tensor([1, 3]), torch.randn(6, UNITS.inputs, dtype=torch.float64, requires_grad=True)
    units, weight, bias = attentive()
    told = attended_after(units, (weight, bias), features, 4, 1, 0.2, ranks)
    found = torch.autograd.grad(told.square().sum(), [features, *units.values()])
    learnt = {**units, "weight": weight, "bias": bias}
    for shot in range(4):
        one = functional.linear(seen_by(learnt, features[shot : shot + 1], ranks), learnt["weight"], learnt["bias"])
        loss = functional.cross_entropy(one, torch.tensor([1]))
        gradients = torch.autograd.grad(loss, list(learnt.values()), create_graph=True)
        learnt = {name: one - 0.2 * by for (name, one), by in zip(learnt.items(), gradients, strict=True)}
    again = functional.linear(seen_by(learnt, features, ranks), learnt["weight"], learnt["bias"])
    expected = torch.autograd.grad(again.square().sum(), [features, *units.values()])
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
        assert float(other.abs().max()) > 1e-3


def test_what_the_units_say_is_the_weighted_sum_of_the_best() -> None:
    """Against plain loops."""
    torch.manual_seed(6)
    of, latent = fresh(UNITS), torch.randn(UNITS.inputs)
    key = of["key"] @ latent + of["key_bias"]
    matches = [float(of["state"][unit] @ of["query"][unit] @ key) / UNITS.keys**0.5 for unit in range(UNITS.count)]
    best = sorted(range(UNITS.count), key=lambda unit: -matches[unit])
    for ranks in (None, torch.tensor([3, 1])):
        answering = [best[rank] for rank in ([0, 1] if ranks is None else ranks.tolist())]
        total = torch.stack([matches[unit] * (latent @ of["value"][unit]) for unit in answering]).sum(0)
        made = attend({name: one[None] for name, one in of.items()}, latent[None, None], 2, ranks)[0, 0]
        assert torch.allclose(made, total / total.norm(), atol=1e-5)


def test_units_are_meta_trained_with_the_extractor() -> None:
    def trained(steps: int) -> dict[str, torch.Tensor]:
        with seeded(3):
            plan, units = replace(PLAN, steps=steps), replace(UNITS, inputs=9)
            return train_extractor("anml", "cnn", known(), plan, 3, units).units

    before, after, again = trained(0), trained(4), trained(4)
    assert before["value"].shape == (6, 9, 5)
    for name, one in after.items():
        assert torch.equal(one, again[name])
        assert not one.requires_grad
        # Adam's steps are as long as its rate.
        assert 0 < float((one - before[name]).abs().max()) < 5 * PLAN.outer_rate, name


def test_latents_are_in_the_devices_order() -> None:
    network = nn.Identity()
    samples = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    assert latents(network, samples)[1].tolist() == samples[1].permute(1, 2, 0).flatten().tolist()


def test_meta_training_repeats_to_the_bit_and_changes_the_extractor() -> None:
    def trained(base: Base, plan: MetaPlan) -> torch.Tensor:
        with seeded(3):
            network = train_extractor(base, "cnn", known(), plan, 3).network
        assert not any(one.requires_grad for one in network.parameters()), "frozen"
        return torch.cat([one.flatten() for one in network.parameters()])

    first = trained("anml", PLAN)
    assert torch.equal(first, trained("anml", PLAN))
    assert not torch.equal(first, trained("anml", replace(PLAN, steps=3)))
    assert torch.equal(trained("pretrained", PLAN), trained("pretrained", replace(PLAN, steps=9))), "no meta-training"
