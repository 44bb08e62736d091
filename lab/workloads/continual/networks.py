"""Extractors of the continual learners: what is frozen on the device. Imports torch.

OML (Javed and White 2019) has six convolutions of equal width; ANML (Beaulieu et al. 2020) three with poolings, whose
features a second, narrower trunk gates by a sigmoid. Ours are narrower, and the gate is a 1×1 convolution over the
second trunk's map where ANML has a linear layer: the map stays one. Behind a vision transformer or YAMNet, which yield
no map, the gate is linear as ANML's is, of the same convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from lab.workloads.continual.options import PAPER_DEPTH, PAPER_HEADS, PAPER_TOKENS, Base, Size, Trunk
from lab.workloads.continual.vit import DEPTH, HEADS, LATENT_PER_WIDTH, PatchFeatures
from lab.workloads.networks import folded
from lab.workloads.networks.blocks import conv2d, conv_norm
from lab.workloads.networks.yamnet import embedding, yamnet


@dataclass(frozen=True)
class Widths:
    """Sizes of an extractor.

    Attributes:
        channels: of the map of features.
        gate: of ANML's second trunk.
        strided: of OML's six convolutions.
        dense_gate: whether a linear layer makes the gate of the second trunk's map, as ANML has it; a 1×1 convolution
            otherwise, and where that layer would have more than :data:`MOST_GATE_WEIGHTS`.
        padded: whether ANML's convolutions keep the map's size.
        tokens, depth, heads: elements of a transformer's token, its blocks, and their heads.
        patch: pixels along a side of its patches; 0 as :func:`lab.workloads.continual.vit.patch_side` has them.
    """

    channels: int
    gate: int
    strided: int
    dense_gate: bool = False
    padded: bool = True
    tokens: int = 32
    depth: int = DEPTH
    heads: int = HEADS
    patch: int = 0


CI_WIDTHS = Widths(32, 12, 32)
MOST_GATE_WEIGHTS = 1 << 27
"""The paper's largest, MiniImageNet's of 16,384×7,168, is below; environmental sounds would take five times as many."""


def widths_of(size: Size, share: float, padded: bool = True) -> Widths:
    """Those of a size. The paper's are ANML's, 256 and 112 channels and a linear gate, and OML's 112. ANML's have 9.2 M
    parameters of CIFAR-100 and 2.5 M of speech commands: the 39.7 and 10.2 MB of LifeLearner's table 1.

    Args:
        size: ``ci`` or ``paper``.
        share: of the paper's channels; of a transformer's tokens, each head's.
        padded: as the widths have it. LifeLearner's 474.5 MB of MiniImageNet are those of a map of 8×8, without.
    """
    if size == "ci":
        return CI_WIDTHS
    channels, gate = (max(1, round(one * share)) for one in (256, 112))
    tokens = PAPER_HEADS * max(1, round(PAPER_TOKENS // PAPER_HEADS * share))
    return Widths(channels, gate, gate, True, padded, tokens, PAPER_DEPTH, PAPER_HEADS)


class Gated(nn.Module):
    """ANML's extractor: features times a gate from 0 to 1, both (n, channels, h, w) or both (n, elements).

    Args:
        features, gate: trunks that yield the same shape.
    """

    def __init__(self, features: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.features(x) * self.gate(x)
        return y


class DenseGate(nn.Module):
    """A gate of features (n, *shape) by one linear layer over a map.

    Args:
        trunk: yields the map.
        inputs: elements of that map.
        shape: of the features that are gated.
    """

    def __init__(self, trunk: nn.Module, inputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.open = nn.Linear(inputs, math.prod(shape))
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.open(self.trunk(x).flatten(1)).reshape(-1, *self.shape).sigmoid()
        return y


def extractor(
    base: Base,
    trunk: Trunk,
    sample: tuple[int, int, int],
    widths: Widths = CI_WIDTHS,
    projected: int = 0,
    features: nn.Module | None = None,
) -> nn.Module:
    """An untrained extractor: (n, *sample) to a map (n, ``channels``, h', w'), or of a transformer and of YAMNet to a
    vector, that is nowhere below zero; or to (n, projected), which attentive units take.

    Args:
        base: OML, ANML, or the trunk of the latter without a gate.
        trunk: which convolutions, or a transformer.
        sample: (c, h, w).
        widths: sizes.
        projected: elements of a linear layer over the map; 0 for none.
        features: trained ones in place of the trunk.
    """
    own = _features_of(base, trunk, sample, widths) if features is None else features
    found = _gated(own, trunk, sample, widths) if base == "anml" else own
    if not projected:
        return found
    with torch.no_grad():
        elements = found.eval()(torch.zeros(1, *sample)).numel()
    layers = nn.Sequential(found, nn.Flatten(), nn.Linear(elements, projected))
    # As AIM's authors have it: OML's is rectified, ANML's is not.
    return layers.append(nn.ReLU()) if base == "oml" else layers


def _features_of(base: Base, trunk: Trunk, sample: tuple[int, int, int], widths: Widths) -> nn.Module:
    inputs, channels = sample[0], widths.channels
    if trunk == "vit":
        latent = LATENT_PER_WIDTH * widths.tokens
        features: nn.Module = PatchFeatures(sample, widths.tokens, latent, widths.depth, widths.heads, widths.patch)
    elif trunk == "yamnet":
        features = embedding(yamnet())
    elif trunk == "ds-cnn":
        features = _separable(inputs, channels)
    else:
        features = _strided(inputs, widths.strided) if base == "oml" else _pooled(inputs, channels, widths.padded)
    return features


def _gated(features: nn.Module, trunk: Trunk, sample: tuple[int, int, int], widths: Widths) -> Gated:
    inputs, channels = sample[0], widths.channels
    gate = _pooled(inputs, widths.gate, widths.padded) if trunk == "cnn" else _strided_gate(inputs, widths.gate)
    with torch.no_grad():
        seen, gated = (one.eval()(torch.zeros(1, *sample)) for one in (gate, features))
    if trunk in ("vit", "yamnet") or (widths.dense_gate and seen.numel() * gated.numel() <= MOST_GATE_WEIGHTS):
        return Gated(features, DenseGate(gate, seen.numel(), tuple(gated.shape[1:])))
    gate.add_module("open", nn.Conv2d(widths.gate, channels, 1))
    gate.add_module("sigmoid", nn.Sigmoid())
    return Gated(features, gate)


def folded_extractor(network: nn.Module) -> nn.Module:
    """A copy whose batch norms are folded into the convolutions before them."""
    return folded(network)


def _stage(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    return conv_norm(conv2d(inputs, outputs, kernel, stride, groups), nn.ReLU())


def _pooled(inputs: int, channels: int, padded: bool) -> nn.Sequential:
    made = nn.Sequential()
    for number in range(3):
        convolution = nn.Conv2d(inputs if number == 0 else channels, channels, 3, padding=int(padded), bias=False)
        made.add_module(f"conv{number}", conv_norm(convolution, nn.ReLU()))
        made.add_module(f"pool{number}", nn.MaxPool2d(2))
    return made


def _strided(inputs: int, channels: int) -> nn.Sequential:
    made = nn.Sequential()
    for number in range(6):
        stage = _stage(inputs if number == 0 else channels, channels, 2 if number % 2 == 0 else 1)
        made.add_module(f"conv{number}", stage)
    return made


def _strided_gate(inputs: int, channels: int) -> nn.Sequential:
    made = nn.Sequential()
    for number in range(3):
        made.add_module(f"conv{number}", _stage(inputs if number == 0 else channels, channels, 2))
    return made


def _separable(inputs: int, channels: int) -> nn.Sequential:
    """After MobileNet, as YAMNet is: a strided stem, then depthwise and pointwise convolutions."""
    made = nn.Sequential()
    made.add_module("stem", _stage(inputs, channels, 2))
    for number, stride in enumerate((1, 2, 2)):
        made.add_module(f"depthwise{number}", _stage(channels, channels, stride, channels))
        made.add_module(f"pointwise{number}", _stage(channels, channels, kernel=1))
    return made
