"""Residual networks for 32×32 colour images."""

from __future__ import annotations

import torch
from torch import nn

from lab.workloads.networks.blocks import conv2d, conv_norm


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around which the input goes, through a 1×1 convolution where the shape changes.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, figure 2 and section 3.3 option B.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("first", conv_norm(conv2d(inputs, outputs, 3, stride), nn.ReLU()))
        self.body.add_module("second", conv_norm(conv2d(outputs, outputs, 3), None))
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_norm(conv2d(inputs, outputs, 1, stride), None) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class BottleneckBlock(nn.Module):
    """A 1×1 convolution to a quarter of the channels, 3×3, and 1×1 back; otherwise as :class:`ResidualBlock`.

    Source: He et al. 2015, figure 5; the stride is that of the 3×3 convolution, as in the networks that are published.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.body = nn.Sequential()
        self.body.add_module("first", conv_norm(conv2d(inputs, inner, 1), nn.ReLU()))
        self.body.add_module("second", conv_norm(conv2d(inner, inner, 3, stride), nn.ReLU()))
        self.body.add_module("third", conv_norm(conv2d(inner, outputs, 1), None))
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_norm(conv2d(inputs, outputs, 1, stride), None) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class ResNet(nn.Sequential):
    """A 3×3 convolution, stages of residual blocks that halve the map and widen, average over the map, linear layer.

    Args:
        stages: channels of each stage; with bottlenecks a quarter of what its blocks yield.
        blocks: residual blocks, of each stage or of every one.
        classes: number of logits.
        bottleneck: whether blocks are bottlenecks.
    """

    def __init__(
        self, stages: tuple[int, ...], blocks: int | tuple[int, ...], classes: int, *, bottleneck: bool = False
    ) -> None:
        super().__init__()
        self.add_module("stem", conv_norm(conv2d(3, stages[0], 3), nn.ReLU()))
        inputs = stages[0]
        counts = (blocks,) * len(stages) if isinstance(blocks, int) else blocks
        for stage, (channels, count) in enumerate(zip(stages, counts, strict=True)):
            for block in range(count):
                name, stride = f"stage{stage + 1}_block{block + 1}", 2 if stage and not block else 1
                outputs = 4 * channels if bottleneck else channels
                kind = BottleneckBlock if bottleneck else ResidualBlock
                self.add_module(name, kind(inputs, outputs, stride))
                inputs = outputs
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(inputs, classes))


def resnet8(classes: int = 10) -> ResNet:
    """ResNet-8 for (3, 32, 32) images: three stages of one block.

    77,706 parameters with batch norm folded and 12.502 M MACs. Source: MLPerf Tiny's image classification (Banbury et
    al., "MLPerf Tiny Benchmark", 2021).
    """
    return ResNet((16, 32, 64), 1, classes)


def resnet18(width: int = 64, classes: int = 10) -> ResNet:
    """ResNet-18 for (3, 32, 32) images: four stages of two blocks, the stem neither strided nor pooled.

    11,169,162 parameters with batch norm folded and 555.423 M MACs at width 64; 700,266 and
    35.047 M at 16. Source: He et al., "Deep Residual Learning for Image Recognition", 2015, table 1, with the stem of
    its section 4.2 (CIFAR-10).
    """
    return ResNet((width, 2 * width, 4 * width, 8 * width), 2, classes)


def resnet101(classes: int = 10) -> ResNet:
    """ResNet-101 for (3, 32, 32) images, the stem as in :func:`resnet18`; 42.5 million parameters.

    Source: He et al. 2015, table 1.
    """
    return ResNet((64, 128, 256, 512), (3, 4, 23, 3), classes, bottleneck=True)
