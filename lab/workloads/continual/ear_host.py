"""EAR on this computer: hypervectors, adaptors, the choice of their size, and the networks that are compiled.

Imports torch: import it only where something is prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab.workloads.base import FloatArray
from lab.workloads.continual.ear_classes import widened
from lab.workloads.continual.ear_domains import AT_ONCE, Known, Material, split
from lab.workloads.fitting import seeded
from lab.workloads.training.turned_digits import SEED, Data

STANDARDISING = 200
"""Images of the source whose channel means standardise those of others."""
TAPS = ("block1", "block2", "block3")
"""Maps whose channel means tell domains apart: what is behind them tells classes apart."""
STEEPNESS = 100.0
"""How steeply an element goes from −1 to 1; not a step, whose side a last bit would decide."""
SHARPNESS = 50.0
"""Of the softmax over similarities that opens one adaptor's gate."""
RANKS = (4, 8, 16)
ENOUGH = 0.95
"""Share of the best score that an adaptor must reach."""
ASIDE = 100.0
"""Taken from similarities in the outputs: beside the logits they take no part in the loss or in the answer."""


class Hypervectors(nn.Module):
    """Encoder with two outputs: features of classes (n, 48), and a hypervector of the domain (n, dimensions).

    Channel means are standardised by the source's and projected with random signs, each element with a random threshold
    within a standard deviation: without it, what lies in the middle of all domains would look like none.

    Args:
        encoder: the network without its classifier.
        source: images that standardise.
        dimensions: of a hypervector.
    """

    def __init__(self, encoder: nn.Sequential, source: torch.Tensor, dimensions: int) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad(), seeded(SEED):
            means = self._taps(source)[1]
            width = means.shape[1]
            signs = torch.sign(torch.randn(dimensions, width)) / (means.std(0) + 1e-3) / width**0.5
            thresholds = 2 * torch.rand(dimensions) - 1
            self.projection = nn.Linear(width, dimensions)
            self.projection.weight.copy_(STEEPNESS * signs)
            self.projection.bias.copy_(STEEPNESS * (thresholds - signs @ means.mean(0)))

    def _taps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = []
        for name, part in self.encoder.named_children():
            x = part(x)
            if name in TAPS:
                means.append(x.mean((2, 3)))
        return x, torch.cat(means, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, means = self._taps(x)
        return features, functional.hardtanh(self.projection(means))


class Enrolment(nn.Module):
    """Hypervectors against bundles that follow their mean by domain; nothing is descended."""

    def __init__(self, hypervectors: Hypervectors, domains: int) -> None:
        super().__init__()
        self.hypervectors = hypervectors
        self.bundles = nn.Parameter(torch.zeros(domains, hypervectors.projection.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.hypervectors(x)[1], self.bundles)


class Routed(nn.Module):
    """A frozen encoder and classifier with adaptors between them, one of which a router opens; then similarities.

    Outputs (n, classes + new classes + domains): logits, those of new classes less ``ASIDE`` where another adaptor is
    open than that of the domain which they came with, and the similarity to each domain less ``ASIDE``. Adaptors lie
    side by side in two linear layers, and begin as nothing; so does the head of new classes.

    Args:
        hypervectors, classifier: frozen.
        bundles: float32 (domains, dimensions), −1 or 1.
        adaptors: number of each domain's adaptor; −1 for none, as the source has.
        ranks: of each adaptor.
        owners: the domain that each new class came with.
    """

    def __init__(
        self,
        hypervectors: Hypervectors,
        classifier: nn.Linear,
        bundles: torch.Tensor,
        adaptors: Sequence[int],
        ranks: Sequence[int],
        owners: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.hypervectors, self.classifier = hypervectors, classifier
        width, total = classifier.in_features, sum(ranks)
        owner = np.repeat(np.arange(len(ranks)), ranks)
        self.similarity = _frozen(bundles / bundles.shape[1])
        self.gates = _frozen(torch.tensor([[float(one == adaptor) for adaptor in adaptors] for one in owner]))
        with seeded(SEED):
            self.down, self.up = nn.Linear(width, total), nn.Linear(total, width, bias=False)
        nn.init.zeros_(self.up.weight)
        self.head = _head(width, len(owners)) if owners else None
        offered = [[float(one == adaptors[owner]) for one in adaptors] for owner in owners]
        self.offers = _frozen(torch.tensor(offered)) if owners else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, hypervector = self.hypervectors(x)
        similarities = self.similarity(hypervector)
        opened = functional.softmax(SHARPNESS * similarities, 1)
        adapted = features + self.up(functional.relu(self.down(features)) * self.gates(opened))
        logits = [self.classifier(adapted)]
        if self.head is not None and self.offers is not None:
            logits.append(self.head(adapted) + ASIDE * (self.offers(opened) - 1))
        return torch.cat([*logits, similarities - ASIDE], 1)


class Shared(nn.Module):
    """The baseline: one adaptor for every input, and one head of ``new`` classes, no router."""

    def __init__(self, encoder: nn.Sequential, classifier: nn.Linear, rank: int, new: int) -> None:
        super().__init__()
        self.head = _head(classifier.in_features, new) if new else None
        self.encoder, self.classifier = encoder, classifier
        with seeded(SEED):
            self.down, self.up = nn.Linear(classifier.in_features, rank), nn.Linear(rank, classifier.in_features, False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.encoder(x)
        adapted = features + self.up(functional.relu(self.down(features)))
        y: torch.Tensor = self.classifier(adapted)
        return y if self.head is None else torch.cat([y, self.head(adapted)], 1)


def _head(width: int, classes: int) -> nn.Linear:
    """Outputs of classes that nothing is known of."""
    made = nn.Linear(width, classes)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def _frozen(weight: torch.Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight.data = weight.clone()
    return made


def seen(hypervectors: Hypervectors, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and hypervectors of images, a few at a time."""
    with torch.no_grad():
        found = [hypervectors(one) for one in torch.split(images, AT_ONCE)]
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def bundles_of(hypervectors: Hypervectors, enrolled: torch.Tensor, domains: int) -> FloatArray:
    """Mean hypervector of each domain, (domains, dimensions), of images that come one of each domain in turn."""
    vectors = seen(hypervectors, enrolled)[1]
    found: FloatArray = vectors.reshape(-1, domains, vectors.shape[1]).mean(0).numpy()
    return found


def zero_shot_score(features: torch.Tensor, rank: int) -> float:
    """How well an untrained adaptor tells inputs apart: log-determinant of the kernel of its ReLUs' agreement.

    Mellor et al. 2021, "Neural Architecture Search without Training", equation 2, of features (n, width); a small
    diagonal keeps equal codes finite.
    """
    with torch.no_grad(), seeded(SEED):
        codes = (nn.Linear(features.shape[1], rank)(features) > 0).to(torch.float64)
    kernel = codes @ codes.T + (1 - codes) @ (1 - codes).T
    return float(torch.linalg.slogdet(kernel + 1e-3 * torch.eye(len(codes), dtype=torch.float64))[1])


def chosen_rank(features: torch.Tensor) -> int:
    """The smallest rank whose score comes near the best one's.

    Scores may be negative: they are measured from the worst.
    """
    scores = {rank: zero_shot_score(features, rank) for rank in RANKS}
    worst, best = min(scores.values()), max(scores.values())
    return next(rank for rank in RANKS if scores[rank] - worst >= ENOUGH * (best - worst))


@dataclass(frozen=True)
class Parts:
    """What every arm is made of: the domains, the pre-trained network, its encoder with hypervectors, and the domain
    that each class came with which the network does not know.
    """

    domains: Mapping[str, Data]
    network: nn.Sequential
    hypervectors: Hypervectors
    classifier: nn.Linear
    owners: tuple[int, ...]


def parts(known: Known, dimensions: int) -> Parts:
    """The network taken apart, with hypervectors of so many elements."""
    encoder, classifier = split(known.network)
    first = next(iter(known.domains.values()))
    source = first.upright[first.chosen(STANDARDISING)]
    return Parts(known.domains, known.network, Hypervectors(encoder, source, dimensions), classifier, known.owners)


def routed(made: Parts, drawn: Material, bundles: FloatArray, adaptors: Sequence[int]) -> tuple[nn.Module, list[int]]:
    """The network with adaptors, in evaluation mode, and their ranks, by the domain that made each of them grow.

    Args:
        made, drawn: network and images.
        bundles: (domains, dimensions), of which the signs are taken.
        adaptors: number of each domain's adaptor, −1 for none.
    """
    features = seen(made.hypervectors, drawn.enrolled)[0].reshape(-1, len(bundles), made.classifier.in_features)
    first = [list(adaptors).index(number) for number in range(max(adaptors) + 1)]
    ranks = [chosen_rank(features[:, domain]) for domain in first]
    signs = torch.from_numpy(np.where(bundles >= 0, 1.0, -1.0).astype(np.float32))
    return Routed(made.hypervectors, made.classifier, signs, adaptors, ranks, made.owners).eval(), ranks


def shared(made: Parts, rank: int) -> nn.Module:
    """The network with one adaptor for all domains, in evaluation mode."""
    return Shared(made.hypervectors.encoder, made.classifier, rank, len(made.owners)).eval()


def whole(made: Parts) -> nn.Module:
    """The network as it is, with an output for every class."""
    return widened(made.network, len(made.owners)) if made.owners else made.network
