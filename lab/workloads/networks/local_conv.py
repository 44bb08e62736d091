"""The convolutional networks of LLS, whose layers may learn by losses of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from lab.workloads.networks.local_mlp import LocalNetwork, Modulation, Rule, Stage, begun

SIDE = 32
MEAN_SIDE = 2
"""Side of the map of averages that a linear layer takes."""
Behind: TypeAlias = Literal["", "max", "mean"]
ConvName: TypeAlias = Literal["small-conv", "vgg8", "mobilenet"]
Norm: TypeAlias = Literal["map", "batch"]


@dataclass(frozen=True)
class Block:
    """A 3×3 convolution.

    Attributes:
        width: its channels, in those of the first one.
        pooled: side of the map that meets the periodic basis.
        behind: ``max`` halves the map, ``mean`` averages it, to 2×2 or for the classifier to one value.
        stride: of the convolution.
        depthwise: whether it is a depthwise one with a 1×1 convolution behind it, one layer together.
    """

    width: int
    pooled: int
    behind: Behind = ""
    stride: int = 1
    depthwise: bool = False


@dataclass(frozen=True)
class Shape:
    """A network's blocks and the units of its linear layer, in channels of the first convolution; 0 for none."""

    blocks: tuple[Block, ...]
    units: int


SHAPES: Mapping[ConvName, Shape] = {
    "small-conv": Shape((Block(1, 4, "max"), Block(2, 2, "max"), Block(4, 2, "mean")), 16),
    "vgg8": Shape(
        (Block(1, 4), Block(2, 2, "max"), Block(2, 2), Block(2, 2, "max"), Block(4, 2, "max"), Block(4, 2, "mean")), 8
    ),
    "mobilenet": Shape(
        (
            Block(1, 8), Block(2, 4, depthwise=True), Block(4, 4, "", 2, depthwise=True), Block(4, 4, depthwise=True),
            Block(8, 2, "", 2, depthwise=True), Block(8, 2, depthwise=True), Block(16, 2, "", 2, depthwise=True),
            *(Block(16, 2, depthwise=True),) * 5, Block(32, 1, "", 2, depthwise=True),
            Block(32, 1, "mean", depthwise=True),
        ),
        0,
    ),
}  # fmt: skip
"""Sizes of the authors' implementation (mapolinario94/LLS-DNN). Its MobileNet is for images of 224 pixels and begins
with a stride of 2; for 32 pixels it has none there, so that the last maps have 2×2 values to be normalised."""


class LocalConv(LocalNetwork):
    """One of :data:`SHAPES`, for images (n, ``inputs``, ``side``, ``side``), with SiLUs.

    SmallConv with 32 channels, 10 classes and colour images has 361,258 parameters and 10.6 M multiply-accumulates.
    Source: Apolinario, Roy and Roy, "LLS", 2024. Theirs have batch norm behind every layer but the classifier, as with
    ``norm="batch"``; it means nothing with one sample a step, for which ``norm="map"`` normalises each channel of a
    convolution over the image's own map, and nothing of the linear layer. Theirs have leaky ReLUs: of normalised maps
    some 60,000 values a step are symmetric about the kink, one within rounding of it takes another slope on another
    machine, and the ways part (0.07 after 1,400 steps, 2e-5 after 700 without a kink).

    Args:
        name: which.
        inputs, channels, classes, side: sizes.
        rule, seed, modulation: as of :class:`~lab.workloads.networks.local_mlp.LocalNetwork`.
        norm: of maps, ``map`` or ``batch``.
    """

    def __init__(
        self, name: ConvName, inputs: int, channels: int, classes: int, rule: Rule, seed: int, *,
        side: int = SIDE, modulation: Modulation = "none", norm: Norm = "map",
    ) -> None:  # fmt: skip
        shape, stages = SHAPES[name], []
        for block in shape.blocks:
            width = channels * block.width
            side //= block.stride
            pooled, values = partial(_averaged, min(block.pooled, side)), width * min(block.pooled, side) ** 2
            behind, left = _behind(block.behind, side, MEAN_SIDE if shape.units else 1)
            stages.append(Stage(_layer(inputs, width, block, norm), behind, pooled, values, pooled, values))
            inputs, side = width, left
        values = inputs * side**2
        if shape.units:
            units = shape.units * channels
            linear = _linear(values, units, norm)
            stages.append(Stage(linear, nn.Identity(), nn.Identity(), units, nn.Identity(), units))
            values = units
        classifier = nn.Linear(values, classes)
        super().__init__(stages, nn.SiLU(), classifier, classes, rule, seed, modulation)


def _layer(inputs: int, width: int, block: Block, norm: Norm) -> nn.Module:
    if not block.depthwise:
        convolution = nn.Conv2d(inputs, width, 3, stride=block.stride, padding=1, bias=False)
        return nn.Sequential(convolution, _norm(width, norm))
    depthwise = nn.Conv2d(inputs, inputs, 3, stride=block.stride, padding=1, groups=inputs, bias=False)
    return nn.Sequential(
        depthwise, _norm(inputs, norm), nn.SiLU(), nn.Conv2d(inputs, width, 1, bias=False), _norm(width, norm)
    )


def _norm(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(channels, channels)


def _linear(inputs: int, units: int, norm: Norm) -> nn.Module:
    linear = nn.Linear(inputs, units)
    begun(linear)
    if norm == "map":
        return linear
    # A bias in front of batch norm changes nothing.
    linear.register_parameter("bias", None)
    return nn.Sequential(linear, nn.BatchNorm1d(units))


def _behind(behind: Behind, side: int, mean: int) -> tuple[nn.Module, int]:
    """What is behind a block, and the side of what comes out."""
    if behind == "max":
        return nn.MaxPool2d(2), side // 2
    if behind == "mean":
        return nn.Sequential(nn.AdaptiveAvgPool2d(mean), nn.Flatten()), mean
    return nn.Identity(), side


def _averaged(side: int, maps: torch.Tensor) -> torch.Tensor:
    """Averages of maps (n, channels, H, W) to ``side`` × ``side``, flat."""
    return functional.adaptive_avg_pool2d(maps, side).flatten(1)
