"""The two stages in which a transformer with exits is trained (Xu et al. 2023, LGViT). Imports torch.

First all of it by the sum of the exits' cross-entropies; then the heads alone, which the network's own end teaches: its
logits, its last tokens (heads of both kinds), and the last head of each kind what the others of its kind are to see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.fitting import Plan, fit
from lab.workloads.uncertainty.lgvit_networks import ExitHead, GlobalAggregation, LocalPerception, thinned
from lab.workloads.uncertainty.networks import SoftmaxExits
from lab.workloads.uncertainty.scenes import SEED, Task
from lab.workloads.uncertainty.training_runs import tensors, train_exits

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
TAUGHT, FEATURES = 0.3, 0.01
"""Weights of the logits' distillation, whose complement the labels have, and of the features'; the authors' own."""
TEMPERATURE = 2.0
SECOND_RATE = 0.25
"""Of the first stage's learning rate."""


def train(network: SoftmaxExits, task: Task, plan: Plan, second_epochs: int) -> None:
    """Train both stages."""
    train_exits(network, task, plan)
    second = replace(plan, epochs=second_epochs, learning_rate=SECOND_RATE * plan.learning_rate)
    train_heads(network, *tensors(task), second)
    network.eval()


def train_heads(network: SoftmaxExits, images: torch.Tensor, labels: torch.Tensor, plan: Plan) -> None:
    """The second stage: of images (n, channels, height, width) and labels int64 (n,)."""

    def loss(found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, taught = found[:, :-1].view(len(found), len(network.heads) - 1, -1), found[:, -1].mean()
        own = torch.stack([functional.cross_entropy(one, targets) for one in logits.unbind(1)]).sum()
        return (1 - TAUGHT) * own + taught

    fit(Distilled(network), images, labels, plan, SEED, f"lgvit: the heads alone on {len(images)} images", loss)


class Distilled(nn.Module):
    """The exits in front of the end, and by how much they differ from what teaches them.

    Yields (n, exits · C + 1): logits of every head but the last, and the weighted distances of each sample. What is
    behind the heads is frozen.
    """

    def __init__(self, network: SoftmaxExits) -> None:
        super().__init__()
        self.heads = nn.ModuleList(network.heads[:-1])
        self._frozen = (network.parts, network.heads[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts, end = self._frozen
        tokens = []
        with torch.no_grad():
            for part in parts:
                x = part(x)
                tokens.append(x)
            teacher: torch.Tensor = end(x)
        heads = [one for one in self.heads if isinstance(one, ExitHead)]
        features = [head.features(one) for head, one in zip(heads, tokens, strict=False)]
        logits = [head.decide(*both) for head, both in zip(heads, zip(tokens, features, strict=False), strict=True)]
        taught = TAUGHT * torch.stack([from_logits(one, teacher) for one in logits]).sum(0)
        if all(head.compares for head in heads):
            taught = taught + FEATURES * (from_tokens(heads, features, x) + from_own_kind(heads, features))
        return torch.cat([*logits, taught[:, None]], 1)


def from_logits(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence at a temperature, (n,) (Hinton, Vinyals and Dean 2015)."""
    return TEMPERATURE**2 * divergence(student / TEMPERATURE, teacher / TEMPERATURE)


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Of the softmax over the last dimension, summed over all but the first, (n,)."""
    own, wanted = functional.log_softmax(student, -1), functional.log_softmax(teacher, -1)
    return functional.kl_div(own, wanted, reduction="none", log_target=True).flatten(1).sum(1)


def of_kind(heads: Sequence[ExitHead], kind: type[nn.Module]) -> list[int]:
    """Which heads mix in this way."""
    return [number for number, head in enumerate(heads) if isinstance(head.mix, kind)]


def from_tokens(heads: Sequence[ExitHead], features: Sequence[torch.Tensor], last: torch.Tensor) -> torch.Tensor:
    """Heterogeneous distillation, (n,): the first and the last head of each kind learn from the last block's patches.

    The divergence of what a softmax makes of each patch's elements, summed over patches.
    """
    total = torch.zeros(len(last))
    for kind in (LocalPerception, GlobalAggregation):
        for number in of_kind(heads, kind)[:: max(1, len(of_kind(heads, kind)) - 1)]:
            mix, wanted = heads[number].mix, last[:, 1:]
            if isinstance(mix, GlobalAggregation):
                wanted = thinned(wanted, mix.grid, mix.stride)
            total = total + divergence(features[number], wanted)
    return total


def from_own_kind(heads: Sequence[ExitHead], features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Homogeneous distillation, (n,): heads learn from the last one of their kind, by mean squared error.

    Of convolutions the features themselves are compared; of attention, which may leave other numbers of patches, their
    products with each other, (width, width).
    """
    total = torch.zeros(len(features[0]))
    for number in (local := of_kind(heads, LocalPerception))[:-1]:
        total = total + (features[number] - features[local[-1]].detach()).square().mean((1, 2))
    for number in (far := of_kind(heads, GlobalAggregation))[:-1]:
        own, wanted = (features[one].transpose(1, 2) @ features[one] for one in (number, far[-1]))
        total = total + (own - wanted.detach()).square().mean((1, 2))
    return total
