"""Networks whose hidden layers may learn by losses of their own instead of a backward pass; a perceptron of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised

Rule: TypeAlias = Literal["backprop", "periodic", "projection"]

Modulation: TypeAlias = Literal["none", "class", "matrix"]

LATENT = 32
"""Values that a perceptron's layer is pooled to before it meets the periodic basis."""
TEMPERATURE = 0.1
MODULATION = 0.01
"""Standard deviation of the first values of a learned modulation."""
EPSILON = 1e-6
"""Keeps the norm of a latent from dividing by zero where all units are silent."""


def periodic_basis(classes: int, depth: int) -> torch.Tensor:
    """A sine for each class, float32 (classes, depth), of unit norm.

    Frequencies go from 1 to depth / 2 − 1 periods, evenly: higher ones would alias. Source: Apolinario et al., "LLS",
    equation of the basis, with 50 to 512 periods there; rows have unit norm here, so that the temperature means the
    same at any depth.
    """
    places = torch.linspace(0, 2 * math.pi, depth)
    rows = torch.sin(torch.linspace(1, depth / 2 - 1, classes)[:, None] * places)
    return functional.normalize(rows, dim=1)


def projected_targets(classes: int, width: int, seed: int) -> torch.Tensor:
    """What a hidden layer is to yield for each class, float32 (classes, width): fixed random numbers.

    N(0, 1), of the size that a layer's outputs begin with, and none below 0, which no ReLU reaches. The stream is apart
    from that of the weights. Source: the fixed projections of the label of tpSGD.
    """
    return torch.randn((classes, width), generator=torch.Generator().manual_seed(seed)).relu()


@dataclass(frozen=True)
class Stage:
    """A hidden layer and what belongs to it.

    Attributes:
        layer: with weights, and its norm; the network's activation is behind it.
        behind: from its output to the input of the next one.
        pooled: what meets the periodic basis of its output: (n, ``latent``).
        latent: so many values.
        taught: what is to be a projection of the label, of its output: (n, ``units``).
        units: so many values.
    """

    layer: nn.Module
    behind: nn.Module
    pooled: Callable[[torch.Tensor], torch.Tensor]
    latent: int
    taught: Callable[[torch.Tensor], torch.Tensor]
    units: int


class LocalNetwork(nn.Module):
    """Hidden layers, each with the same activation, and a classifier; takes images, yields logits (n, classes).

    Under a local rule each layer takes its input detached, and :class:`~lab.compiler.joint.Penalised` carries the sum
    of the hidden layers' losses; the classifier learns by cross-entropy in any case.

    Args:
        stages: the hidden layers.
        activation: behind each of them.
        classifier: from the last one's output to logits.
        classes: so many.
        rule: ``backprop``: one loss at the end; ``periodic``: cross-entropy of the pooled, normalised output against a
            periodic basis (LLS); ``projection``: half the squared distance from a fixed random target (tpSGD).
        seed: of the projections.
        modulation: of the periodic rule, what each layer learns of its scores besides: ``class`` a factor for each
            (LLS-M), ``matrix`` how they are mixed (LLS-MxM).
    """

    def __init__(
        self, stages: Sequence[Stage], activation: nn.Module, classifier: nn.Linear, classes: int, rule: Rule,
        seed: int, modulation: Modulation = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.rule = rule
        self.modulation = nn.ParameterList()
        self.hidden = nn.ModuleList([stage.layer for stage in stages])
        self.behind = nn.ModuleList([stage.behind for stage in stages])
        self.pooled = tuple(stage.pooled for stage in stages)
        self.taught = tuple(stage.taught for stage in stages)
        self.latents = tuple(stage.latent for stage in stages)
        self.activation, self.classifier = activation, classifier
        if rule == "periodic":
            for latent in sorted(set(self.latents)):
                self.register_buffer(f"basis{latent}", periodic_basis(classes, latent))
            if modulation != "none":
                shape = (classes,) if modulation == "class" else (classes, classes)
                self.modulation.extend(MODULATION * torch.randn(shape) for _ in stages)
        elif rule == "projection":
            for number, stage in enumerate(stages):
                self.register_buffer(f"projection{number}", projected_targets(classes, stage.units, seed + number))

    def forward(self, images: torch.Tensor) -> torch.Tensor | Penalised:
        """Logits, with the losses of the hidden layers where the rule is local."""
        x, outputs = images, list[torch.Tensor]()
        for layer, behind in zip(self.hidden, self.behind, strict=True):
            x = self.activation(layer(x))
            outputs.append(x)
            x = behind(x if self.rule == "backprop" else x.detach())
        logits: torch.Tensor = self.classifier(x)
        if self.rule == "backprop":
            return logits
        return Penalised(logits, lambda labels: self._local(outputs, labels))

    def _local(self, outputs: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        rule = self._distance if self.rule == "projection" else self._disagreement
        losses = [rule(number, one, labels) for number, one in enumerate(outputs)]
        return sum(losses[1:], losses[0])

    def _distance(self, number: int, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = functional.embedding(labels, self.get_buffer(f"projection{number}"))
        return 0.5 * functional.mse_loss(self.taught[number](output), target, reduction="sum")

    def _disagreement(self, number: int, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.scores(number, output), labels)

    def scores(self, number: int, output: torch.Tensor) -> torch.Tensor:
        """Of a layer's output against the periodic basis: cosines over the temperature, modulated, (n, classes)."""
        latent = self.pooled[number](output)
        latent = latent / (torch.linalg.vector_norm(latent, dim=1, keepdim=True) + EPSILON)
        cosines = functional.linear(latent, self.get_buffer(f"basis{self.latents[number]}"))
        if len(self.modulation):
            learned = self.modulation[number]
            cosines = cosines * learned if learned.dim() == 1 else cosines @ learned
        return cosines / TEMPERATURE


def begun(layer: nn.Module) -> None:
    """First weights of a layer in front of a ReLU; its bias is 0."""
    nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
    nn.init.zeros_(layer.get_parameter("bias"))


class LocalMlp(LocalNetwork):
    """``depth`` hidden layers with ReLU and a classifier; takes images of ``inputs`` values.

    Args:
        inputs, width, depth, classes: sizes; ``width`` a multiple of :data:`LATENT`.
        rule, seed, modulation: as of :class:`LocalNetwork`.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, classes: int, rule: Rule, seed: int, *,
        modulation: Modulation = "none",
    ) -> None:  # fmt: skip
        layers = [nn.Linear(width if number else inputs, width) for number in range(depth)]
        classifier = nn.Linear(width, classes)
        for layer in layers:
            begun(layer)
        pooled = partial(_in_groups, LATENT)
        stages = [Stage(layer, nn.Identity(), pooled, LATENT, nn.Identity(), width) for layer in layers]
        super().__init__(stages, nn.ReLU(), classifier, classes, rule, seed, modulation)

    def forward(self, images: torch.Tensor) -> torch.Tensor | Penalised:
        """As of :meth:`LocalNetwork.forward`."""
        return super().forward(images.flatten(1))


def _in_groups(latent: int, output: torch.Tensor) -> torch.Tensor:
    """Means of neighbouring units (n, units), ``latent`` of them."""
    return output.reshape(len(output), latent, -1).mean(2)
