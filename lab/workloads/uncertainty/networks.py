"""The network of these workloads, in three parts with a head each, and what is asked of it. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.exits import leave
from lab.workloads.data.corruptions import IMAGE
from lab.workloads.networks.blocks import Bottleneck, InvertedBottleneck, conv2d, conv_norm
from lab.workloads.uncertainty.evidence import beta
from lab.workloads.uncertainty.exit_rules import Rule

WIDTHS = (16, 24)
EXITS = 3
POOLED = 2
SMALLEST = 1e-9
CODE = 32


def stages() -> list[nn.Sequential]:
    """Three thirds of a network of identical inverted bottlenecks, for images of (1, 16, 16): each (24, 4, 4)."""
    first, width = WIDTHS
    row = Bottleneck(3 * width, width)
    stem = conv_norm(conv2d(1, first, 3, stride=2), nn.ReLU6())
    return [
        nn.Sequential(stem, InvertedBottleneck(first, Bottleneck(2 * first, width, stride=2))),
        nn.Sequential(InvertedBottleneck(width, row)),
        nn.Sequential(InvertedBottleneck(width, row)),
    ]


def head(outputs: int) -> nn.Sequential:
    """An exit: a coarse average of the map and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(POOLED), nn.Flatten(), nn.Linear(WIDTHS[1] * POOLED**2, outputs))


@dataclass(frozen=True)
class Backbone:
    """A network in parts, with a head behind each.

    Attributes:
        parts: makes them, untrained.
        head: makes the head behind a part, by its number from 0 and the number of its outputs; its last layer is
            linear.
        exits: how many parts there are.
    """

    parts: Callable[[], list[nn.Sequential]]
    head: Callable[[int, int], nn.Sequential]
    exits: int

    def heads(self, outputs: int) -> list[nn.Sequential]:
        """One for each part."""
        return [self.head(number, outputs) for number in range(self.exits)]


DIGITS = Backbone(stages, lambda number, outputs: head(outputs), EXITS)


def place(answer: torch.Tensor, number: int) -> torch.Tensor:
    """The number of an exit as a column beside its answer."""
    return torch.full((len(answer), 1), float(number))


def highest(values: torch.Tensor) -> torch.Tensor:
    """The largest of each row, (n, 1); as a pool, which devices have."""
    return functional.max_pool2d(values[:, None, None], (1, values.shape[1])).flatten(1)


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy of each row (n, classes) in nats, (n, 1)."""
    return -(shares * torch.log(shares + SMALLEST)).sum(1, keepdim=True)


class EvidenceExits(nn.Module):
    """UR2M: leaves at the first exit with an event that is likely and whose uncertainty is low enough.

    Yields (n, 2C + 2): probability of each event, uncertainty of each, number of the exit, margin.

    Args:
        parts, heads: the network; heads yield 2C logits.
        threshold: the uncertainty with which an exit is taken.
    """

    def __init__(self, parts: Sequence[nn.Module], heads: Sequence[nn.Module], threshold: float) -> None:
        super().__init__()
        self.parts, self.heads = nn.ModuleList(parts), nn.ModuleList(heads)
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor | None = None
        for number, (part, one) in enumerate(zip(self.parts, self.heads, strict=True)):
            x = part(x)
            alpha, against = beta(one(x))
            probability, uncertainty = alpha / (alpha + against), 2 / (alpha + against)
            # The smaller of two, in operations that devices have: a - relu(a - b).
            sure, likely = self.threshold - uncertainty, probability - 0.5
            margin = highest(sure - functional.relu(sure - likely))
            answer = torch.cat([probability, uncertainty, place(probability, number), margin], 1)
            output = leave(answer, output)
        return given(output)


class SoftmaxExits(nn.Module):
    """BranchyNet: leaves at the first exit that is sure, by its largest share or by the entropy of its shares.

    Yields (n, C + 2): share of each class, number of the exit, margin.

    Args:
        parts, heads: the network; heads yield C logits.
        threshold: with which an exit is taken: the least confidence, or the largest entropy in nats.
        rule: which of them.
    """

    def __init__(
        self, parts: Sequence[nn.Module], heads: Sequence[nn.Module], threshold: float, rule: Rule = "confidence"
    ) -> None:
        super().__init__()
        self.parts, self.heads = nn.ModuleList(parts), nn.ModuleList(heads)
        self.threshold, self.rule = threshold, rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor | None = None
        for number, (part, one) in enumerate(zip(self.parts, self.heads, strict=True)):
            x = part(x)
            shares = torch.softmax(one(x), 1)
            by_entropy = self.rule == "entropy"
            margin = self.threshold - entropy(shares) if by_entropy else highest(shares) - self.threshold
            output = leave(torch.cat([shares, place(shares, number), margin], 1), output)
        return given(output)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of every exit, (n, exits, C)."""
        found = []
        for part, one in zip(self.parts, self.heads, strict=True):
            x = part(x)
            found.append(one(x))
        return torch.stack(found, 1)


class Logits(nn.Module):
    """What :meth:`SoftmaxExits.logits` yields, as a module that is trained: no gradient passes a decision."""

    def __init__(self, exits: SoftmaxExits) -> None:
        super().__init__()
        self.exits = exits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.exits.logits(x)


class Converter(nn.Sequential):
    """CBNet's autoencoder: an image (n, 1, side, side) to an easy one of the same class.

    Args:
        side: pixels.
        widths: of its hidden layers, the code among them.
        linear: whether nothing stands behind the last of them, as the authors have it where that is the code.
    """

    def __init__(self, side: int = IMAGE, widths: Sequence[int] = (CODE,), *, linear: bool = False) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = side**2
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        if linear:
            layers.pop()
        super().__init__(*layers, nn.Linear(inputs, side**2), nn.Sigmoid(), nn.Unflatten(1, (1, side, side)))


class Averaged(nn.Module):
    """The mean of several classifiers, one after the other: (n, C + 1), shares and their entropy.

    Args:
        members: each yields logits (n, C), or those of several passes side by side (n, passes · C).
        classes: C.
    """

    def __init__(self, members: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.cat([member(x) for member in self.members], 1)
        shares = torch.softmax(logits.view(len(x), -1, self.classes), 2).mean(1)
        return torch.cat([shares, entropy(shares)], 1)


def dropped(classifier: nn.Linear, share: float, passes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer under ``passes`` draws of dropout in front of it, side by side, as one linear layer.

    Monte-Carlo dropout (Y. Gal and Z. Ghahramani, 2016) at the last layer: the masks are drawn once and lie in the
    weights, so that devices and PyTorch take the same.

    Returns:
        A layer with ``passes`` times the outputs.
    """
    outputs, inputs = classifier.weight.shape
    kept = (torch.rand((passes, 1, inputs), generator=generator) >= share) / (1 - share)
    made = nn.Linear(inputs, passes * outputs)
    with torch.no_grad():
        made.weight.copy_((classifier.weight * kept).reshape(passes * outputs, inputs))
        made.bias.copy_(classifier.bias.repeat(passes))
    return made


def given(output: torch.Tensor | None) -> torch.Tensor:
    """What the last exit yields.

    Raises:
        ValueError: there is no exit.
    """
    if output is None:
        raise ValueError("a network without exits")
    return output


def plain(backbone: Backbone, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """The whole network with one end: all parts and the last head, dropout in front of its classifier; logits."""
    *pool, classifier = backbone.head(backbone.exits - 1, classes)
    parts = [layer for part in backbone.parts() for layer in part]
    return nn.Sequential(*parts, *pool, *([nn.Dropout(dropout)] if dropout else []), classifier)
