"""Building blocks of the convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


def conv_norm(convolution: nn.Conv1d | nn.Conv2d, activation: nn.Module | None) -> nn.Sequential:
    """A convolution without bias, its batch norm and its activation, named ``conv``, ``norm`` and ``relu``."""
    two_dimensional = isinstance(convolution, nn.Conv2d)
    norm = (nn.BatchNorm2d if two_dimensional else nn.BatchNorm1d)(convolution.out_channels)
    stage = nn.Sequential()
    stage.add_module("conv", convolution)
    stage.add_module("norm", norm)
    if activation is not None:
        stage.add_module("relu", activation)
    return stage


def conv2d(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias whose output map is its input map divided by the stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


@dataclass(frozen=True)
class Bottleneck:
    """One row of a table of inverted bottlenecks: channels after expansion and after projection, kernel and stride."""

    expanded: int
    outputs: int
    kernel: int = 3
    stride: int = 1


class InvertedBottleneck(nn.Module):
    """1×1 expansion, depthwise convolution and linear 1×1 projection; the input is added where shapes allow it.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 1. The expansion is
    left out where it would not widen. Input and output NCHW float32.
    """

    def __init__(self, inputs: int, row: Bottleneck) -> None:
        super().__init__()
        self.residual = row.stride == 1 and inputs == row.outputs
        depthwise = conv2d(row.expanded, row.expanded, row.kernel, row.stride, groups=row.expanded)
        self.body = nn.Sequential()
        if row.expanded != inputs:
            self.body.add_module("expand", conv_norm(conv2d(inputs, row.expanded, 1), nn.ReLU6()))
        self.body.add_module("depthwise", conv_norm(depthwise, nn.ReLU6()))
        self.body.add_module("project", conv_norm(conv2d(row.expanded, row.outputs, 1), None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


class BottleneckNet(nn.Sequential):
    """A strided 3×3 convolution, inverted bottlenecks, average over the map and one linear layer.

    Args:
        channels: channels of the input and of the first convolution.
        rows: the bottlenecks.
        classes: number of logits.
        mixed: channels of a 1×1 convolution in front of the average; 0 for none.
    """

    def __init__(
        self, channels: tuple[int, int], rows: tuple[Bottleneck, ...], classes: int, *, mixed: int = 0
    ) -> None:
        super().__init__()
        inputs = channels[1]
        self.add_module("stem", conv_norm(conv2d(*channels, 3, stride=2), nn.ReLU6()))
        for number, row in enumerate(rows, start=1):
            self.add_module(f"block{number}", InvertedBottleneck(inputs, row))
            inputs = row.outputs
        if mixed:
            self.add_module("mix", conv_norm(conv2d(inputs, mixed, 1), nn.ReLU6()))
            inputs = mixed
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(inputs, classes))
