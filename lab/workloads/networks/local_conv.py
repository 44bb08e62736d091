"""The small convolutional network of LLS, whose layers may learn by losses of their own."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.networks.local_mlp import LocalNetwork, Rule, Stage, begun

SIDE = 32
POOLED = (4, 2, 2)
"""Sides of the maps that meet the periodic basis, of the three convolutions."""
UNITS = 16
"""Of the linear layer, by channels of the first convolution."""


class SmallConv(LocalNetwork):
    """Three 3×3 convolutions of c, 2c and 4c channels, a linear layer of 16c units and a classifier, for images
    (n, ``inputs``, 32, 32); leaky ReLUs, a max pool behind the first two convolutions, an average of 2×2 behind the
    third.

    With 32 channels, 10 classes and colour images 361,258 parameters and 10.6 M multiply-accumulates. Source:
    Apolinario, Roy and Roy, "LLS", 2024, SmallConv, with the sizes of the authors' implementation
    (mapolinario94/LLS-DNN). Theirs has batch norm, which means nothing with one sample a step: convolutions have each
    channel normalised over the image's own map instead, the linear layer nothing.

    Args:
        inputs, channels, classes: sizes.
        rule, seed: as of :class:`~lab.workloads.networks.local_mlp.LocalNetwork`.
    """

    def __init__(self, inputs: int, channels: int, classes: int, rule: Rule, seed: int) -> None:
        widths = (channels, 2 * channels, 4 * channels)
        behind = (nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()))
        stages = []
        for number, (width, side) in enumerate(zip(widths, POOLED, strict=True)):
            convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            layer = nn.Sequential(convolution, nn.GroupNorm(width, width))
            pooled, units = partial(_averaged, side), width * (SIDE >> number) ** 2
            stages.append(Stage(layer, behind[number], pooled, width * side**2, units))
            inputs = width
        linear, units = nn.Linear(4 * inputs, UNITS * channels), UNITS * channels
        begun(linear)
        stages.append(Stage(linear, nn.Identity(), nn.Identity(), units, units))
        super().__init__(stages, nn.LeakyReLU(), nn.Linear(units, classes), classes, rule, seed)


def _averaged(side: int, maps: torch.Tensor) -> torch.Tensor:
    """Averages of maps (n, channels, H, W) to ``side`` × ``side``, flat."""
    return functional.adaptive_avg_pool2d(maps, side).flatten(1)
