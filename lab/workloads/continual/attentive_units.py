"""Attentive independent mechanisms (AIM) in PyTorch: what stands between extractor and classifier. Imports torch.

Lee et al. 2021, "Few-Shot and Continual Learning with Attentive Independent Mechanisms", section 3.2. Each of many
units has a state, from which its query comes, and a matrix for values; a latent's key tells which few of them answer.
Their values, weighted by how well query and key match, are added up and brought to length 1.

Parameters have a leading axis of replicas, as in :mod:`lab.workloads.continual.reference`; training has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn import functional

from lab.workloads.continual.learner_plan import Units

Parameters: TypeAlias = Mapping[str, torch.Tensor]

LEAST_LENGTH = 1e-12


@dataclass(frozen=True)
class Attention:
    """Units that stand before a classifier and are learnt with it.

    Attributes:
        initial: what they begin with, without replicas.
        active: units that answer.
    """

    initial: Parameters
    active: int

    @property
    def width(self) -> int:
        """Elements of a feature."""
        return self.initial["value"].shape[-1]

    def replicas(self, count: int) -> dict[str, torch.Tensor]:
        """As many copies, to be learnt."""
        return {name: one.expand(count, *one.shape).clone().requires_grad_() for name, one in self.initial.items()}


def fresh(sizes: Units) -> dict[str, torch.Tensor]:
    """Random parameters of one replica, as the paper draws them: normal, by the elements that each sum goes over.

    ``state`` (units, hidden), ``query`` (units, hidden, keys), ``key`` (keys, inputs), ``key_bias`` (keys,), ``value``
    (units, inputs, outputs); float32.
    """
    return {
        "state": torch.randn(sizes.count, sizes.hidden),
        "query": math.sqrt(2 / sizes.hidden) * torch.randn(sizes.count, sizes.hidden, sizes.keys),
        "key": math.sqrt(2 / sizes.inputs) * torch.randn(sizes.keys, sizes.inputs),
        "key_bias": torch.zeros(sizes.keys),
        "value": math.sqrt(2 / sizes.inputs) * torch.randn(sizes.count, sizes.inputs, sizes.outputs),
    }


def scores(of: Parameters, latents: torch.Tensor) -> torch.Tensor:
    """How well each unit's query matches each latent's key: (replicas, n, units) of (replicas, n, inputs)."""
    queries = torch.einsum("ruh,ruhk->ruk", of["state"], of["query"])
    keys = torch.einsum("rni,rki->rnk", latents, of["key"]) + of["key_bias"][:, None]
    return torch.einsum("ruk,rnk->rnu", queries, keys) / math.sqrt(keys.shape[2])


def attend(of: Parameters, latents: torch.Tensor, active: int, ranks: torch.Tensor | None = None) -> torch.Tensor:
    """Features of length 1, (replicas, n, outputs), of latents (replicas, n, inputs).

    Args:
        of: the units, with replicas.
        latents: what they attend to.
        active: units that answer: those of the highest scores.
        ranks: int64 (active,), which of the units in order of their scores answer instead; meta-training leaves out
            some of the best by chance, so that no unit is the only one for its latents.
    """
    values = torch.einsum("rni,ruio->rnuo", latents, of["value"])
    return answer(scores(of, latents), values, active, ranks)


def answer(
    matches: torch.Tensor, values: torch.Tensor, active: int, ranks: torch.Tensor | None = None
) -> torch.Tensor:
    """Features of length 1, (replicas, n, outputs), of scores (replicas, n, units) and what each unit makes of each
    latent, (replicas, n, units, outputs); ``active`` and ``ranks`` as for :func:`attend`."""
    best = matches.topk(active if ranks is None else int(ranks.max()) + 1, dim=2).indices
    chosen = best if ranks is None else best[..., ranks]
    weights = matches * torch.zeros_like(matches).scatter(2, chosen, 1.0)
    return functional.normalize(torch.einsum("rnu,rnuo->rno", weights, values), dim=2, eps=LEAST_LENGTH)
