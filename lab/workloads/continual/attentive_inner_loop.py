"""The inner loop of meta-training behind attentive units, which autograd goes through a second time. Imports torch.

A step on one sample moves the matrices of values by outer products of its latent with what each unit's answer is moved
by. So no matrix is ever copied: what the moved ones make of any latent is what the first ones make of it, less those
products' share. At the paper's width, 64 matrices of 1024×1024, thirty copies with their gradients would be 16 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from lab.workloads.continual.attentive_units import Parameters, answer, scores

VALUE = "value"


@dataclass(frozen=True)
class _Task:
    """What one inner loop has all along.

    Attributes:
        features: (n, inputs), of which the first are learnt.
        values: (n, units, outputs), what the first matrices make of them.
        products: (n, n), of each feature with each.
        rate: learning rate.
        ranks: int64 (active,), which units answer, in order of their scores.
    """

    features: torch.Tensor
    values: torch.Tensor
    products: torch.Tensor
    rate: float
    ranks: torch.Tensor

    def moved(self, at: slice, pushes: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the matrices make of some features after a step on each of the first ones.

        Args:
            at: which features.
            pushes: of each step so far the loss's gradient by what the units made of its sample, (units, outputs).
        """
        if not pushes:
            return self.values[at]
        shares = torch.einsum("jn,juo->nuo", self.products[: len(pushes), at], torch.stack(list(pushes)))
        return self.values[at] - self.rate * shares

    def told(self, learnt: Parameters, values: torch.Tensor, at: slice) -> torch.Tensor:
        """Logits of some features, by what the matrices make of them and all else that is learnt."""
        matches = scores({name: one[None] for name, one in learnt.items()}, self.features[None, at])
        attended = answer(matches, values[None], len(self.ranks), self.ranks)[0]
        return functional.linear(attended, learnt["weight"], learnt["bias"])


def attended_after(
    units: Parameters,
    classifier: tuple[torch.Tensor, torch.Tensor],
    features: torch.Tensor,
    own: int,
    label: int,
    rate: float,
    ranks: torch.Tensor,
) -> torch.Tensor:
    """Logits (n, classes) of all features, once the first of them have been learnt one by one.

    Args:
        units: attentive units, without replicas.
        classifier: weight (classes, outputs) and bias behind them.
        features: (n, inputs).
        own: how many are learnt.
        label: of those.
        rate: learning rate.
        ranks: which units answer, as for :func:`lab.workloads.continual.attentive_units.attend`.
    """
    values = torch.einsum("ni,uio->nuo", features, units[VALUE])
    task = _Task(features, values, features @ features.T, rate, ranks)
    learnt = {name: one for name, one in units.items() if name != VALUE}
    learnt |= {"weight": classifier[0], "bias": classifier[1]}
    pushes: list[torch.Tensor] = []
    for shot in range(own):
        at = slice(shot, shot + 1)
        made = task.moved(at, pushes)
        loss = functional.cross_entropy(task.told(learnt, made, at), torch.tensor([label]))
        *gradients, push = torch.autograd.grad(loss, [*learnt.values(), made], create_graph=True)
        pushes.append(push[0])
        learnt = {name: one - rate * by for (name, one), by in zip(learnt.items(), gradients, strict=True)}
    everything = slice(None)
    return task.told(learnt, task.moved(everything, pushes), everything)
