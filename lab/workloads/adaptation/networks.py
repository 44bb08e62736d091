"""The source network of the adaptation workloads, and what each method makes of its batch norms. Imports torch.

Four parts of convolutions of 3×3 without bias, each with batch norm and ReLU; global average and a linear classifier:
33,338 parameters with one convolution a part and the widths 16-32-32-64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.compiler.sample_norm import normalised, sample_norm
from lab.workloads.adaptation.options import CLASSES, STRIDES

CONFIDENT_NATS = 0.4 * math.log(CLASSES)
"""Entropy below which a sample counts (DBU, section 4.1; EcoTTA, section 3.2)."""
EDGE_NATS = 0.1
SIGNATURE_NORM = 1
"""Number of the batch norm whose output, averaged over space, tells domains apart: the second."""


def source_network(widths: Sequence[int], strides: Sequence[int] = STRIDES) -> nn.Sequential:
    """The untrained network for (n, 1, 16, 16) images; yields logits.

    Args:
        widths: of every convolution; as many of them in each part.
        strides: of the first convolution of each part.
    """
    layers: list[nn.Module] = []
    inputs, each = 1, len(widths) // len(strides)
    for place, width in enumerate(widths):
        stride = 1 if place % each else strides[place // each]
        layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def with_norms(network: nn.Sequential, make: Callable[[nn.BatchNorm2d, int], nn.Module]) -> nn.Sequential:
    """A copy in which ``make(norm, its number)`` stands for every batch norm, inside blocks too."""
    made = copy.deepcopy(network).eval()
    norms = [(name, layer) for name, layer in made.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    for number, (name, norm) in enumerate(norms):
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, make(norm, number))
    return made


def statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Running mean and variance, each (channels,).

    Raises:
        ValueError: it keeps none.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the batch norm keeps no running statistics")
    return norm.running_mean, norm.running_var


class SampleNorm(nn.Module):
    """Batch norm that leans on the statistics of the one sample it sees, and forgets them.

    With ``tau`` = 1 it is the source's, with ``tau`` = ``balance`` = 0 that of the sample alone. ``balance`` = 0 and
    another ``tau`` is α-BN, ``balance`` > 0 is LeanTTA (arXiv:2503.15889, algorithm 1): the further the sample's mean
    lies from the source's, the more weight the source's get.

    Args:
        norm: of the source network.
        tau: share of the source's statistics.
        balance: λ, the most that distance gives to the source.
        whole: one operator, as compilation in int8 needs it.
    """

    def __init__(self, norm: nn.BatchNorm2d, tau: float, balance: float, whole: bool = False) -> None:
        super().__init__()
        mean, variance = statistics(norm)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("variance", variance.clone())
        self.register_buffer("weight", norm.weight.detach().clone())
        self.register_buffer("bias", norm.bias.detach().clone())
        self.tau, self.balance, self.eps = tau, balance, norm.eps
        self.compute = sample_norm if whole else normalised

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise one sample, (1, C, H, W)."""
        source = self.mean, self.variance, self.weight, self.bias
        made: torch.Tensor = self.compute(x, *source, self.tau, self.balance, self.eps)
        return made

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


class Passing:
    """What norms tell of one pass, wherever in the network they are.

    Attributes:
        distance: sum of the norms' so far.
        signature: mean over space of what the norm of :data:`SIGNATURE_NORM` yields.
    """

    def __init__(self) -> None:
        self.begin(torch.zeros(()))

    def begin(self, nothing: torch.Tensor) -> None:
        """A pass begins, with this distance of 0."""
        self.distance = self.signature = nothing
        self._number = 0

    def tell(self, distance: torch.Tensor, output: torch.Tensor) -> None:
        """The next norm's distance to what it saw, and its output."""
        self.distance = self.distance + distance
        if self._number == SIGNATURE_NORM:
            self.signature = output.mean((2, 3))
        self._number += 1


class RunningMoments(nn.Module):
    """Batch norm whose statistics are variables: the mean and the mean square of every channel.

    Their distance to those of what passes is a loss whose gradient is ``variable − seen``: a step of plain gradient
    descent with rate ``m`` is the running average ``S ← (1 − m) · S + m · B``, one sample at a time. Mean squares and
    not variances, since those of single samples average to that of all of them.

    Args:
        norm: of the source network.
        passing: is told of every pass.
        affine: whether scale and shift are variables as well, for the affine pass of decoupled batch norm.
    """

    def __init__(self, norm: nn.BatchNorm2d, passing: Passing, affine: bool = False) -> None:
        super().__init__()
        mean, variance = statistics(norm)
        self.passing = passing
        self.mean = nn.Parameter(mean.clone())
        self.square = nn.Parameter(variance + mean * mean)
        for name, value in (("weight", norm.weight), ("bias", norm.bias)):
            if affine:
                self.register_parameter(name, nn.Parameter(value.detach().clone()))
            else:
                self.register_buffer(name, value.detach().clone())
        self.eps = norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise by the variables; what came and what goes is told to ``passing``."""
        mean, square = self.mean.detach(), self.square.detach()
        # Rounding may leave a constant channel a variance just below 0.
        variance = (square - mean * mean).clamp_min(0.0)
        y = functional.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        self.passing.tell(self.distance(x), y)
        return y

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Half the squared distance to the moments of ``x``, which itself takes no gradient."""
        seen = x.detach()
        mean, square = self.mean - seen.mean((0, 2, 3)), self.square - (seen * seen).mean((0, 2, 3))
        return 0.5 * ((mean * mean).sum() + (square * square).sum())

    weight: torch.Tensor
    bias: torch.Tensor


class MovingNetwork(nn.Module):
    """The source network with :class:`RunningMoments`; yields logits and, behind them, the domain's signature."""

    def __init__(self, network: nn.Sequential, affine: bool = False) -> None:
        super().__init__()
        self.passing = Passing()
        self.layers = with_norms(network, lambda norm, _: RunningMoments(norm, self.passing, affine))

    def forward(self, x: torch.Tensor) -> Penalised:
        """(1, 10 + channels of the second norm), and how far the statistics are from this sample's."""
        self.passing.begin(x.new_zeros(()))
        logits = self.layers(x)
        passed = self.passing.distance, self.passing.signature
        # Tensors of a pass that is only traced must not outlive it.
        self.passing.begin(torch.zeros(()))
        return Penalised(torch.cat([logits, passed[1]], 1), passed[0])

    def norms(self) -> Iterator[RunningMoments]:
        """In order."""
        return (layer for layer in self.layers.modules() if isinstance(layer, RunningMoments))


def batch_norm_of_batch(norm: nn.BatchNorm2d, _: int) -> nn.BatchNorm2d:
    """Normalise by the statistics of the batch itself: what BN adaptation and TENT do."""
    own = nn.BatchNorm2d(norm.num_features, norm.eps, track_running_stats=False)
    own.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    return own


def entropy(logits: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the softmax, nats: TENT's loss, which needs no label."""
    logs = functional.log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1).mean() + unused.sum()


def no_loss(_: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """For a network whose loss is its penalty alone."""
    return unused.sum()


def confident_entropy(logits: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """Mean entropy, nats, of the samples below :data:`CONFIDENT_NATS`; 0 where there is none.

    A sample within :data:`EDGE_NATS` of it counts in part: at a hard edge rounding would decide which samples count,
    and two computers would part for good.
    """
    logs = functional.log_softmax(logits, 1)
    nats = -(logs.exp() * logs).sum(1)
    share = ((CONFIDENT_NATS + EDGE_NATS - nats.detach()) / (2 * EDGE_NATS)).clamp(0.0, 1.0)
    return (nats * share).sum() / share.sum().clamp_min(1.0) + unused.sum()


def gated_entropy(output: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """``gate`` times :func:`confident_entropy`: a step's target is 1 in the affine pass, 0 in that of statistics."""
    return gate.sum() * confident_entropy(output[:, :CLASSES], torch.zeros(1))
