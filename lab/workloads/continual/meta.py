"""What the host does before deployment: pre-training, and meta-training for learning one class after another.

OML (Javed and White 2019) as LifeLearner has it (Kwon et al. 2023, algorithm 1): a class's samples are learnt one by
one by the classifier alone (inner loop); the loss afterwards, over them and random samples of all classes, is
descended through that inner loop by extractor and classifier (outer loop). Imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab import progress
from lab.workloads.continual.attentive_inner_loop import attended_after
from lab.workloads.continual.attentive_units import fresh
from lab.workloads.continual.learner_plan import Units
from lab.workloads.continual.networks import CI_WIDTHS, Widths, extractor, folded_extractor
from lab.workloads.continual.options import LEFT_OUT, Base, Size, Trunk
from lab.workloads.continual.resuming import Saved
from lab.workloads.continual.tasks import Classes

PRETRAINING_OF_TRANSFORMERS = 5


@dataclass(frozen=True)
class MetaPlan:
    """How the host trains.

    Attributes:
        pretraining: steps of supervised training on batches of ``remembered`` samples.
        steps: of meta-training; none for a pre-trained extractor.
        trajectory: samples of one class, learnt one by one in the inner loop.
        remembered: random samples of all classes in the outer loop.
        inner_rate, outer_rate: learning rates, of plain SGD and of Adam.
        attentive_inner_rate: the former behind attentive units, whose features are of length 1.
    """

    pretraining: int = 200
    steps: int = 200
    trajectory: int = 10
    remembered: int = 64
    inner_rate: float = 0.03
    outer_rate: float = 1e-3
    attentive_inner_rate: float = 0.3


def meta_plan(size: Size, steps: int, trunk: Trunk = "cnn") -> MetaPlan:
    """The plan of a size and a network, with so many steps of meta-training.

    Nothing tells a transformer that neighbouring patches belong together: it is pre-trained five times as long (class
    means of unseen characters: 72 % after 200 steps, 82 % after 600, 85 % after 1,000).
    The paper's has inner loops of 30 samples at a rate of 0.001, which hundred times as many steps make up for.
    """
    if size == "ci":
        return MetaPlan(PRETRAINING_OF_TRANSFORMERS * steps if trunk == "vit" else steps, steps)
    return MetaPlan(-(-steps // 10), steps, trajectory=30, inner_rate=1e-3, attentive_inner_rate=1e-2)


@dataclass(frozen=True)
class Trained:
    """What the host has made.

    Attributes:
        network: the extractor, batch norm folded.
        units: attentive units behind it, without replicas; empty where there are none.
    """

    network: nn.Module
    units: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Learner:
    """What is trained: an extractor, attentive units or none, and a classifier of all known classes."""

    network: nn.Module
    head: nn.Linear
    units: dict[str, torch.Tensor]
    active: int

    def parameters(self) -> list[torch.Tensor]:
        return [*self.network.parameters(), *self.head.parameters(), *self.units.values()]

    def ranks(self, generator: np.random.Generator) -> torch.Tensor:
        """Which units answer, in order of their scores: all but some of the best, drawn once a step."""
        return torch.from_numpy(generator.permutation(self.active + LEFT_OUT)[: self.active])


def train_extractor(
    base: Base,
    trunk: Trunk,
    known: Classes,
    plan: MetaPlan,
    seed: int,
    units: Units | None = None,
    widths: Widths = CI_WIDTHS,
    saved: Saved | None = None,
    features: nn.Module | None = None,
) -> Trained:
    """A trained extractor; run it under :func:`lab.workloads.fitting.seeded`.

    Pre-training knows no attentive units: behind random ones a network learns slowly. Trained ``features`` take its
    place. With ``saved`` meta-training goes on where it was cut off, and comes to the same to the bit.
    """
    generator = np.random.default_rng(seed)
    samples = torch.from_numpy(known.images)
    made = extractor(base, trunk, known.shape, widths, 0 if units is None else units.inputs, features)
    head = _classifier(made, samples)
    if features is None and (saved is None or not saved.begun):
        _pretrain(made, head, samples, plan, generator)
    learner = _Learner(folded_extractor(made), head, {}, 0)
    if units is not None:
        own = {name: one.requires_grad_() for name, one in fresh(units).items()}
        learner = replace(learner, head=nn.Linear(units.outputs, len(samples)), units=own, active=units.active)
    if base != "pretrained":
        _meta_train(learner, samples, plan, generator, saved)
    frozen = learner.network.eval().requires_grad_(requires_grad=False)
    return Trained(frozen, {name: one.detach() for name, one in learner.units.items()})


def latents(network: nn.Module, samples: torch.Tensor) -> torch.Tensor:
    """Features of samples (n, c, h, w) in the device's order, NHWC: (n, elements)."""
    made: torch.Tensor = network(samples)
    return made.permute(0, 2, 3, 1).flatten(1) if made.dim() == 4 else made


def _classifier(network: nn.Module, samples: torch.Tensor) -> nn.Linear:
    """A fresh one of all known classes."""
    network.train()
    with torch.no_grad():
        width = latents(network, samples[0, :2]).shape[1]
    return nn.Linear(width, len(samples))


def _pretrain(
    network: nn.Module, head: nn.Linear, samples: torch.Tensor, plan: MetaPlan, generator: np.random.Generator
) -> None:
    """Tell all known classes apart; changes both."""
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], 4e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(plan.pretraining, 2))
    with progress.step(f"pre-training on {len(samples)} classes", quiet_below_s=2.0) as step:
        for number in range(plan.pretraining):
            drawn, labels = _remembered(samples, plan.remembered, generator)
            loss = functional.cross_entropy(head(latents(network, drawn)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step.update(number + 1, plan.pretraining, f"loss {float(loss.detach()):.3f}")


def _meta_train(
    learner: _Learner, samples: torch.Tensor, plan: MetaPlan, generator: np.random.Generator, saved: Saved | None
) -> None:
    """Descend through the inner loop; changes all of the learner."""
    optimizer = torch.optim.Adam(learner.parameters(), plan.outer_rate, fused=True)
    first = 0 if saved is None else saved.read(learner.parameters(), optimizer, generator)
    with progress.step(f"meta-training over {plan.steps} classes", quiet_below_s=2.0) as step:
        for number in range(first, plan.steps):
            if saved is not None and number % saved.every == 0:
                saved.write(number, learner.parameters(), optimizer, generator)
            chosen = int(generator.integers(len(samples)))
            own = samples[chosen, torch.from_numpy(generator.permutation(samples.shape[1])[: plan.trajectory])]
            others, labels = _remembered(samples, plan.remembered, generator)
            features = latents(learner.network, torch.cat([own, others]))
            targets = torch.cat([torch.full((len(own),), chosen), labels])
            told = _after_inner_loop(learner, features, len(own), chosen, plan, generator)
            loss = functional.cross_entropy(told, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step.update(number + 1, plan.steps, f"loss {float(loss.detach()):.3f}")


def _after_inner_loop(
    learner: _Learner, features: torch.Tensor, own: int, label: int, plan: MetaPlan, generator: np.random.Generator
) -> torch.Tensor:
    """Logits of all features, once the first ``own`` of them have been learnt as ``label``."""
    if not learner.units:
        weight, bias = _inner_loop(learner.head, features[:own], label, plan.inner_rate)
        return functional.linear(features, weight, bias)
    weight, bias, _ = _forgotten(learner.head, label)
    return attended_after(
        learner.units, (weight, bias), features, own, label, plan.attentive_inner_rate, learner.ranks(generator)
    )


def _forgotten(head: nn.Linear, label: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight and bias whose row of a label begins at zero, and 1 for all other rows."""
    kept = torch.ones(head.out_features, dtype=head.weight.dtype).index_fill(0, torch.tensor([label]), 0.0)
    return head.weight * kept[:, None], head.bias * kept, kept


def _inner_loop(
    head: nn.Linear, features: torch.Tensor, label: int, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Single-sample steps of the classifier, whose own row begins at zero; written out, so that autograd sees them."""
    weight, bias, kept = _forgotten(head, label)
    for feature in features:
        error = functional.softmax(functional.linear(feature, weight, bias), 0) + (kept - 1)
        weight = weight - rate * torch.outer(error, feature)
        bias = bias - rate * error
    return weight, bias


def _remembered(
    samples: torch.Tensor, count: int, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.from_numpy(generator.integers(len(samples), size=count))
    places = torch.from_numpy(generator.integers(samples.shape[1], size=count))
    return samples[labels, places], labels
